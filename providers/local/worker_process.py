"""A training worker in a process of its own on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from providers.local.training_worker import WorkerFailed, WorkerSetup
from providers.local.worker_wire import JsonLine

# A worker ends at once when its line is closed; it may be in a long kernel.
_ENDING_S = 10.0
_SHOWN_BYTES = 2000


class WorkerProcess:
    """A `WorkerLink` to a process, which gets the setup as its first message. Raises `WorkerFailed`
    if it cannot be started.

    The thread that makes it must live as long as it: Linux ends it with the thread.

    ```python
    worker = TrainingWorker(WorkerProcess(setup))
    ```
    """

    def __init__(self, setup: WorkerSetup) -> None:
        near, far = socket.socketpair()
        self._is_ready = False
        self._line = JsonLine(near)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = _start(setup, far, self._errors)
        except OSError as error:
            near.close()
            self._errors.close()
            raise WorkerFailed(f"its process cannot be started: {error}") from error
        finally:
            far.close()
        try:
            self._line.send(setup.describe())
        except OSError:
            reason = self.describe_end()
            self.close()
            raise WorkerFailed(reason) from None

    def send(self, message: Mapping[str, object]) -> None:
        self._line.send(message)

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        message = self._line.receive(timeout_s)
        self._is_ready = self._is_ready or (message is not None and "ready" in message)
        return message

    def close(self) -> None:
        """End it, at once."""
        self._line.close()
        if not self._is_ready:
            # It reads from its line only once its model is loaded.
            self._process.kill()
        try:
            self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def describe_end(self) -> str:
        try:
            status = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return "its process does not answer"
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _SHOWN_BYTES))
        last = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"its process ended by {how}" + (f" ({last[-1]})" if last else "")


def _start(setup: WorkerSetup, far: socket.socket, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    path = [os.path.abspath(entry) for entry in sys.path]
    program = Path(__file__).with_name("worker.py")
    cards = {} if setup.card is None else {"CUDA_VISIBLE_DEVICES": setup.card}
    return subprocess.Popen(
        [
            *(sys.executable, "-P", str(program)),
            *(str(far.fileno()), str(os.getpid()), json.dumps(path)),
        ],
        pass_fds=[far.fileno()],
        stdin=subprocess.DEVNULL,
        # Only the line carries news; what libraries print is kept for a worker that breaks off.
        stdout=errors,
        stderr=errors,
        env=os.environ | cards,
        # Ctrl-C in a terminal reaches the whole group; the run decides what its jobs do then.
        start_new_session=True,
    )
