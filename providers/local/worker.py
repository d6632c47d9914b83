"""A training worker: a process that loads the base once and carries out one job after another.

Started by `providers.local.worker_process` as a program of its own: `multiprocessing` would run a
user's script again in every worker. It gets a socket, over which a run sends what
`training_worker` says and reads the news of each job. It ends with the run, whatever ends that.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from providers.local.models import LocalModels
    from providers.local.training_run import TrainingRun
    from providers.types import TrainingStep

# PR_SET_PDEATHSIG of Linux: the signal that the kernel sends once the parent has ended.
_PARENT_DEATH_SIGNAL = 1
_GLANCE_S = 1.0
# The run's process gets these and decides: a job that it stops keeps its checkpoint.
_LEFT_TO_THE_RUN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(descriptor: int, parent: int) -> int:
    """Serve the run whose process is `parent` over the inherited socket `descriptor`."""
    _end_with(parent)
    from providers.local.worker_wire import JsonLine

    line = JsonLine(socket.socket(fileno=descriptor))
    setup = line.receive()
    assert setup is not None
    worker = Worker(line)
    try:
        worker.load(setup)
    # Said as the run would say it: the run itself may yet load the same model.
    except Exception as error:
        line.send({"refused": f"{type(error).__name__}: {error}"})
        return 1
    threading.Thread(target=worker.read_commands, daemon=True).start()
    while True:
        worker.carry_out(worker.jobs.get())


class Line(Protocol):
    """What a worker sends its news by, and gets its commands from."""

    def send(self, message: Mapping[str, object]) -> None: ...

    def receive(self) -> dict[str, Any] | None: ...


class Worker:
    """The work itself, wherever it is done: `load`, then `carry_out` of what comes in `jobs`."""

    def __init__(self, line: Line) -> None:
        self.jobs: queue.Queue[list[TrainingRun]] = queue.Queue()
        self._line = line
        self._models: LocalModels | None = None
        self._workdir = Path()

    def read_commands(self) -> None:
        """In a thread of its own: a job waits in `jobs`, and a stop takes effect at once."""
        from providers.local.training_run import TrainingRun
        from providers.local.worker_wire import read_spec

        known: dict[str, TrainingRun] = {}
        # Until the run closes the line, on purpose or by its end.
        with contextlib.suppress(EOFError):
            while command := self._line.receive():
                if "stop" in command:
                    known[command["stop"]].stop.set()
                    continue
                specs = [read_spec(row) for row in command["jobs"]]
                known = {
                    spec.name: TrainingRun(
                        spec, self._workdir / spec.name, partial(self._tell, spec.name), self._end
                    )
                    for spec in specs
                }
                self.jobs.put(list(known.values()))
        os._exit(0)

    def load(self, setup: Mapping[str, Any]) -> None:
        """Load the base; raises what is wrong with it, or with the room for it."""
        import torch

        from providers.local.models import LocalModels
        from providers.local.settings import LocalSettings
        from providers.local.source import ModelSource

        logging.getLogger().addHandler(_Forwarder(self._line))
        if setup["threads"] is not None:
            torch.set_num_threads(setup["threads"])
        if setup["needed_bytes"] is not None:
            _require_free_memory(setup["needed_bytes"])
        self._workdir = Path(setup["workdir"])
        self._models = LocalModels(
            ModelSource(**setup["source"]),
            LocalSettings.model_validate(setup["settings"]),
            self._workdir,
            # How it answers does not matter here, and the run has found that out.
            self_check=False,
        )
        base = self._models.base
        self._line.send({"ready": str(base.device)})

    def carry_out(self, runs: list[TrainingRun]) -> None:
        from providers.local.joint_training import carry_out

        assert self._models is not None
        self._models.expect([run.spec.start for run in runs])
        # An error is part of a job's end, and raised for those who want its place.
        with contextlib.suppress(Exception):
            carry_out(self._models, runs)

    def _tell(self, name: str, news: TrainingStep | str, progress: float) -> None:
        if isinstance(news, str):
            self._line.send({"of": name, "note": news})
        else:
            self._line.send({"of": name, "point": list(news.values), "progress": progress})

    def _end(self, run: TrainingRun) -> None:
        end = {"ended": run.status, "error": run.error, "fatal": run.fatal}
        self._line.send({"of": run.spec.name, **end})


class _Forwarder(logging.Handler):
    """Sends what is logged to the run's process, whose user reads it."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.WARNING)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        # Python's own warnings are for developers, and the run's process has shown them as well.
        if record.name == "py.warnings":
            return
        with contextlib.suppress(OSError):
            self._line.send({"log": record.getMessage(), "by": record.name, "at": record.levelno})


def _require_free_memory(needed: int) -> None:
    """Raise `OutOfMemory` if this worker's card has not so many bytes free."""
    import torch

    from providers.errors import OutOfMemory
    from providers.local.memory import write_size

    free, _ = torch.cuda.mem_get_info()
    if free < needed:
        raise OutOfMemory(
            f"{write_size(free)} of its card's memory are free, and about {write_size(needed)} are "
            "needed"
        )


def _end_with(parent: int) -> None:
    """See to it that this process ends as soon as `parent` does."""
    for number in _LEFT_TO_THE_RUN:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)

    def watch() -> None:
        # For systems without that signal, and for a parent that ended before it was asked for.
        while os.getppid() == parent:
            waiting.wait(_GLANCE_S)
        os._exit(1)

    waiting = threading.Event()
    threading.Thread(target=watch, daemon=True).start()


def _load_package() -> None:
    """Import the `providers` that this file belongs to: a user may have a folder of that name."""
    place = Path(__file__).parents[1] / "__init__.py"
    spec = spec_from_file_location(
        "providers", place, submodule_search_locations=[str(place.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["providers"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[3])
    _load_package()
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
