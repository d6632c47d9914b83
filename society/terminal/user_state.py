"""Files that `society` keeps for its user outside of runs; no other user can read them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path


def find_state_folder(environment: Mapping[str, str], home: Callable[[], Path] = Path.home) -> Path:
    """The folder for the user's state: in XDG_STATE_HOME, else in ~/.local/state."""
    # The XDG specification ignores relative paths.
    state = environment.get("XDG_STATE_HOME")
    folder = Path(state) if state and os.path.isabs(state) else home() / ".local" / "state"
    return folder / "society"


def open_private(path: Path) -> int:
    """Open a file that only its user can read, for appending; make its folder if it is missing.

    Raises `OSError` if the path is a link, a pipe or another user's file.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # NOFOLLOW refuses a link planted by another user; NONBLOCK keeps a pipe from hanging us.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{path} is not your own regular file")
        os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
