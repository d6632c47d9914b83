from __future__ import annotations

import subprocess
import sys

import pytest

from store.errors import InvalidQuery, PackageMissing
from store.ledger import Store
from store.statements import extract_query, split_statements

SQL = "SELECT agent, response FROM turns WHERE agent >= ? ORDER BY agent"


@pytest.fixture
def filled(store, make_turn):
    store.write(make_turn(agent=1), make_turn(agent=2), make_turn(agent=3))
    return store


def test_plain_rows_and_their_columns(filled):
    answer = filled.query(SQL, [2])
    assert answer.rows == [(2, "q1: \\boxed{4}"), (3, "q1: \\boxed{4}")]
    found = answer.result(1)
    assert (found.columns, found.types) == (("agent", "response"), ("INTEGER", "VARCHAR"))
    assert found.rows == answer.rows[:1]


def test_arrow_pandas_and_polars_say_the_same(filled):
    pytest.importorskip("pyarrow")
    answer = filled.query(SQL, [2])
    rows = [dict(zip(("agent", "response"), row, strict=True)) for row in answer.rows]
    assert answer.arrow().to_pylist() == rows
    pytest.importorskip("pandas")
    assert answer.pandas().to_dict("records") == rows
    pytest.importorskip("polars")
    assert answer.polars().to_dicts() == rows


def test_a_missing_package_is_named_with_the_remedy(path):
    Store.open(path).close()
    code = (
        "import sys\n"
        "for name in ('pandas', 'polars', 'pyarrow'): sys.modules[name] = None\n"
        "from store.errors import PackageMissing\n"
        "from store.ledger import Store\n"
        "answer = Store.open(sys.argv[1], read_only=True).query('SELECT 1 AS x')\n"
        "assert answer.rows == [(1,)]\n"
        "for form in ('arrow', 'pandas', 'polars'):\n"
        "    try: getattr(answer, form)()\n"
        "    except PackageMissing as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split("install it with")[0] for line in done.stdout.splitlines()] == [
        f"this form of an answer needs the package {name}; "
        for name in ("pyarrow", "pandas", "polars")
    ]
    assert issubclass(PackageMissing, ImportError)


def test_what_is_no_single_reading_query_is_refused_at_once(store):
    for sql, message in (
        ("DELETE FROM turns", "not DELETE"),
        ("SELECT 1; SELECT 2", "not 2"),
        ("", "not 0"),
        ("PIVOT turns ON agent", "PIVOT needs its values"),
        ("SELEC", "syntax error"),
    ):
        with pytest.raises(InvalidQuery, match=message):
            store.query(sql)
    with pytest.raises(InvalidQuery, match="nowhere"):
        _ = store.query("FROM nowhere").rows


def test_statements_are_split_where_duckdb_splits_them():
    assert split_statements("SELECT ';', 1; -- ;\nSELECT $$;$$") == [
        "SELECT ';', 1",
        " -- ;\nSELECT $$;$$",
    ]
    assert split_statements("SELECT 'é;' ;") == ["SELECT 'é;' ", ""]
    assert extract_query("SELECT 1; -- b") == "SELECT 1"
