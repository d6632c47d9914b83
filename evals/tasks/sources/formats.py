"""Reads the rows of a data file and text as UTF-8.

A file is .jsonl, .json with a list, .csv, .parquet, or .txt with one question on each line.
"""

from __future__ import annotations

import codecs
import csv
import glob
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from evals.tasks.sources.rows import DataRow


def read_rows(path: Path, name: str | None = None) -> list[DataRow]:
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


def _read_json_lines(path: Path, name: str) -> Iterator[DataRow]:
    # Only "\n" ends a line: JSON strings may contain the other separators of Unicode.
    for number, line in enumerate(read_text(path, name).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{name}, line {number}: broken JSON: {_format_reason(error)}; "
                "each line must be one JSON object"
            ) from None
        if not isinstance(fields, dict):
            raise ValueError(
                f"{name}, line {number}: {type(fields).__name__} instead of an object; "
                'each line must be like {"question": "...", "answer": "..."}'
            )
        yield DataRow(name, "line", number, fields)


def _read_json_list(path: Path, name: str) -> Iterator[DataRow]:
    try:
        items = json.loads(read_text(path, name), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(
            f"{name}{line}: broken JSON: {_format_reason(error)}; "
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
        yield DataRow(name, "item", number, fields)


def _read_csv(path: Path, name: str) -> Iterator[DataRow]:
    # strict: without it a quote that is never closed swallows the rest of the file as one cell.
    reader = csv.reader(io.StringIO(read_text(path, name), newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if header is None:
                header = _check_header(cells, name)
            elif cells:
                yield DataRow(
                    name, "line", line, _make_record(header, cells, f"{name}, line {line}")
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {line}: broken CSV: {error}; check the quotes, or use .jsonl"
        ) from None


def _check_header(cells: list[str], name: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({cell for cell in header if cell and header.count(cell) > 1})
    if twice:
        raise ValueError(f"{name}, line 1: the header has {twice[0]!r} twice; rename one")
    if not any(header):
        raise ValueError(f"{name}, line 1: the header is empty; it must name the columns")
    return header


def _make_record(header: list[str], cells: list[str], place: str) -> dict[str, object]:
    if len(cells) != len(header):
        raise ValueError(
            f"{place}: {len(cells)} cells, but the header names {len(header)} columns; "
            'put "..." around cells that contain commas'
        )
    return {column: cell for column, cell in zip(header, cells, strict=True) if column}


def _read_parquet(path: Path, name: str) -> Iterator[DataRow]:
    import duckdb

    try:
        with duckdb.connect() as connection:
            found = connection.execute(
                # The path is a user's: its brackets are no pattern, and a folder called "a=1" adds
                # no column.
                "SELECT * FROM read_parquet(?, hive_partitioning = false)",
                [glob.escape(str(path))],
            )
            columns = [str(column[0]) for column in found.description or ()]
            records = found.fetchall()
    except duckdb.Error as error:
        raise ValueError(
            f"{name} cannot be read as parquet: {_format_reason(error)}; write or download it again"
        ) from error
    for number, record in enumerate(records, start=1):
        yield DataRow(name, "row", number, dict(zip(columns, record, strict=True)))


def _read_lines(path: Path, name: str) -> Iterator[DataRow]:
    for number, line in enumerate(read_text(path, name).split("\n"), start=1):
        if text := line.strip():
            yield DataRow(name, "line", number, {"question": text})


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _format_reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "too deeply nested"
    return str(error).split("\n", 1)[0].strip()


_READERS: dict[str, Callable[[Path, str], Iterator[DataRow]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json_list,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_lines,
}
# A text file in a folder is as likely a note about the data.
SUFFIXES = tuple(suffix for suffix in _READERS if suffix != ".txt")
SUFFIXES_SHOWN = ", ".join(_READERS)


_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LOOKED_AT = 4096


def read_text(path: Path, name: str | None = None) -> str:
    """The whole text of a file, its lines as they are; `name` is what messages call it.

    Raises ValueError for a file that cannot be read, or is of another encoding, with its place.
    """
    name = name or str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error
    # Wide text decodes as UTF-8 without an error if it is ASCII in every other byte, so it is
    # recognized by its many zero bytes.
    if content.startswith(_WIDE) or content[:_LOOKED_AT].count(0) > len(content[:_LOOKED_AT]) // 4:
        raise ValueError(f"{name} is UTF-16 or UTF-32 text; save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None
