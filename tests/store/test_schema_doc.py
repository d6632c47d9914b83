"""docs/schema.md against a real database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from store import schema
from store.ledger import Store
from store.tables import TABLES

DOC = Path(__file__).parents[2] / "docs" / "schema.md"
TEXT = DOC.read_text(encoding="utf-8")
# Names that the next version drops.
OLD_NAMES = {"questions": {"zero_shot": "is_extra"}, "datasets": {"learn": "loss_on"}}
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("doc") / "run.duckdb") as opened:
        yield opened


def documented(name):
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \| (NULL)? ?\| (.+) \|$", SECTIONS[name], re.MULTILINE)
    return [(column, kind.strip(), bool(null)) for column, kind, null, _ in rows[1:]]


def test_every_relation_is_described_and_no_other(database):
    found = {name for (name,) in database.rows("SELECT table_name FROM information_schema.tables")}
    assert set(SECTIONS) == found
    assert set(schema.VIEWS) < found
    assert {table.name for table in TABLES.values()} < found


@pytest.mark.parametrize("name", SECTIONS)
def test_columns_and_types_are_up_to_date(database, name):
    is_view = name in schema.VIEWS
    found = [
        (column, kind, nullable == "YES" and not is_view)
        for column, kind, nullable, *_ in database.rows(f"DESCRIBE {name}")
    ]
    assert documented(name) == found


@pytest.mark.parametrize("name", SECTIONS)
def test_example_queries_run(database, name):
    queries = re.findall(r"```sql\n(.*?)```", SECTIONS[name], re.DOTALL)
    assert queries
    for sql in queries:
        database.rows(sql)


@pytest.mark.parametrize("name", schema.VIEWS)
def test_a_view_file_states_its_grain(name):
    header = schema.read_view_sql(name).split("\n")
    assert header[0].startswith(f"-- {name}: ")
    assert header[1].startswith("-- Grain: one row per ")


@pytest.mark.parametrize("record", TABLES)
def test_records_have_the_tables_columns(database, record):
    table = TABLES[record]
    columns = {
        column: nullable for column, _, nullable, *_ in database.rows(f"DESCRIBE {table.name}")
    }
    own = {
        name: null for name, null in columns.items() if name not in OLD_NAMES.get(table.name, {})
    }
    assert set(table.columns) == set(own)
    assert {name for name, nullable in own.items() if nullable == "YES"} == set(table.nullable)


@pytest.mark.parametrize("table", OLD_NAMES)
def test_a_renamed_column_answers_under_its_old_name(database, table):
    for old, new in OLD_NAMES[table].items():
        assert database.rows(
            f"SELECT count(*) FROM {table} WHERE {old} IS DISTINCT FROM {new}"
        ) == [(0,)]
