"""Adapters from their settings to an answer: tried, trained, loaded, trained further."""

import asyncio

import pytest
import torch
import transformers

from providers.local.factory import connect
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    Message,
    ModelRef,
    Request,
    Sampling,
)
from tests.providers.conftest import save_tokenizer
from tests.providers.test_lora_targets import FAMILIES, SIZE

QUESTION = (Message("user", "1+1"),)
EXAMPLES = [Example((*QUESTION, Message("assistant", "2")), (1,))] * 8


@pytest.fixture
def save_family(tmp_path):
    def save(family):
        folder = tmp_path / family
        folder.mkdir()
        tokenizer = save_tokenizer(folder)
        kind, extra, _ = FAMILIES[family]
        own = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
        torch.manual_seed(7)
        config = kind(**SIZE | {"max_position_embeddings": 512} | extra | own)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"use_dora": True}),
        ("mixtral", {"lora_experts": True, "use_rslora": True}),
        ("deepseek_v3", {"target_modules": ("o_proj", "mlp.gate_proj"), "neftune_alpha": 1.0}),
    ],
)
async def test_what_is_trained_answers_and_is_trained_further(
    family, changes, save_family, tmp_path
):
    settings = {"threads": 1, "dtype": "float32", "device": "cpu"}
    provider = connect(str(save_family(family)), settings, tmp_path / "models")
    how = Hyperparameters(
        epochs=25, batch_size=4, learning_rate=2e-2, lora_rank=4, lora_alpha=8, **changes
    )

    async def train(name, start):
        handle = await provider.submit(FinetuneSpec(name, start, EXAMPLES, name, how))
        for _ in range(10_000):
            state = await provider.poll(handle)
            if state.done:
                break
            await asyncio.sleep(0.02)
        assert state.status == "succeeded", state.error
        return state

    async def answer(model: ModelRef) -> str:
        sampling = Sampling(temperature=0.0, max_tokens=8)
        return (await provider.complete(Request(model, QUESTION, sampling, "k"))).text

    try:
        await provider.prepare_tuning(how)
        before = await answer(provider.base)
        first = await train("first", provider.base)
        await provider.load_adapters([first.model])
        assert (await answer(provider.base), await answer(first.model)) == (before, "2")
        assert first.base_kl > 0.1
        # The loss goes on where it was, not where a fresh adapter would begin.
        second = await train("second", first.model)
        assert second.points[0].loss < 0.5 * (first.points[0].loss + first.points[-1].loss)
    finally:
        await provider.close()
