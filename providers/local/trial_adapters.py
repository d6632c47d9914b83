"""Adapters made for a trial: fresh ones of some configuration, with weights that are not zero."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from providers.errors import ProviderError, Unsupported
from providers.hyperparameters import Hyperparameters
from providers.local.conversation import TrainingSequence
from providers.local.hardware import is_out_of_memory
from providers.local.loading import build_layers, silence_transformers, translate_errors
from providers.local.lora import add_trainable_adapter, write_adapter
from providers.local.lora_targets import keep_names
from providers.local.loss import SummedLoss, collate_batch
from providers.local.peft_adapters import remove_peft_layers
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource

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
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with torch.random.fork_rng(), silence_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            tuned = attach(model)
            for name, weights in tuned.named_parameters():
                if "lora_B" in name or "lora_embedding_B" in name:
                    torch.nn.init.normal_(weights, std=_DEVIATION * strength)
            # As training writes it: loading must find nothing that a trained adapter lacks.
            write_adapter(tuned, folder, str(model.config.name_or_path))
    except ProviderError:
        raise
    except Exception as error:
        raise Unsupported(f"PEFT cannot put an adapter on this model: {error}") from error
    finally:
        remove_peft_layers(model)
        model.requires_grad_(False).eval()
    return folder


def write_adapter_by_config(
    source: ModelSource, settings: LocalSettings, hyperparameters: Hyperparameters, folder: Path
) -> None:
    """Write the same as training with `hyperparameters` would make it, without loading the weights
    of the model at `source`. Raises the errors of loading it, too."""
    with silence_transformers(), translate_errors(source, settings, torch.float32):
        model = build_layers(source, settings)

    def attach(bare: Any) -> Any:
        tuned = add_trainable_adapter(bare, None, hyperparameters)
        _make_weights(tuned)
        return tuned

    write_trial_adapter(model, attach, folder, seed=0)


def _make_weights(tuned: Any) -> None:
    """Give the adapter of a PEFT model weights: PEFT puts them where the base's are, nowhere."""
    for module in tuned.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.requires_grad and weight.is_meta:
                drawn = torch.randn(weight.shape, dtype=weight.dtype) * _DEVIATION
                setattr(module, name, torch.nn.Parameter(drawn))


def try_training_pass(tuned: Any, device: torch.device, *, bf16: bool) -> None:
    """Compute the gradient of a few tokens of `tuned`, a PEFT model in eval mode.

    Raises `Unsupported` if the model cannot be trained: some answer, and fail in training only.
    """
    tokens = list(range(2, 10))
    sequence = TrainingSequence(tokens, [False] + [True] * (len(tokens) - 1))
    tuned.train()
    try:
        loss = SummedLoss(tuned, device, bf16=bf16)
        loss.backward(collate_batch([sequence], device), divisor=len(tokens) - 1)
    except Exception as error:
        # A fit cuts its batches smaller, and says what does not fit into memory.
        if not is_out_of_memory(error):
            raise Unsupported(
                f"this model cannot be trained: {error}; use another model"
            ) from error
    finally:
        tuned.zero_grad(set_to_none=True)
        tuned.eval()


def attach_like(folder: Path) -> Callable[[Any], Any]:
    """What attaches a fresh adapter of the same configuration as the one in `folder`."""

    def attach(model: Any) -> Any:
        from peft import PeftConfig, get_peft_model

        config: Any = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        with keep_names(model):
            return get_peft_model(model, config)

    return attach
