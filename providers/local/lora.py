"""What LoRA trains: one adapter on the base, fresh or continued from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from providers.errors import InvalidSettings, Unsupported
from providers.types import Hyperparameters

_ADAPTER_CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Whether an artifact folder holds an adapter rather than a whole model."""
    return (folder / _ADAPTER_CONFIG).is_file()


def add_trainable_adapter(model: Any, start: Path | None, settings: Hyperparameters) -> Any:
    """The PEFT model of `model` with one trainable adapter, continued from `start` if given.

    `model` gets PEFT's layers until the result's `unload` takes them out. Fresh weights draw from
    torch's global generator. Raises `Unsupported` if `start` is no adapter, and `InvalidSettings`
    if its shape is not that of `settings`.

    ```python
    tuned = add_trainable_adapter(backbone.model, None, Hyperparameters(lora_rank=8))
    ```
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if start is not None:
        if not is_adapter(start):
            raise Unsupported(
                f"LoRA cannot continue from the full fine-tune {str(start)!r}; "
                f"use method = 'full', or open that folder as the base"
            )
        # PEFT names the adapter it loads "default".
        tuned = PeftModel.from_pretrained(model, str(start), is_trainable=True)
        _require_same_shape(tuned.peft_config["default"], settings, start)
        return tuned
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _require_same_shape(config: Any, settings: Hyperparameters, start: Path) -> None:
    if (config.r, config.lora_alpha) != (settings.lora_rank, settings.lora_alpha):
        raise InvalidSettings(
            f"lora_rank {settings.lora_rank} and lora_alpha {settings.lora_alpha} differ from the "
            f"{config.r} and {config.lora_alpha} of the adapter {str(start)!r} that training "
            f"continues from; set the same values, or start from the base"
        )
