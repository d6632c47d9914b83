"""What an experiment needs of a provider, and what the provider has to say about it beforehand.

Nothing here costs anything: a provider that implements `Preflight` asks only for lists and
descriptions. What is wrong is an error; what cannot be found out is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

Level = Literal["ok", "warning", "error"]

CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "packages": "whether what the model needs is installed",
        "server": "whether the server can be reached and takes the key",
        "model": "whether the model is there",
        "ending": "whether the model's end is announced",
        "encryption": "whether the key travels encrypted",
        "sampling": "what the model takes of [sampling]",
        "scores": "whether the model gives log-probabilities",
        "fine-tuning": "whether jobs can be created",
        "batches": "whether the server has batches",
        "recipe": "whether jobs take these hyperparameters",
        "examples": "whether there are enough questions for a job",
        "diversity": "whether the measures can be had",
        "adapters": "whether the server of [serving] loads adapters",
        "device": "whether the device that is asked for is there",
        "memory": "whether the model fits into memory",
        "disk": "whether the run fits onto the disk",
    }
)


@dataclass(frozen=True, slots=True)
class Need:
    """What will be asked of one provider. `adapters` counts the tuned models served at once.

    `batches`: evaluation goes out in batches, where the provider has any. `skip` holds the names of
    `CHECKS` that the user knows better.
    """

    finetune: bool
    ends_at: datetime
    adapters: int = 0
    score: bool = False
    sampling_seed: bool = False
    batches: bool = False
    skip: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. An error stops the run; `remedy` says what to do.

    `check` names the check of `CHECKS` that it belongs to, "" for what cannot be skipped.
    """

    level: Level
    text: str
    remedy: str = ""
    check: str = ""


def checked(check: str, findings: Iterable[Finding]) -> list[Finding]:
    """`findings` under the name of a check, but for those that have another."""
    return [found if found.check else replace(found, check=check) for found in findings]


@runtime_checkable
class Preflight(Protocol):
    """A provider that can tell beforehand whether a run will work."""

    async def preflight(self, need: Need) -> Sequence[Finding]:
        """Every finding, also the good ones. Raises nothing but cancellation."""
