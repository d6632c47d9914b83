from __future__ import annotations

import subprocess
import sys
import time

import pytest

from store.errors import StoreLocked, WriteFailed
from store.ledger import Store
from store.snapshots import answer_snapshot_requests, request_snapshot
from tests.store.conftest import query

RUN = """
import sys
from store.ledger import Store
from store.records import Turn, Verdict, Vote
from store.snapshots import answer_snapshot_requests

with Store.open(sys.argv[1]) as store, answer_snapshot_requests(store):
    print("open", flush=True)
    for number in range(int(sys.argv[2])):
        turn = Turn(1, "train", "multiagent", "sampled", f"q{number}", 1, 1, "answer", "base",
                    "[]", "x" * 5000, "4", "stop", 1, 2, 3.0)
        vote = Vote(1, "train", "multiagent", "sampled", f"q{number}", 1, "4", 1, 1, False)
        store.write(turn, vote, Verdict(turn.turn_id, True, None))
    print("written", flush=True)
    sys.stdin.read()
"""
WHOLE = """
SELECT (SELECT count(*) FROM votes), (SELECT count(*) FROM verdicts), (SELECT count(*) FROM turns)
"""


def test_snapshots_of_a_run_that_writes_are_consistent(path):
    with subprocess.Popen(
        [sys.executable, "-c", RUN, path, "100"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout.readline() == b"open\n"
        seen = []
        for _ in range(3):
            with request_snapshot(path) as copy:
                [(votes, verdicts, turns)] = query(copy, WHOLE).rows
            assert votes == verdicts == turns
            seen.append(votes)
            assert not copy.exists()
        with pytest.raises(StoreLocked):
            Store.open(path)  # the run has kept its lock
        assert run.stdout.readline() == b"written\n"
        run.communicate()
        assert run.returncode == 0
    assert seen == sorted(seen)
    assert query(path, WHOLE).rows == [(100, 100, 100)]
    assert sorted(file.name for file in path.parent.iterdir()) == ["run.duckdb"]


def test_nobody_answers(path):
    Store.open(path).close()
    with pytest.raises(StoreLocked, match="no snapshot within 0 s"), request_snapshot(path, 0.3):
        pass
    assert sorted(file.name for file in path.parent.iterdir()) == ["run.duckdb"]


def test_what_an_earlier_process_left_is_cleared_away(path):
    with Store.open(path) as store:
        for end in ("request", "duckdb", "duckdb.wal", "ready"):
            (path.parent / f".snapshot-0.{end}").touch()
        with answer_snapshot_requests(store):
            assert not list(path.parent.glob(".snapshot-0.*"))


def test_a_copy_that_cannot_be_made_is_the_readers_error_only(path, make_turn):
    with Store.open(path) as store, answer_snapshot_requests(store):
        path.with_name(".snapshot-1.duckdb").mkdir()  # in the way of the copy
        path.with_name(".snapshot-1.request").touch()
        failed = path.with_name(".snapshot-1.failed")
        while not failed.exists() or not failed.read_text():
            time.sleep(0.02)
        assert "IsADirectoryError" in failed.read_text()
        assert not path.with_name(".snapshot-1.request").exists()
        store.write(make_turn())
        with request_snapshot(path) as copy:
            assert query(copy, "SELECT count(*) FROM turns").rows == [(1,)]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(WriteFailed, match="cannot ask"),
        request_snapshot(tmp_path / "none/run.duckdb"),
    ):
        pass
