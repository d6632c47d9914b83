"""A training worker on a node of a cluster: the worker of this machine, with calls for its line.

Runs on the node, in a process that Ray starts there, with the packages of the node.
"""

from __future__ import annotations

import queue
import shutil
import socket
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from providers.artifact import get_hidden_path
from providers.cluster.asking import find_difference
from providers.cluster.files import Files, read_files, read_token, write_files
from providers.embedded import MODEL_DIR
from providers.extras import PACKAGES, find_missing, install_command


class WorkerActor:
    """The class of the actor. Its calls come at the same time, each in a thread.

    `start` comes first; then `send` and `receive` carry the messages of
    `providers.local.training_worker`, and `read_files` gives what a job has left.
    """

    def __init__(self) -> None:
        self._mailbox = _Mailbox()
        self._workdir = Path()

    def start(self, setup: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to load the model. Says which machine this is, and whether it sees the run's folder
        ("sees"), with the reason if it cannot work ("refused").

        Beside what every worker gets, `setup` has the driver's "version", whether the model is the
        "built_in" one, and the "token" of the run's folder, None to not look for it.
        """
        sees = setup["token"] is not None and read_token(Path(setup["workdir"])) == setup["token"]
        answer: dict[str, Any] = {"node": socket.gethostname(), "sees": sees}
        if fault := describe_node_fault(setup):
            return {**answer, "refused": fault}
        source = dict(setup["source"])
        if setup["built_in"]:
            # It ships with this package, wherever that is installed here.
            source["name"] = str(MODEL_DIR)
        self._workdir = (
            Path(setup["workdir"]) if sees else Path(tempfile.mkdtemp(prefix="society-"))
        )
        given = {**setup, "source": source, "workdir": str(self._workdir)}
        threading.Thread(target=self._work, args=(given,), daemon=True).start()
        return answer

    def send(self, message: Mapping[str, Any], files: Mapping[str, Files]) -> None:
        """Hand on a message, with the folders and files that its jobs start from, by name."""
        # Before the message: the job may begin at once.
        for name, content in files.items():
            write_files(self._workdir / name, content)
        self._mailbox.incoming.put(dict(message))

    def receive(self, wait_s: float) -> list[dict[str, Any]]:
        """The messages since the last call; waits up to `wait_s` for the first one."""
        found = []
        with suppress(queue.Empty):
            found.append(self._mailbox.outgoing.get(timeout=wait_s))
            while True:
                found.append(self._mailbox.outgoing.get_nowait())
        return found

    def read_files(self, name: str) -> dict[str, Files]:
        """The artifact of a job, or its checkpoint if it was stopped, by their names."""
        out = self._workdir / name
        return {
            path.name: read_files(path)
            for path in (out, get_hidden_path(out, "checkpoint"))
            if path.exists()
        }

    def clean(self, sees: bool) -> None:
        """Remove the folder that this worker has made for itself."""
        if not sees:
            shutil.rmtree(self._workdir, ignore_errors=True)

    def _work(self, setup: Mapping[str, Any]) -> None:
        from providers.local.worker import Worker

        # Imported here: torch takes seconds, and the call that starts this must answer soon.
        worker = Worker(self._mailbox)
        try:
            worker.load(setup)
        # Said as the run would say it, whatever it is.
        except Exception as error:
            self._mailbox.send({"refused": f"{type(error).__name__}: {error}"})
            return
        threading.Thread(target=worker.read_commands, daemon=True).start()
        # In the thread that loaded the model: torch counts its threads for each.
        while True:
            worker.carry_out(worker.jobs.get())


class _Mailbox:
    """What the worker takes for its line."""

    def __init__(self) -> None:
        self.incoming: queue.Queue[dict[str, Any]] = queue.Queue()
        self.outgoing: queue.Queue[dict[str, Any]] = queue.Queue()

    def send(self, message: Mapping[str, object]) -> None:
        self.outgoing.put(dict(message))

    def receive(self) -> dict[str, Any]:
        return self.incoming.get()


def describe_node_fault(request: Mapping[str, Any]) -> str | None:
    """Why this node cannot train a model, as far as it shows at once; None if it may.

    `request` has the "source", whether it is the "built_in" model, and the run's "version".
    """
    source = request["source"]
    in_folder = source["local"] and not request["built_in"]
    if difference := find_difference(
        request["version"], Path(source["name"]) if in_folder else None
    ):
        return difference
    if absent := find_missing(PACKAGES["local"]):
        return f"it lacks {', '.join(absent)}; {install_command('local')}"
    return None
