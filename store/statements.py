"""Which statements only read: decided on the parsed statement, before anything executes it.

    parse_reading("SELECT count(*) FROM turns").tables  # {("", "", "turns")}
    parse_reading("DROP TABLE turns")  # raises InvalidQuery

DuckDB's own parser decides, in an empty database that reaches no file and whose settings are
locked. One statement may be executed: a SELECT (also written FROM, WITH, VALUES, TABLE, PIVOT,
DESCRIBE, SHOW, SUMMARIZE), or EXPLAIN of one, whose functions do nothing but compute or look up.
All queries that a user has typed go through this module: `Store.query`, `society sql`, and the
queries that a run answers.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Set
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import duckdb

from store.errors import InvalidQuery
from store.sql_functions import (
    FILE_FUNCTIONS,
    MAX_DEPTH,
    RECURSIVE_FUNCTIONS,
    list_functions,
    list_reading_functions,
    open_parser,
)

MAX_CHARACTERS = 200_000
# DuckDB's binder doubles its time with each subquery inside another one's expression: 24 of them
# are ten seconds.
MAX_SUBQUERY_DEPTH = 12


_READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
# Text of a JSON string as DuckDB writes it: a quote inside has a backslash before it, so that no
# name and no value in a query can look like a key.
_TEXT = r'"((?:[^"\\]|\\.)*)"'
_FUNCTION = re.compile(rf'[{{,]"function_name":{_TEXT}')
_TABLE = re.compile(
    rf'[{{,]"schema_name":{_TEXT},"table_name":{_TEXT},"column_name_alias":'
    rf'\[(?:{_TEXT}(?:,{_TEXT})*)?\],"catalog_name":{_TEXT}'
)
# Of an EXPLAIN's options; DuckDB takes other spaces than those of ASCII for spaces, its tokenizer
# for letters.
_OPTION = re.compile(r"[A-Za-z0-9_]+|'[A-Za-z0-9_]*'|\"[A-Za-z0-9_]*\"|[(),]")
# What follows a word up to the next one is white space and comments.
_WORD = re.compile(rf"^({_OPTION.pattern})\s*(?:--.*|/\*.*)?$", re.ASCII | re.DOTALL)
_PARSED = '{"error":false'
_BASE_TABLE = '"type":"BASE_TABLE"'
_SUBQUERY = '"class":"SUBQUERY"'
_VARIANT = re.compile(r'[{,]"(?:id|name)":"variant"', re.IGNORECASE)
# The parsed statement does not hold this hint.
_NOT_MATERIALIZED = re.compile(r"\bnot\W+materialized\b", re.IGNORECASE)
# Every table and view as (database, schema, name), as `find_unknown_relations` wants them.
RELATIONS = """
SELECT lower(database_name), lower(schema_name), lower(table_name) FROM duckdb_tables()
UNION ALL
SELECT lower(database_name), lower(schema_name), lower(view_name) FROM duckdb_views()
"""


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    """One statement that only reads, without what follows it.

    `tables` are the names in it as (catalog, schema, table), "" where it gives none; `recursive`
    what in it may end the process that executes it.
    """

    sql: str
    functions: frozenset[str]
    tables: frozenset[tuple[str, str, str]]
    recursive: frozenset[str]


def extract_query(sql: str, *, files: bool = False) -> str:
    """`sql` without what follows its first statement; raises `InvalidQuery` unless that reads."""
    return parse_reading(sql, files=files).sql


def parse_reading(sql: str, *, files: bool = False) -> ParsedQuery:
    """Parse `sql` and require that it only reads; `files` lets it call functions that read files.

    Raises `InvalidQuery` for anything but one statement that reads.
    """
    reading = parse_statement(sql)
    _require_reading(reading.functions, files)
    return reading


def parse_statement(sql: str) -> ParsedQuery:
    """Parse a SELECT or EXPLAIN of one, whatever it calls; raises `InvalidQuery`.

    The text that was parsed is the text that is executed: an EXPLAIN is put together again from its
    options and from the query, which is known to read.
    """
    _require_size(sql)
    kind = _kind(sql)
    statement = next(iter(split_queries(sql)), "")
    options = ""
    if kind == duckdb.StatementType.EXPLAIN:
        options, statement = _split_explain(statement)
    # The parsed tree names every function and table, also those in subqueries.
    tree = _tree(statement)
    _require_flat(tree)
    _require_short(statement)
    functions = frozenset(_unquote(found[1]).lower() for found in _FUNCTION.finditer(tree))
    recursive = functions & RECURSIVE_FUNCTIONS
    if _VARIANT.search(tree):
        recursive |= {"VARIANT"}
    return ParsedQuery(options + statement, functions, _tables(tree), recursive)


def find_unknown_relations(
    tables: Set[tuple[str, str, str]], relations: Iterable[tuple[str, str, str]]
) -> Set[str]:
    """The names that are none of `relations` (from `RELATIONS`), and so may be files."""
    known = list(relations)
    found = set()
    for table in tables:
        shown = ".".join(part for part in table if part)
        catalog, schema, name = (part.lower() for part in table)
        # Only a name with a dot can be a file. DuckDB reads `x.turns` as schema x or database x.
        if "." in shown and not any(
            name == relation and (catalog, schema) in {(database, of), ("", of), ("", database)}
            for database, of, relation in known
        ):
            found.add(shown)
    return found


def build_parquet_copy(sql: str, *, files: bool = False) -> str:
    """The statement that writes a query's answer to the file `$path`; raises `InvalidQuery`."""
    query = extract_query(sql, files=files)
    return f"COPY (\n{query}\n) TO $path (FORMAT parquet, USE_TMP_FILE false)"


def split_queries(text: str) -> list[str]:
    """The statements of `text` in which there is more than comments; raises `InvalidQuery`."""
    _require_text(text)
    return [piece for piece in split_statements(text) if _words(piece)]


def split_statements(text: str) -> list[str]:
    """The statements of `text`, without their semicolons; what follows the last one comes last."""
    encoded = text.encode()
    ends = [at for at, _ in duckdb.tokenize(text) if encoded[at : at + 1] == b";"]
    pieces, start = [], 0
    for end in ends:
        pieces.append(encoded[start:end].decode())
        start = end + 1
    return [*pieces, encoded[start:].decode()]


def _require_size(sql: str) -> None:
    if len(sql) > MAX_CHARACTERS:
        raise InvalidQuery(
            f"the query has {len(sql):,} characters; at most {MAX_CHARACTERS:,} are read: "
            "join with a file (--allow-files), or ask in parts"
        )
    _require_text(sql)


def _require_text(sql: str) -> None:
    if "\0" in sql:
        raise InvalidQuery("the query holds a NUL character; write chr(0) for one in a text")
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise InvalidQuery(f"the query is not Unicode text: {error}") from error


def _kind(sql: str) -> duckdb.StatementType:
    try:
        with closing(open_parser().cursor()) as parser:
            statements = parser.extract_statements(sql)
    except duckdb.Error as error:
        if "expression depth" in str(error):
            raise InvalidQuery(
                f"the query is nested more than {MAX_DEPTH} levels deep; "
                "name its parts with WITH, or join with a list of values"
            ) from error
        raise InvalidQuery(str(error)) from error
    # DuckDB makes two statements without text of a PIVOT that has to find its values.
    if len(statements) == 2 and not any(statement.query for statement in statements):
        raise InvalidQuery("PIVOT needs its values named: PIVOT … ON column IN (…)")
    if len(statements) != 1:
        raise InvalidQuery(f"one query at a time, not {len(statements)}")
    kind = statements[0].type
    if kind not in _READING:
        raise _not_reading(kind.name)
    return kind


def _split_explain(statement: str) -> tuple[str, str]:
    """EXPLAIN with its options, and what it explains; raises `InvalidQuery`."""
    words = _words(statement)
    texts = [text for _, text in words]
    options = 1
    if [each.lower() for each in texts[1:2]] in (["analyze"], ["analyse"]):
        options = 2
    # A bracket opens the options, unless it opens a query in brackets.
    elif texts[1:2] == ["("] and not _selects(_from(statement, words[1][0])):
        options = texts.index(")") + 1 if ")" in texts else len(texts)
    if options >= len(texts) or not all(map(_OPTION.fullmatch, texts[:options])):
        raise InvalidQuery(
            "EXPLAIN is not read as it stands; write EXPLAIN, EXPLAIN ANALYZE or "
            "EXPLAIN (ANALYZE, FORMAT json) with plain spaces, and a query after it"
        )
    return " ".join(texts[:options]) + " ", _from(statement, words[options][0])


def _words(statement: str) -> list[tuple[int, str]]:
    """Each token that is no comment: where it begins, in bytes, and its text."""
    text = statement.encode()
    tokens = duckdb.tokenize(statement)
    ends = [*(at for at, _ in tokens[1:]), len(text)]
    return [
        (start, _WORD.sub(r"\1", text[start:end].decode()))
        for (start, kind), end in zip(tokens, ends, strict=False)
        if kind != duckdb.token_type.comment
    ]


def _from(statement: str, start: int) -> str:
    return statement.encode()[start:].decode()


def _selects(statement: str) -> bool:
    return _serialize(statement).startswith(_PARSED)


def _word(text: bytes, start: int) -> str:
    return re.split(r"\W", text[start:].decode(), maxsplit=1)[0].lower()


def _serialize(statement: str) -> str:
    with closing(open_parser().cursor()) as parser:
        found = parser.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchone()
    assert found is not None
    return str(found[0])


def _tree(statement: str) -> str:
    """The parsed SELECT as DuckDB's JSON; raises `InvalidQuery` for another kind of statement."""
    tree = _serialize(statement)
    if tree.startswith(_PARSED):
        return tree
    reason = str(json.loads(tree).get("error_message", tree))
    if reason.startswith("Only SELECT"):
        raise _not_reading(_word(statement.encode(), duckdb.tokenize(statement)[0][0]).upper())
    raise InvalidQuery(reason)


def _not_reading(kind: str) -> InvalidQuery:
    return InvalidQuery(f"only queries that read are allowed, not {kind}; use SELECT")


def _require_reading(functions: Set[str], files: bool) -> None:
    allowed = list_reading_functions() | (FILE_FUNCTIONS if files else frozenset())
    for name in sorted(functions - allowed):
        if name in FILE_FUNCTIONS:
            raise InvalidQuery(
                f"{name} reads files, which a query may not; allow it with --allow-files"
            )
        if name in list_functions():
            raise InvalidQuery(f"{name} does more than read the run, so a query may not call it")
        close = difflib.get_close_matches(name, sorted(allowed), 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise InvalidQuery(f"there is no function {name} that a query may call{meant}")


def _require_flat(tree: str) -> None:
    # So few subqueries cannot be nested too deep, and walking the tree takes time.
    if tree.count(_SUBQUERY) <= MAX_SUBQUERY_DEPTH:
        return
    # Every open brace notes whether it belongs to a subquery. Texts are matched as a whole, so that
    # braces in them do not count.
    deepest, inside = 0, []
    for token in re.finditer(rf"{_SUBQUERY}|{_TEXT}|[{{}}]", tree):
        if token[0] == "{":
            inside.append(False)
        elif token[0] == "}":
            inside.pop()
        elif token[0] == _SUBQUERY:
            inside[-1] = True
            deepest = max(deepest, sum(inside))
    if deepest > MAX_SUBQUERY_DEPTH:
        raise InvalidQuery(
            f"{deepest} subqueries are nested; at most {MAX_SUBQUERY_DEPTH} are read: "
            "name them with WITH"
        )


@cache
def _hinting_views() -> tuple[str, ...]:
    """The texts of our own views that have the hint."""
    folder = files("store").joinpath("views")
    texts = (entry.read_text("utf-8") for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(text for text in texts if _NOT_MATERIALIZED.search(text))


def _require_short(statement: str) -> None:
    """Refuse the hint that has DuckDB plan a part again for each place that names it.

    Twenty parts that each name the one before twice are a million plans. Our own views have the
    hint, and the viewer writes each of them out, once in a statement.
    """
    for view in _hinting_views():
        statement = statement.replace(view, "", 1)
    # Within a string or a quoted name the words are no hint.
    code = " ".join(text for _, text in _words(statement) if text[:1] not in ("'", '"', "$"))
    if _NOT_MATERIALIZED.search(code):
        raise InvalidQuery("leave NOT MATERIALIZED out: DuckDB decides by itself what to compute")


def _tables(tree: str) -> frozenset[tuple[str, str, str]]:
    found = [match.group(1, 2, 5) for match in _TABLE.finditer(tree)]
    # The pattern must have found every table; if DuckDB ever writes them in another way, refuse.
    if len(found) != tree.count(_BASE_TABLE):
        raise InvalidQuery("a table in the query cannot be told from its text")
    return frozenset(
        (_unquote(catalog), _unquote(schema), _unquote(table)) for schema, table, catalog in found
    )


def _unquote(text: str) -> str:
    return str(json.loads(f'"{text}"', strict=False)) if "\\" in text else text
