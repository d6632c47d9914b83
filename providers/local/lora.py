"""A LoRA adapter on a base model: put on for training, and written to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from providers.errors import InvalidSettings, Unsupported
from providers.hyperparameters import LORA_CHOICES, Hyperparameters
from providers.local.lora_targets import (
    choose_targets,
    keep_names,
    shorten_names,
)
from providers.local.peft_adapters import remove_peft_layers

if TYPE_CHECKING:
    import torch

_ADAPTER_CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Whether an artifact folder holds an adapter rather than a whole model."""
    return (folder / _ADAPTER_CONFIG).is_file()


def add_trainable_adapter(model: Any, start: Path | None, settings: Hyperparameters) -> Any:
    """The PEFT model of `model` with one trainable adapter, continued from `start` if given.

    `model` gets PEFT's layers until the result's `unload` takes them out. Fresh weights draw from
    torch's global generator. Raises `Unsupported` if `start` is no adapter, and `InvalidSettings`
    if its shape is not that of `settings` or if `settings` name layers that the model lacks.

    ```python
    tuned = add_trainable_adapter(backbone.model, None, Hyperparameters(lora_rank=8))
    ```
    """
    from peft import PeftConfig, PeftModel, get_peft_model

    if start is None:
        config = build_lora_config(model, settings)
        try:
            with keep_names(model):
                return get_peft_model(model, config)
        except ValueError as error:
            remove_peft_layers(model)
            raise InvalidSettings(
                f"PEFT cannot put LoRA on this model with these settings: {error}; change "
                f"{', '.join(f'finetune.{name}' for name in LORA_CHOICES)}"
            ) from error
    if not is_adapter(start):
        raise Unsupported(
            f"LoRA cannot continue from the full fine-tune {str(start)!r}; "
            f"use method = 'full', or open that folder as the base"
        )
    _require_same_shape(PeftConfig.from_pretrained(str(start)), settings, start)
    with keep_names(model):
        # PEFT names the adapter it loads "default".
        return PeftModel.from_pretrained(model, str(start), is_trainable=True)


def build_lora_config(model: Any, settings: Hyperparameters) -> Any:
    """PEFT's `LoraConfig` for `settings` on `model`, its layers chosen by `choose_targets`."""
    from peft import LoraConfig

    targets = choose_targets(model, settings)
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=shorten_names(model, targets.modules),
        target_parameters=list(targets.parameters) or None,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        init_lora_weights=settings.init_lora_weights,
        task_type="CAUSAL_LM",
    )


def write_adapter(tuned: Any, folder: Path, base: str) -> None:
    """Write the one active adapter of a PEFT model as the folder that PEFT and servers read.

    `base` is the name of the base model, for those who read the folder.
    """
    (adapter,) = tuned.active_adapters
    write_tensors(read_tensors(tuned, adapter), tuned.peft_config[adapter], folder, base)


def read_tensors(tuned: Any, adapter: str) -> dict[str, torch.Tensor]:
    """An adapter's tensors by the names that files have for them, as they are and will be."""
    from peft import get_peft_model_state_dict

    # A tied or resized embedding would be saved whole beside the adapter, and is unchanged.
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(
        tuned, adapter_name=adapter, save_embedding_layers=False
    )
    return tensors


def write_tensors(
    tensors: Mapping[str, torch.Tensor], lora_config: Any, folder: Path, base: str
) -> None:
    """Write an adapter of PEFT's configuration `lora_config`, as `write_adapter` does."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy(lora_config)
    config.base_model_name_or_path = base
    config.inference_mode = True
    # The start is over: whoever loads the folder must not draw, or even read, anything by it.
    config.init_lora_weights = True
    # PEFT keeps sets; sorted, the same fit writes the same bytes.
    for name in ("target_modules", "target_parameters"):
        if isinstance(names := getattr(config, name), set):
            setattr(config, name, sorted(names))
    config.save_pretrained(folder)


def _require_same_shape(config: Any, settings: Hyperparameters, start: Path) -> None:
    """Raise `InvalidSettings` for what an existing adapter has otherwise than `settings`."""
    wanted = {
        "lora_rank": (settings.lora_rank, config.r),
        "lora_alpha": (settings.lora_alpha, config.lora_alpha),
        "use_rslora": (settings.use_rslora, config.use_rslora),
        "use_dora": (settings.use_dora, config.use_dora),
        "lora_experts": (settings.lora_experts, bool(config.target_parameters)),
    }
    differing = [
        f"{name} = {now!r} (there: {then!r})" for name, (now, then) in wanted.items() if now != then
    ]
    if differing:
        raise InvalidSettings(
            f"{', '.join(differing)} differ from the adapter {str(start)!r} that training "
            f"continues from; set the same values, or start from the base"
        )
