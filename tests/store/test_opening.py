from __future__ import annotations

import subprocess
import sys

import duckdb
import pytest

from store import schema
from store.blank_file import place_blank
from store.errors import StoreBroken, StoreLocked, StoreMissing, StoreNewer, StoreOutdated
from store.ledger import Store

HOLD = """
import sys
from store.ledger import Store
store = Store.open(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_missing_file_is_created_only_where_asked(path):
    with pytest.raises(StoreMissing, match=str(path)):
        Store.open(path, create=False)
    with pytest.raises(FileNotFoundError):
        Store.open(path, read_only=True)
    assert not path.exists()


def test_a_broken_file_is_named(path):
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreBroken, match=str(path)):
        Store.open(path)


def test_a_damaged_file_is_named(path):
    Store.open(path).close()
    content = bytearray(path.read_bytes())
    content[:8192] = bytes(8192)
    path.write_bytes(content)
    with pytest.raises(StoreBroken, match=str(path)):
        Store.open(path)


def test_somebody_elses_database_is_left_alone(path):
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine (x INTEGER)")
    for read_only in (False, True):
        with pytest.raises(StoreBroken, match="not one of a run"):
            Store.open(path, read_only=read_only)
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SHOW TABLES").fetchall() == [("mine",)]


ADD_VIEW = """
import os, sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE VIEW extra AS SELECT * FROM read_text('/etc/hostname')")
os._exit(0)
"""


@pytest.mark.parametrize("read_only", [True, False])
def test_what_another_process_has_left_in_the_log_is_examined_too(path, read_only):
    Store.open(path).close()
    before = path.stat().st_mtime_ns
    subprocess.run([sys.executable, "-c", ADD_VIEW, str(path)], check=True)
    assert path.with_name(f"{path.name}.wal").exists()
    assert path.stat().st_mtime_ns == before
    with pytest.raises(StoreBroken, match=r"view extra in .* reaches beyond the run"):
        Store.open(path, read_only=read_only)


def test_a_newer_version_is_named_with_ours_and_a_remedy(path):
    Store.open(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (99, 'later', now()::TIMESTAMP)")
    newest = schema.read_migrations()[-1][0]
    for read_only in (False, True):
        with pytest.raises(StoreNewer, match=rf"version 99.*up to {newest}; upgrade"):
            Store.open(path, read_only=read_only)


def test_an_older_version_must_be_opened_for_writing_first(path):
    Store.open(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM schema_migrations")
    with pytest.raises(StoreOutdated, match="for writing"):
        Store.open(path, read_only=True)


def test_migrations_are_recorded_and_applied_once(path):
    Store.open(path).close()
    with Store.open(path) as store:
        recorded = store.rows("SELECT version, name FROM schema_migrations ORDER BY version")
    assert recorded == [(version, name) for version, name, _ in schema.read_migrations()]
    assert sorted({version for version, _ in recorded}) == [version for version, _ in recorded]


def test_every_new_file_of_a_process_is_as_new_as_the_first(path):
    """The second one is a copy of the first as it was before any row; both have all migrations."""
    columns = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal "
    columns += "ORDER BY ALL"
    with Store.open(path) as store:
        store.transact(lambda c: c.execute("DELETE FROM schema_migrations WHERE version > 5"))
    second = path.with_name("second.duckdb")
    with Store.open(second) as store:
        found = store.rows(columns)
        versions = {version for (version,) in store.rows("SELECT version FROM schema_migrations")}
        assert versions == {version for version, *_ in schema.read_migrations()}
    with duckdb.connect() as connection:
        for _, _, sql in schema.read_migrations():
            connection.execute(sql)
        made = {name for (name,) in connection.execute("SHOW TABLES").fetchall()}
        whole = connection.execute(columns).fetchall()
    assert [row for row in found if row[0] in made] == whole
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name, second.name]


def test_a_file_that_came_meanwhile_is_not_replaced(path):
    Store.open(path.with_name("first.duckdb")).close()
    path.write_bytes(b"somebody else's")
    assert not place_blank(path)
    assert path.read_bytes() == b"somebody else's"


def test_views_follow_the_code(path):
    Store.open(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE OR REPLACE VIEW consensus AS SELECT 1 AS stale")
    with Store.open(path) as store:
        assert "stale" not in str(store.rows("DESCRIBE consensus"))


def test_a_plain_duckdb_reader_sees_the_views(path):
    Store.open(path).close()
    with duckdb.connect(str(path), read_only=True) as connection:
        for view in schema.VIEWS:
            assert connection.execute(f"SELECT * FROM {view}").fetchall() == []


def test_another_process_that_writes_is_named(path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        for read_only in (False, True):
            with pytest.raises(StoreLocked, match=rf"process {holder.pid}\b"):
                Store.open(path, read_only=read_only)
        holder.communicate()
    Store.open(path).close()


def test_one_process_writes_through_one_store(path):
    with Store.open(path):
        with pytest.raises(StoreLocked, match="this process has"):
            Store.open(path)
        with pytest.raises(StoreLocked, match="this process has"):
            Store.open(path, read_only=True)
    with Store.open(path, read_only=True):
        with Store.open(path, read_only=True):
            pass
        with pytest.raises(StoreLocked, match="this process has"):
            Store.open(path)


def test_a_file_without_one_of_the_views_is_outdated_until_it_is_opened_for_writing(path):
    Store.open(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("DROP VIEW dissent")
    with pytest.raises(StoreOutdated, match=r"view dissent.*open it once for writing"):
        Store.open(path, read_only=True)
    Store.open(path).close()
    with Store.open(path, read_only=True) as store:
        assert store.rows("SELECT * FROM dissent") == []
