"""What an experiment needs of a provider, and what the provider has to say about it beforehand.

Nothing here costs anything: a provider that implements `Preflight` asks only for lists and
descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Need:
    """What will be asked of one provider. `adapters` counts the tuned models served at once."""

    finetune: bool
    ends_at: datetime
    adapters: int = 0
    score: bool = False
    sampling_seed: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. An error stops the run; `remedy` says what to do."""

    level: Level
    text: str
    remedy: str = ""


@runtime_checkable
class Preflight(Protocol):
    """A provider that can tell beforehand whether a run will work."""

    async def preflight(self, need: Need) -> Sequence[Finding]:
        """Every finding, also the good ones. Raises nothing but cancellation."""
