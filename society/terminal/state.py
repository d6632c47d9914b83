"""Files that `society` keeps for its user outside of runs, for no other user's eyes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path


def state_folder(environment: Mapping[str, str], home: Callable[[], Path] = Path.home) -> Path:
    """The user's folder for state: in XDG_STATE_HOME, else in ~/.local/state."""
    state = environment.get("XDG_STATE_HOME")
    folder = Path(state) if state and os.path.isabs(state) else home() / ".local" / "state"
    return folder / "society"


def open_private(path: Path) -> int:
    """A descriptor that appends to a file only its user can read; the folder is made if need be.

    Raises `OSError` where the file cannot be had as such: it is a link, a pipe or another user's.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{path} is not a file of your own")
        os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
