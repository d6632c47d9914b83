"""One model on several devices: settings, offloaded parts, and what cannot be trained."""

import asyncio
import shutil

import pytest

from providers.errors import InvalidSettings, Unsupported
from providers.local.factory import connect, output_settings
from providers.local.settings import LocalSettings
from providers.types import Example, FinetuneSpec, Hyperparameters, Message

PARTS = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
ON_DISK = dict.fromkeys(PARTS, "cpu") | {"model.layers.1": "disk"}
QUESTIONS = ["Why?", "What is 3+4*2?", "x" * 40]


def open_provider(folder, workdir, **settings):
    return connect(str(folder), {"dtype": "float32", **settings}, workdir)


async def answer_all(provider, ask, artifact=None):
    requests = (ask(question, artifact, max_tokens=8) for question in QUESTIONS)
    return [done.text for done in await asyncio.gather(*map(provider.complete, requests))]


async def train(provider):
    examples = [Example((Message("user", "Why?"), Message("assistant", "abc")), (1,))]
    how = Hyperparameters(epochs=2, lora_rank=4, learning_rate=1e-2)
    handle = await provider.submit(FinetuneSpec("tuned", provider.base, examples, "t", how))
    while not (state := await provider.poll(handle)).done:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return state


def test_a_map_that_names_the_disk_is_refused_before_the_model_is_loaded(llama, tmp_path):
    provider = open_provider(llama, tmp_path, device_map=ON_DISK)
    [fault] = provider.validate_hyperparameters(Hyperparameters())
    assert "keeps parts on the disk" in fault


async def test_a_device_map_of_the_cpu_changes_nothing(llama, tmp_path, ask):
    # Passes that jobs share add up in another order, and a model with a map shares none.
    plain = open_provider(llama, tmp_path / "plain", device="cpu", joint_training="off")
    mapped = open_provider(llama, tmp_path / "mapped", device_map={"": "cpu"})
    try:
        assert await answer_all(mapped, ask) == await answer_all(plain, ask)
        expected, state = await train(plain), await train(mapped)
        assert state.status == "succeeded"
        assert state.artifact_sha256 == expected.artifact_sha256
    finally:
        await plain.close()
        await mapped.close()


@pytest.mark.parametrize(
    "settings",
    [{"device_map": ON_DISK}, {"device_map": "auto", "max_memory": {"cpu": "80KB"}}],
    ids=["named", "auto"],
)
async def test_parts_on_the_disk_answer_and_are_not_trained(
    settings, llama, adapters, tmp_path, ask
):
    shutil.copytree(adapters / "a0", tmp_path / "a0")
    refusal = r"wait on the disk.*cannot be trained or answer with adapters.*'nf4'"
    plain = open_provider(llama, tmp_path, device="cpu")
    spread = open_provider(llama, tmp_path, offload_folder=str(tmp_path / "off"), **settings)
    try:
        assert await answer_all(spread, ask) == await answer_all(plain, ask)
        backbone = spread._models.base
        assert backbone.device.type == "cpu"
        assert any(weight.device.type == "meta" for weight in backbone.model.parameters())
        with pytest.raises(Unsupported, match=refusal):
            await answer_all(spread, ask, "a0")
        with pytest.raises(Unsupported, match=refusal):
            await spread.prepare_tuning(Hyperparameters())
        state = await train(spread)
        assert state.status == "failed"
        assert "cannot be trained" in state.error
    finally:
        await plain.close()
        await spread.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device_map": "atuo"}, r"\[provider\] device_map: there is no plan 'atuo'"),
        ({"device_map": {"": 1.5}}, r"part '' cannot lie on 1\.5"),
        ({"device_map": {}}, "neither a word nor a table"),
        ({"max_memory": {"cpu": "1GB"}}, "max_memory has no effect without device_map"),
        ({"offload_folder": "off"}, "offload_folder has no effect without device_map"),
        ({"device_map": "auto", "max_memory": {"x": "1GB"}}, "'x' is no device"),
        ({"device_map": "auto", "max_memory": {"0": "20"}}, "'20' is no size"),
        ({"device_map": "auto", "device": "cpu"}, "both say where the model lies"),
        ({"device_map": {"": 0}, "max_memory": {"0": "1GB"}}, "names every device"),
    ],
)
def test_a_placement_that_says_nothing_or_two_things_is_refused(settings, words):
    with pytest.raises(InvalidSettings, match=words):
        LocalSettings.read(settings)


def test_sizes_and_cards_are_read_from_text():
    settings = {"device_map": "balanced", "max_memory": {"0": "20GiB", "cpu": "60GB"}}
    assert LocalSettings.read(settings).max_memory == {0: 20 * 2**30, "cpu": 60 * 10**9}


def test_where_parts_lie_may_change_but_not_what_computes():
    spread = {"device_map": "auto", "max_memory": {"0": "20GiB"}, "dtype": "bfloat16"}
    assert output_settings(spread) == {"dtype": "bfloat16"}
    assert output_settings({"device_map": {"": "cpu"}}) == {"device": "cpu"}
