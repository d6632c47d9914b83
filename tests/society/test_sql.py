"""`society sql` as users call it: files, several runs, runs that are going on."""

import csv
import io
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from society import cli
from store.content import messages_json
from store.errors import StoreError
from store.ledger import Store
from store.records import Question, Run, Turn, utc_now

HOLD = """
import sys
from pathlib import Path
from society.runs.status import allow_readers
from society.runs.folder import RunFolder
from store.errors import StoreError
from store.ledger import Store
folder = RunFolder(sys.argv[1], Path("runs") / sys.argv[1])
with Store.open(folder.database) as store:
    with allow_readers(folder, store, lambda text: None, live=sys.argv[2] == "live"):
        print("open", flush=True)
        sys.stdin.read()
"""


def make_run(folder: Path, turns: int) -> None:
    folder.mkdir(parents=True)
    with Store.open(folder / "run.duckdb") as store:
        store.write(
            Run(folder.name, "{}", "0" * 64, 0, "{}", utc_now(), None),
            Question("q1", "sums", "train", "1+1?"),
            *(
                Turn(
                    1,
                    "train",
                    "multiagent",
                    "sampled",
                    "q1",
                    agent,
                    1,
                    "answer",
                    "base",
                    messages_json([{"role": "user", "content": "1+1?"}]),
                    f"it is {agent}, [b]so[/b]",
                    str(agent),
                    "stop",
                    1,
                    2,
                    3.0,
                )
                for agent in range(1, turns + 1)
            ),
        )


@pytest.fixture
def society(tmp_path, monkeypatch, capfd):
    """Call the command in a folder with the runs `one` and `two-b`; status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs/one", 1)
    make_run(tmp_path / "runs/two-b", 2)

    def call(
        *arguments: object, command: str = "sql", given: str | None = None
    ) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["society", command, *map(str, arguments)])
        if given is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(end.value.code or 0), out, err

    return call


@contextmanager
def going_on(name: str, how: str = "live"):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, name, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout.readline() == b"open\n"
        yield run
        run.communicate()
        assert run.returncode == 0


def numbers(out: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(out)))[1:]


def test_several_runs_at_once(society):
    _, out, err = society(
        "one",
        "SELECT run, count(*) FROM turns GROUP BY run ORDER BY run",
        "--with",
        "two-b",
        "--format",
        "csv",
    )
    assert numbers(out) == [["one", "1"], ["two-b", "2"]], err
    _, out, _ = society(
        "one", 'SELECT count(*) FROM "two-b".turns', "--with", "two-b", "--format", "csv"
    )
    assert numbers(out) == [["2"]]
    _, out, _ = society(
        "one", "SELECT run, turns FROM progress ORDER BY run", "--with", "two-b", "--format", "csv"
    )
    assert numbers(out) == [["one", "1"], ["two-b", "2"]]


def test_a_run_named_twice_and_one_that_is_not_there(society):
    assert "named twice" in society("one", "SELECT 1", "--with", "one")[2]
    assert "no run 'three'" in society("one", "SELECT 1", "--with", "three")[2]


@pytest.mark.parametrize("others", [(), ("--with", "two-b")])
def test_parquet_keeps_types_and_replaces_the_file(society, tmp_path, others):
    out = tmp_path / "turns.parquet"
    out.write_text("old")
    query = "SELECT agent, messages, created_at, response FROM turns ORDER BY ALL; -- all"
    status, shown, err = society("one", query, "--out", out, *others)
    assert (status, shown) == (0, ""), err
    found = duckdb.sql(f"DESCRIBE FROM '{out}'").fetchall()
    assert [row[:2] for row in found] == [
        ("agent", "INTEGER"), ("messages", "JSON"), ("created_at", "TIMESTAMP"),
        ("response", "VARCHAR"),
    ]  # fmt: skip
    assert duckdb.sql(f"FROM '{out}'").fetchall()[0][3] == "it is 1, [b]so[/b]"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "turns.parquet"]


def test_csv_and_json_into_files(society, tmp_path):
    society("two-b", "SELECT agent, response FROM turns ORDER BY agent", "--out", "rows.csv")
    assert numbers((tmp_path / "rows.csv").read_text())[1] == ["2", "it is 2, [b]so[/b]"]
    society("two-b", "SELECT agent FROM turns ORDER BY agent", "--out", "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text()) == [{"agent": 1}, {"agent": 2}]


def test_a_file_stays_where_the_query_is_wrong(society, tmp_path):
    for name in ("rows.csv", "rows.parquet"):
        (tmp_path / name).write_text("old")
        for query in ("FROM nowhere", "DROP TABLE turns", f"FROM read_text('{name}')"):
            status, _, err = society("one", query, "--out", name)
            assert status == 2, err
        assert (tmp_path / name).read_text() == "old"
    assert "needs a file" in society("one", "SELECT 1", "--format", "parquet")[2]
    assert "not a file in an existing folder" in society("one", "SELECT 1", "--out", "no/x.csv")[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "rows.parquet", "runs"]


@pytest.mark.parametrize("others", [(), ("--with", "two-b")])
def test_files_are_read_only_where_that_is_asked_for(society, tmp_path, others):
    (tmp_path / "marks.csv").write_text("agent,mark\n1,good\n")
    query = "SELECT DISTINCT mark FROM turns JOIN 'marks.csv' USING (agent)"
    status, _, err = society("one", query, *others)
    assert status == 2
    assert "marks.csv" in err
    _, out, err = society("one", query, "--allow-files", "--format", "csv", *others)
    assert numbers(out) == [["good"]], err
    for sql in ("COPY turns TO 'x.csv'", "ATTACH 'x.db'", "LOAD httpfs", "SET threads = 1"):
        status, _, err = society("one", sql, "--allow-files", *others)
        assert status == 2, sql
    status, _, err = society("one", "FROM read_csv('http://127.0.0.1:9/x.csv')", "--allow-files")
    assert status == 2
    assert not (tmp_path / "x.csv").exists()


def test_queries_from_a_pipe(society):
    status, out, _ = society(
        "two-b", "--format", "csv", given="SELECT 1;\n SELECT max(agent) FROM turns"
    )
    assert (status, out) == (0, "1\n1\nmax(agent)\n2\n")
    status, _, err = society("two-b", given="SELECT 1; DROP TABLE turns;")
    assert status == 2
    assert "not DROP" in err
    assert "one query at a time" in society("one", "--out", "x.csv", given="SELECT 1; SELECT 2")[2]
    status, out, _ = society("one", "--format", "csv", given=";; SELECT 1; -- that is all\n/* x */")
    assert (status, out) == (0, "1\n1\n")
    status, _, err = society("one", given="SELECT '\udcff';")
    assert (status, "not Unicode text" in err) == (2, True)


def test_a_run_that_is_going_on_answers(society, tmp_path):
    with going_on("two-b"):
        _, out, err = society("two-b", "SELECT max(agent) FROM turns", "--format", "csv")
        assert numbers(out) == [["2"]], err
        assert err == ""
        society("two-b", "SELECT agent, response FROM turns", "--out", "live.parquet")
        assert len(duckdb.sql(f"FROM '{tmp_path}/live.parquet'").fetchall()) == 2
        for sql in ("DROP TABLE turns", "FROM read_text('/etc/passwd')", "FROM '/etc/passwd'"):
            assert society("two-b", sql)[0] == 2
        _, out, err = society(
            "one",
            "SELECT run, count(*) FROM turns GROUP BY run ORDER BY run",
            "--with",
            "two-b",
            "--format",
            "csv",
        )
        assert numbers(out) == [["one", "1"], ["two-b", "2"]]
        assert "run two-b is running; this is a snapshot of it" in err
    assert not list((tmp_path / "runs/two-b").glob(".snapshot*"))


def test_a_snapshot_where_the_run_is_not_served(society):
    with going_on("two-b", how="snapshots only"):
        status, _, err = society("two-b", "SELECT 1")
        assert status == 2
        assert "is in use by process" in err
        assert "society sql NAME --snapshot" in err
        _, out, err = society(
            "two-b", "SELECT max(agent) FROM turns", "--snapshot", "--format", "csv"
        )
        assert numbers(out) == [["2"]]
        assert "a snapshot of it" in err
    _, out, err = society("two-b", "SELECT 1", "--snapshot", "--format", "csv")
    assert (numbers(out), err) == ([["1"]], "")


def test_status_of_a_run_that_is_going_on(society, tmp_path):
    config = '{"model": "embedded:", "task": {"name": "arithmetic"}}'
    with Store.open(tmp_path / "runs/one/run.duckdb") as store:
        store.write(Run("one", config, "0" * 64, 0, "{}", utc_now(), None))
    with going_on("one"):
        status, out, err = society("one", command="status")
        assert status == 0, err
        assert out.startswith("run one: running\n")
        assert "debate" in out
        assert "resume it with" not in out
        (tmp_path / "runs/one/progress.json").write_text(
            '{"process": 42, "line": "iteration 1/3", "updated_at": "2026-01-01T00:00:00Z"}'
        )
        assert society("one", command="status")[1].startswith("run one: running, process 42\n")
    (tmp_path / "runs/one/progress.json").unlink()
    assert "stopped before its end" in society("one", command="status")[1]


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("SELECT 'nan'::DOUBLE AS a", None),
        ("SELECT '-inf'::FLOAT AS a", None),
        ("SELECT [1.5, 'inf'::DOUBLE, NULL] AS a", [1.5, None, None]),
        (
            "SELECT {'x': 'nan'::DOUBLE, 'y': [{'z': 'inf'::DOUBLE}]} AS a",
            {"x": None, "y": [{"z": None}]},
        ),
        ("SELECT MAP {DATE '2026-01-02': 'nan'::DOUBLE} AS a", {"2026-01-02": None}),
        ("SELECT 'NaN' AS a", "NaN"),
        ("SELECT sum(1e308::DOUBLE * i) AS a FROM range(9) t(i)", None),
    ],
)
def test_json_is_what_every_reader_of_json_reads(society, tmp_path, sql, value):
    def refuse(word):
        raise AssertionError(word)

    assert society("one", sql, "--out", "found.json")[0] == 0
    written = (tmp_path / "found.json").read_text(encoding="utf-8")
    shown = society("one", sql, "--format", "json")[1]
    for text in (written, shown):
        assert json.loads(text, parse_constant=refuse) == [{"a": value}]


def test_json_keeps_two_columns_of_one_name(society):
    _, out, _ = society("one", "SELECT 1 AS a, 2 AS a_1, 3 AS a", "--format", "json")
    assert json.loads(out) == [{"a": 1, "a_1": 2, "a_2": 3}]


@pytest.mark.parametrize("name", ["why?", "runs?/deep"])
def test_a_folder_that_duckdb_cannot_write_in_is_named(society, tmp_path, name):
    place = tmp_path / name
    place.mkdir(parents=True)
    (tmp_path / "x.toml").write_text(
        'model = "embedded:"\n[task]\nname = "arithmetic"\n', encoding="utf-8"
    )
    for command in (["run", "x.toml"], ["status", "one"], ["sql", "one", "SELECT 1"]):
        status, _, err = society(*command[1:], "--runs", str(place), command=command[0])
        assert status == 2
        assert "DuckDB ends a path at '?'; rename that folder" in err
    assert not list(place.iterdir())
    with pytest.raises(StoreError, match="ends a path at"):
        Store.open(place / "run.duckdb")
    status, _, err = society("one", "--out", str(place / "export"), command="export")
    assert status == 0, err
    assert (place / "export").is_dir()
