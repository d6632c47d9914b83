"""Which implementation of attention a model uses: one rule for loading, answering and training."""

from __future__ import annotations

from typing import Any

import torch

from providers.errors import InvalidSettings

_EAGER = 'set attention = "eager" or "auto" in [provider]'
# Implementations, what a class of transformers says of them, and what they need.
_FLAGS = {
    "sdpa": "_supports_sdpa",
    "flex_attention": "_supports_flex_attn",
    "flash_attention": "_supports_flash_attn",
}


def may_use_sdpa(model_class: Any, config: Any) -> bool:
    """Whether SDPA computes what eager attention does; a soft cap it would drop silently.

    `model_class` is a model or its class, `config` its config.
    """
    if not getattr(model_class, "_supports_sdpa", False) or _read_soft_cap(config) is not None:
        return False
    # Each part of a model of images and texts has a class of its own.
    parts = (getattr(config, name, None) for name in getattr(config, "sub_configs", ()))
    return all(_find_flag(part) for part in parts if part is not None)


def choose_attention(asked: str, device: torch.device, model_class: Any, config: Any) -> str:
    """The name for transformers' `attn_implementation`; `asked` is the setting.

    Raises `InvalidSettings` if the class lacks what was asked for, or would compute it wrongly.

    ```python
    choose_attention("auto", torch.device("cuda"), Gemma2ForCausalLM, config)  # "eager"
    ```
    """
    if asked == "auto":
        if device.type == "cpu" or not may_use_sdpa(model_class, config):
            return "eager"
        return "sdpa"
    name = getattr(model_class, "__name__", str(model_class))
    for word, flag in _FLAGS.items():
        if word in asked and not getattr(model_class, flag, False):
            raise InvalidSettings(f"attention = {asked!r}: {name} does not have it; {_EAGER}")
    if asked == "sdpa" and (cap := _read_soft_cap(config)) is not None:
        raise InvalidSettings(
            f"attention = {asked!r} would drop the soft cap of {cap} that {name} puts on its "
            f"attention; {_EAGER}"
        )
    if "flash" in asked and device.type == "cpu":
        raise InvalidSettings(f"attention = {asked!r} needs a graphics card; {_EAGER}")
    if "/" not in asked and asked not in _list_names():
        raise InvalidSettings(
            f"attention = {asked!r} is not known to transformers, which has eager, "
            f"{', '.join(sorted(_list_names() - {'eager'}))}; correct it, or {_EAGER}"
        )
    return asked


def _find_flag(config: Any) -> bool:
    from transformers import MODEL_MAPPING

    found: Any = MODEL_MAPPING.get(type(config), None)
    each = found[0] if isinstance(found, tuple) else found
    return each is None or bool(each._supports_sdpa)


def _read_soft_cap(config: Any) -> float | None:
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) or None


def _list_names() -> set[str]:
    """The implementations that transformers knows, without those of its own serving loop."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    names: Any = ALL_ATTENTION_FUNCTIONS
    return {"eager"} | {name for name in names.valid_keys() if "paged" not in name}
