"""What this machine has, found out without torch: graphics cards, free memory, number types."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

from providers.local.placement import runs_on_cpu
from providers.local.settings import LocalSettings

# The device files of NVIDIA's and AMD's drivers, of Windows' driver for its Linux subsystem, and of
# NVIDIA's embedded boards: without any of them torch finds no CUDA device.
_DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvmap")))
_CARDS = Path("/proc/driver/nvidia/gpus")
_CPU_INFO = Path("/proc/cpuinfo")
# The limits of a container, where Linux has version 2 of its control groups.
_CONTAINER = Path("/sys/fs/cgroup")
_SMI = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
_SMI_TIMEOUT_S = 10
# Rows and columns of a matrix whose product takes a core some milliseconds.
_TRIED = 768
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
    if not uses_cpu(settings) and not _is_apple_silicon():
        return 2
    if uses_cpu(settings) and _CPU_INFO.is_file():
        flags = _CPU_INFO.read_text("utf-8", "replace")
        return 2 if "avx512_bf16" in flags or "amx_bf16" in flags else 4
    return 4


def find_free_memory(settings: LocalSettings) -> tuple[int, str] | None:
    """Free bytes where the model will lie, and the name of that place; None if nobody knows.

    ```python
    find_free_memory(LocalSettings(device="cpu"))  # (16_800_000_000, "memory")
    ```
    """
    if uses_cpu(settings) or _is_apple_silicon():
        return find_free_ram(), "memory"
    cards = list_free_cards()
    if settings.device_map is not None and cards:
        # What the cards cannot hold waits in the machine's memory.
        return sum(cards) + find_free_ram(), "memory of all devices"
    index = int(settings.device.partition(":")[2] or 0)
    if index < len(cards):
        return cards[index], f"memory of graphics card {index}"
    return None


def measure_multiplications() -> float:
    """How many numbers this CPU multiplies and adds in a second, tried for some milliseconds."""
    import numpy as np

    matrix = np.ones((_TRIED, _TRIED), np.float32)
    took = []
    for _ in range(6):
        began = time.perf_counter()
        matrix @ matrix
        took.append(time.perf_counter() - began)
    return _TRIED**3 / min(took)


def find_free_swap() -> int:
    """Free bytes of the swap space."""
    import psutil  # type: ignore[import-untyped, unused-ignore]

    return int(psutil.swap_memory().free)


def uses_cpu(settings: LocalSettings) -> bool:
    """Whether the model will compute on the CPU, as far as drivers and settings tell."""
    plan = settings.device_map
    if isinstance(plan, dict):
        return runs_on_cpu(plan)
    return settings.device == "cpu" or (settings.device == "auto" and not _has_accelerator())


def count_cores() -> int:
    """How many cores this process may use: those it is bound to, or its container's share."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = (_CONTAINER / "cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def list_cards() -> tuple[str, ...]:
    """The graphics cards of NVIDIA that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(map(str, range(len(list_free_cards()))))
    names = [name.strip() for name in visible.split(",")]
    # CUDA ignores what follows a name that it does not know.
    return tuple(itertools.takewhile(lambda name: name not in ("", "-1"), names))


def find_free_ram() -> int:
    """Bytes of memory that this process may still take: the machine's, or its container's."""
    import psutil

    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError, KeyError):
        most = int((_CONTAINER / "memory.max").read_text())
        used = int((_CONTAINER / "memory.current").read_text())
        rows = (line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
        # Files that were read long ago give way.
        free = min(free, most - used + int(dict(rows)["inactive_file"]))
    return max(0, free)


def list_free_cards() -> list[int]:
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
