"""Completion at the prompt of `society sql`: relations, their columns, SQL's words, commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import duckdb
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from society.sql.session import Session

_COLUMNS = """
SELECT database_name, table_name, column_name, data_type FROM duckdb_columns()
WHERE NOT internal ORDER BY database_name, table_name, column_index
"""
_WORD = re.compile(r"\w*$")
_RELATION_EXPECTED = re.compile(r"\b(from|join|describe|summarize|table|,)\s+$", re.IGNORECASE)
_COLUMN_EXPECTED = re.compile(r"\b(\w+)\.$")
_COMMAND = re.compile(r"\\\w*$")
_ALIAS = r"\b(?:from|join)\s+(\w+)(?:\s+as)?\s+{alias}\b"


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every relation's columns with their types; `runs` are the names of several runs."""

    relations: Mapping[str, Mapping[str, str]]
    runs: tuple[str, ...] = ()


def read_catalog(session: Session) -> Catalog:
    """The relations of `session`."""
    found = session.rows(_COLUMNS)
    databases = sorted({database for database, *_ in found})
    # Several runs are attached to an empty database in memory, which has the united views.
    several = "memory" in databases
    relations: dict[str, dict[str, str]] = {}
    for database, table, column, kind in found:
        if database == "memory" or not several:
            relations.setdefault(table, {})[column] = kind
    return Catalog(relations, tuple(name for name in databases if name != "memory" and several))


class Completions(Completer):
    """Completes relations after FROM, columns after `relation.` or its alias, else all words."""

    def __init__(self, catalog: Catalog, commands: Mapping[str, str]) -> None:
        self._catalog = catalog
        self._commands = commands
        self._words = _list_sql_words()

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Completions of the word before the cursor."""
        before = document.text_before_cursor
        if command := _COMMAND.fullmatch(before.lstrip()):
            yield from _match_words(command[0], self._commands)
            return
        word = _WORD.search(before)
        start = word[0] if word else ""
        words = self._choose_words(before[: len(before) - len(start)], document.text)
        # After a blank anything may follow, and a menu of all words would only be in the way.
        if start or not words.keys() >= self._words.keys():
            yield from _match_words(start, words)

    def _choose_words(self, before: str, text: str) -> Mapping[str, str]:
        relations = self._catalog.relations
        if of := _COLUMN_EXPECTED.search(before):
            return relations.get(of[1].lower()) or relations.get(_resolve_alias(of[1], text), {})
        if _RELATION_EXPECTED.search(before):
            return {name: f"{len(columns)} columns" for name, columns in relations.items()}
        named = [name for name in relations if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
        columns = {
            column: kind for name in named or relations for column, kind in relations[name].items()
        }
        return {**columns, **dict.fromkeys(relations, "relation"), **self._words}


def _resolve_alias(alias: str, text: str) -> str:
    found = re.search(_ALIAS.format(alias=re.escape(alias)), text, re.IGNORECASE)
    return found[1].lower() if found else ""


def _match_words(start: str, words: Mapping[str, str]) -> Iterator[Completion]:
    for word, meaning in words.items():
        if word.lower().startswith(start.lower()):
            yield Completion(word, start_position=-len(start), display_meta=meaning)


def _list_sql_words() -> dict[str, str]:
    # A connection of its own: keywords are the same in every database.
    with closing(duckdb.connect(":memory:")) as connection:
        keywords = connection.execute(
            "SELECT upper(keyword_name) FROM duckdb_keywords() ORDER BY 1"
        ).fetchall()
        functions = connection.execute(
            "SELECT DISTINCT function_name, function_type FROM duckdb_functions() "
            "WHERE function_type IN ('scalar', 'aggregate') "
            "AND regexp_matches(function_name, '^[a-z]') ORDER BY 1"
        ).fetchall()
    return {**{word: "SQL" for (word,) in keywords}, **dict(functions)}
