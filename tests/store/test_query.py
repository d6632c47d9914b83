from __future__ import annotations

import shutil
from contextlib import suppress

import duckdb
import pytest

from store import sql_server
from store.errors import InvalidQuery, StoreMissing
from store.ledger import Store
from store.reader import open_reader
from store.union import RunUnion
from tests.store.conftest import query

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
    "FROM query('FROM read_text(''/etc/passwd'')')",
    "FROM query_table('/etc/passwd')",
    "FROM query_table(['/etc/passwd'])",
    "FROM '/etc/passwd.csv'",
    'FROM "https://example.org/x.parquet"',
    "FROM sniff_csv('/etc/passwd')",
    "FROM read_ndjson_auto('/etc/passwd')",
    "FROM parquet_metadata('x.parquet')",
    "FROM read_duckdb('x.duckdb')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM glob(''/*'')'))",
    "WITH stolen AS (FROM read_text('/etc/passwd')) FROM stolen",
    "SELECT (SELECT max(file) FROM glob('/etc/*'))",
    "SELECT * FROM turns WHERE response IN (SELECT content FROM read_text('/etc/passwd'))",
    "DESCRIBE FROM read_csv('/etc/passwd')",
    "SUMMARIZE FROM read_csv('/etc/passwd')",
    "EXPLAIN ANALYZE FROM read_csv('/etc/passwd')",
    "EXPLAIN FROM read_csv('/etc/passwd')",
    "WITH gone AS (DELETE FROM turns RETURNING *) FROM gone",
    "FROM (DELETE FROM turns RETURNING *)",
    "WITH a AS (SELECT 1) INSERT INTO turns FROM turns",
    "MERGE INTO turns USING turns AS b USING (turn_id) WHEN MATCHED THEN DELETE",
    "COPY (SELECT 1) TO 'x.csv'",
    "COPY FROM DATABASE run TO other",
    "ATTACH ':memory:' AS x",
    "CREATE SECRET (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "SET VARIABLE x = 1",
    "SET threads = 1",
    "PRAGMA database_list",
    "FORCE INSTALL spatial",
    "UPDATE EXTENSIONS",
    "COMMENT ON TABLE turns IS 'x'",
    "EXECUTE p",
    "ROLLBACK",
    "SELECT getenv('HOME')",
]
# Functions that act on the process itself, which answers here and is no copy.
REFUSED_LIVE = [
    "FROM checkpoint()",
    "FROM force_checkpoint()",
    "FROM duckdb_secrets()",
    "FROM duckdb_settings()",
    "FROM enable_logging()",
    "FROM QUERY('SELECT 1')",
    "FROM \"Query\"('SELECT 1')",
    "FROM main.query('SELECT 1')",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory, make_turn):
    path = tmp_path_factory.mktemp("query") / "run.duckdb"
    with Store.open(path) as store:
        store.write(make_turn(), make_turn(round=2))
    return path


@pytest.fixture(scope="module")
def running(tmp_path_factory, make_turn):
    """The database of a run that is going on."""
    path = tmp_path_factory.mktemp("running") / "run.duckdb"
    with Store.open(path) as store, sql_server.serve_readers(store):
        store.write(make_turn(), make_turn(round=2))
        yield path
        assert store.rows("SELECT count(*) FROM turns") == [(2,)]


@pytest.fixture(scope="module")
def together(tmp_path_factory, file):
    other = tmp_path_factory.mktemp("other") / "run.duckdb"
    shutil.copy(file, other)
    with RunUnion({"run": file, "other": other}) as opened:
        yield opened


@pytest.mark.parametrize("sql", READS)
def test_reading_is_allowed(file, running, together, sql):
    assert query(file, sql).columns
    assert query(running, sql).columns
    assert together.query(sql).result().columns


@pytest.mark.parametrize("sql", REFUSED)
def test_everything_else_is_refused(file, sql):
    before = file.read_bytes()
    with pytest.raises(InvalidQuery):
        query(file, sql)
    assert file.read_bytes() == before


@pytest.mark.parametrize("sql", REFUSED)
def test_several_runs_refuse_it_too(together, sql):
    with pytest.raises(InvalidQuery):
        _ = together.query(sql).rows
    assert together.rows("SELECT run, count(*) FROM turns GROUP BY run ORDER BY run") == [
        ("other", 2),
        ("run", 2),
    ]


@pytest.mark.parametrize("sql", REFUSED + REFUSED_LIVE)
def test_a_run_that_is_going_on_refuses_it_too(running, sql):
    """Also what gets past the check of this side: the process that answers has the last word."""
    with open_reader(running) as reader:
        with pytest.raises(InvalidQuery):
            _ = reader.query(sql).rows
        with pytest.raises((InvalidQuery, duckdb.Error)):
            reader.rows(sql)
        assert reader.running
        assert reader.rows("SELECT count(*) FROM turns") == [(2,)]


@pytest.mark.parametrize("sql", ["FROM checkpoint()", "FROM force_checkpoint()"])
def test_a_checkpoint_of_a_file_that_is_only_read_does_nothing(file, sql):
    before = file.read_bytes()
    with suppress(InvalidQuery):
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
