"""The device: which one is used, which number type it computes in, and how much memory it has."""

from __future__ import annotations

import errno
import gc
import traceback

import psutil  # type: ignore[import-untyped, unused-ignore]
import torch

from providers.errors import InvalidSettings
from providers.local.memory import bound_cpu_cache
from providers.local.placement import runs_on_cpu
from providers.local.settings import LocalSettings

# Parts of the messages with which allocators say that memory ran out.
_SIGNS = (
    "not enough memory",
    "out of memory",
    "allocate memory",
    "alloc_failed",
    "allocation failed",
    "errormemoryallocation",
    "insufficient memory",
)
# The part of the free memory that the key-value cache may take. Activations need the rest, and on
# the CPU so do the other programs of the machine.
_CACHE_SHARE = {"cpu": 0.25, "cuda": 0.5}


def choose_device(settings: LocalSettings) -> torch.device:
    """The device of the settings; raises `InvalidSettings` if this machine lacks it."""
    name = settings.device
    if settings.device_map is not None and runs_on_cpu(settings.device_map):
        return torch.device("cpu")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidSettings(
            f"[provider] device = {name!r} is not there ({error}); use 'auto' or 'cpu'"
        ) from None
    return device


def choose_dtype(settings: LocalSettings, device: torch.device) -> torch.dtype:
    """The number type of the base's weights: "auto" is bfloat16 where `device` computes in it."""
    if settings.dtype != "auto":
        chosen: torch.dtype = getattr(torch, settings.dtype)
        return chosen
    return torch.bfloat16 if has_native_bf16(device) else torch.float32


def has_native_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware; emulation is far slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def count_cache_tokens(device: torch.device, slot_bytes: int, weight_bytes: int) -> int:
    """How many key-value slots of `slot_bytes` bytes `device` may hold by default.

    `weight_bytes` are those of the model, by which the cache is bounded on a CPU.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    room = int(free * _CACHE_SHARE.get(device.type, 0.25))
    if device.type == "cpu":
        room = min(room, bound_cpu_cache(weight_bytes))
    return max(1, room // slot_bytes)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, its libraries or Python ran out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # The CPU allocator, cuBLAS and cuDNN raise plain RuntimeErrors.
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


def release_memory(error: BaseException | None = None) -> None:
    """Return to the device what torch keeps for later and what the frames of `error` hold."""
    if error is not None:
        traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
