"""How many jobs this machine trains at a time: at most, and at this moment.

Imports no torch, so that `society doctor` can say it before anything is loaded.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass

from providers.local.machine import count_cores
from providers.local.settings import LocalSettings

# Seconds until a worker can train, and bytes of weights that it reads in each second more.
# An estimate, above all for large models: the built-in model took 9 s of CPU time at most.
_START_S = 8.0
_BYTES_PER_S = 500_000_000
# A worker that is started by itself has to save so much of the time.
_LEAST_GAIN = 0.1
# Over so many seconds it is measured how idle the cores are.
_WINDOW_S = 2.0


@dataclass(frozen=True, slots=True)
class LanePlan:
    """The lanes of a provider: its own process is the first, each other one is a worker.

    `threads` are the CPU threads of each, None for as many as torch takes. `cards` has the graphics
    card of each lane, None on the CPU. If `is_automatic`, a worker is started only where it saves
    time and its memory is free. `reason` says where the number comes from. Without `trains_here`
    the first lane takes no job.
    """

    lanes: int
    threads: int | None
    cards: tuple[str | None, ...]
    is_automatic: bool
    reason: str
    trains_here: bool = True

    @property
    def workers(self) -> int:
        """How many lanes there are beside the first one."""
        return self.lanes - 1

    def __str__(self) -> str:
        if not self.trains_here:
            processes = (
                "1 process trains" if self.workers == 1 else f"{self.workers} processes train"
            )
            return f"up to {processes} at a time ({self.reason})"
        processes = "1 process trains" if self.lanes == 1 else f"up to {self.lanes} processes train"
        return f"{processes} at a time ({self.reason})"


def plan_lanes(settings: LocalSettings, device_type: str, cards: Sequence[str]) -> LanePlan:
    """What settings and machine say; `cards` are those that CUDA sees, the first is the run's own.

    ```python
    plan_lanes(LocalSettings(training_workers=2), "cpu", ()).lanes  # 2
    ```
    """
    wanted = settings.training_workers
    if device_type == "cuda" and cards:
        return _plan_cards(settings, cards)
    cores = count_cores() if device_type == "cpu" else 1
    if wanted == "auto":
        lanes = max(1, cores // settings.threads) if settings.threads else 1
        threads = settings.threads
        if device_type != "cpu" or settings.device_map is not None:
            lanes, reason = 1, "there is one device for them"
        elif threads:
            reason = f"{_count(cores, 'core')}, {_count(threads, 'thread')} for each job"
        else:
            # Fewer threads for each would change the last bits of what is trained.
            reason = (
                f"with all of {_count(cores, 'core')}; set training_workers for more jobs at a "
                "time, each with fewer threads"
            )
    else:
        lanes, reason = wanted, f"training_workers = {wanted}"
        threads = settings.threads
        if threads is None and lanes > 1 and device_type == "cpu":
            threads = max(1, cores // lanes)
    return LanePlan(lanes, threads, (None,) * lanes, wanted == "auto", reason)


def _plan_cards(settings: LocalSettings, cards: Sequence[str]) -> LanePlan:
    wanted = settings.training_workers
    chosen = settings.device.partition(":")[2]
    if settings.device_map is not None:
        mine, reason = [cards[0]], "the model lies on several devices"
    elif chosen:
        mine = [cards[int(chosen)]] if int(chosen) < len(cards) else [cards[0]]
        reason = f"device = {settings.device!r}"
    else:
        mine, reason = list(cards), _count(len(cards), "graphics card")
    lanes = len(mine) if wanted == "auto" else wanted
    if wanted != "auto":
        reason = f"training_workers = {wanted}, {reason}"
    turns = tuple(mine[lane % len(mine)] for lane in range(lanes))
    return LanePlan(lanes, settings.threads, turns, wanted == "auto", reason)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def estimate_start(weight_bytes: int) -> float:
    """Seconds until a worker for a model of this size can begin its first job."""
    return _START_S + weight_bytes / _BYTES_PER_S


def is_worth_starting(free_in: Sequence[float], lengths: Sequence[float], start_s: float) -> bool:
    """Whether one more worker, ready after `start_s`, ends all jobs noticeably sooner.

    `free_in` has the seconds until each lane is free, `lengths` those of the jobs that wait.

    >>> is_worth_starting(free_in=[60.0], lengths=[60.0], start_s=10.0)
    True
    >>> is_worth_starting(free_in=[5.0], lengths=[5.0], start_s=10.0)
    False
    """
    now = _find_end(free_in, lengths)
    return _find_end([*free_in, start_s], lengths) <= (1 - _LEAST_GAIN) * now


def _find_end(free_in: Sequence[float], lengths: Sequence[float]) -> float:
    """When the last job ends if each goes, in order, to the lane that is free first."""
    lanes = list(free_in)
    heapq.heapify(lanes)
    end = max(free_in, default=0.0)
    for length in lengths:
        done = heapq.heappop(lanes) + length
        end = max(end, done)
        heapq.heappush(lanes, done)
    return end


class IdleCores:
    """How many of this machine's cores other work leaves idle, since the last time it was asked."""

    def __init__(self) -> None:
        self._seen: tuple[float, float] | None = None

    def count(self) -> float | None:
        """None if it was asked less than two seconds ago, or for the first time."""
        import psutil  # type: ignore[import-untyped, unused-ignore]

        now, idle = time.monotonic(), float(psutil.cpu_times().idle)
        if self._seen is None:
            self._seen = now, idle
            return None
        then, before = self._seen
        if now - then < _WINDOW_S:
            return None
        self._seen = now, idle
        return (idle - before) / (now - then)
