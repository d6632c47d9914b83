"""Adapters of a running server: the administration by itself, and trained here, asked there."""

import asyncio
import json
from dataclasses import replace

import pytest

from providers import registry
from providers.answer_server import AnswerServer, check_answer_servers
from providers.errors import (
    AuthenticationFailed,
    InvalidSettings,
    ModelDamaged,
    ModelNotFound,
    RequestError,
    RetryableError,
    Unsupported,
)
from providers.openai.lora_server import LoraServer
from providers.replica import Replica
from providers.replicas import Replicas
from providers.scripted import ScriptedProvider
from providers.split import SplitProvider, connect_split
from providers.types import Hyperparameters, Message, ModelRef, Request, Sampling
from tests.providers.adapter_server import FINGERPRINT, AdapterServer


async def at_once(seconds: float) -> None:
    """A pause that is none."""
    await asyncio.sleep(0)


def administration(server: AdapterServer, key: str = "none") -> LoraServer:
    headers = {"authorization": f"Bearer {key}"}
    return LoraServer(server.url, server.base, headers, sleep=at_once)


@pytest.fixture
def folders(tmp_path):
    """A workdir with three adapters, a0 to a2; their weights are never looked at."""
    for index in range(3):
        make_folder(tmp_path / f"a{index}", index)
    return tmp_path


def make_folder(folder, number: int):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * (number + 1))


def pair(server: AdapterServer, workdir, **options) -> SplitProvider:
    """A trainer that only makes folders, and the server."""
    serving = AnswerServer(server.address, **options)
    asked = registry.connect(server.address, {}, workdir)
    trainer = ScriptedProvider(lambda request: "from here", address="scripted:base")
    replica = Replica(serving, asked, administration(server), workdir)
    return SplitProvider(trainer, Replicas([replica], patience_s=60.0), workdir)


def tuned(artifact: str) -> ModelRef:
    return ModelRef(artifact, "scripted:base", artifact)


def request(model: ModelRef) -> Request:
    return Request(model, (Message("user", "hello"),), Sampling(max_tokens=8), "k")


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_a_tuned_model_is_answered_by_its_adapter_and_the_base_by_the_base(folders, dialect):
    with AdapterServer(dialect=dialect) as server:
        provider = pair(server, folders)
        await provider.load_adapters([tuned("a0"), tuned("a1")])
        said = [
            (await provider.complete(request(model))).text
            for model in (tuned("a0"), tuned("a1"), provider.base)
        ]
        await provider.close()
    assert said[0].startswith("hello from a0-")
    assert said[1].startswith("hello from a1-")
    assert said[2] == "hello from org/base"
    assert [path for _, path in server.loads] == [str(folders / "a0"), str(folders / "a1")]
    assert server.faults == []


async def test_what_is_no_longer_needed_is_unloaded_before_more_is_loaded(folders):
    with AdapterServer(most=2) as server:
        provider = pair(server, folders)
        await provider.load_adapters([tuned("a0"), tuned("a1")])
        await provider.load_adapters([tuned("a1"), tuned("a2")])
        await provider.close()
    assert [name.split("-")[0] for name, _ in server.loads] == ["a0", "a1", "a2"]
    assert [name.split("-")[0] for name in server.unloads] == ["a0"]


async def test_a_name_is_never_used_twice(folders):
    with AdapterServer() as server:
        provider = pair(server, folders)
        for models in ([tuned("a0")], [], [tuned("a0")]):
            await provider.load_adapters(models)
        assert (await provider.complete(request(tuned("a0")))).text.startswith("hello from a0-")
        await provider.close()
    assert len({name for name, _ in server.loads}) == 2
    assert server.faults == []


async def test_another_process_finds_what_is_loaded_and_unloads_what_is_stale(folders):
    with AdapterServer() as server:
        first = pair(server, folders)
        await first.load_adapters([tuned("a0"), tuned("a1"), tuned("a2")])
        await first.close()
        make_folder(folders / "a1", 7)
        second = pair(server, folders)
        await second.load_adapters([tuned("a0"), tuned("a1")])
        await second.close()
    assert [name.split("-")[0] for name, _ in server.loads] == ["a0", "a1", "a2", "a1"]
    assert sorted(name.split("-")[0] for name in server.unloads) == ["a1", "a2"]
    assert sorted(name.split("-")[0] for name in server.loaded) == ["a0", "a1"]


async def test_adapters_of_others_stay(folders, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    make_folder(other / "a0", 0)
    with AdapterServer() as server:
        theirs, ours = pair(server, other), pair(server, folders)
        await theirs.load_adapters([tuned("a0")])
        await ours.load_adapters([tuned("a0")])
        await ours.load_adapters([])
        assert list(server.loaded.values()) == [str(other / "a0")]
        await asyncio.gather(theirs.close(), ours.close())


async def test_nothing_is_changed_under_traffic(folders):
    with AdapterServer(answer_s=0.05, load_s=0.2) as server:
        provider = pair(server, folders)
        await provider.load_adapters([tuned("a0"), tuned("a1")])
        asking = [asyncio.create_task(provider.complete(request(tuned("a0")))) for _ in range(8)]
        while len(server.chats) < 8:  # noqa: ASYNC110 (the server counts in its own thread)
            await asyncio.sleep(0.001)
        changing = asyncio.create_task(provider.load_adapters([tuned("a1"), tuned("a2")]))
        while len(server.loads) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        late = [asyncio.create_task(provider.complete(request(tuned("a1")))) for _ in range(8)]
        await asyncio.gather(*asking, changing, *late)
        await provider.close()
    assert server.faults == []
    assert len(server.chats) == 16


async def test_a_request_that_is_given_up_does_not_hold_up_a_change(folders):
    with AdapterServer(answer_s=0.2) as server:
        provider = pair(server, folders)
        await provider.load_adapters([tuned("a0")])
        asking = asyncio.create_task(provider.complete(request(tuned("a0"))))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await provider.load_adapters([tuned("a0"), tuned("a1")])
        assert len(server.loaded) == 2
        await provider.close()


async def test_the_servers_disk_may_be_mounted_elsewhere(folders):
    with AdapterServer(disk=("/mnt/models", str(folders))) as server:
        provider = pair(server, folders, path_map={str(folders): "/mnt/models", "/": "/wrong"})
        await provider.load_adapters([tuned("a0")])
        await provider.load_adapters([tuned("a0"), tuned("a1")])
        await provider.close()
    assert [path for _, path in server.loads] == ["/mnt/models/a0", "/mnt/models/a1"]


async def test_a_model_that_is_not_served_is_not_asked_for(folders):
    with AdapterServer() as server:
        provider = pair(server, folders)
        with pytest.raises(ModelNotFound, match="load it first"):
            await provider.complete(request(tuned("a0")))
        with pytest.raises(ModelNotFound, match="'missing' is not in"):
            await provider.load_adapters([tuned("missing")])
        await provider.close()
    assert server.chats == []


async def test_an_adapter_that_is_not_as_it_was_trained_is_not_loaded(folders):
    manifest = {"name": "a0", "sha256": "0" * 64, "files": {"adapter_config.json": "0" * 64}}
    (folders / "a0" / "manifest.json").write_text(json.dumps(manifest))
    with AdapterServer() as server:
        provider = pair(server, folders)
        with pytest.raises(ModelDamaged, match=r"adapter_config\.json has changed"):
            await provider.load_adapters([tuned("a1"), tuned("a0")])
        with pytest.raises(ModelDamaged, match="cannot be read"):
            await provider.load_adapters([replace(tuned("a2"), sha256="1" * 64)])
        await provider.close()
    assert server.loads == []


async def test_a_server_without_runtime_loading_is_told_how_to_be_started(folders):
    with AdapterServer(runtime=False) as server:
        provider = pair(server, folders)
        with pytest.raises(Unsupported, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve"):
            await provider.load_adapters([tuned("a0")])
        await provider.close()


@pytest.mark.parametrize(
    ("dialect", "command"), [("vllm", "--max-cpu-loras"), ("sglang", "--max-loaded-loras")]
)
async def test_a_refusal_names_the_servers_reason_and_its_options(folders, dialect, command):
    with AdapterServer(dialect=dialect, most=1) as server:
        provider = pair(server, folders)
        with pytest.raises(Unsupported, match="at most 1 adapters") as error:
            await provider.load_adapters([tuned("a0"), tuned("a1")])
        assert command in str(error.value)
        await provider.close()


async def test_a_path_the_server_does_not_see_is_told_from_a_missing_endpoint(folders):
    with AdapterServer(disk=("/", "/nowhere/")) as server:
        provider = pair(server, folders)
        with pytest.raises(Unsupported, match=r"No adapter found for .*path_map"):
            await provider.load_adapters([tuned("a0")])
        await provider.close()


async def test_a_load_whose_answer_is_lost_is_not_made_twice(folders):
    with AdapterServer(trouble={"load_lora_adapter": ["lost"]}) as server:
        provider = pair(server, folders)
        await provider.load_adapters([tuned("a0")])
        await provider.close()
    assert len(server.loads) == 1
    assert server.faults == []


async def test_a_busy_server_is_asked_again(folders):
    trouble = {"load_lora_adapter": [503, 502], "unload_lora_adapter": [503]}
    with AdapterServer(trouble=trouble) as server:
        provider = pair(server, folders)
        await provider.load_adapters([tuned("a0")])
        await provider.load_adapters([])
        await provider.close()
    assert (len(server.loads), len(server.unloads)) == (1, 1)


async def test_an_adapter_that_cannot_be_removed_is_left_behind(folders):
    with AdapterServer() as server:
        provider = pair(server, folders)
        await provider.load_adapters([tuned("a0")])
        server.stuck.update(server.loaded)
        await provider.load_adapters([tuned("a1")])
        assert (await provider.complete(request(tuned("a1")))).text.startswith("hello from a1-")
        await provider.close()
    assert len(server.loaded) == 2


async def test_another_base_model_is_named(folders):
    with AdapterServer(base="org/other") as server:
        lora = LoraServer(server.url, "org/base", {}, sleep=at_once)
        with pytest.raises(InvalidSettings, match=r"serves org/other, not 'org/base'"):
            await lora.list_loaded()
        await lora.close()


async def test_no_key_is_shown_also_when_the_server_echoes_it(folders):
    with AdapterServer(key="right-key-1234") as server:
        lora = administration(server, "wrong-key-5678")
        with pytest.raises(AuthenticationFailed) as error:
            await lora.list_loaded()
        [finding] = await lora.preflight()
        await lora.close()
        shown = f"{error.value!r} {finding} {lora!r}"
        assert "wrong-key-5678" not in shown
        assert finding.level == "error"
        authorised = administration(server, "right-key-1234")
        assert await authorised.list_loaded() == []
        await authorised.close()


async def test_an_unreachable_server_is_named():
    with AdapterServer() as server:
        lora = administration(server)
    with pytest.raises(RetryableError, match="cannot be reached"):
        await lora.list_loaded()
    await lora.close()


async def test_a_url_with_no_such_server_is_named():
    with AdapterServer() as server:
        lora = LoraServer(f"{server.url}/elsewhere", server.base, {}, sleep=at_once)
        with pytest.raises(Unsupported, match=r"/v1/elsewhere: .*status 404"):
            await lora.list_loaded()
        await lora.close()


async def test_preflight_tells_whether_adapters_can_be_loaded_and_loads_none():
    for runtime, level in ((True, "ok"), (False, "error")):
        with AdapterServer(runtime=runtime) as server:
            lora = administration(server)
            [finding] = await lora.preflight()
            await lora.close()
        assert finding.level == level
        assert server.loads == []


async def test_a_trial_never_leaves_its_adapter_loaded(folders):
    make_folder(folders / ".trial-1", 0)
    make_folder(folders / ".trial-2", 0)
    with AdapterServer(trouble={"chat/completions": [400]}) as server:
        provider = pair(server, folders)
        with pytest.raises(RequestError):
            await provider.try_adapter(".trial-1")
        assert (len(server.trials), server.loaded) == (1, {})
        # One that was killed in the middle of a trial has left this, which is no trained adapter.
        server.load("trial-1-left", str(folders / ".trial-1"))
        await provider.try_adapter(".trial-2")
        assert (len(server.trials), server.loaded) == (3, {})
        await provider.load_adapters([tuned("a0")])
        await provider.try_adapter(".trial-2")
        await provider.close()
    assert len(server.trials) == 3


@pytest.mark.parametrize(
    ("dialect", "settings", "known"),
    [
        ("vllm", None, {"version": "0.32.0", "system_fingerprint": FINGERPRINT}),
        (
            "vllm",
            {"vllm_config": {"model_config": {"dtype": "torch.bfloat16", "quantization": None}}},
            {
                "version": "0.32.0",
                "dtype": "bfloat16",
                "system_fingerprint": FINGERPRINT,
            },
        ),
        (
            "sglang",
            {"version": "0.5.4", "dtype": "auto", "quantization": "fp8", "api_key": "secret"},
            {"version": "0.5.4", "quantization": "fp8"},
        ),
    ],
)
async def test_a_server_tells_what_it_is(dialect, settings, known):
    fingerprint = FINGERPRINT if dialect == "vllm" else None
    with AdapterServer(dialect=dialect, settings=settings, fingerprint=fingerprint) as server:
        lora = administration(server)
        identity = await lora.identify()
        await lora.close()
    told = {"engine": dialect, "model": "org/base", "context_tokens": 4096}
    assert identity.describe() == told | known


def test_the_server_must_be_one_that_takes_adapters(tmp_path):
    script = tmp_path / "script.jsonl"
    script.write_text("")
    serving = AnswerServer(f"scripted:{script}")
    with pytest.raises(InvalidSettings, match="no server that adapters can be loaded into"):
        connect_split("embedded:", {}, [serving], tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "full"}, "takes adapters only"),
        ({"use_dora": True}, "use_dora = true makes adapters that a server does not load"),
        ({"lora_experts": True}, "lora_experts = true makes adapters"),
    ],
)
def test_what_a_server_does_not_load_is_refused(changes, reason):
    serving = AnswerServer("openai+http://127.0.0.1:8000/v1:m")
    with pytest.raises(InvalidSettings, match=reason):
        check_answer_servers([serving], Hyperparameters(**changes), {})


def test_a_relative_folder_cannot_be_mapped():
    serving = AnswerServer("openai+http://127.0.0.1:8000/v1:m", path_map={"runs": "/mnt"})
    with pytest.raises(InvalidSettings, match="relative folder 'runs'"):
        check_answer_servers([serving], Hyperparameters(), {})
