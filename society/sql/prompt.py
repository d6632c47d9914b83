"""The prompt of `society sql`: many queries, with completion and a history."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from society.sql.completion import Catalog, Completions, read_catalog
from society.sql.session import Session
from society.terminal.output import write_line
from society.terminal.signals import Terminated
from society.terminal.table import Format, write_rows
from society.terminal.user_state import find_state_folder, open_private
from store.errors import InvalidQuery, StoreError
from store.statements import split_queries, split_statements

# A table of more rows takes seconds to draw and cannot be read.
SHOWN_ROWS = 1000
COMMANDS: Mapping[str, str] = {
    r"\?": "this help",
    r"\d": "all relations; \\d NAME: a relation's columns",
    r"\format": "how rows are written: table, csv or json",
    r"\q": "leave (also Ctrl-D)",
}
_HELP = """A query ends with a semicolon and may have several lines. Tab completes, Ctrl-C clears
the input. Queries can only read. docs/schema.md explains every relation and column.
"""


class Console:
    """Answers input: queries, or a command that begins with a backslash."""

    def __init__(self, session: Session, out: TextIO) -> None:
        self._session = session
        self._out = out
        self._format: Format = "table"
        self.catalog = read_catalog(session)

    def answer(self, text: str) -> bool:
        """Answer the input; return False to leave. The user's errors become messages."""
        try:
            if text.lstrip().startswith("\\"):
                return self._command(*text.strip().rstrip(";").split())
            for statement in split_queries(text):
                self._query(statement)
        except StoreError as error:
            write_line(self._out, str(error))
        except Terminated:
            raise
        except KeyboardInterrupt:
            self._out.write("stopped\n")
        return True

    def _query(self, sql: str) -> None:
        # One row more than shown tells that there are more.
        found = self._session.query(sql).result(SHOWN_ROWS + 1)
        write_rows(found.columns, found.rows[:SHOWN_ROWS], self._format, self._out)
        if len(found.rows) > SHOWN_ROWS:
            self._out.write(
                f"the first {SHOWN_ROWS} rows; all of them: society sql … --format csv --out FILE\n"
            )

    def _command(self, command: str, *arguments: str) -> bool:
        match command, arguments:
            case ((r"\q" | r"\quit" | r"\exit"), ()):
                return False
            case ((r"\?" | r"\h" | r"\help"), ()):
                self._out.write(_HELP)
                write_rows(("command", "what"), list(COMMANDS.items()), "table", self._out)
            case (r"\d", ()):
                self._relations(self.catalog)
            case (r"\d", (name,)):
                self._columns(name)
            case (r"\format", (("table" | "csv" | "json") as form,)):
                self._format = form
            case _:
                raise InvalidQuery(f"no command {' '.join((command, *arguments))!r}; \\? lists all")
        return True

    def _relations(self, catalog: Catalog) -> None:
        rows = [(name, ", ".join(columns)) for name, columns in catalog.relations.items()]
        write_rows(("relation", "columns"), rows, "table", self._out)
        if catalog.runs:
            names = ", ".join(f'"{name}"' for name in catalog.runs)
            write_line(
                self._out, f"each relation has the rows of all runs; for one run: {names}.RELATION"
            )

    def _columns(self, name: str) -> None:
        columns = self.catalog.relations.get(name)
        if columns is None:
            raise InvalidQuery(f"no relation {name!r}; \\d lists all")
        write_rows(("column", "type"), list(columns.items()), "table", self._out)


def run_prompt(session: Session, title: str, out: TextIO) -> None:
    """Read and answer queries at a terminal until the user leaves."""
    console = Console(session, out)
    asked: PromptSession[str] = PromptSession(
        message=f"{title}> ",
        prompt_continuation=lambda width, *_: "… ".rjust(width),
        history=_open_history(),
        completer=Completions(console.catalog, COMMANDS),
        complete_while_typing=True,
        lexer=PygmentsLexer(SqlLexer),
        multiline=True,
        key_bindings=_bind_keys(),
    )
    out.write("\\? for help, \\d for the relations, \\q to leave\n")
    while True:
        try:
            text = asked.prompt()
        # Ctrl-C clears the line; only SIGTERM and SIGHUP end the prompt.
        except Terminated:
            raise
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if not console.answer(text):
            return


def is_complete(text: str) -> bool:
    """Whether Enter submits the input: a command, nothing, or a query with its semicolon."""
    if not text.strip() or text.lstrip().startswith("\\"):
        return True
    pieces = split_statements(text)
    return len(pieces) > 1 and not re.sub(r"--[^\n]*", "", pieces[-1]).strip()


def find_history_file(environment: Mapping[str, str], home: Callable[[], Path] = Path.home) -> Path:
    """The file with the history of queries, in the user's state folder."""
    return find_state_folder(environment, home) / "sql_history"


def _open_history() -> History:
    try:
        path = find_history_file(os.environ)
        # Queries may quote answers, so the history is for this user only.
        os.close(open_private(path))
    except (OSError, RuntimeError):
        return InMemoryHistory()
    return FileHistory(str(path))


def _bind_keys() -> KeyBindings:
    keys = KeyBindings()

    @Condition
    def complete() -> bool:
        from prompt_toolkit.application import get_app

        return is_complete(get_app().current_buffer.text)

    # Enter submits a complete query and otherwise begins a new line.
    @keys.add("enter", filter=complete)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return keys
