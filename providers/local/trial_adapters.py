"""Adapters made for a trial: fresh ones of some configuration, with weights that are not zero."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import torch

from providers.errors import ProviderError, Unsupported
from providers.local.loading import silence_transformers
from providers.local.lora_targets import keep_names
from providers.local.peft_adapters import remove_peft_layers

# Beside a model's own weights, which deviate by about as much, this is a tenth of a layer's output.
_DEVIATION = 0.02


def write_trial_adapter(
    model: Any, attach: Callable[[Any], Any], folder: Path, seed: int, strength: float = 1.0
) -> Path:
    """Write an adapter that changes what `model` says into `folder`; the model stays as it was.

    `attach` puts PEFT's layers into the model and returns the PEFT model. Raises `Unsupported` if
    PEFT cannot do that.

    ```python
    attach = lambda model: add_trainable_adapter(model, None, hyperparameters)
    write_trial_adapter(backbone.model, attach, Path("trial"), seed=0)
    ```
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with torch.random.fork_rng(), silence_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            tuned = attach(model)
            for name, weights in tuned.named_parameters():
                if "lora_B" in name or "lora_embedding_B" in name:
                    torch.nn.init.normal_(weights, std=_DEVIATION * strength)
            tensors = get_peft_model_state_dict(tuned, save_embedding_layers=False)
            weights = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
            config = copy(tuned.peft_config[tuned.active_adapter])
    except ProviderError:
        raise
    except Exception as error:
        raise Unsupported(f"PEFT cannot put an adapter on this model: {error}") from error
    finally:
        remove_peft_layers(model)
        model.requires_grad_(False).eval()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.inference_mode = True
    config.save_pretrained(folder)
    return folder


def attach_like(folder: Path) -> Callable[[Any], Any]:
    """What attaches a fresh adapter of the same configuration as the one in `folder`."""

    def attach(model: Any) -> Any:
        from peft import PeftConfig, get_peft_model

        config: Any = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        with keep_names(model):
            return get_peft_model(model, config)

    return attach
