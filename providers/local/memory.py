"""How much fits into memory, and what it looks like when it does not."""

from __future__ import annotations

import errno
import gc
import traceback

import psutil  # type: ignore[import-untyped, unused-ignore]
import torch

_SIGNS = (
    "not enough memory",
    "out of memory",
    "allocate memory",
    "alloc_failed",
    "allocation failed",
    "errormemoryallocation",
    "insufficient memory",
)
_CACHE_SHARE = {"cpu": 0.25, "cuda": 0.5}


def cache_tokens(device: torch.device, slot_bytes: int) -> int:
    """Key-value slots of `slot_bytes` bytes that may be held on `device` by default."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    return max(1, int(free * _CACHE_SHARE.get(device.type, 0.25)) // slot_bytes)


def ran_out(error: BaseException) -> bool:
    """Whether torch, its libraries or Python ran out of memory.

    The CPU allocator, cuBLAS and cuDNN raise plain RuntimeErrors, the system an OSError.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


def release(error: BaseException | None = None) -> None:
    """Return to the device what torch keeps for later and what the frames of `error` hold."""
    if error is not None:
        traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
