"""Servers on the nodes of a Ray cluster: three of them on this machine, some are killed."""

import importlib.util
from pathlib import Path

import pytest

from providers.base import BaseWeights
from providers.cluster.connection import Node
from providers.cluster.places import Demand
from providers.embedded import MODEL_DIR
from providers.errors import InvalidSettings
from providers.extras import PROJECT
from providers.serving.engines import ServerPlan
from providers.serving.environment import InstalledEngine
from providers.serving.nodes import (
    NodeReport,
    agree_on_engine,
    count_servers,
    describe_this_node,
    find_model_folder,
    leaves_room,
    make_demand,
)
from providers.serving.planning import check_managed
from providers.serving.settings import AdapterNeed, EngineSettings, check_engine_settings
from society.config.load import ConfigError, load_config
from society.method.connections import plan_serving
from tests.providers.cluster_network import run_apart
from tests.providers.engine_environment import EngineEnvironment

HEAD = Node("0", "head", cpus=4, gpus=0, memory_bytes=8 * 10**9)
CARDS = Node("1", "cards", cpus=16, gpus=5, memory_bytes=64 * 10**9)
CPUS = Node("2", "cpus", cpus=8, gpus=0, memory_bytes=4 * 10**9)
ENGINE = InstalledEngine("0.32.0", on_cpu=False)


def make_plan(*, on_cpu=False, **changes):
    settings = EngineSettings("vllm", python="/v/bin/python", **changes)
    return ServerPlan(settings, BaseWeights("org/base", "float32"), AdapterNeed(2, 4), on_cpu, "1")


def say(node, engine=ENGINE, fault=None):
    return NodeReport(node, {"engine": engine, "fault": fault, "sees": True})


def test_servers_take_cards_where_there_are_any_and_else_whole_nodes():
    plan = make_plan(gpus_per_server=2)
    demand = make_demand(plan, [HEAD, CARDS])
    assert demand == Demand(cpus=1, gpus=2)
    assert count_servers(plan, demand, [HEAD, CARDS]) == 2
    on_cpu = make_plan(on_cpu=True)
    demand = make_demand(on_cpu, [CPUS, HEAD])
    assert (demand, count_servers(on_cpu, demand, [CPUS, HEAD])) == (Demand(cpus=4), 3)
    assert count_servers(make_plan(servers=5), demand, [HEAD]) == 5
    assert count_servers(on_cpu, demand, []) == 1


@pytest.mark.parametrize(
    ("servers", "trainer", "has_cards", "stay"),
    [
        (3, {"training_workers": 2}, False, True),
        (4, {"training_workers": 2}, False, False),
        (3, {"training_workers": 2}, True, False),
        (3, {"training_workers": "auto"}, False, False),
        ("auto", {"training_workers": 2}, False, False),
        ("auto", {"device": "cpu"}, True, True),
    ],
)
def test_servers_stay_while_training_surely_has_cards_of_its_own(servers, trainer, has_cards, stay):
    nodes = [HEAD, CARDS]
    plan = make_plan(servers=servers)
    assert leaves_room(plan, nodes, trainer, has_cards=has_cards) is stay
    assert not leaves_room(make_plan(on_cpu=True), nodes, trainer, has_cards=has_cards)


def test_servers_that_would_stay_on_all_cards_are_refused():
    pytest.importorskip("ray")
    keys = ["cluster={ray='auto'}", "serving.engine='vllm'", "serving.python='/v/bin/python'"]
    keys += ["model='embedded:'", "serving.while_training='keep'"]
    managed = plan_serving(load_config("demo", keys))
    with pytest.raises(InvalidSettings, match=r"leaves no card to training; set serving\.servers"):
        check_managed(managed, "embedded:", {})
    check_managed(managed, "embedded:", {"device": "cpu"})


def test_the_nodes_agree_on_one_engine():
    settings = EngineSettings("vllm", python="/v/bin/python")
    assert agree_on_engine([say(CARDS), say(HEAD, None, "it has no vllm")], settings) == ENGINE
    newer = InstalledEngine("0.33.0", on_cpu=False)
    with pytest.raises(InvalidSettings, match=r"0\.32\.0 on cards.*0\.33\.0 on cpus.*the same one"):
        agree_on_engine([say(CARDS), say(CPUS, newer)], settings)
    with pytest.raises(InvalidSettings, match=r"no node .* can serve: .*head.*did not answer"):
        agree_on_engine([NodeReport(HEAD, None)], settings)
    with pytest.raises(InvalidSettings, match=r"computes on graphics cards, and no node"):
        agree_on_engine([say(HEAD)], settings)


def test_a_node_says_why_it_cannot_serve(tmp_path):
    environment = EngineEnvironment(tmp_path / "environment", version="0.32.0+cpu")
    settings = EngineSettings("vllm", python=environment.python)
    version = importlib.metadata.version(PROJECT)
    request = {"version": version, "model": None, "mark": str(tmp_path), "settings": settings}
    found = describe_this_node(request)
    assert found == {"fault": None, "engine": InstalledEngine("0.32.0+cpu", True), "sees": True}
    assert "install the same" in describe_this_node(request | {"version": "0.0.1"})["fault"]
    lacking = describe_this_node(request | {"model": tmp_path / "model"})["fault"]
    assert "put it at the same place on every node" in lacking
    elsewhere = EngineSettings("vllm", python="/no/such/python")
    assert "is no program" in describe_this_node(request | {"settings": elsewhere})["fault"]


def test_the_built_in_model_is_wherever_the_package_is():
    assert find_model_folder(BaseWeights(str(MODEL_DIR.resolve()), "float32")) is None
    assert find_model_folder(BaseWeights("org/base", "float32")) is None
    assert find_model_folder(BaseWeights("/data/base", "float32")) == Path("/data/base")


@pytest.mark.parametrize(
    ("changes", "on_nodes", "message"),
    [
        ({"gpus": (0, 1)}, True, r"serving\.gpus = \[0, 1\]: with \[cluster\].*remove it"),
        ({"port": 8000}, True, r"serving\.port = 8000: with \[cluster\]"),
        ({"servers": 2}, False, r"serving\.servers = 2 is for the nodes of \[cluster\]"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, on_nodes, message):
    settings = EngineSettings("vllm", command=("sh",), **changes)
    with pytest.raises(InvalidSettings, match=message):
        check_engine_settings(settings, on_nodes=on_nodes)


def test_the_file_says_how_many_servers_there_are():
    keys = ["cluster={ray='auto'}", "serving.engine='vllm'", "serving.python='/v/bin/python'"]
    config = load_config("demo", ["model='embedded:'", *keys, "serving.servers=9"])
    managed = plan_serving(config)
    assert (managed.engine.servers, managed.cluster.ray) == (9, "auto")
    assert config.serving.count_servers() == 9
    with pytest.raises(ConfigError, match=r"serving\.servers"):
        load_config("demo", [*keys, "serving.servers=0"])


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What `serving_program.py` has found, in a network of its own."""
    program = Path(__file__).with_name("serving_program.py")
    return run_apart(program, tmp_path_factory.mktemp("cluster"))[0]


@pytest.mark.long
def test_the_doctor_shows_which_node_holds_servers(result):
    texts = [text for level, text in result["plan"] if level == "ok"]
    assert any("3 servers of vllm on the cluster, 1 CPU for each" in text for text in texts)
    assert sum("up to 1 server, sees the run's folder" in text for text in texts) == 3
    [whole] = [text for level, text in result["too many"] if level == "error"]
    assert "5 servers of vllm" in whole
    assert "its nodes have room for 3" in whole


@pytest.mark.long
def test_servers_share_the_calls(result):
    lost = result["lost"]
    assert lost["before"]
    fewer, more = lost["shares"]
    assert more <= 1.1 * fewer


@pytest.mark.long
def test_a_node_that_is_lost_costs_only_its_calls_in_flight(result):
    lost = result["lost"]
    assert lost["meanwhile"]
    assert lost["after"]
    assert (lost["starts"], lost["running"]) == (3, 0)
    assert lost["loaded"] == ["a0", "a1", "a2"]
    assert lost["sent"]
    assert sum("the server died: node" in text for text in lost["told"]) == 1


@pytest.mark.long
def test_a_run_that_is_killed_leaves_no_server(result):
    assert result["killed"] == ["True\n", 4, 0]


@pytest.mark.long
def test_a_node_lost_in_the_middle_of_debates_changes_no_table(result):
    run = result["run"]
    assert run["differ"] == []
    assert run["rows"]["models"] == 5
    # The other server may have answered what was left before a third one was up.
    assert run["starts"] in (4, 5)
    assert run["running"] == 0
    assert len(run["told"]) == 1
