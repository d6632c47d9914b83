"""Runs that go on elsewhere than they began: other versions, copies, notices that are damaged."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from society import cli
from society.config.load import ConfigError
from society.config.schema import Config
from society.runs import folder as folders
from society.runs import provenance, status
from store.ledger import Store
from store.records import utc_now
from store.run_starts import RunStart

FIXTURES = Path(__file__).parents[1] / "store" / "fixtures"
HALF = sorted(path.name.removesuffix(".duckdb.gz") for path in FIXTURES.glob("*-half.duckdb.gz"))
# What does not depend on when and where a run went on.
LASTING = {
    "turns": ("turn_id", "iteration", "split", "question_id", "agent", "round", "kind", "answer"),
    "votes": (
        "iteration",
        "split",
        "decoding",
        "question_id",
        "round",
        "answer",
        "votes",
        "correct",
    ),
    "verdicts": ("turn_id", "agrees", "correct"),
}
CONFIG = Config.from_json('{"model": "embedded:", "task": {"name": "arithmetic"}}')
WRITE = """
import sys
from store.ledger import Store
from store.records import Question, utc_now
from store.run_starts import RunStart
store = Store.open(sys.argv[1])
store.record_start(RunStart(utc_now(), 1, "{}", "{}"))
store.write(*(Question(str(number), "sums", "train", "1 + 1") for number in range(200)))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", HALF)
def test_a_run_that_an_earlier_version_left_unfinished_is_finished(
    name, tmp_path, scripted, monkeypatch
):
    """Nothing stored is asked again, and what comes out is what a run without a break had."""
    whole = name.removesuffix("-half")
    database = tmp_path / "runs" / whole / "run.duckdb"
    database.parent.mkdir(parents=True)
    database.write_bytes(gzip.decompress((FIXTURES / f"{name}.duckdb.gz").read_bytes()))
    with duckdb.connect(str(database), read_only=True) as connection:
        before = set(
            connection.execute("SELECT turn_id, response, created_at FROM turns").fetchall()
        )
    monkeypatch.chdir(tmp_path)
    done = resume(scripted, tmp_path, whole)
    assert done.exit_code == 0, done.output
    expected = json.loads((FIXTURES / "schema5.json").read_text(encoding="utf-8"))
    with Store.open(database, read_only=True) as store:
        assert before < set(store.rows("SELECT turn_id, response, created_at FROM turns"))
        for relation, columns in LASTING.items():
            places = [expected[relation]["columns"].index(column) for column in columns]
            then = [[row[place] for place in places] for row in expected[relation]["rows"]]
            now = store.rows(f"SELECT {', '.join(columns)} FROM {relation}")
            assert sorted(map(str, map(list, now))) == sorted(map(str, then)), relation
        assert store.last_start().closed_at is not None


def resume(scripted, folder, name):
    """`society run` of the experiment that the fixtures are of, in the working folder."""
    scripted(folder)
    (folder / f"{name}.toml").write_text(
        """
        model = "scripted:script.jsonl"
        iterations = 2
        [task]
        name = "arithmetic"
        [society]
        agents = 3
        [train]
        questions = 4
        [evaluation]
        questions = 3
        """,
        encoding="utf-8",
    )
    return CliRunner().invoke(cli.app, ["run", f"{name}.toml"])


@pytest.fixture
def run(tmp_path):
    folder = folders.RunFolder("mine", tmp_path / "mine")
    folders.start_run(folder, CONFIG).close()
    return folder


def test_every_start_is_kept_with_its_software_and_machine(run):
    folders.start_run(run, CONFIG).close()
    with Store.open(run.database, read_only=True) as store:
        starts = store.rows(
            "SELECT versions ->> 'duckdb', machine ->> 'cpus', closed_at FROM run_starts"
        )
    assert len(starts) == 2
    for version, cpus, closed in starts:
        assert version == duckdb.__version__
        assert int(cpus) > 0
        assert closed is not None


def test_other_versions_are_said_at_the_start_that_has_them_and_once(run):
    with Store.open(run.database) as store:
        known = {**json.loads(provenance.read_versions()), "torch": "1.0.0", "gone": "3"}
        store.record_start(RunStart(utc_now(), 1, json.dumps(known), "{}"))
    said = []
    folders.start_run(run, CONFIG, said.append).close()
    [line] = said
    assert "torch 1.0.0, now " in line
    assert "gone 3, now not installed" in line
    assert "duckdb" not in line
    folders.start_run(run, CONFIG, said.append).close()
    assert len(said) == 1


@pytest.fixture
def writing(run):
    """A process that writes to the run's database."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, run.database], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"written\n"
        yield process
        process.kill()
        process.communicate()


def test_a_copy_without_its_log_says_what_it_lacks(run, writing, tmp_path, capsys):
    copy = folders.RunFolder("copy", tmp_path / "copy")
    copy.path.mkdir()
    shutil.copy(run.database, copy.database)
    with Store.open(copy.database, read_only=True) as store:
        assert store.log_is_missing
        assert store.rows("SELECT count(*) FROM questions") == [(0,)]
    folders.find_run(tmp_path, "copy")
    said = capsys.readouterr().err
    assert "run copy: " in said
    assert "without its log (run.duckdb.wal)" in said
    heard = []
    folders.start_run(copy, CONFIG, heard.append).close()
    assert any("without its log" in line for line in heard)
    folders.find_run(tmp_path, "copy")
    assert capsys.readouterr().err == ""


def test_a_copy_of_both_files_is_whole(run, writing, tmp_path, capsys):
    copy = folders.RunFolder("copy", tmp_path / "copy")
    copy.path.mkdir()
    for file in run.path.glob("run.duckdb*"):
        shutil.copy(file, copy.path)
    with Store.open(copy.database, read_only=True) as store:
        assert not store.log_is_missing
        assert store.rows("SELECT count(*) FROM questions") == [(200,)]
    folders.find_run(tmp_path, "copy")
    assert capsys.readouterr().err == ""


def test_neither_a_killed_run_nor_one_that_ended_lacks_anything(run, writing, tmp_path, capsys):
    writing.send_signal(signal.SIGKILL)
    writing.wait()
    for _ in range(2):
        folders.find_run(tmp_path, "mine")
        Store.open(run.database).close()  # as `society cancel` does; the log moves into the file
    assert capsys.readouterr().err == ""
    with Store.open(run.database, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM questions") == [(200,)]


NOTICE = {"process": 7, "line": "iteration 1/3", "updated_at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"null",
        b"[1, 2]",
        b'"text"',
        json.dumps({**NOTICE, "updated_at": "2026-01-01T00:00:00"}).encode(),
        json.dumps({**NOTICE, "updated_at": "no time"}).encode(),
        json.dumps({**NOTICE, "process": "seven"}).encode(),
        b"[" * 100_000,
        b'{"process": ' + b"9" * 100_000,
    ],
)
def test_a_notice_that_cannot_be_read_is_none(run, content):
    run.progress.write_bytes(content)
    assert status.read_progress(run) is None
    with Store.open(run.database), pytest.raises(ConfigError, match=r"left no progress\.json"):
        status.show_status(run, io.StringIO())


def test_a_folder_in_the_notices_place_is_none(run):
    run.progress.mkdir()
    assert status.read_progress(run) is None


def test_a_notice_from_the_future_has_no_age(run):
    run.progress.write_text(json.dumps({**NOTICE, "updated_at": "9998-01-01T00:00:00Z"}))
    notice = status.read_progress(run)
    assert notice is not None
    assert notice.age_s == 0
