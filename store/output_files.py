"""Writing beside a file or folder and putting it in its place once it is whole.

What is being written has a name of its process, `.NAME.HOST-PID.part`. A killed process leaves it
behind; the next one that writes the same file removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import duckdb


def prepare_partial(path: Path) -> Path:
    """Where this process writes what becomes `path`; parts that killed processes left go away."""
    remove_stale_partials(path)
    return path.parent / f".{path.name}.{_host()}-{os.getpid()}.part"


def remove_stale_partials(path: Path) -> None:
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


# MERGED DOCSTRING of store.output_files:
# """Text in CSV cells: a spreadsheet runs what begins like a formula, so that is quoted as text.
#
# The attack: https://owasp.org/www-community/attacks/CSV_Injection. Spreadsheets take a leading
# apostrophe for "this is text". What is a plain number is harmless and stays one.
# """

FORMULA = "[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]"
"""What begins a formula: also the full-width forms, and white space that is skipped before one."""

NUMBER = "[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?"
_FORMULA, _NUMBER = re.compile(FORMULA), re.compile(NUMBER)

_QUOTED = (
    f"CASE WHEN regexp_matches(TEXT::VARCHAR, '^{FORMULA}') "
    f"AND NOT regexp_full_match(TEXT::VARCHAR, '{NUMBER}') "
    "THEN '''' || TEXT ELSE TEXT::VARCHAR END"
)


def escape_formula(value: object) -> object:
    """A value for a cell: text that begins like a formula gets an apostrophe before it."""
    if not isinstance(value, str) or not _FORMULA.match(value) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def escape_formulas(
    cursor: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, object]
) -> str:
    """A query whose rows are those of `query`, all text in them as `cell` gives it."""
    described = cursor.execute(f"DESCRIBE {query}", dict(params)).fetchall()
    texts = [
        '"{}"'.format(str(name).replace('"', '""'))
        for name, kind, *_ in described
        if str(kind).startswith(("VARCHAR", "ENUM", "JSON"))
    ]
    replaced = ", ".join(f"{_QUOTED.replace('TEXT', text)} AS {text}" for text in texts)
    return f"SELECT * {f'REPLACE ({replaced})' if texts else ''} FROM ({query})"
