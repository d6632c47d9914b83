from __future__ import annotations

import pytest

from store.errors import InvalidQuery, StoreMissing
from store.ledger import Store
from store.query import query

READS = [
    "SELECT count(*) FROM turns",
    "FROM votes LIMIT 1",
    "WITH a AS (SELECT 1 AS x) SELECT x FROM a",
    "DESCRIBE turns",
    "SHOW TABLES",
    "EXPLAIN SELECT 1",
    "VALUES (1)",
    "SELECT 1;",
    "/* a */ SELECT 1 -- b",
]
REFUSED = [
    "",
    ";",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE turns",
    "SELEC 1",
    "SELECT * FROM nowhere",
    "INSERT INTO verdicts VALUES (1, true, true)",
    "UPDATE turns SET answer = '4'",
    "DELETE FROM turns",
    "TRUNCATE turns",
    "DROP TABLE turns",
    "DROP VIEW accuracy",
    "ALTER TABLE turns ADD COLUMN x INTEGER",
    "CREATE TABLE x (y INTEGER)",
    "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW accuracy AS SELECT 1",
    "CREATE MACRO f(x) AS x",
    "EXPLAIN ANALYZE DELETE FROM turns",
    "COPY turns TO 'x.csv'",
    "COPY turns FROM 'x.csv'",
    "EXPORT DATABASE 'x'",
    "IMPORT DATABASE 'x'",
    "ATTACH 'x.duckdb'",
    "DETACH run",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "PREPARE p AS SELECT 1",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM parquet_scan('x.parquet')",
    "SELECT * FROM read_json('https://example.org/x.json')",
    "SELECT * FROM query('DROP TABLE turns')",
    "SELECT getenv('HOME')",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory, make_turn):
    path = tmp_path_factory.mktemp("query") / "run.duckdb"
    with Store.open(path) as store:
        store.write(make_turn(), make_turn(round=2))
    return path


@pytest.mark.parametrize("sql", READS)
def test_reading_is_allowed(file, sql):
    assert query(file, sql).columns


@pytest.mark.parametrize("sql", REFUSED)
def test_everything_else_is_refused(file, sql):
    before = file.read_bytes()
    with pytest.raises(InvalidQuery):
        query(file, sql)
    assert file.read_bytes() == before


def test_columns_types_and_rows_come_back(file):
    result = query(file, "SELECT round, answer FROM turns WHERE round >= ? ORDER BY round", [1])
    assert result.columns == ("round", "answer")
    assert result.types == ("INTEGER", "VARCHAR")
    assert result.rows == [(1, "4"), (2, "4")]
    assert query(file, "SELECT round FROM turns ORDER BY round", limit=1).rows == [(1,)]


def test_python_variables_are_no_tables(file):
    secrets = {"x": [1]}
    with pytest.raises(InvalidQuery):
        query(file, "SELECT * FROM secrets")
    assert secrets


def test_a_time_with_zone_says_what_to_do(file):
    with pytest.raises(InvalidQuery, match="cast it"):
        query(file, "SELECT now()")
    assert query(file, "SELECT now()::TIMESTAMP").rows


def test_a_missing_file(path):
    with pytest.raises(StoreMissing):
        query(path, "SELECT 1")
    assert not path.exists()
