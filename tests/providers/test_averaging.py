"""Averages of tuned models: exact where the rank allows it, the nearest of that rank elsewhere."""

import asyncio

import pytest
import torch
from safetensors.torch import load_file, save_file

from providers import registry
from providers.errors import Unsupported
from providers.hyperparameters import Hyperparameters
from providers.local.averaging import Part, write_average
from providers.local.backbone import Backbone
from providers.local.lora import add_trainable_adapter
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.local.trial_adapters import write_trial_adapter
from providers.types import (
    AverageSpec,
    Example,
    FinetuneSpec,
    Message,
    ModelShare,
    Request,
    Sampling,
)

_WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def backbone(llama):
    settings = LocalSettings(device="cpu", threads=1)
    return Backbone(locate_model(str(llama), settings), settings)


def make_adapter(backbone, folder, seed, **settings):
    recipe = Hyperparameters(**{"lora_rank": 4, "lora_alpha": 8, **settings})
    return write_trial_adapter(
        backbone.model, lambda model: add_trainable_adapter(model, None, recipe), folder, seed
    )


def read_products(folder, scale):
    """What an adapter adds to each layer."""
    tensors = load_file(folder / _WEIGHTS)
    return {
        key: scale * (tensors[key.replace("lora_A", "lora_B")].double() @ tensors[key].double())
        for key in tensors
        if "lora_A" in key
    }


def average(tmp_path, *parts):
    folder = tmp_path / "average"
    folder.mkdir()
    return folder, write_average([Part(*part) for part in parts], folder)


def test_adapters_are_averaged_to_the_nearest_of_their_rank(backbone, tmp_path):
    # The older one has another rank and scales by its root.
    old = make_adapter(backbone, tmp_path / "old", 1, lora_rank=9, use_rslora=True)
    new = make_adapter(backbone, tmp_path / "new", 2)
    folder, truncation = average(tmp_path, (old, 0.25), (new, 0.75))
    parts = read_products(old, 8 / 3), read_products(new, 2.0)
    lost = total = 0.0
    for key, got in read_products(folder, 2.0).items():
        wanted = 0.25 * parts[0][key] + 0.75 * parts[1][key]
        u, values, v = torch.linalg.svd(wanted, full_matrices=False)
        nearest = (u[:, :4] * values[:4]) @ v[:4]
        torch.testing.assert_close(got, nearest, atol=1e-6, rtol=1e-4)
        lost, total = (
            lost + float((wanted - nearest).norm() ** 2),
            total + float(wanted.norm() ** 2),
        )
    assert truncation == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    assert 0.05 < truncation < 0.9
    assert (folder / "adapter_config.json").read_bytes() == (
        new / "adapter_config.json"
    ).read_bytes()


def test_an_average_that_its_rank_holds_is_exact(backbone, tmp_path):
    old = make_adapter(backbone, tmp_path / "old", 1, lora_rank=2, lora_alpha=2)
    other = make_adapter(backbone, tmp_path / "other", 2, lora_rank=1, lora_alpha=2)
    new = make_adapter(backbone, tmp_path / "new", 3, lora_rank=3, lora_alpha=3)
    tensors = load_file(new / _WEIGHTS)
    # Of rank 1, though its factors have room for 3.
    save_file(
        {
            key: tensor.index_fill(int("lora_B" in key), torch.arange(1, 3), 0.0)
            for key, tensor in tensors.items()
        },
        new / _WEIGHTS,
    )
    folder, truncation = average(tmp_path, (old, 0.2), (new, 0.8))
    wanted = {
        key: 0.2 * product + 0.8 * read_products(new, 1.0)[key]
        for key, product in read_products(old, 1.0).items()
    }
    torch.testing.assert_close(read_products(folder, 1.0), wanted, atol=1e-7, rtol=1e-5)
    assert truncation < 1e-6
    # One part alone stays what it is.
    alone = tmp_path / "alone"
    alone.mkdir()
    assert write_average([Part(other, 1.0)], alone) < 1e-6
    torch.testing.assert_close(
        read_products(alone, 2.0), read_products(other, 2.0), atol=1e-7, rtol=1e-5
    )


def test_whole_models_are_averaged_weight_by_weight(backbone, tmp_path):
    parts = []
    for name, factor in (("old", 1.0), ("new", 3.0)):
        folder = tmp_path / name
        backbone.model.save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        save_file(
            {key: factor * tensor for key, tensor in tensors.items()}, folder / "model.safetensors"
        )
        parts.append(folder)
    folder, truncation = average(tmp_path, (parts[0], 0.25), (parts[1], 0.75))
    base, got = load_file(parts[0] / "model.safetensors"), load_file(folder / "model.safetensors")
    assert truncation == 0.0
    assert got.keys() == base.keys()
    torch.testing.assert_close(got, {key: 2.5 * tensor for key, tensor in base.items()})
    assert (folder / "config.json").exists()


@pytest.mark.parametrize("odd", ["dora", "layers", "whole"])
def test_what_cannot_be_averaged_is_named(backbone, tmp_path, odd):
    new = make_adapter(backbone, tmp_path / "new", 1, target_modules=("q_proj",))
    old = tmp_path / "old"
    if odd == "dora":
        make_adapter(backbone, old, 2, target_modules=("q_proj",), use_dora=True)
    elif odd == "layers":
        make_adapter(backbone, old, 2, target_modules=("v_proj",))
    else:
        backbone.model.save_pretrained(old)
    with pytest.raises(Unsupported, match="cannot be averaged"):
        average(tmp_path, (old, 0.5), (new, 0.5))


def test_a_provider_makes_an_average_once_and_answers_with_it(tmp_path):
    async def tune(provider, name, answer):
        messages = (Message("user", "2+2"), Message("assistant", answer))
        how = Hyperparameters(epochs=2, learning_rate=3e-3, batch_size=2, lora_rank=4)
        spec = FinetuneSpec(name, provider.base, [Example(messages, (1,))] * 4, "0" * 64, how)
        handle = await provider.submit(spec)
        for _ in range(2000):
            state = await provider.poll(handle)
            if state.done:
                break
            await asyncio.sleep(0.02)
        assert state.status == "succeeded", state.error
        return state.model

    async def work():
        provider = registry.connect("embedded:", {}, tmp_path)
        try:
            models = [await tune(provider, f"m{n}", f"answer {n}") for n in (1, 2)]
            shares = tuple(ModelShare(model, 0.5) for model in models)
            spec = AverageSpec("mean", shares)
            made = await provider.average_models(spec)
            written = (tmp_path / "mean" / _WEIGHTS).stat().st_mtime_ns
            assert await provider.average_models(spec) == made
            assert (tmp_path / "mean" / _WEIGHTS).stat().st_mtime_ns == written
            assert provider.validate_averaging(Hyperparameters(use_dora=True))
            assert not provider.validate_averaging(Hyperparameters())
            await provider.load_adapters([made.model])
            request = Request(made.model, (Message("user", "2+2"),), Sampling(max_tokens=8), "k")
            assert (await provider.complete(request)).completion_tokens
            return made
        finally:
            await provider.close()

    made = asyncio.run(work())
    assert made.model.artifact == "mean"
    assert made.model.sha256
    assert 0 < made.truncation < 1
