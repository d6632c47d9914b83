"""Start and end a server that nobody here wrote, in a process group of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.environments import Environment

READY_S = 300.0
_LAST_LINES = 15
# The group ends when its standard input does, so that no server outlives the tests.
_WATCH = 'exec 3<&0; (cat <&3 >/dev/null; kill -KILL 0) & exec "$@" 3<&- </dev/null'


@dataclass
class RunningServer:
    """A server with its data in a folder: `server.log` there is all it prints."""

    environment: Environment
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers. Raises `RuntimeError` with the end of its log."""
        command = self.environment.recipe.command(self.folder, self.port)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", _WATCH, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment.variables(),
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(
                    f"{self.environment.recipe.name} did not start:\n{self.read_log()}"
                )
            time.sleep(0.5)

    def kill(self) -> None:
        """Kill it with all its processes, as a machine that goes away."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None

    def read_log(self) -> str:
        """The last lines it has printed."""
        lines = (self.folder / "server.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LAST_LINES:])

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}{self.environment.recipe.ready}", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def running(environment: Environment, folder: Path) -> Iterator[RunningServer]:
    """A server on a free port for the length of the `with` block."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = RunningServer(environment, folder, port)
    try:
        server.start()
        yield server
    finally:
        server.kill()
