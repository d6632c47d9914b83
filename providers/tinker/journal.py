"""What a training has done so far, on disk before and after each of its steps.

One JSON object a line, in a hidden file beside the place of the artifact. The line of an intent is
written before an optimizer step is sent. A step without the line of its point may or may not have
been applied: then the fit goes back to the last saved state.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from providers.artifact import get_hidden_path, sync
from providers.errors import StorageFailed
from providers.types import TrainingCheckpoint, TrainingStep


@dataclass
class Journal:
    """The journal of the fit that makes the artifact `out`.

    `points`, `measured` and `trained_tokens` are those of steps that are done; `runs` are the
    server's names of the adapters that were trained; `states` has the saved state of each step that
    has one; `artifact` is the end; `cancelled`: it must not continue by itself;
    `begun`: the file is that of this fit.
    """

    path: Path
    digest: str
    points: list[TrainingStep] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    measured: list[TrainingCheckpoint] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    states: dict[int, str] = field(default_factory=dict)
    artifact: str | None = None
    sha256: str | None = None
    left_out: int = 0
    cancelled: bool = False
    intended: int = 0
    begun: bool = False

    @property
    def trained_tokens(self) -> int:
        """How many tokens the steps that are done went through."""
        return sum(self.tokens)

    def submit(self) -> None:
        """The fit is wanted; whoever finds the journal continues it."""
        self._write({"submitted": True})
        self.cancelled = False

    def begin(self, run: str) -> None:
        """The server has made an adapter for this fit."""
        self._write({"run": run})
        self.runs.append(run)

    def intend(self, step: int) -> None:
        """Optimizer step `step` is about to be sent."""
        self._write({"intent": step})
        self.intended = step

    def add_point(self, point: TrainingStep, tokens: int) -> None:
        """A step is done."""
        self._write({"point": list(point.values), "tokens": tokens})
        self.points.append(point)
        self.tokens.append(tokens)

    def add_state(self, step: int, path: str) -> None:
        """The state after `step` is saved at the server as `path`."""
        self._write({"state": step, "path": path})
        self.states[step] = path

    def add_measured(self, checkpoint: TrainingCheckpoint) -> None:
        """The held-out examples were measured."""
        self._write({"measured": [checkpoint.step, checkpoint.model, checkpoint.loss]})
        self.measured.append(checkpoint)

    def finish(self, artifact: str, sha256: str | None, left_out: int) -> None:
        """The fit has ended well; `artifact` answers, and its state can be trained on."""
        self._write({"artifact": artifact, "sha256": sha256, "left_out": left_out})
        self.artifact, self.sha256, self.left_out = artifact, sha256, left_out

    def cancel(self) -> None:
        """The fit is ended by the user."""
        self._write({"cancelled": True})
        self.cancelled = True

    def go_back(self, step: int) -> None:
        """Forget what came after `step`, whose state is the one that was loaded."""
        self._write({"back": step})
        self._cut(step)

    def remove(self) -> None:
        """Remove the file: the fit has failed and would fail again from its states."""
        self.path.unlink(missing_ok=True)

    def _cut(self, step: int) -> None:
        self.points, self.tokens = self.points[:step], self.tokens[:step]
        self.measured = [one for one in self.measured if one.step <= step]
        self.states = {at: path for at, path in self.states.items() if at <= step}
        self.intended = step

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # That of the same name with other settings is of no use to this fit.
            with self.path.open("a" if self.begun else "w", encoding="utf-8") as stream:
                if not self.begun:
                    stream.write(json.dumps({"digest": self.digest}) + "\n")
                stream.write(json.dumps(entry) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            if not self.begun:
                sync(self.path.parent)
            self.begun = True
        except OSError as error:
            raise StorageFailed(
                f"the journal {str(self.path)!r} cannot be written: {error}; free some space "
                "there, or make it writable; the last saved state is still at the server"
            ) from error

    def _read(self, entry: dict[str, Any]) -> None:
        match entry:
            case {"submitted": _}:
                self.cancelled = False
            case {"run": run}:
                self.runs.append(run)
            case {"intent": step}:
                self.intended = step
            case {"point": values, "tokens": tokens}:
                self.points.append(TrainingStep(*values))
                self.tokens.append(tokens)
            case {"state": step, "path": path}:
                self.states[step] = path
            case {"measured": values}:
                self.measured.append(TrainingCheckpoint(*values))
            case {"artifact": artifact}:
                self.artifact, self.sha256 = artifact, entry.get("sha256")
                self.left_out = entry.get("left_out", 0)
            case {"cancelled": _}:
                self.cancelled = True
            case {"back": step}:
                self._cut(step)


def open_journal(out: Path, digest: str) -> Journal:
    """The journal of a spec's fit, empty if there is none of this digest."""
    return read_journal(out, digest) or Journal(get_hidden_path(out, "training"), digest)


def read_journal(out: Path, digest: str) -> Journal | None:
    """The journal on disk if it is that of the spec with this digest."""
    path = get_hidden_path(out, "training")
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not text.endswith("\n"):
        # The process was killed while it wrote the last line.
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    try:
        entries = [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return None
    if not entries or entries[0].get("digest") != digest:
        return None
    journal = Journal(path, digest, begun=True)
    for entry in entries[1:]:
        journal._read(entry)
    return journal
