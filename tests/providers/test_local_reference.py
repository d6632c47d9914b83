"""The decoders of every kind say the same, with adapters of the bank or of PEFT."""

from dataclasses import replace

import pytest

from providers.local.backbone import Backbone
from providers.local.peft_adapters import remove_peft_layers
from providers.local.plans import DECODERS
from providers.local.reference import ReferenceDecoder, make_decoder
from providers.local.rows import DecodingRow, answer_rows
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import Hyperparameters, Sampling

EXACT = LocalSettings(threads=1, dtype="float32")
LENGTHS = (3, 9, 9, 40, 21, 3, 70)


def make_rows(adapter: str | None, temperature: float = 0.0) -> list[DecodingRow]:
    """Prompts of unequal lengths; the first ones also have short answers."""
    return [
        DecodingRow(
            tuple(5 + (7 * i + 3 * place) % 250 for i in range(length)),
            adapter,
            Sampling(temperature=temperature, top_p=0.9, max_tokens=4 + 3 * place, seed=1),
            f"q{place}",
        )
        for place, length in enumerate(LENGTHS)
    ]


def answer(backbone: Backbone, kind, adapter: str | None, temperature: float = 0.0):
    rows = make_rows(adapter, temperature)
    answer_rows(make_decoder(kind, backbone, 4, 4096), rows)
    assert all(row.finish in ("stop", "length") for row in rows)
    return [tuple(row.answer) for row in rows]


@pytest.fixture(scope="module")
def backbone(llama):
    return Backbone(locate_model(str(llama), EXACT), EXACT)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_draws_the_same_tokens(kind, temperature, backbone, adapters):
    backbone.adapters.load("a0", adapters / "a0")
    for adapter in (None, "a0"):
        expected = answer(backbone, "alone", adapter, temperature)
        assert answer(backbone, kind, adapter, temperature) == expected


@pytest.mark.parametrize("kind", DECODERS)
def test_adapters_of_peft_say_what_those_of_the_bank_say(kind, llama, adapters):
    backbone = Backbone(locate_model(str(llama), EXACT), EXACT)
    for name in ("a0", "a1"):
        backbone.adapters.load(name, adapters / name)
        backbone.adapters.load(f"{name}/peft", adapters / name, by_peft=True)
    assert backbone.adapters.find_group("a0") is None
    base = answer(backbone, "slot", None)
    for name in ("a0", "a1", "a0"):
        said = answer(backbone, "slot", name)
        assert answer(backbone, kind, f"{name}/peft") == said != base
        # PEFT's layers stay in the model; the base answers through them as before.
        assert answer(backbone, kind, None) == base


def test_training_is_not_disturbed_by_adapters_of_peft(llama, adapters):
    backbone = Backbone(locate_model(str(llama), EXACT), EXACT)
    before = {name: type(module) for name, module in backbone.model.named_modules()}
    backbone.adapters.load("a0", adapters / "a0", by_peft=True)
    said = answer(backbone, "batch", "a0")
    how = Hyperparameters(lora_rank=2, lora_alpha=4)
    with backbone.prepare_training(None, how, seed=0) as tuned:
        assert list(tuned.peft_config) == ["default"]
    assert {name: type(module) for name, module in backbone.model.named_modules()} == before
    assert answer(backbone, "batch", "a0") == said


def test_layers_of_an_attempt_that_failed_half_way_are_removed(llama):
    from peft import LoraConfig, get_peft_model

    backbone = Backbone(locate_model(str(llama), EXACT), EXACT)
    before = {name: type(module) for name, module in backbone.model.named_modules()}
    # A pattern that also hits what is no layer.
    config = LoraConfig(target_modules=["q_proj", "input_layernorm"], task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="not supported"):
        get_peft_model(backbone.model, config)
    remove_peft_layers(backbone.model)
    assert {name: type(module) for name, module in backbone.model.named_modules()} == before


def test_a_model_of_its_own_settings_is_answered_by_ours(llama):
    backbone = Backbone(locate_model(str(llama), EXACT), EXACT)
    expected = answer(backbone, "alone", None)
    own = backbone.model.generation_config
    own.repetition_penalty, own.do_sample, own.min_new_tokens = 5.0, True, 30
    assert answer(backbone, "batch", None) == expected
    assert own.repetition_penalty == 5.0
    assert backbone.model.generation_config is own


def test_an_abandoned_row_and_an_interrupted_batch_end_between_tokens(backbone):
    asked = 0

    def stop_at_third() -> bool:
        nonlocal asked
        asked += 1
        rows[1].abandoned = True
        return asked == 3

    rows = make_rows(None)[:2]
    rows = [replace_max(row, 50) for row in rows]
    decoder = ReferenceDecoder(backbone, 8, 4096, "batch", stop_at_third)
    decoder.admit(rows)
    ended = decoder.step()
    assert [row.finish for row in ended] == ["error"]
    assert len(rows[0].answer) == 3
    assert decoder.active == 1


def replace_max(row: DecodingRow, most: int) -> DecodingRow:
    return DecodingRow(row.prompt, None, replace(row.sampling, max_tokens=most), row.key)
