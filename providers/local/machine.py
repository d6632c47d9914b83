"""What this machine has, found out without torch: graphics cards, free memory, number types."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

from providers.local.placement import runs_on_cpu
from providers.local.settings import LocalSettings

# The device files of NVIDIA's and AMD's drivers, of Windows' driver for its Linux subsystem, and of
# NVIDIA's embedded boards: without any of them torch finds no CUDA device.
_DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvmap")))
_CARDS = Path("/proc/driver/nvidia/gpus")
_CPU_INFO = Path("/proc/cpuinfo")
_SMI = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
_SMI_TIMEOUT_S = 10
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def has_device(name: str) -> bool:
    """Whether a device of `LocalSettings.device` may be there; False if it certainly is not."""
    kind, _, index = name.partition(":")
    if kind == "mps":
        return _is_apple_silicon()
    if kind != "cuda" or platform.system() != "Linux":
        return True
    cards = list(_CARDS.iterdir()) if _CARDS.is_dir() else None
    there = any(map(Path.exists, _DRIVERS))
    return there and (cards is None or not index or int(index) < len(cards))


def guess_dtype_bytes(settings: LocalSettings) -> int:
    """The size of a weight that is loaded as the settings say; see `hardware.choose_dtype`."""
    if settings.dtype != "auto":
        return _DTYPE_BYTES[settings.dtype]
    if not _uses_cpu(settings) and not _is_apple_silicon():
        return 2
    if _uses_cpu(settings) and _CPU_INFO.is_file():
        flags = _CPU_INFO.read_text("utf-8", "replace")
        return 2 if "avx512_bf16" in flags or "amx_bf16" in flags else 4
    return 4


def find_free_memory(settings: LocalSettings) -> tuple[int, str] | None:
    """Free bytes where the model will lie, and the name of that place; None if nobody knows.

    ```python
    find_free_memory(LocalSettings(device="cpu"))  # (16_800_000_000, "memory")
    ```
    """
    if _uses_cpu(settings) or _is_apple_silicon():
        return _find_free_ram(), "memory"
    cards = _list_free_cards()
    if settings.device_map is not None and cards:
        # What the cards cannot hold waits in the machine's memory.
        return sum(cards) + _find_free_ram(), "memory of all devices"
    index = int(settings.device.partition(":")[2] or 0)
    if index < len(cards):
        return cards[index], f"memory of graphics card {index}"
    return None


def find_free_swap() -> int:
    """Free bytes of the swap space."""
    import psutil  # type: ignore[import-untyped, unused-ignore]

    return int(psutil.swap_memory().free)


def _uses_cpu(settings: LocalSettings) -> bool:
    plan = settings.device_map
    if isinstance(plan, dict):
        return runs_on_cpu(plan)
    return settings.device == "cpu" or (settings.device == "auto" and not _has_accelerator())


def _find_free_ram() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _list_free_cards() -> list[int]:
    """Free bytes of each NVIDIA card; [] if there is none."""
    if shutil.which(_SMI[0]) is None:
        return []
    try:
        done = subprocess.run(
            _SMI, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=True
        )
        return [int(line) << 20 for line in done.stdout.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _is_apple_silicon() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _has_accelerator() -> bool:
    return _is_apple_silicon() or Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()
