"""Reading the rows of one data file: .jsonl, .json (a list), .csv and .parquet."""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from evals.tasks.sources.rows import Row
from evals.tasks.sources.text import read_text


def read(path: Path, name: str | None = None) -> list[Row]:
    """All rows of a file; `name` is what messages call it.

    Text is UTF-8, with or without a byte order mark. Raises ValueError for a file that cannot be
    read as its extension says, naming the file, the place and the remedy.
    """
    name = name or str(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{name}: unknown kind of file {path.suffix!r}; use {SUFFIXES_SHOWN}")
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise ValueError(f"{name} {what} (looked from {Path.cwd()}); check the path")
    rows = list(reader(path, name))
    if not rows:
        raise ValueError(f"{name} has no rows; put one question in each, or name another file")
    return rows


def _json_lines(path: Path, name: str) -> Iterator[Row]:
    # Only "\n" ends a line: JSON strings may contain the other separators of Unicode.
    for number, line in enumerate(read_text(path, name).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{name}, line {number}: broken JSON: {_reason(error)}; "
                "each line must be one JSON object"
            ) from None
        if not isinstance(fields, dict):
            raise ValueError(
                f"{name}, line {number}: {type(fields).__name__} instead of an object; "
                'each line must be like {"question": "...", "answer": "..."}'
            )
        yield Row(name, "line", number, fields)


def _json_list(path: Path, name: str) -> Iterator[Row]:
    try:
        items = json.loads(read_text(path, name), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(
            f"{name}{line}: broken JSON: {_reason(error)}; "
            "a .json file is one list of objects (one object per line: name it .jsonl)"
        ) from None
    if not isinstance(items, list):
        raise ValueError(
            f"{name}: {type(items).__name__} instead of a list; a .json file is one list of "
            "objects (one object per line: name it .jsonl)"
        )
    for number, fields in enumerate(items, start=1):
        if not isinstance(fields, dict):
            raise ValueError(
                f"{name}, item {number}: {type(fields).__name__} instead of an object; "
                'each item must be like {"question": "...", "answer": "..."}'
            )
        yield Row(name, "item", number, fields)


def _csv(path: Path, name: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(read_text(path, name), newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if header is None:
                header = _header(cells, name)
            elif cells:
                yield Row(name, "line", line, _record(header, cells, f"{name}, line {line}"))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {line}: broken CSV: {error}; check the quotes, or use .jsonl"
        ) from None


def _header(cells: list[str], name: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({cell for cell in header if cell and header.count(cell) > 1})
    if twice:
        raise ValueError(f"{name}, line 1: the header has {twice[0]!r} twice; rename one")
    if not any(header):
        raise ValueError(f"{name}, line 1: the header is empty; it must name the columns")
    return header


def _record(header: list[str], cells: list[str], place: str) -> dict[str, object]:
    if len(cells) != len(header):
        raise ValueError(
            f"{place}: {len(cells)} cells, but the header names {len(header)} columns; "
            'put "..." around cells that contain commas'
        )
    return {column: cell for column, cell in zip(header, cells, strict=True) if column}


def _parquet(path: Path, name: str) -> Iterator[Row]:
    import duckdb

    try:
        with duckdb.connect() as connection:
            found = connection.execute(
                "SELECT * FROM read_parquet(?, hive_partitioning = false)",
                [glob.escape(str(path))],
            )
            columns = [str(column[0]) for column in found.description or ()]
            records = found.fetchall()
    except duckdb.Error as error:
        raise ValueError(
            f"{name} cannot be read as parquet: {_reason(error)}; write or download it again"
        ) from error
    for number, record in enumerate(records, start=1):
        yield Row(name, "row", number, dict(zip(columns, record, strict=True)))


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "too deeply nested"
    return str(error).split("\n", 1)[0].strip()


_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".parquet": _parquet,
}
SUFFIXES = tuple(_READERS)
SUFFIXES_SHOWN = ", ".join(SUFFIXES)
