"""Weights in fewer bits: what the user asks for, and the formats that models are stored in.

A model may be quantized while it is loaded (`quantization` in [provider]), or its files hold
quantized weights already. Some formats are trained as they are, by adapters beside the packed
weights; some are unpacked into `dtype` while they are loaded; others only answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from providers import extras
from providers.errors import InvalidSettings
from providers.local.settings import LocalSettings
from providers.types import Hyperparameters


@dataclass(frozen=True, slots=True)
class StoredFormat:
    """A way to store quantized weights: what reads it, and what becomes of it in memory.

    `packages` maps the name of a module to that of its package. `unpacked`: the weights come into
    memory as numbers of the usual type. What is neither unpacked nor `trainable` only answers.
    """

    packages: Mapping[str, str]
    trainable: bool = True
    unpacked: bool = False


# After `is_trainable` of transformers' quantizers and the layers that PEFT puts adapters on. The
# kernels for FP8 and MXFP4 have no gradient, so these formats are unpacked.
_FORMATS: Mapping[str, StoredFormat] = MappingProxyType(
    {
        "bitsandbytes": StoredFormat({"bitsandbytes": "bitsandbytes"}),
        "gptq": StoredFormat({"gptqmodel": "gptqmodel", "optimum": "optimum"}),
        "awq": StoredFormat({"gptqmodel": "gptqmodel"}),
        "hqq": StoredFormat({"hqq": "hqq"}),
        "aqlm": StoredFormat({"aqlm": "aqlm"}),
        "eetq": StoredFormat({"kernels": "kernels"}),
        "torchao": StoredFormat({"torchao": "torchao"}),
        "fp8": StoredFormat({}, unpacked=True),
        "mxfp4": StoredFormat({}, unpacked=True),
        "compressed-tensors": StoredFormat(
            {"compressed_tensors": "compressed-tensors"}, unpacked=True
        ),
    }
)
_OTHER_FORMAT = StoredFormat({}, trainable=False)
_UNQUANTIZED = (
    "take the model it was made from, with quantization = 'nf4' in [provider] if memory is short"
)


def read_format(config: Mapping[str, Any]) -> str | None:
    """The name of the format a config.json says its weights are stored in; None for plain ones."""
    for part in (config, config.get("text_config")):
        stored = part.get("quantization_config") if isinstance(part, dict | Mapping) else None
        if isinstance(stored, Mapping):
            bits = stored.get("load_in_4bit") or stored.get("load_in_8bit")
            return str(stored.get("quant_method") or ("bitsandbytes" if bits else "unknown"))
    return None


def describe_format(name: str) -> StoredFormat:
    """What is known of the format `name`; an unknown one answers if transformers can read it."""
    return _FORMATS.get(name, _OTHER_FORMAT)


def check_quantization(stored: str | None, gguf: bool, name: str, settings: LocalSettings) -> None:
    """Raise `InvalidSettings` if the model cannot be loaded like that, or a package is missing.

    `stored` is the format of the files, `gguf` whether they are one GGUF file.
    """
    asked = settings.quantization
    if asked is not None and (gguf or stored is not None):
        raise InvalidSettings(
            f"[provider] quantization = {asked!r}: the weights of {name!r} are quantized already "
            f"({'GGUF' if gguf else stored}) and cannot be quantized again; remove the setting, or "
            "take the model with plain weights"
        )
    if asked is not None and extras.find_missing(extras.PACKAGES["quantized"]):
        raise InvalidSettings(
            f"[provider] quantization = {asked!r} needs the package bitsandbytes, which is not "
            f"installed; install it with `{extras.install_command('quantized')}`"
        )
    if stored is None:
        return
    packages = describe_format(stored).packages
    if absent := [packages[module] for module in extras.find_missing(packages)]:
        raise InvalidSettings(
            f"the weights of {name!r} are stored as {stored}, and reading them needs packages that "
            f"are not installed: {', '.join(absent)}; run `pip install {' '.join(absent)}`, or "
            f"{_UNQUANTIZED}"
        )


def find_training_faults(
    stored: str | None, settings: LocalSettings, hyperparameters: Hyperparameters
) -> tuple[str, ...]:
    """Why packed weights, or those on the disk, cannot be trained so; () if they can."""
    plan = settings.device_map
    if isinstance(plan, dict) and "disk" in plan.values():
        return (
            "[provider] device_map keeps parts on the disk, where they have no gradient; give "
            "every part another device, or set quantization = 'nf4'",
        )
    form = None if stored is None else describe_format(stored)
    if form is not None and not (form.trainable or form.unpacked):
        return (f"weights stored as {stored} only answer; {_UNQUANTIZED}",)
    packed = settings.quantization or (stored if form is not None and not form.unpacked else None)
    if packed is not None and hyperparameters.method == "full":
        return (
            f"method = 'full' cannot change weights that are quantized ({packed}); set "
            "finetune.method = 'lora', or load the model without quantization",
        )
    return ()


def make_quantization_config(stored: str | None, gguf: bool, asked: str | None, dtype: Any) -> Any:
    """What transformers takes as `quantization_config`; None if the files say all there is.

    `asked` is the setting, `dtype` the number type in which products are computed.
    """
    from transformers.utils import quantization_config as untyped

    configs: Any = untyped
    if gguf:
        return configs.GgufConfig(dequantize=True)
    match asked or stored:
        case "nf4":
            return configs.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        case "int8":
            return configs.BitsAndBytesConfig(load_in_8bit=True)
        case "fp8":
            return configs.FineGrainedFP8Config(dequantize=True)
        case "mxfp4":
            return configs.Mxfp4Config(dequantize=True)
        case "compressed-tensors":
            return configs.CompressedTensorsConfig(dequantize=True)
    return None


def keep_weights_unpacked(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for a CPU: the new form has no gradient."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
