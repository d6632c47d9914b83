"""What only reads is decided on the parsed statement, the same way for every way of asking."""

from __future__ import annotations

import os
import shutil

import duckdb
import pytest

from store.errors import InvalidQuery, StoreBroken
from store.ledger import Store
from store.reader import open_reader
from store.schema import read_view_sql
from store.sql_functions import FILE_FUNCTIONS, MAX_DEPTH
from store.statements import MAX_CHARACTERS, extract_query, parse_reading
from store.union import RunUnion

COUNT = "SELECT count(*) FROM turns"
ACTING = [
    "EXPLAIN ANALYZE DELETE FROM turns",
    "explain analyze update turns set answer = 'x'",
    "EXPLAIN (ANALYZE) DELETE FROM turns",
    "EXPLAIN (FORMAT json, ANALYZE true) INSERT INTO turns FROM turns",
    "EXPLAIN/* a */ANALYZE -- b\n TRUNCATE turns",
    "EXPLAIN DELETE FROM turns",
    "EXPLAIN ANALYZE COPY turns TO '{file}'",
    "EXPLAIN (ANALYZE, FORMAT html) COPY (SELECT 1) TO '{file}' (FORMAT parquet)",
    "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
    "EXPLAIN ANALYZE EXPORT DATABASE '{file}'",
    "EXPLAIN ANALYZE ATTACH '{file}' AS x",
    "EXPLAIN ANALYZE CALL enable_logging(storage := 'file')",
    "EXPLAIN PRAGMA version",
    "EXPLAIN ANALYZE SELECT write_log('x')",
    "FROM enable_logging(storage := 'file')",
    "CALL enable_logging(storage = 'file', storage_path = '{file}')",
    "SELECT write_log('x', level := 'error')",
    "SELECT WRITE_LOG('x')",
    "SELECT \"write_log\"('x') FROM turns",
    "SELECT list_transform([1], lambda x: write_log('x'))",
    "SELECT 1 ORDER BY (SELECT write_log('x'))",
    "SELECT (WITH a AS (SELECT write_log('x') AS b) SELECT b FROM a)",
    "SELECT max(agent) FILTER (write_log('x') IS NULL) FROM turns",
    "SELECT agent FROM turns QUALIFY row_number() OVER (ORDER BY write_log('x')) = 1",
    "PIVOT (SELECT write_log('x') AS a, 1 AS b) ON b IN (1) USING count(a)",
    "FROM turns, LATERAL (SELECT write_log(response))",
    "SELECT nextval('s')",
    "SELECT sleep_ms(1)",
    "SELECT json_serialize_plan('FROM read_csv(''{file}'')')",
    "FROM truncate_duckdb_logs()",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://x', 's3')",
    "FROM pragma_user_agent()",
    "FROM nowhere_function(1)",
    "FROM checkpoint()",
    "DEALLOCATE p",
    "SELECT 1; ; SELECT 2",
    "SELECT 1 \0 ; DROP TABLE turns",
    # Spaces that DuckDB reads as such, while its tokenizer takes them for letters.
    *(
        sql.replace(" ", space, sql.count(" ", 0, sql.index("(")) - 1)
        for space in ("\u00a0", "\u2003", "\u3000", "\ufeff", "\u200b")
        for sql in (
            "EXPLAIN ANALYZE DELETE FROM turns WHERE turn_id IN (SELECT turn_id FROM turns)",
            "EXPLAIN ANALYZE INSERT INTO turns (SELECT * FROM turns)",
            "EXPLAIN DELETE FROM turns WHERE turn_id IN (SELECT turn_id FROM turns)",
        )
    ),
    "EXPLAIN\u00a0SELECT\u00a01",
    "EXPLAIN (ANALYZE, FORMAT $a$) SELECT 1 --$a$) DELETE FROM turns",
    "EXPLAIN (ANALYZE /* /* */ ) SELECT 1 -- */ ) DELETE FROM turns",
    "EXPLAIN ANALYSE DELETE FROM turns",
    "EXPLAIN EXPLAIN SELECT 1",
    "WITH a AS (DELETE FROM turns RETURNING *) FROM a",
    "FROM query('DELETE FROM turns')",
    "SELECT 'x'.system.main.write_log()",
]
FILES = [
    "FROM '{csv}'",
    'FROM "{csv}"',
    'FROM "{stem}".csv',
    'FROM "{folder}/x".marks.csv',
    "DESCRIBE '{csv}'",
    "SUMMARIZE '{csv}'",
    "EXPLAIN ANALYZE FROM '{csv}'",
    'WITH "{csv}" AS (SELECT 1) SELECT * FROM "{csv}"',
    "SELECT * FROM turns WHERE question_id IN (SELECT a FROM '{csv}')",
    "SELECT content FROM read_text('{csv}')",
    "SELECT (SELECT max(file) FROM glob('{folder}/*'))",
    "UNPIVOT '{csv}' ON a INTO NAME n VALUE v",
    "FROM turns UNION ALL BY NAME FROM '{csv}'",
    "FROM sniff_csv('{csv}')",
    "FROM read_duckdb('{csv}')",
]
READING = [
    "EXPLAIN (SELECT 1)",
    "EXPLAIN ANALYZE SELECT count(*) FROM turns",
    "EXPLAIN (ANALYZE) FROM turns",
    "EXPLAIN (FORMAT json) FROM turns",
    "EXPLAIN ANALYSE SELECT 1",
    'EXPLAIN (ANALYZE true, FORMAT "json") SELECT 1',
    "SELECT 'not materialized', 1 AS \"not materialized\" -- not materialized",
    "WITH a AS MATERIALIZED (SELECT 1 AS b) FROM a WHERE NOT b = 2",
    "/* a */ explain/* b */analyze -- (\n FROM turns -- c",
    "EXPLAIN ( /* ) */ ANALYZE, FORMAT 'json' -- )\n ) (SELECT 'ü') UNION (SELECT 'ö')",
    ";; SELECT 1 ;; -- d",
    "SELECT\u00a01",
    "EXPLAIN DESCRIBE turns",
    "PIVOT turns ON agent IN (1, 2) USING count(*)",
    "FROM main.turns",
    "FROM run.main.turns",
    "FROM information_schema.tables",
    "SHOW ALL TABLES",
    "SUMMARIZE turns",
    "SELECT [x + 1 for x in [1, 2]], {{'a': 1}}['a'], 'a' ^@ 'a', -(2 ** 3), round(1.5)",
    "SELECT 'write_log(' AS \"read_text(\"",
    'WITH "a b" AS (SELECT 1 AS x) SELECT x FROM "a b"',
    "SELECT DISTINCT ON (agent) agent FROM turns ORDER BY ALL",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_turn):
    path = tmp_path_factory.mktemp("written") / "run.duckdb"
    with Store.open(path) as store:
        store.write(make_turn())
    return path


@pytest.fixture
def database(written, tmp_path):
    return shutil.copy(written, tmp_path / "run.duckdb")


@pytest.fixture(scope="module")
def asked(written):
    """Every way of asking what a user has typed."""
    copies = [shutil.copy(written, written.with_name(f"{name}.duckdb")) for name in "abcd"]
    with (
        Store.open(copies[0]) as writing,
        open_reader(copies[1]) as reading,
        open_reader(copies[2], sealed=True) as sealed,
        RunUnion({"run": copies[3]}) as several,
    ):
        yield [writing, reading, sealed, several]


@pytest.fixture(scope="module")
def with_files(written):
    with open_reader(written, sealed=True, files=True) as reader:
        yield reader


def named(sql, folder):
    csv = folder / "x.marks.csv"
    csv.write_text("a\n1\n", encoding="utf-8")
    places = {"file": folder / "written", "csv": csv, "stem": csv.with_suffix(""), "folder": folder}
    return sql.format(**places)


@pytest.mark.parametrize("sql", ACTING)
def test_what_acts_is_refused_however_it_is_asked(asked, tmp_path, sql):
    sql = named(sql, tmp_path)
    there = sorted(tmp_path.iterdir())
    for database in asked:
        with pytest.raises(InvalidQuery):
            _ = database.query(sql).rows
        assert database.query(COUNT).rows == [(1,)]
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize("sql", [sql for sql in ACTING if "'{file}'" in sql or "write_log" in sql])
def test_what_acts_is_refused_where_files_may_be_read(with_files, tmp_path, sql):
    sql = named(sql, tmp_path)
    with pytest.raises(InvalidQuery):
        _ = with_files.query(sql).rows
    assert with_files.query(f"FROM '{tmp_path}/x.marks.csv'").rows == [(1,)]
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("sql", FILES)
def test_no_file_is_read_unless_that_is_allowed(asked, tmp_path, sql):
    sql = named(sql, tmp_path)
    for database in asked:
        with pytest.raises(InvalidQuery):
            _ = database.query(sql).rows


@pytest.mark.parametrize("sql", READING)
def test_what_reads_is_answered(with_files, sql):
    assert with_files.query(sql.format()).result().columns


def test_every_function_of_duckdb_that_is_on_no_list_is_refused():
    """A later DuckDB may have more of them: those in FROM, and those that act, are named here."""
    with duckdb.connect(":memory:") as connection:
        found = connection.execute(
            "SELECT DISTINCT function_name, function_type FROM duckdb_functions() "
            "WHERE function_type LIKE 'table%' OR has_side_effects OR function_type = 'pragma'"
        ).fetchall()
    accepted = set()
    for name, kind in found:
        call = f"SELECT {name}(1)" if kind == "scalar" else f"FROM {name}(1)"
        try:
            parse_reading(call)
        except InvalidQuery:
            continue
        accepted.add(name)
    assert not accepted & FILE_FUNCTIONS
    assert {name for name in accepted if not name.startswith(("duckdb_", "json_"))} <= {
        *("current_connection_id", "current_query", "current_query_id", "current_transaction_id"),
        *("error", "random", "stats", "uuid", "gen_random_uuid", "uuidv4", "uuidv7"),
        *("range", "generate_series", "repeat", "repeat_row", "unnest", "summary"),
        *("histogram", "histogram_values", "pragma_show", "pragma_table_info"),
        # Names of pragmas, which FROM cannot call.
        *("version", "functions", "show"),
    }


def test_the_parser_opens_no_file(tmp_path):
    """Reading a pipe that nobody writes to would never end."""
    for name in ("schema.sql", "load.sql"):
        os.mkfifo(tmp_path / name)
    for sql in (f"IMPORT DATABASE '{tmp_path}'", f"EXPLAIN IMPORT DATABASE '{tmp_path}'"):
        with pytest.raises(InvalidQuery):
            extract_query(sql)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT " + "abs(" * 900 + "1" + ")" * 900, f"more than {MAX_DEPTH} levels"),
        ("EXPLAIN SELECT " + "abs(" * 900 + "1" + ")" * 900, f"more than {MAX_DEPTH} levels"),
        ("SELECT 1" + "::INT" * 500, f"more than {MAX_DEPTH} levels"),
        ("SELECT " + "NOT " * 500 + "true", f"more than {MAX_DEPTH} levels"),
        ("SELECT " + "[" * 500 + "]" * 500, f"more than {MAX_DEPTH} levels"),
        ("SELECT " + "(SELECT " * 30 + "1" + ")" * 30, "30 subqueries are nested"),
        ("SELECT " + "EXISTS (SELECT " * 20 + "1" + ")" * 20, "20 subqueries are nested"),
        ("WITH a AS NOT MATERIALIZED (SELECT 1) FROM a", "leave NOT MATERIALIZED out"),
        ("WITH a AS not/* NOT */\u00a0materialized (SELECT 1) FROM a", "leave NOT MATERIALIZED"),
        ("SELECT 1 -- " + "x" * MAX_CHARACTERS, "200,012 characters"),
        ("SELECT '\ud800'", "not Unicode text"),
    ],
)
def test_what_would_keep_the_parser_busy_is_refused_with_the_bound(sql, said):
    with pytest.raises(InvalidQuery, match=said):
        extract_query(sql)


def test_long_flat_queries_are_read():
    many = ", ".join(str(number) for number in range(5000))
    extract_query(f"SELECT * FROM turns WHERE turn_id IN ({many})")
    extract_query("SELECT 1 WHERE " + " AND ".join(["true"] * 900))
    extract_query("SELECT (SELECT 1)" + " + (SELECT 1)" * 40)


@pytest.mark.parametrize(
    ("definition", "beyond"),
    [
        ("CREATE VIEW evil AS SELECT content FROM read_text('{csv}')", "read_text"),
        ("CREATE VIEW evil (a, b) AS SELECT *, 1 FROM '{csv}'", "marks.csv"),
        ("CREATE OR REPLACE VIEW consensus AS SELECT write_log('x')", "write_log"),
        ("CREATE VIEW \"x AS y\" AS WITH a AS (SELECT nextval('s')) FROM a", "nextval"),
        ("CREATE MACRO count_if(x) AS (SELECT max(content) FROM read_text('{csv}'))", "read_text"),
        ("CREATE MACRO look(x) AS TABLE FROM glob(x)", "glob"),
        ("CREATE TABLE extra (a INT, b VARCHAR AS (write_log('x')))", "write_log"),
        ("CREATE TABLE extra (a INT DEFAULT nextval('s'))", "nextval"),
        ("CREATE TABLE extra (a INT, CHECK (sleep_ms(a) IS NULL))", "sleep_ms"),
    ],
)
def test_a_file_whose_own_views_or_macros_reach_beyond_it_is_not_opened(
    database, tmp_path, definition, beyond
):
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE SEQUENCE s")
        connection.execute(named(definition, tmp_path))
    for opened in (
        lambda: Store.open(database, read_only=True),
        lambda: open_reader(database),
        lambda: RunUnion({"run": database}),
    ):
        with pytest.raises(StoreBroken, match=f"reaches beyond the run .*{beyond}"):
            opened()


def test_views_and_macros_of_the_users_own_that_only_read_stay(database):
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE VIEW mine AS SELECT count(*) AS n FROM run.main.turns")
        connection.execute("CREATE MACRO twice(x) AS 2 * x")
    with Store.open(database, read_only=True) as store:
        assert store.query("FROM mine").rows == [(1,)]


@pytest.mark.parametrize("name", ["accuracy", "readings", "conversations"])
def test_our_own_view_is_read_where_it_is_written_out_once(name):
    """The viewer does so; the planner's work stays bounded, since each counts once."""
    text = read_view_sql(name)
    parse_reading(f"SELECT count(*) FROM ({text})")
    with pytest.raises(InvalidQuery, match="NOT MATERIALIZED"):
        parse_reading(f"SELECT 1 FROM ({text}) AS a, ({text}) AS b")
