"""Which weights of a model get a LoRA adapter.

PEFT's own "all-linear" also takes routers that return tuples, layers that it refuses afterwards,
the vision tower of a multimodal model, and, by name, the fused experts of some families. So the
layers are chosen here, and PEFT gets exactly their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from providers.errors import InvalidSettings
from providers.hyperparameters import ALL_LINEAR, Hyperparameters
from providers.types import Finding

_SMALL_SHARE = 0.25

# The layers of these families that PEFT refuses, since their kernels use the weights directly:
# `_check_lora_target_modules_mamba` in peft/tuners/tuners_utils.py.
_MAMBA_TYPES = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
_MAMBA_LAYERS = ("out_proj", "conv1d")


@dataclass(frozen=True, slots=True)
class LoraTargets:
    """What LoRA is put on: modules and fused expert parameters, by their full names."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...]


def choose_targets(model: Any, settings: Hyperparameters) -> LoraTargets:
    """The layers of `model`, a transformers model without adapters, that `settings` ask for.

    Raises `InvalidSettings` if a name in `target_modules` fits no layer that can have an adapter,
    and for `lora_experts` if the model has no fused experts.

    ```python
    choose_targets(model, Hyperparameters(target_modules=("q_proj", "v_proj"))).modules
    ```
    """
    layers = dict(_list_linear_layers(model))
    chosen = _choose_layers(layers, settings.target_modules)
    experts = _list_fused_experts(model)
    if settings.lora_experts and not experts:
        raise InvalidSettings(
            "finetune.lora_experts = true: the model has no fused experts; remove the setting"
        )
    parameters = experts if settings.lora_experts else ()
    if not chosen and not parameters:
        raise InvalidSettings(
            f"the model {type(model).__name__} has no layer that LoRA can be put on; use another "
            "model, or finetune.method = 'full'"
        )
    return LoraTargets(tuple(chosen), tuple(parameters))


def measure_share(tuned: Any) -> float:
    """The part of the text model's weight matrices that has an adapter, in a PEFT model.

    Embeddings and the output layer do not count.
    """
    model = tuned.get_base_model()
    text = _find_text_model(model)
    head = model.get_output_embeddings()
    skipped = {
        id(weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding) or module is head
        for weight in module.parameters(recurse=False)
    }
    total = sum(
        _count_numbers(weight)
        for name, weight in model.named_parameters()
        if name.startswith(text) and weight.ndim >= 2 and "lora_" not in name
        if id(weight) not in skipped
    )
    return sum(map(_count_numbers, _list_adapted_weights(model))) / max(1, total)


def describe_share(tuned: Any) -> Finding:
    """How much of the model LoRA trains; a warning if that is little."""
    share = measure_share(tuned)
    text = f"LoRA is put on layers with {share:.1%} of the model's weights"
    if share >= _SMALL_SHARE:
        return Finding("ok", text, check="recipe")
    fused = any("expert" in type(m).__name__.lower() for m in tuned.get_base_model().modules())
    left_out = fused and not tuned.peft_config["default"].target_parameters
    remedy = "finetune.lora_experts = true adds its experts" if left_out else ""
    text += " only, so that most of it stays as it is"
    return Finding("warning", text, remedy, "recipe")


def shorten_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The last parts of module names where those fit no other module, else the full names.

    Programs that serve adapters know layers by their last name, such as `q_proj`.
    """
    wanted = set(names)
    others = {name.rpartition(".")[2] for name, _ in model.named_modules() if name not in wanted}
    return sorted(
        {name if (last := name.rpartition(".")[2]) in others else last for name in wanted}
    )


@contextmanager
def keep_names(model: Any) -> Iterator[None]:
    """Let PEFT put adapters on the very layers that a config names, or load their weights.

    For models whose experts have been fused since transformers 4, PEFT takes names such as
    `gate_proj`, which their dense layers still have, for those of experts.
    """
    # It knows these models by `model_type` alone (peft/utils/transformers_weight_conversion.py).
    config = model.config
    own = vars(config).get("model_type")
    config.model_type = None
    try:
        yield
    finally:
        if own is None:
            del config.model_type
        else:
            config.model_type = own


def _list_linear_layers(model: Any) -> Iterator[tuple[str, str | None]]:
    """Every linear layer's name, with the reason why it can have no adapter, None if it can."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    text = _find_text_model(model)
    quantized = getattr(model, "hf_quantizer", None) is not None
    mamba = getattr(model.config, "model_type", None) in _MAMBA_TYPES
    for name, module in model.named_modules():
        known = isinstance(module, nn.Linear | Conv1D)
        if not known and not (quantized and _is_quantized_layer(module)):
            continue
        reason = None
        if module is head:
            reason = "it is the output layer"
        elif text and not name.startswith(text):
            reason = "it is no part of the text model"
        elif mamba and name.rpartition(".")[2] in _MAMBA_LAYERS:
            reason = "PEFT refuses it: the state-space kernel uses its weights directly"
        elif _is_special(module):
            reason = f"a {type(module).__name__} is no plain linear layer"
        yield name, reason


def _is_quantized_layer(module: nn.Module) -> bool:
    # Packed layers of many libraries: none is an nn.Linear, all have Linear in their name.
    return "Linear" in type(module).__name__ and hasattr(module, "in_features")


def _find_text_model(model: Any) -> str:
    """The prefix of the language model's layers in a multimodal model, "" in a plain one."""
    if model.config.get_text_config() is model.config:
        return ""
    decoder = model.get_decoder()
    found = (name for name, module in model.named_modules() if module is decoder)
    prefix = next(found, "")
    return f"{prefix}." if prefix else ""


@torch.no_grad()
def _is_special(module: Any) -> bool:
    """Whether a model's own kind of linear layer, such as a router, does not simply multiply."""
    kind = type(module)
    if not kind.__module__.startswith("transformers.models.") or "forward" not in vars(kind):
        return False
    x_1_K = torch.zeros(
        1, module.in_features, dtype=module.weight.dtype, device=module.weight.device
    )
    try:
        y_1_N = module(x_1_K)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return True
    return not isinstance(y_1_N, torch.Tensor) or y_1_N.shape != (1, module.out_features)


def _choose_layers(layers: dict[str, str | None], names: Sequence[str] | str) -> list[str]:
    if names == ALL_LINEAR:
        return [name for name, reason in layers.items() if reason is None]
    chosen: set[str] = set()
    for each in [names] if isinstance(names, str) else names:
        found = [name for name in layers if name == each or name.endswith(f".{each}")]
        usable = [name for name in found if layers[name] is None]
        if not found:
            known = sorted({n.rpartition(".")[2] for n, reason in layers.items() if reason is None})
            raise InvalidSettings(
                f"finetune.target_modules: the model has no linear layer {each!r}; it has "
                f"{', '.join(known)}"
            )
        if not usable:
            raise InvalidSettings(
                f"finetune.target_modules: {each!r} can have no adapter: {layers[found[0]]}; leave "
                "it out"
            )
        chosen.update(usable)
    return [name for name in layers if name in chosen]


def _list_fused_experts(model: Any) -> list[str]:
    """The names of the parameters that hold one matrix for each of several experts."""
    text = _find_text_model(model)
    return [
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if "expert" in type(module).__name__.lower() and prefix.startswith(text)
        for name, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3 and weight.dtype.is_floating_point
    ]


def _list_adapted_weights(model: nn.Module) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    for module in model.modules():
        if isinstance(module, ParamWrapper):
            yield module.get_param()  # type: ignore[no-untyped-call]
        elif isinstance(module, LoraLayer):
            yield module.get_base_layer().weight


def _count_numbers(weight: Any) -> int:
    # Four-bit weights are packed by two into bytes, and remember their shape.
    state = getattr(weight, "quant_state", None)
    shape = weight.shape if state is None else state.shape
    return int(torch.Size(shape).numel())
