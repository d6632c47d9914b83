"""Values into the text of a query, for a server that takes only text.

DuckDB's own tokenizer says where the parameters are, so that a question mark in a string, a name or
a comment is none. Every value becomes a literal that no text can break out of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

import duckdb

from store.errors import InvalidQuery

Params = Sequence[object] | Mapping[str, object]
_NUMBERED = re.compile(rb"[?$](\d+)")
_NAMED = re.compile(rb"(?:\w|[^\x00-\x7f])+")


def bind(sql: str, params: Params | None) -> str:
    """`sql` with every parameter (`?`, `$1`, `$name`) replaced by its value as a literal.

    Raises `InvalidQuery` for a value that is missing or left over, and for a value of a type that
    has no literal.
    """
    if not params:
        return sql
    values = _by_name(params)
    text = sql.encode()
    bound, end, used = bytearray(), 0, set()
    for start, stop, name in _parameters(text):
        if name not in values:
            raise InvalidQuery(f"no value for the query's parameter {name!r}")
        used.add(name)
        bound += text[end:start] + literal(values[name]).encode()
        end = stop
    if unused := sorted(set(values) - used):
        raise InvalidQuery(f"the query has no parameter {', '.join(unused)}, but there is a value")
    return (bound + text[end:]).decode()


def literal(value: object) -> str:
    """A value as SQL: None, truth, numbers, text, times, bytes, and lists and mappings of these."""
    match value:
        case None:
            return "NULL"
        # Before int, as every bool is one in Python; datetime stands before date for the same
        # reason.
        case bool():
            return "true" if value else "false"
        case int():
            # In brackets: after a minus sign, a bare negative number would begin a comment (`--`).
            return f"({value})"
        case float():
            return f"({value!r}::DOUBLE)" if math.isfinite(value) else f"'{value}'::DOUBLE"
        case Decimal():
            return f"({value:f})"
        case str():
            return _quote(value)
        case datetime():
            return f"{_quote(str(value))}::{'TIMESTAMP' if value.tzinfo is None else 'TIMESTAMPTZ'}"
        case date():
            return f"{_quote(str(value))}::DATE"
        case bytes():
            return f"from_hex('{value.hex()}')"
        case list() | tuple():
            return f"[{', '.join(map(literal, value))}]"
        case dict():
            return f"{{{', '.join(f'{_quote(str(k))}: {literal(v)}' for k, v in value.items())}}}"
        case _:
            raise InvalidQuery(
                f"a {type(value).__name__} cannot be sent to a run in progress; "
                "pass text, a number, a time or a list of them"
            )


def _quote(text: str) -> str:
    # The parser ends at a NUL, so one is put together from outside the string.
    pieces = ["'" + piece.replace("'", "''") + "'" for piece in text.split("\x00")]
    return pieces[0] if len(pieces) == 1 else f"({' || chr(0) || '.join(pieces)})"


def _by_name(params: Params) -> dict[str, object]:
    if isinstance(params, Mapping):
        return dict(params)
    return {str(number): value for number, value in enumerate(params, start=1)}


def _parameters(text: bytes) -> list[tuple[int, int, str]]:
    """Start, end and name of every parameter, in order."""
    # The tokenizer's positions count bytes, so all slicing here is of bytes.
    tokens = duckdb.tokenize(text.decode())
    found: list[tuple[int, int, str]] = []
    asked = 0
    for place, (start, kind) in enumerate(tokens):
        # A sign inside a string, a quoted name or a comment belongs to a token of another kind.
        first = text[start : start + 1]
        if kind != duckdb.token_type.operator or first not in (b"?", b"$"):
            continue
        if numbered := _NUMBERED.match(text, start):
            found.append((start, numbered.end(), numbered[1].decode()))
        elif first == b"?":
            asked += 1
            found.append((start, start + 1, str(asked)))
        elif place + 1 < len(tokens) and (named := _NAMED.match(text, tokens[place + 1][0])):
            found.append((start, named.end(), named[0].decode()))
    return found
