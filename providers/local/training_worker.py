"""A training worker as the run sees it, wherever it is: given jobs, watched, ended.

The messages, each a JSON object. To the worker: {"jobs": […]}, those that are trained at a time,
and {"stop": name} for one of them. From it: {"ready"} or {"refused"}, {"log"}, and {"of": name}
with {"note"}, {"point", "progress"} and at last {"ended", "error", "fatal"}. A job's artifact is a
folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from providers.local.settings import LocalSettings
from providers.local.source import ModelSource
from providers.local.training_run import TrainingRun
from providers.local.worker_wire import write_spec
from providers.types import TrainingStep

_GLANCE_S = 0.2


class WorkerFailed(Exception):
    """A worker that could not be started, or that ended by itself; says how."""


class WorkerRefused(WorkerFailed):
    """A worker that cannot load the model, or for which there is no room."""


class NoPlace(WorkerFailed):
    """No machine has had room for a worker for a while."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs to know before its first job.

    `card` is the graphics card that it sees, as CUDA_VISIBLE_DEVICES names it, and `needed_bytes`
    is what must be free there, None if that does not matter.
    """

    source: ModelSource
    settings: LocalSettings
    workdir: Path
    threads: int | None = None
    card: str | None = None
    needed_bytes: int | None = None

    def describe(self) -> dict[str, Any]:
        """The setup as a worker gets it."""
        settings = self.settings
        if self.card is not None:
            # It sees one card only. "auto" would take the CPU if that card were gone.
            settings = settings.model_copy(update={"device": "cuda"})
        return {
            "source": asdict(self.source),
            "settings": settings.model_dump(mode="json", exclude_defaults=True),
            "workdir": os.path.abspath(self.workdir),
            "threads": self.threads,
            "needed_bytes": self.needed_bytes,
        }


class WorkerLink(Protocol):
    """The way to one worker, which it starts, and ends at `close`."""

    def send(self, message: Mapping[str, object]) -> None:
        """Raises `OSError` if the worker is gone."""

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The worker's next message, None after `timeout_s`; raises `EOFError` if it is gone."""

    def describe_end(self) -> str:
        """How a worker that is gone has ended."""

    def close(self) -> None:
        """End it, whatever it is doing."""


class TrainingWorker:
    """One worker, over its link. Its errors are `WorkerFailed`.

    ```python
    worker = TrainingWorker(WorkerProcess(setup))
    worker.wait_until_ready(lambda: True)
    worker.train([run])
    worker.close()
    ```
    """

    def __init__(self, link: WorkerLink) -> None:
        self._link = link

    def wait_until_ready(self, is_wanted: Callable[[], bool]) -> bool:
        """Wait until its model is loaded; False as soon as it is not wanted any more."""
        while is_wanted():
            message = self._receive()
            if message is not None and "ready" in message:
                return True
            if message is not None and "refused" in message:
                raise WorkerRefused(message["refused"])
        return False

    def train(self, runs: Sequence[TrainingRun]) -> None:
        """Have jobs carried out at a time; each then has its end, or `WorkerFailed` is raised."""
        begun = {run.spec.name: run for run in runs if run.begin()}
        if not begun:
            return
        try:
            self._link.send({"jobs": [write_spec(run.spec) for run in begun.values()]})
            stopped: set[str] = set()
            while not all(run.done for run in begun.values()):
                for name, run in begun.items():
                    if run.stop.is_set() and not run.done and name not in stopped:
                        self._link.send({"stop": name})
                        stopped.add(name)
                if (message := self._receive()) is not None:
                    _take_news(begun[message["of"]], message)
        except OSError:
            raise WorkerFailed(self._link.describe_end()) from None

    def close(self) -> None:
        """End it, at once."""
        self._link.close()

    def _receive(self) -> dict[str, Any] | None:
        try:
            message = self._link.receive(_GLANCE_S)
        except EOFError:
            raise WorkerFailed(self._link.describe_end()) from None
        if message is not None and "log" in message:
            logging.getLogger(message["by"]).log(message["at"], "%s", message["log"])
            return None
        return message


def _take_news(run: TrainingRun, message: dict[str, Any]) -> None:
    if "point" in message:
        run.add_point(TrainingStep(*message["point"]), message["progress"])
    elif "note" in message:
        run.add_note(message["note"])
    elif message["ended"] == "succeeded":
        run.adopt()
    elif message["ended"] == "failed":
        run.fail(message["error"], fatal=message["fatal"])
    else:
        run.end("cancelled")
