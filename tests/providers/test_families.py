"""A few families go the whole way of `benchmarks/families.py`; that script tries all of them."""

import pytest

from benchmarks.families import Family, list_families
from benchmarks.family_configs import FAMILIES
from benchmarks.family_table import format_table

# A family, where it ends, the decoder and the way of its adapters, and those on its experts.
WAYS = [
    ("phi3 (longrope)", "fast", "slot", "bank", ""),
    ("gpt_neo", "fast", "padded", "bank", ""),
    ("mamba", "reference", "batch", "bank", ""),
    ("mllama", "fast", "padded", "bank", ""),
    ("molmo2", "fast", "padded", "bank", ""),
    ("mixtral", "fast", "slot", "bank", "works"),
    ("blip", "refused", "", "", ""),
    ("janus", "refused", "", "", ""),
    ("pi0", "unbuilt", "", "", ""),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "outcome", "decoder", "adapters", "experts"), WAYS)
def test_a_family_answers_as_transformers_does(
    name, outcome, decoder, adapters, experts, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = Family(name, tmp_path).run()
    assert result.faults == []
    assert (result.outcome, result.experts) == (outcome, experts)
    assert (result.decoder, result.adapters) == (decoder, adapters)


def test_every_class_of_transformers_that_answers_is_listed():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    listed = list_families()
    assert len(listed) == len(set(listed))
    known = {model_type for model_type, _ in FAMILIES.values()} | set(listed)
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) <= known


def test_a_wrong_family_is_not_hidden_in_the_table(tmp_path):
    result = Family("llama", tmp_path).result
    result.faults.append("eager, a: 3 of 6 equal")
    assert "| `llama` | eager, a: 3 of 6 equal |" in format_table([result])
