"""Writing beside a file or folder and putting it in its place once it is whole.

What is being written has a name of its process, `.NAME.HOST-PID.part`. A killed process leaves it
behind; the next one that writes the same file removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from contextlib import suppress
from pathlib import Path


def part_of(path: Path) -> Path:
    """Where this process writes what becomes `path`; parts that killed processes left go away."""
    remove_left_behind(path)
    return path.parent / f".{path.name}.{_host()}-{os.getpid()}.part"


def remove_left_behind(path: Path) -> None:
    """Remove the parts of `path` whose processes, of this machine, are there no more."""
    mine = re.compile(
        rf"\.{re.escape(path.name)}\.(?:{re.escape(_host())}-)?(\d+)\.part(\.d|\.json)?"
    )
    with suppress(OSError):
        for entry in list(path.parent.iterdir()):
            found = mine.fullmatch(entry.name)
            if found and not _is_running(int(found[1])):
                _remove(entry)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
