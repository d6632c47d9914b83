"""What all files for other tools have in common.

They are whole or not there, their CSV cells are no formulas, and their JSON has no NaN.

A file is written under a name of its process, `.NAME.HOST-PID.part`, and renamed at the end. A
killed process leaves the part behind; the next process that writes the same file removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from store.errors import WriteFailed

# A spreadsheet runs a cell that begins like a formula (CSV injection,
# https://owasp.org/www-community/attacks/CSV_Injection). It takes a leading apostrophe for "this is
# text". Full-width signs count too, and white space, which is skipped before a sign.
_FORMULA = "[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]"
# A plain number may begin with a sign; it is harmless and stays a number.
_NUMBER = "[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?"
_ESCAPED = (
    f"CASE WHEN regexp_matches(TEXT::VARCHAR, '^{_FORMULA}') "
    f"AND NOT regexp_full_match(TEXT::VARCHAR, '{_NUMBER}') "
    "THEN '''' || TEXT ELSE TEXT::VARCHAR END"
)
_NOT_FINITE = re.compile(rb"NaN|Infinity")
# A string, which stays as it is, or a value that is not finite.
_STRING_OR_NOT_FINITE = re.compile(rb'("(?:[^"\\]|\\.)*")|-?(?:NaN|Infinity)')


@contextmanager
def replace_whole(path: Path) -> Iterator[Path]:
    """A file to write to, which replaces `path` once it is complete.

    Raises `WriteFailed` where the file system refuses; an older file then stays as it was.
    """
    part = prepare_partial(path)
    try:
        yield part
        os.replace(part, path)
    except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise WriteFailed(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def prepare_partial(path: Path) -> Path:
    """Where this process writes what becomes `path`; removes the parts of killed processes."""
    remove_stale_partials(path)
    # With the host's name, as machines may share the folder and number their processes alike.
    return path.parent / f".{path.name}.{_host_name()}-{os.getpid()}.part"


def remove_stale_partials(path: Path) -> None:
    """Remove the parts of `path` whose processes, on this machine, run no more."""
    own = re.compile(
        rf"\.{re.escape(path.name)}\.(?:{re.escape(_host_name())}-)?(\d+)\.part(\.d|\.json)?"
    )
    with suppress(OSError):
        for entry in list(path.parent.iterdir()):
            found = own.fullmatch(entry.name)
            if found and not _is_running(int(found[1])):
                _remove(entry)


def replace_non_finite(lines: Path) -> None:
    """Put null where DuckDB has written NaN or infinity, which JSON does not have (RFC 8259)."""
    with lines.open("rb") as file:
        # Nearly no export has such a value; finding out is much cheaper than writing it again.
        if not any(_NOT_FINITE.search(line) for line in file):
            return
    better = lines.with_name(f"{lines.name}.json")
    try:
        with lines.open("rb") as file, better.open("wb") as out:
            for line in file:
                out.write(_STRING_OR_NOT_FINITE.sub(lambda found: found[1] or b"null", line))
        os.replace(better, lines)
    finally:
        better.unlink(missing_ok=True)


def escape_formula(value: object) -> object:
    """A value for a CSV cell: text that begins like a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    if not re.match(_FORMULA, value) or re.fullmatch(_NUMBER, value):
        return value
    return f"'{value}"


def escape_formulas(
    cursor: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, object]
) -> str:
    """A query with the rows of `query`, all text in them as `escape_formula` gives it."""
    # DESCRIBE gives the types without executing the query. Numbers need no escaping.
    described = cursor.execute(f"DESCRIBE {query}", dict(params)).fetchall()
    texts = [
        '"{}"'.format(str(name).replace('"', '""'))
        for name, kind, *_ in described
        if str(kind).startswith(("VARCHAR", "ENUM", "JSON"))
    ]
    replaced = ", ".join(f"{_ESCAPED.replace('TEXT', text)} AS {text}" for text in texts)
    return f"SELECT * {f'REPLACE ({replaced})' if texts else ''} FROM ({query})"


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())


def _is_running(process: int) -> bool:
    try:
        # Signal 0 only asks whether the process exists; PermissionError means that it is another
        # user's.
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
