"""A tracker's process as the run sees it: started, told, waited for, ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from providers.local.worker_wire import JsonLine
from society.runs.tracking.tracker import TrackedValue, TrackerTarget

# Importing a package and creating MLflow's database take many seconds on a busy machine.
_OPENING_S = 180.0
_LOGGING_S = 60.0
_ENDING_S = 5.0
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from {module} import main; main({descriptor}, {name!r})"
)
_MODULE = "society.runs.tracking.worker"


class TrackerFailed(Exception):
    """A tracker did not do what it was told; says why."""


class TrackerProcess:
    """One tracker in a process of its own. Its methods wait; all raise `TrackerFailed`.

    ```python
    process = TrackerProcess("tensorboard")
    run_id = process.open(target)
    process.log(figures)
    process.close(finished=True)
    ```
    """

    def __init__(self, name: str) -> None:
        near, far = socket.socketpair()
        # A hung tracker does not read either.
        near.settimeout(_LOGGING_S)
        self._line = JsonLine(near)
        path = [os.path.abspath(entry) for entry in sys.path]
        program = _PROGRAM.format(path=path, module=_MODULE, descriptor=far.fileno(), name=name)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", program],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Ctrl-C in a terminal reaches the whole group; the run decides what follows.
                start_new_session=True,
            )
        except OSError as error:
            near.close()
            raise TrackerFailed(f"its process cannot be started: {error}") from error
        finally:
            far.close()

    def open(self, target: TrackerTarget) -> str:
        """Begin a run at the tracker or go on with it; returns the tracker's id of it."""
        return str(self._ask({"open": asdict(target)}, _OPENING_S))

    def log(self, figures: Sequence[TrackedValue]) -> None:
        """Log figures; returns once the tracker has them."""
        self._ask({"log": [asdict(figure) for figure in figures]}, _LOGGING_S)

    def close(self, *, finished: bool) -> None:
        """Close the run at the tracker and end the process."""
        try:
            self._ask({"close": finished}, _LOGGING_S)
        finally:
            self.end()

    def end(self) -> None:
        """End the process, whatever it is doing. Ending it twice is fine."""
        # The process ends by itself once its line is closed.
        self._line.close()
        try:
            self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """Kill the process; a call that waits for it fails at once. Any thread may call this."""
        self._process.kill()

    def _ask(self, message: dict[str, Any], limit_s: float) -> Any:
        try:
            self._line.send(message)
            answer = self._line.receive(limit_s)
        except (EOFError, OSError) as error:
            raise TrackerFailed("its process ended by itself") from error
        if answer is None:
            raise TrackerFailed(f"it did not answer within {limit_s:.0f} s")
        if "failed" in answer:
            raise TrackerFailed(answer["failed"])
        return answer["done"]
