"""Where `society sql` writes its answers, and in which format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from society.config.load import ConfigError
from society.sql.session import Session
from society.terminal.table import write_rows
from store.errors import WriteFailed
from store.output_files import prepare_partial

Form = Literal["table", "csv", "json", "parquet"]
_ENDINGS: dict[str, Form] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Target:
    """The format of an answer, and its file; without a file, it is printed."""

    form: Form
    file: Path | None

    @property
    def part(self) -> Path | None:
        """The name of the file while it is being written; it gets its own when it is complete."""
        if self.file is None:
            return None
        return prepare_partial(self.file.absolute())

    def write_answer(self, session: Session, sql: str, shown: TextIO) -> None:
        """Run the query and write its answer; if that fails, an older file stays."""
        if self.file is None or self.part is None:
            found = session.query(sql).result()
            write_rows(
                found.columns, found.rows, "table" if self.form == "parquet" else self.form, shown
            )
            return
        # The old file is replaced only by a complete new one.
        with _replace_file(self.file, self.part) as part:
            if self.form == "parquet":
                session.query(sql)
                # DuckDB writes Parquet itself, without holding the rows in Python.
                session.write_parquet(sql, part)
                return
            found = session.query(sql).result()
            with part.open("w", encoding="utf-8", newline="") as stream:
                write_rows(found.columns, found.rows, self.form, stream)


def choose_target(form: Form | None, file: Path | None) -> Target:
    """The target that the options ask for; raises `ConfigError` if they contradict."""
    if file is None:
        if form == "parquet":
            raise ConfigError("--format parquet needs a file: --out FILE.parquet")
        return Target(form or "table", None)
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise ConfigError(f"--out {file} is not a file in an existing folder")
    return Target(form or _ENDINGS.get(file.suffix.lower(), "table"), file)


@contextmanager
def _replace_file(file: Path, part: Path) -> Iterator[Path]:
    try:
        yield part
        os.replace(part, file)
    except OSError as error:
        raise WriteFailed(f"cannot write {file}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
