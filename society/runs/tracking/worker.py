"""The process of one tracker: it imports the tracker's package and does what the run says.

It gets a socket. Each row on it is a JSON object with one key, the operation (`open`, `log` or
`close`), and each is answered with {"done": …} or {"failed": reason}. It ends with the run,
whatever ends that, and its prints go to neither the terminal nor the run.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from providers.local.worker_wire import JsonLine
from providers.secrets import Secrets
from society.runs.tracking.tracker import TrackedValue, Tracker, TrackerTarget, load_tracker

_SECRET_NAMES = re.compile(r"(?i)key|token|password|secret|credential")


def main(descriptor: int, name: str) -> None:
    """Serve the tracker `name` over the inherited socket `descriptor` until the run closes it."""
    # Ctrl-C is for the run, which then closes its trackers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    line = JsonLine(socket.socket(fileno=descriptor))
    told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, told), daemon=True).start()
    tracker: Tracker | None = None
    while True:
        message = told.get()
        try:
            tracker = tracker or load_tracker(name)
            answer = {"done": _carry_out(tracker, message)}
        # Whatever the package raises is an answer: the run goes on without the tracker.
        except Exception as error:
            answer = {"failed": describe_failure(error)}
        # The run may have left meanwhile, which the listening thread notices.
        with suppress(OSError):
            line.send(answer)


def _listen(line: JsonLine, told: queue.SimpleQueue[dict[str, Any]]) -> None:
    """In a thread of its own, so that the process ends with the run even if the tracker hangs."""
    try:
        while (message := line.receive()) is not None:
            told.put(message)
    except (EOFError, OSError):
        # At once: packages wait at the end of a process for servers that do not answer.
        os._exit(0)


def _carry_out(tracker: Tracker, message: Mapping[str, Any]) -> str | None:
    [(operation, given)] = message.items()
    if operation == "open":
        return tracker.open(TrackerTarget(**given))
    if operation == "log":
        tracker.log([TrackedValue(**each) for each in given])
    else:
        tracker.close(finished=given)
    return None


def describe_failure(error: Exception) -> str:
    """An error in one line, without anything secret that the environment holds."""
    secrets = {name: value for name, value in os.environ.items() if _SECRET_NAMES.search(name)}
    text = " ".join(str(error).split())
    return Secrets(secrets).quote(f"{type(error).__name__}: {text}" if text else repr(error))
