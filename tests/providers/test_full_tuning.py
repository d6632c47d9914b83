"""Full fine-tuning of a half-precision base: nothing of the update is rounded away."""

import threading

import pytest
import torch
from safetensors.torch import load_file

from providers.artifact import load_trained
from providers.hyperparameters import Hyperparameters
from providers.local.models import LocalModels
from providers.local.preflight import preflight_files
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.local.train import finetune
from providers.types import Example, FinetuneSpec, Message, ModelRef, Need
from store.records import utc_now

TOKENS = torch.arange(40)[None]


def make_spec(start, name):
    example = Example((Message("user", "1+1"), Message("assistant", "2")), (1,))
    how = Hyperparameters(
        method="full", epochs=3, batch_size=2, learning_rate=1e-5, schedule="constant", warmup=0.0
    )
    return FinetuneSpec(name, start, [example] * 4, "0" * 64, how)


def train(models, spec, start=None):
    """The logits of the trained model while it is still in memory."""
    base, out = models.base, models._workdir / spec.name
    with base.prepare_training(start, spec.hyperparameters, spec.seed) as model:
        finetune(
            model,
            base.tokenizer,
            spec,
            out,
            device=base.device,
            on_point=lambda point, progress: None,
            stop=threading.Event(),
            bf16=base.trains_in_bf16,
        )
        assert load_trained(out, spec.digest) is not None
        with torch.no_grad():
            return model.eval()(TOKENS).logits


@pytest.fixture
def models(llama, tmp_path):
    settings = LocalSettings(device="cpu", dtype="bfloat16", threads=1)
    return LocalModels(locate_model(str(llama), settings), settings, tmp_path)


def test_every_changed_weight_is_still_changed_when_it_answers(models, tmp_path):
    base = {name: w.float().clone() for name, w in models.base.model.named_parameters()}
    first = make_spec(ModelRef("base", "local:llama"), "first")
    trained = train(models, first)
    backbone, adapter = models.find("first")
    assert adapter is None
    written = load_file(tmp_path / "first" / "model.safetensors")
    moved = kept = 0
    for name, weight in backbone.model.named_parameters():
        changed = written[name] != base[name]
        moved += int(changed.sum())
        kept += int((weight[changed] != base[name][changed]).sum())
    # Most changes are smaller than the steps of bfloat16.
    lost = sum(int((w.bfloat16() == base[n]).sum()) for n, w in written.items() if n in base)
    assert moved > 20_000
    assert lost > 0.5 * moved
    assert kept == moved
    with torch.no_grad():
        assert torch.equal(backbone.model(TOKENS).logits, trained)
    # The next iteration goes on from there.
    second = make_spec(ModelRef("first", "local:llama", "first"), "second")
    train(models, second, tmp_path / "first")
    final = load_file(tmp_path / "second" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    step = (final[name] - written[name]).abs().max().item()
    assert 0 < step < 1e-4


def test_its_size_on_disk_is_known_before(models, llama, tmp_path):
    train(models, make_spec(ModelRef("base", "local:llama"), "sized"))
    need = Need(finetune=True, ends_at=utc_now())
    report = preflight_files(str(llama), {}, need, Hyperparameters(method="full"))
    size = (tmp_path / "sized" / "model.safetensors").stat().st_size
    assert report.artifact_bytes == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize(("dtype", "numbers"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_training_computes_in_the_type_the_user_asked_for(llama, tmp_path, dtype, numbers):
    from providers.local import hardware

    settings = LocalSettings(device="cpu", dtype=dtype, threads=1)
    models = LocalModels(locate_model(str(llama), settings), settings, tmp_path)
    native = hardware.has_native_bf16(torch.device("cpu"))
    assert models.base.trains_in_bf16 == (native and numbers == "bfloat16")
