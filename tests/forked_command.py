"""`society` in a process that is forked from one with the imports behind it; for many starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from society import cli


@dataclass
class ForkedCommand:
    """A command in a process of its own, its output read line by line or written to a file."""

    pid: int
    output: Iterator[str] = field(default_factory=lambda: iter(()))

    @classmethod
    def start(cls, arguments: Sequence[str], log: TextIO | None = None) -> ForkedCommand:
        """Start `society ARGUMENTS`; without a `log` the output comes to `output`."""
        reading, writing = os.pipe() if log is None else (None, log.fileno())
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _become(arguments, writing)
        if reading is None:
            return cls(pid)
        os.close(writing)
        return cls(pid, iter(os.fdopen(reading, encoding="utf-8")))

    def wait(self) -> int:
        """Read to the end; returns the exit status, negative for a signal."""
        for _ in self.output:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _become(arguments: Sequence[str], output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.argv = ["society", *arguments]
    status = 0
    try:
        cli.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    os._exit(status)
