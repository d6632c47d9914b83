"""Training on the nodes of a Ray cluster: two of them on this machine, one is killed."""

import importlib.util
from pathlib import Path

import pytest

from providers import registry
from providers.cluster.connection import Node, connect_ray
from providers.cluster.files import keep_token, read_files, read_token, write_files
from providers.cluster.places import Demand, describe_shortage
from providers.cluster.settings import ClusterSettings, check_cluster_settings
from providers.errors import InvalidSettings
from providers.local.cluster_plan import plan_cluster_lanes, refuse_settings, uses_cards
from providers.local.settings import LocalSettings
from providers.local.worker_actor import describe_node_fault
from society.config.load import ConfigError, load_config
from tests.providers.cluster_network import run_apart

HEAD = Node("0", "head", cpus=0, gpus=0, memory_bytes=8 * 10**9)
CARDS = Node("1", "cards", cpus=16, gpus=4, memory_bytes=64 * 10**9)
CPUS = Node("2", "cpus", cpus=8, gpus=0, memory_bytes=4 * 10**9)


@pytest.mark.parametrize("ray", ["head:6379", "ray://", "ray://a:b", ""])
def test_an_address_that_ray_does_not_have_is_refused(ray, tmp_path):
    with pytest.raises(InvalidSettings, match="is no address of a Ray cluster: write 'auto'"):
        check_cluster_settings(ClusterSettings(ray))
    with pytest.raises(ConfigError, match=r"cluster\.ray"):
        load_config("demo", [f"cluster={{ray='{ray}'}}"])


def test_an_address_where_nothing_listens_is_said_at_once(monkeypatch):
    pytest.importorskip("ray")
    with pytest.raises(InvalidSettings, match=r"ray://127.0.0.1:1'.*nothing answers there"):
        connect_ray(ClusterSettings("ray://127.0.0.1:1"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InvalidSettings, match=r"'auto' with RAY_ADDRESS = '127.0.0.1:1': nothing"):
        connect_ray(ClusterSettings("auto"))


def test_workers_go_where_they_fit():
    demand = Demand(cpus=2, memory_bytes=3 * 10**9)
    assert [demand.count_on(node) for node in (HEAD, CARDS, CPUS)] == [0, 8, 1]
    assert Demand(cpus=1, gpus=1).count_on(CARDS) == 4
    plan = plan_cluster_lanes(LocalSettings(), demand, [HEAD, CARDS, CPUS])
    assert (plan.workers, plan.threads, plan.trains_here) == (9, 2, False)
    fewer = plan_cluster_lanes(LocalSettings(training_workers=3), demand, [CARDS])
    assert str(fewer) == (
        "up to 3 processes train at a time (training_workers = 3, 1 node of the cluster, 2 CPUs, "
        "3.0 GB of memory for each)"
    )
    assert describe_shortage(demand, [CPUS]).endswith("cpus (8 CPUs, 4.0 GB)")


def test_cards_are_used_where_the_cluster_has_them():
    assert uses_cards(LocalSettings(), [HEAD, CARDS])
    assert not uses_cards(LocalSettings(), [HEAD, CPUS])
    assert not uses_cards(LocalSettings(device="cpu"), [CARDS])
    lanes = plan_cluster_lanes(LocalSettings(), Demand(1, 1), [CARDS])
    assert (lanes.workers, lanes.threads) == (4, None)


@pytest.mark.parametrize("settings", [{"device": "mps"}, {"device_map": "auto"}])
def test_what_another_machine_cannot_honor_is_refused(settings):
    with pytest.raises(InvalidSettings, match=r"\[provider\] device"):
        refuse_settings(LocalSettings(**settings))


def test_a_vendor_trains_by_itself():
    assert registry.trains_on_clusters("embedded:")
    assert not registry.trains_on_clusters("openai:gpt-4.1-mini")


def test_a_node_says_why_it_cannot_train(tmp_path):
    source = {"name": str(tmp_path / "model"), "local": True}
    request = {"version": "0.0.1", "source": source, "built_in": False}
    assert "and the run has 0.0.1; install the same" in describe_node_fault(request)
    request["version"] = importlib.metadata.version("multiagent-finetuning")
    assert "put it at the same place on every node" in describe_node_fault(request)
    assert describe_node_fault(request | {"built_in": True}) is None


def test_files_arrive_as_they_were_sent(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "a" / "inner").mkdir(parents=True)
    (there / "a" / "inner" / "weights").write_bytes(b"\x00\xff")
    (there / ".a.checkpoint").write_bytes(b"state")
    for name in ("a", ".a.checkpoint"):
        for _ in range(2):
            write_files(here / name, read_files(there / name))
        assert read_files(here / name) == read_files(there / name)
    assert sorted(path.name for path in here.iterdir()) == [".a.checkpoint", "a"]


def test_a_folder_is_known_by_its_token(tmp_path):
    assert read_token(tmp_path / "none") is None
    token = keep_token(tmp_path / "one")
    assert keep_token(tmp_path / "one") == read_token(tmp_path / "one") == token
    assert keep_token(tmp_path / "two") != token


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What `cluster_program.py` has found, in a network of its own."""
    here = Path(__file__).parent
    found, said = run_apart(here / "cluster_program.py", tmp_path_factory.mktemp("cluster"), here)
    assert "Raylet is terminated" not in said
    return found


@pytest.mark.long
def test_the_doctor_shows_what_runs_where(result):
    (level, whole), *nodes = result["plan"][0]
    assert level == "ok"
    assert "up to 2 processes train at a time (2 nodes of the cluster, 1 CPU" in whole
    assert "this process trains nothing" in whole
    assert sum("up to 1 training worker, about" in text for _, text in nodes) == 2
    assert sum("sees the run's folder" in text for _, text in nodes) == 2
    assert sum("trains nothing: it has no room" in text for _, text in nodes) == 1


@pytest.mark.long
def test_a_job_that_fits_nowhere_is_said_before_anything_is_spent(result):
    (level, whole), *_ = result["no room"][0]
    assert level == "error"
    assert "no node can train: a process takes 8 CPUs" in whole
    failure = result["no room"][1]
    assert "no node of the cluster has had room for a training worker for 1 s" in failure
    assert "vm" in failure or "(1 CPU" in failure


@pytest.mark.long
def test_models_and_checkpoints_go_to_nodes_that_see_nothing_and_come_back(result):
    sent = result["sent"]
    assert sent["there"] == sent["here"]
    assert sent["there stopped"] == sent["here stopped"]
    assert sent["here stopped"] == ["cancelled", True, [".second.checkpoint"]]


@pytest.mark.long
def test_a_node_lost_in_the_middle_of_training_changes_no_table(result):
    run = result["run"]
    assert run["killed"]
    assert run["differ"] == []
    assert run["rows"]["models"] == 5
    assert "a training worker broke off" in run["told"][0]
