"""How a model's answers are computed: which decoder, and who applies the adapters.

From the fastest to the one that is right by definition:

    slot    `decode.SlotDecoder`: for models whose every layer attends to all earlier tokens
    padded  `decode.PaddedDecoder`: prompts padded on the left, the cache that the model makes
    batch   `reference.ReferenceDecoder`: transformers' own `generate`, prompts padded on the left
    length  `generate`, prompts of one length together, so that nothing is padded
    alone   `generate`, one row at a time

Adapters are applied by the bank (`adapters.AdapterBank`), which mixes them in one pass, or by PEFT
(`peft_adapters.PeftAdapters`), one adapter at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

DecoderKind = Literal["slot", "padded", "batch", "length", "alone"]
DECODERS: tuple[DecoderKind, ...] = ("slot", "padded", "batch", "length", "alone")
DECODER_NAMES: dict[DecoderKind, str] = {
    "slot": "the fast decoder",
    "padded": "the decoder with padded prompts",
    "batch": "generate in batches",
    "length": "generate with prompts of one length together",
    "alone": "generate, one row at a time",
}
AdapterWay = Literal["bank", "peft"]
ScoringWay = Literal["padded", "alone"]


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """How rows of the base, or of adapters of one configuration, are answered.

    Rows that may come to have more than `limit` tokens are answered by `long_decoder`; without a
    limit there are none.
    """

    decoder: DecoderKind
    long_decoder: DecoderKind = "alone"
    limit: int | None = None
    scoring: ScoringWay = "padded"
    adapters: AdapterWay = "bank"

    def choose_decoder(self, longest: int) -> DecoderKind:
        """The decoder for a row of up to `longest` tokens."""
        return self.decoder if self.limit is None or longest <= self.limit else self.long_decoder

    def choose_scoring(self, longest: int) -> ScoringWay:
        """How a text of `longest` tokens is scored."""
        return self.scoring if self.limit is None or longest <= self.limit else "alone"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a self-check found: how to answer, and why a faster way is not taken, if it is not."""

    plan: AnswerPlan
    reasons: tuple[str, ...] = ()


def find_rope_limit(config: Any) -> int | None:
    """From how many tokens on a model turns its positions by other factors; None if it never does.

    The factors of a pass are chosen by its longest row, so one long row would change all others.
    """
    ropes = _read(config, "rope_parameters") or {}
    nested = [one for one in ropes.values() if isinstance(one, dict)]
    limits = []
    for rope in nested or [ropes]:
        if rope.get("rope_type") == "longrope":
            limits.append(int(rope["original_max_position_embeddings"]))
        elif "dynamic" in str(rope.get("rope_type")):
            limits.append(int(config.max_position_embeddings))
    return min(limits, default=None)


def read_context(config: Any) -> int | None:
    """The most tokens that a model of this config can read; None if the config says nothing."""
    names = ("max_position_embeddings", "max_seq_len", "n_positions", "context_length")
    # XLNet states -1: it has no longest prompt.
    stated = next((value for name in names if (value := _read(config, name) or 0) > 0), None)
    if stated is None:
        return None
    rope = _read(config, "rope_parameters") or {}
    kind, factor = str(rope.get("rope_type")), rope.get("factor") or 1
    if "dynamic" in kind:
        # The stated length is the one before it is stretched.
        stated *= factor
    elif kind == "yarn":
        # Some state the stretched length (DeepSeek), some the original one (Qwen2.5).
        stated = max(stated, factor * (rope.get("original_max_position_embeddings") or 0))
    return int(stated)


def estimate_slot_bytes(config: Any, item_bytes: int) -> int:
    """Memory of one token's keys and values in all layers, at least 1 byte: a mere estimate."""

    def read(name: str) -> int:
        value = _read(config, name)
        return value if isinstance(value, int) else 0

    heads = read("num_attention_heads") or 1
    size = read("head_dim") or read("hidden_size") // heads
    shared = read("num_key_value_heads") or heads
    return max(1, 2 * read("num_hidden_layers") * shared * size * item_bytes)


# Families whose layers attend to all earlier tokens unless their config says otherwise, and take
# the positions of a row whose keys lie where its own tokens are. `benchmarks/families.py` tries
# each; a family that is not here is answered with its own cache and masks.
_FULL_ATTENTION = (
    "apertus arcee bitnet codegen cohere dbrx deepseek_v2 deepseek_v3 diffllama dots1 ernie4_5 "
    "ernie4_5_moe falcon flex_olmo gemma glm glm4 glm4_moe gpt2 gpt_bigcode gpt_neox "
    "gpt_neox_japanese gptj granite granitemoe granitemoeshared helium hunyuan_v1_dense "
    "hunyuan_v1_moe hyperclovax internlm3 iquestcoder jais2 jetmoe llama minicpm3 minimax_m2 "
    "ministral3 mistral mixtral nanochat nemotron olmo olmo2 olmoe opt persimmon phi phi3 phimoe "
    "qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 youtu"
)


def attends_to_all(config: Any) -> bool:
    """Whether every layer attends to all earlier tokens, so that cache slots can be a row's own."""
    if config.model_type not in _FULL_ATTENTION.split() or getattr(config, "alibi", False):
        return False
    # A model with sliding windows either lists its layers' kinds or sets one window for all.
    kinds = set(_read(config, "layer_types") or ["full_attention"])
    window = _read(config, "sliding_window")
    return kinds == {"full_attention"} and (not window or hasattr(config, "layer_types"))


# Keys of configs that say from which distance on a token is not attended to.
_WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "local_attention",
    "attention_window_size",
)


def list_windows(config: Any) -> list[int]:
    """The lengths from which on a model of this config may treat far tokens otherwise."""
    found = {
        value for name in _WINDOWS if isinstance(value := _read(config, name), int) and value > 0
    }
    return sorted(found)


def _read(config: Any, name: str) -> Any:
    """A value of a config, None if it has none."""
    # A config may raise anything for what differs between its layers, as that of Gemma 4 does.
    try:
        return getattr(config, name, None)
    except Exception:
        return None
