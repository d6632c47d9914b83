"""What is recorded of the starts of a run: when, with what, and what has changed since."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from store.records import utc_now


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """What turns conversations into the text that the model at address `provider` reads.

    `variables` is a JSON object: the special tokens that the template names, and the run's own
    values. `sha256` is over both.
    """

    provider: str
    sha256: str
    template: str
    variables: str
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class RunStart:
    """One start of the run. `versions` and `machine` are JSON objects.

    `closed_at` is when the file was closed with everything in it; None while it is open, and after
    a start that was killed until the file is next closed.
    """

    started_at: datetime
    process: int
    versions: str
    machine: str
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting that a later start of the run has changed. `before` and `now` are JSON, None where
    the setting was, or is, not there."""

    key: str
    before: str | None
    now: str | None
    changed_at: datetime = field(default_factory=utc_now)
