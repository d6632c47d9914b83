"""Folders that a node sees, and folders that are sent to it through Ray's object store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from providers.artifact import get_hidden_path

_TOKEN = ".folder-token"
Files = dict[str, bytes]
"""The files of a folder by their names in it."""


def read_token(folder: Path) -> str | None:
    """What tells a folder from others of the same path on other machines; None without one."""
    try:
        return (folder / _TOKEN).read_text(encoding="utf-8")
    except OSError:
        return None


def keep_token(folder: Path) -> str:
    """The folder's token, made if there is none yet."""
    if (found := read_token(folder)) is not None:
        return found
    # Never changed once it is there: nodes may have read it, and their file systems keep it.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _TOKEN).write_text(uuid4().hex, encoding="utf-8")
    return keep_token(folder)


@contextmanager
def mark_folder(workdir: Path) -> Iterator[Path | None]:
    """A file that a node sees if it sees the run's folder, for a moment; None if none can be."""
    here = workdir.absolute()
    while not here.is_dir():
        here = here.parent
    try:
        with tempfile.NamedTemporaryFile(dir=here, prefix=".seen-by-") as file:
            yield Path(file.name)
    except PermissionError:
        yield None


def read_files(path: Path) -> Files:
    """The bytes of a file, as {"": …}, or of all files in a folder.

    >>> read_files(Path("models/a"))  # doctest: +SKIP
    {'adapter_config.json': b'…', 'adapter_model.safetensors': b'…', 'manifest.json': b'…'}
    """
    if path.is_file():
        return {"": path.read_bytes()}
    return {
        each.relative_to(path).as_posix(): each.read_bytes()
        for each in sorted(path.rglob("*"))
        if each.is_file()
    }


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write what `read_files` gave; `out` appears complete or not at all, in place of another."""
    partial = get_hidden_path(out, f"{os.getpid()}.arriving")
    shutil.rmtree(partial, ignore_errors=True)
    # A file has one entry without a name, a folder one for each of its files.
    for name, content in files.items():
        path = partial / name if name else partial
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if out.is_dir():
        shutil.rmtree(out)
    partial.replace(out)
