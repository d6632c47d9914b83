"""Where the real benchmark files are, and small files to read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

Write = Callable[[str, Iterable[object]], Path]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the real benchmark files; the test is skipped where it is absent."""
    beside = Path(__file__).parents[3] / "../shared/data"
    folder = Path(os.environ.get("SOCIETY_DATA", beside)).resolve()
    if not (folder / "gsm8k_train.jsonl").is_file():
        pytest.skip(f"the benchmark files are not in {folder}; set SOCIETY_DATA")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes objects as JSON lines to a file of that name and gives its path."""

    def lines(name: str, rows: Iterable[object]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return lines


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[[str, Iterable[Mapping[str, object]]], Path]:
    """Writes rows as parquet by way of JSON and gives the path."""
    import duckdb

    def table(name: str, rows: Iterable[Mapping[str, object]]) -> Path:
        source = tmp_path / "rows.json"
        source.write_text(json.dumps(list(rows)), encoding="utf-8")
        path = tmp_path / name
        with duckdb.connect() as connection:
            connection.read_json(str(source)).write_parquet(str(path))
        return path

    return table
