"""Which adapters this process holds in a server's memory, on record until they are given back.

A server has few slots and frees those of a client that is gone only after minutes. The record of
a process that was killed is no longer locked, and whoever comes next gives its slots back.
"""

from __future__ import annotations

import fcntl
import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_PATTERN = ".slots-*.json"


class SlotRecord:
    """The record of one connection; its file exists while it holds anything."""

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / _PATTERN.replace("*", uuid.uuid4().hex)
        self._held: list[str] = []
        self._stream: TextIO | None = None

    @property
    def held(self) -> tuple[str, ...]:
        """The server's names of the adapters, oldest first."""
        return tuple(self._held)

    def add(self, model_id: str) -> None:
        """An adapter has been made."""
        self._held.append(model_id)
        self._write()

    def remove(self, model_id: str) -> None:
        """Its slot has been given back."""
        if model_id in self._held:
            self._held.remove(model_id)
            self._write()

    def close(self) -> None:
        """Remove the file; what is still held is the server's business."""
        if self._stream is not None:
            self._path.unlink(missing_ok=True)
            self._stream.close()
            self._stream = None

    def _write(self) -> None:
        if self._stream is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("w", encoding="utf-8")
            fcntl.flock(self._stream, fcntl.LOCK_EX)
        self._stream.seek(0)
        self._stream.truncate()
        json.dump(self._held, self._stream)
        self._stream.flush()


def take_abandoned(workdir: Path) -> list[str]:
    """The adapters of processes that were killed; their records are removed."""
    found: list[str] = []
    for path in sorted(workdir.glob(_PATTERN)):
        with suppress(OSError, ValueError), path.open(encoding="utf-8") as stream:
            # Locked: its process lives.
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found += json.loads(stream.read() or "[]")
            path.unlink(missing_ok=True)
    return found
