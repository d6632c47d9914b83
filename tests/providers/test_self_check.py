"""A model's answers are checked against transformers' own, and what fails falls back."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from providers.errors import Unsupported
from providers.local.backbone import Backbone
from providers.local.deep_check import describe_kept_checks, try_model
from providers.local.kept_checks import KeptChecks
from providers.local.models import LocalModels
from providers.local.plans import AnswerPlan, Verdict
from providers.local.self_check import (
    check_adapters,
    check_base,
    find_decoder,
    find_padding_fault,
)
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.local.trial_adapters import write_trial_adapter
from providers.types import Hyperparameters
from tests.providers.conftest import save_model

EXACT = LocalSettings(threads=1, dtype="float32", device="cpu")


def open_models(base: Path) -> LocalModels:
    return LocalModels(locate_model(str(base), EXACT), EXACT, base)


def load(base: Path) -> Backbone:
    return Backbone(locate_model(str(base), EXACT), EXACT)


@pytest.fixture(scope="module")
def sliding(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("mistral"), "mistral")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "society" / "checks"


def test_a_model_that_the_fast_way_answers_rightly_is_answered_fast(llama):
    backbone = load(llama)
    assert check_base(backbone) == Verdict(AnswerPlan("slot", "length"))
    verdict = check_adapters(backbone, make_attach())[1]
    assert verdict == Verdict(AnswerPlan("slot", "length"))
    # Nothing of the trial stays.
    assert backbone.adapters.names == frozenset()


def test_rounding_of_half_precision_is_no_fault(llama):
    settings = LocalSettings(threads=1, dtype="bfloat16", device="cpu")
    backbone = Backbone(locate_model(str(llama), settings), settings)
    assert check_base(backbone).plan.scoring == "padded"
    assert check_adapters(backbone, make_attach())[1].plan.scoring == "padded"


def make_attach(**choices):
    from peft import LoraConfig, get_peft_model

    options = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **choices}
    return lambda model: get_peft_model(model, LoraConfig(**options))


def test_a_decoder_that_gives_other_tokens_is_not_used(sliding):
    """The slot decoder knows no sliding window; only prompts beyond the window show it."""
    from providers.local.self_check import make_expected_rows

    backbone = load(sliding)
    rows = make_expected_rows(backbone)
    decoder, reasons = find_decoder(backbone, "slot", [rows])
    assert decoder == "padded"
    assert len(reasons) == 1
    assert "the fast decoder is not used: after a prompt of" in reasons[0]
    assert "in place of" in reasons[0]
    assert check_base(backbone).plan.decoder == "padded"


def test_adapters_beyond_plain_lora_are_applied_by_peft(llama):
    backbone = load(llama)
    _, verdict = check_adapters(backbone, make_attach(use_dora=True))
    assert verdict.plan == AnswerPlan("slot", "length", adapters="peft")
    assert "PEFT applies the adapters, one at a time" in verdict.reasons[0]


def test_an_adapter_without_effect_is_refused(llama):
    backbone = load(llama)
    # Now the adapted layer reads zeros only.
    backbone.model.model.layers[-1].mlp.up_proj.weight.data.zero_()
    attach = make_attach(target_modules=["model.layers.1.mlp.down_proj"])
    with pytest.raises(Unsupported, match="does not change what the model"):
        check_adapters(backbone, attach)


def test_layers_that_peft_refuses_are_refused_before_training(llama):
    attach = make_attach(target_modules=["input_layernorm"])
    with pytest.raises(Unsupported, match="PEFT cannot put an adapter on this model"):
        check_adapters(load(llama), attach)


def test_a_result_is_kept_and_used_again(llama, cache):
    models = open_models(llama)
    assert models.base.plans[None].decoder == "slot"
    [file] = cache.iterdir()
    content = json.loads(file.read_text())
    assert list(content) == ["cpu/torch.float32"]
    kept = KeptChecks(locate_model(str(llama), EXACT), EXACT)
    slow = Verdict(AnswerPlan("alone"), ("for this test",))
    kept.keep("cpu/torch.float32", slow)
    assert open_models(llama).base.plans[None] == slow.plan
    # Other numbers, or another version of the files, are another question.
    half = replace_dtype("bfloat16")
    assert KeptChecks(locate_model(str(llama), half), half).list_bases() == {}
    assert kept.list_bases() == {"cpu/torch.float32": slow}


def replace_dtype(dtype: str) -> LocalSettings:
    return EXACT.model_copy(update={"dtype": dtype})


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"cpu/torch.float32": 3}', '{"cpu/torch.float32": {"": {"plan": 1}}}'],
)
def test_an_unreadable_result_means_another_check(damage, llama, cache):
    assert open_models(llama).base.plans[None].decoder == "slot"
    [file] = cache.iterdir()
    file.write_text(damage)
    assert open_models(llama).base.plans[None].decoder == "slot"
    assert json.loads(file.read_text())["cpu/torch.float32"][""]["plan"]["decoder"] == "slot"


def test_a_cache_that_cannot_be_written_stops_nothing(llama, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_models(llama).base.plans[None].decoder == "slot"


def test_an_adapter_of_another_kind_is_served_as_its_own_check_says(llama, tmp_path, caplog):
    models = LocalModels(locate_model(str(llama), EXACT), EXACT, tmp_path)
    attach = make_attach(use_dora=True)
    write_trial_adapter(models.base.model, attach, tmp_path / "dora", seed=1)
    backbone, name = models.find("dora")
    assert backbone.adapters.find_group(name) == name
    assert "PEFT applies the adapters" in caplog.text
    signature = backbone.adapters.get_signature("dora")
    assert backbone.plans[signature].adapters == "peft"


def test_doctor_says_whether_a_model_was_tried_and_tries_it(llama):
    source = locate_model(str(llama), EXACT)
    [finding] = describe_kept_checks(source, EXACT)
    assert finding.level == "ok"
    assert "was not tried: `society doctor --deep`" in finding.text
    found = try_model(source, EXACT, Hyperparameters())
    assert [one.level for one in found] == ["ok", "ok", "ok"]
    assert found[0].text == "answers as transformers does, by the fast decoder"
    assert found[2].text == "LoRA is put on layers with 100.0% of the model's weights"
    [finding] = describe_kept_checks(source, EXACT)
    assert finding.text.startswith("was tried before (cpu/torch.float32), by the fast decoder")


def test_a_reason_is_a_warning_of_doctor(llama):
    source = locate_model(str(llama), EXACT)
    slow = replace(Verdict(AnswerPlan("alone")), reasons=("padding changes its answers",))
    KeptChecks(source, EXACT).keep("cpu/torch.float32", slow)
    [finding] = describe_kept_checks(source, EXACT)
    assert finding.level == "warning"
    assert finding.text.endswith("more slowly than it could: padding changes its answers")


def test_padding_that_moves_predictions_is_found_before_it_changes_a_token(tmp_path):
    """RecurrentGemma's convolution reads padding, so that prompts go by their length."""
    base = save_model(tmp_path / "r", "recurrent_gemma")
    fault = find_padding_fault(load(base), [(5, 6, 7), (5, 6, 7, 8, 9, 10, 11, 12)])
    assert fault is not None
    assert "after 3 tokens" in fault
    sliding_fault = find_padding_fault(
        load(save_model(tmp_path / "m", "mistral")), [(5, 6), (5, 6, 7, 8)]
    )
    assert sliding_fault is None


def test_adapters_that_are_made_alike_are_tried_once(llama, tmp_path, monkeypatch):
    models, recipe = open_models(llama), Hyperparameters(lora_rank=4)
    models.check_tuning(recipe)
    # From here on no trial can be written.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    models.check_tuning(replace(recipe, epochs=5, learning_rate=1e-3))
    with pytest.raises(FileNotFoundError):
        models.check_tuning(replace(recipe, use_rslora=True))
