"""Servers that a run starts, with a stand-in for the engine that speaks the same wire."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from providers.base import BaseWeights
from providers.errors import AdapterNotApplied, InvalidSettings, Unsupported
from providers.hyperparameters import Hyperparameters
from providers.serving.engines import ServerPlan
from providers.serving.environment import find_engine
from providers.serving.process import end_leftovers
from providers.serving.settings import AdapterNeed, EngineSettings, check_engine_settings
from providers.types import FinetuneSpec, Message, ModelRef, Request, Sampling
from tests.providers.engine_environment import (
    BASE,
    EngineEnvironment,
    FolderTrainer,
    is_alive,
    make_adapter,
    open_managed,
)
from tests.providers.engine_stand_in import answer

ROOT = Path(__file__).parents[2]
UNTUNED = ModelRef(BASE, BASE)


@pytest.fixture
def environment(tmp_path):
    return EngineEnvironment(tmp_path / "environment")


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "run" / "models"
    folder.mkdir(parents=True)
    return folder


def request(model, text="hello"):
    return Request(model, (Message("user", text),), Sampling(max_tokens=8), text)


async def ask(provider, model, text="hello"):
    return (await provider.complete(request(model, text))).text


def expected(model, text="hello"):
    weights = b"" if model.artifact is None else model.artifact.encode()
    return answer(weights, [{"role": "user", "content": text}])


def read_key(pid):
    """The key in a process's environment."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    [key] = [v.partition("=")[2] for v in variables if v.startswith("VLLM_API_KEY=")]
    return key


def spec():
    return FinetuneSpec("a1", UNTUNED, [], "0" * 64, Hyperparameters(), seed=1)


async def test_a_server_is_started_at_the_first_request_and_ended_with_the_connection(
    environment, workdir
):
    models = [make_adapter(workdir, name) for name in ("a0", "a1")]
    provider = open_managed(environment, workdir)
    told = []
    provider.listen(told.append)
    await provider.load_adapters(models)
    assert environment.events("start") == []
    said = [await ask(provider, model) for model in (*models, UNTUNED)]
    assert said == [expected(model) for model in (*models, UNTUNED)]
    assert len(environment.running()) == 2
    [start] = environment.events("start")
    key = read_key(start["pid"])
    await provider.close()
    assert environment.running() == []
    assert key not in json.dumps(start)
    assert key not in (workdir.parent / "server.log").read_text()
    assert sorted(path.name for path in workdir.parent.iterdir()) == ["models", "server.log"]
    assert [event["path"] for event in environment.events("load")] == [
        str(workdir / "a0"),
        str(workdir / "a1"),
    ]
    assert len(told) == 1
    assert str(workdir.parent / "server.log") in told[0]


async def test_training_and_answering_take_turns_on_the_device(environment, workdir):
    old, new = make_adapter(workdir, "a0"), make_adapter(workdir, "a1")
    provider = open_managed(environment, workdir)
    await provider.load_adapters([old])
    await ask(provider, old)
    closed = FolderTrainer.closed
    await provider.submit(spec())
    assert environment.running() == []
    await provider.load_adapters([new])
    assert await ask(provider, new) == expected(new)
    # The trainer's memory was given back before the server started.
    assert FolderTrainer.closed == closed + 1
    assert len(environment.events("start")) == 2
    await provider.close()


async def test_models_made_in_one_training_are_tried_by_the_trainer_before_the_server_starts(
    environment, workdir
):
    models = [make_adapter(workdir, name) for name in ("a1", "a2")]
    provider = open_managed(environment, workdir)
    for model in models:
        handle = await provider.submit(replace(spec(), name=model.model_id))
        assert (await provider.poll(handle)).status == "succeeded"
    # Two arms debate one after another, each with its own model, at one server.
    for model in models:
        await provider.load_adapters([model])
        assert await ask(provider, model) == expected(model)
    await provider.close()
    assert len(environment.events("start")) == 1


async def test_a_server_that_dies_is_started_again_and_its_requests_are_asked_again(
    environment, workdir
):
    # The canary asks before: thrice two answers, and two likelihoods that take two requests each.
    environment.behave(dies_after=30, answer_s=0.01, dying_starts=2)
    models = [make_adapter(workdir, name) for name in ("a0", "a1")]
    provider = open_managed(environment, workdir, restarts=50)
    told = []
    provider.listen(told.append)
    await provider.load_adapters(models)
    asked = [(models[n % 2], f"question {n}") for n in range(40)]
    said = await asyncio.gather(*(ask(provider, *each) for each in asked))
    await provider.close()
    assert said == [expected(*each) for each in asked]
    starts = len(environment.events("start"))
    assert starts == 3
    assert len(environment.events("load")) == 2 * starts
    assert sum("the server died: it ended with status 1" in text for text in told) == starts - 1
    assert environment.running() == []


async def test_a_server_that_dies_again_and_again_ends_the_run_with_the_reason(
    environment, workdir
):
    environment.behave(dies_after=7)
    provider = open_managed(environment, workdir, restarts=2)
    with pytest.raises(InvalidSettings, match=r"(?s)died 3 times in a row.*status 1.*restarts = 2"):
        await asyncio.gather(*(ask(provider, UNTUNED, str(n)) for n in range(9)))
    await provider.close()
    assert len(environment.events("start")) == 3
    assert environment.running() == []


@pytest.mark.parametrize(
    ("behavior", "changes", "message"),
    [
        (
            {"never_up": True},
            {"start_timeout_s": 1.0},
            r"(?s)did not answer within 1 s \(serving.start_timeout_s\).*The end of .*server\.log",
        ),
        (
            {"fails_at_start": {"says": "torch.OutOfMemoryError: CUDA out of memory."}},
            {},
            r"(?s)ended with status 1; it ran out of memory.*context_tokens.*CUDA out of memory",
        ),
        (
            {"fails_at_start": {"says": "vllm: error: unrecognized arguments: --x"}},
            {"arguments": ("--x",)},
            r"does not know an argument; install the version",
        ),
    ],
)
async def test_a_server_that_does_not_come_up_is_reported_with_the_end_of_its_log(
    environment, workdir, behavior, changes, message
):
    environment.behave(**behavior)
    provider = open_managed(environment, workdir, **changes)
    with pytest.raises(InvalidSettings, match=message):
        await asyncio.gather(*(ask(provider, UNTUNED, str(n)) for n in range(5)))
    await provider.close()
    # The requests that waited did not each try again; a busy machine may not even have begun.
    assert len(environment.events("start")) <= 1
    assert environment.running() == []


async def test_a_port_that_is_taken_is_named_and_a_free_one_chosen_again(environment, workdir):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        provider = open_managed(environment, workdir, port=port)
        with pytest.raises(InvalidSettings, match=rf"serving.port: {port} is taken"):
            await ask(provider, UNTUNED)
        await provider.close()
    assert environment.events("start") == []
    taken = "OSError: [Errno 98] address already in use"
    environment.behave(fails_at_start={"says": taken, "times": 1})
    provider = open_managed(environment, workdir)
    assert await ask(provider, UNTUNED) == expected(UNTUNED)
    await provider.close()
    assert len(environment.events("start")) == 2


async def test_adapters_that_do_not_reach_the_server_are_noticed_by_the_canary(
    environment, workdir
):
    model = make_adapter(workdir, "a0")
    environment.behave(ignores_adapters=9)
    provider = open_managed(environment, workdir)
    told = []
    provider.listen(told.append)
    await provider.load_adapters([model])
    with pytest.raises(AdapterNotApplied, match=r"(?s)adapter of a0.*are those of the base"):
        await ask(provider, model)
    await provider.close()
    assert len(environment.events("start")) == 2
    assert any("It is started again once" in text for text in told)


async def test_adapters_like_those_to_come_are_tried_before_the_first_answer(environment, workdir):
    model = make_adapter(workdir, "a0")
    provider = open_managed(environment, workdir)
    for rank in (8, 16):
        await provider.prepare_tuning(Hyperparameters(lora_rank=rank))
    # There is no start for this alone.
    assert environment.events("start") == []
    await provider.load_adapters([model])
    assert await ask(provider, model) == expected(model)
    loaded = [Path(event["path"]).name for event in environment.events("load")]
    assert loaded == [".trial-1", ".trial-0", "a0"]
    assert sorted(path.name for path in workdir.iterdir()) == ["a0"]
    await provider.close()
    assert len(environment.events("start")) == 1


async def test_a_server_that_refuses_them_ends_the_run_before_the_first_answer(
    environment, workdir
):
    environment.behave(refuses_adapters="LoRA rank 64 is greater than max_lora_rank 16.")
    provider = open_managed(environment, workdir)
    await provider.prepare_tuning(Hyperparameters(lora_rank=64))
    with pytest.raises(Unsupported, match="LoRA rank 64 is greater"):
        await ask(provider, UNTUNED)
    await provider.close()
    assert environment.running() == []
    assert list(workdir.iterdir()) == []


async def test_a_second_start_may_apply_them(environment, workdir):
    model = make_adapter(workdir, "a0")
    environment.behave(ignores_adapters=1)
    provider = open_managed(environment, workdir)
    await provider.load_adapters([model])
    assert await ask(provider, model) == expected(model)
    await provider.close()


async def test_on_a_cpu_a_server_is_renewed_before_its_slots_are_used_up(tmp_path, workdir):
    environment = EngineEnvironment(tmp_path / "on-cpu", version="0.32.0+cpu")
    provider = open_managed(environment, workdir, adapters=1, shares_device=False)
    for number in range(6):
        model = make_adapter(workdir, f"a{number}")
        await provider.load_adapters([model])
        assert await ask(provider, model) == expected(model)
    await provider.close()
    arguments = environment.events("start")[0]["arguments"]
    assert "--no-enable-chunked-prefill" in arguments
    assert arguments[arguments.index("--max-loras") + 1] == "5"
    assert len(environment.events("start")) == 2


def test_the_version_is_checked_without_starting_anything(tmp_path):
    old = EngineEnvironment(tmp_path / "old", version="0.11.2")
    with pytest.raises(InvalidSettings, match=r"has vllm 0\.11\.2, and 0\.32 or newer is needed"):
        find_engine(EngineSettings("vllm", python=old.python))
    with pytest.raises(InvalidSettings, match=r"has no sglang"):
        find_engine(EngineSettings("sglang", python=old.python))
    assert old.events("start") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "needs python or command"),
        ({"python": "/no/such/python"}, "is no program; name the Python of the environment"),
        ({"python": "/bin/sh"}, "there is no /bin/vllm, so vllm is not installed there"),
        ({"command": ("no-such-docker", "run")}, "begins with 'no-such-docker'"),
        (
            {"command": ("sh",), "arguments": ("--port=1",)},
            "has --port, which follows from the experiment",
        ),
        ({"command": ("sh",), "environment": {"VLLM_API_KEY": "k"}}, "has VLLM_API_KEY"),
        ({"command": ("sh",), "gpus": (1, 1)}, "names one twice"),
        ({"command": ("sh",), "gpus": (1,), "gpus_per_server": 2}, "names 1; name more"),
    ],
)
def test_wrong_settings_are_named_with_the_remedy(changes, message):
    with pytest.raises(InvalidSettings, match=message):
        check_engine_settings(EngineSettings("vllm", **changes))


def test_the_arguments_follow_from_the_experiment():
    settings = EngineSettings(
        "vllm", python="/v/bin/python", context_tokens=4096, gpus=(0, 1), gpus_per_server=2
    )
    weights = BaseWeights("org/base", "bfloat16", "main")
    plan = ServerPlan(settings, weights, AdapterNeed(6, 20), on_cpu=False, version="0.32.0")
    text = " ".join(plan.build_arguments(8123))
    for part in (
        "/v/bin/vllm serve org/base --host 127.0.0.1 --port 8123",
        "--served-model-name base --dtype bfloat16 --generation-config vllm --revision main",
        "--max-model-len 4096 --tensor-parallel-size 2",
        "--enable-lora --max-loras 6 --max-cpu-loras 12 --max-lora-rank 32",
    ):
        assert part in text
    assert "chunked" not in text
    sglang = ServerPlan(
        EngineSettings("sglang", command=("docker", "run")), weights, AdapterNeed(6, 20), False, ""
    )
    assert "docker run --model-path org/base" in " ".join(sglang.build_arguments(1))
    assert "--max-loras-per-batch 6 --max-loaded-loras 12" in " ".join(sglang.build_arguments(1))


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.providers.engine_environment import EngineEnvironment, open_managed
from tests.providers.test_serving import UNTUNED, ask

class There(EngineEnvironment):
    def __init__(self, folder):
        self.folder = folder

async def main():
    provider = open_managed(There(Path(sys.argv[1])), Path(sys.argv[2]))
    await ask(provider, UNTUNED)
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_run_that_is_killed_leaves_no_process(environment, workdir):
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(environment.folder), str(workdir)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"up\n"
    assert len(environment.running()) == 2
    run.kill()
    run.communicate()
    # The server ends at once, its child five seconds later by force.
    while environment.running():
        time.sleep(0.05)
    record = workdir.parent / "server.json"
    # At most the watcher is left, and a later start does not wait for it.
    end_leftovers(record)
    assert not record.exists()


def test_what_is_left_of_an_earlier_start_is_ended_and_nothing_else(tmp_path):
    sleeping = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    left = subprocess.Popen(sleeping, start_new_session=True)
    started = Path(f"/proc/{left.pid}/stat").read_text().rpartition(")")[2].split()[19]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = tmp_path / "server.json"

    def write(**changes):
        record.write_text(json.dumps({"pid": left.pid, "started": started, "boot": boot} | changes))

    for changes in ({"started": str(int(started) + 1)}, {"boot": "another"}):
        write(**changes)
        assert end_leftovers(record) is False
        assert is_alive(left.pid)
    write()
    assert end_leftovers(record) is True
    assert left.wait() == -9
    record.write_text("{")
    assert end_leftovers(record) is False
    assert not record.exists()


async def test_there_is_a_server_for_each_group_of_graphics_cards(environment, workdir):
    # The canary asks 18 times; then each of the first two dies once.
    environment.behave(answer_s=0.01, dies_after=30, dying_starts=2)
    models = [make_adapter(workdir, name) for name in ("a0", "a1")]
    provider = open_managed(environment, workdir, gpus=(0, 1, 2, 3), gpus_per_server=2, restarts=50)
    await provider.load_adapters(models)
    asked = [(models[n % 2], f"question {n}") for n in range(80)]
    said = await asyncio.gather(*(ask(provider, *each) for each in asked))
    await provider.close()
    assert said == [expected(*each) for each in asked]
    cards = {event["cards"] for event in environment.events("start")}
    assert cards == {"0,1", "2,3"}
    assert len(environment.events("start")) > 2
    assert environment.running() == []
    assert (workdir.parent / "server-2.log").exists()
