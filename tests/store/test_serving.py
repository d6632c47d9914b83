"""A run that is read while it goes on, by its readers and by a plain DuckDB."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time

import duckdb
import pytest

from store import quack, serving
from store.errors import InvalidQuery
from store.ledger import Store
from store.reader import open_reader
from store.records import Verdict, Vote

pytestmark = pytest.mark.skipif(quack.unavailable() is not None, reason=str(quack.unavailable()))
WRITING = """
import sys
from store import serving
from store.ledger import Store
from store.records import Turn, Verdict, Vote

with Store.open(sys.argv[1]) as store, serving.served(store):
    print("open", flush=True)
    for number in range(int(sys.argv[2])):
        turns = [
            Turn(1, "train", "multiagent", "sampled", f"q{number}", agent, 1, "answer", "base",
                 "[]", "x" * 500, "4", "stop", 1, 2, 3.0)
            for agent in (1, 2, 3)
        ]
        store.write(*turns[:2])
        vote = Vote(1, "train", "multiagent", "sampled", f"q{number}", 1, "4", 3, 3, False)
        store.write(turns[2], vote, *(Verdict(turn.turn_id, True, None) for turn in turns))
    print("written", flush=True)
    sys.stdin.read()
"""
READING = """
import sys
from pathlib import Path
from store.reader import open_reader
with open_reader(Path(sys.argv[1])) as reader:
    while True:
        reader.rows("SELECT count(*), max(t.response) FROM turns AS t, votes AS v")
        print("read", flush=True)
"""
CONSISTENT = """
SELECT (SELECT count(*) FROM votes), (SELECT count(*) FROM verdicts),
    (SELECT count(*) FROM votes AS v
     WHERE (SELECT count(*) FROM turns AS t WHERE t.question_id = v.question_id) <> 3
        OR (SELECT count(*) FROM turns AS t JOIN verdicts USING (turn_id)
            WHERE t.question_id = v.question_id) <> 3)
"""


@pytest.fixture
def store(path, make_turn):
    with Store.open(path) as opened:
        opened.write(make_turn("q1"))
        yield opened


def test_the_address_is_the_users_own_and_is_gone_in_the_end(store, path):
    with serving.served(store) as address:
        file = quack.address_file(path)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert quack.read_address(path) == address
        assert address.uri.startswith("quack:127.0.0.1:")
        assert len(address.token) == 64
    assert not file.exists()
    with serving.served(store) as again:
        assert again.token != address.token


def test_a_wrong_token_is_refused(store):
    with serving.served(store) as address:
        stranger = quack.Client(quack.Address(address.uri, "0" * 64, address.process))
        with pytest.raises(quack.ServerGone, match="Authentication failed"):
            stranger.execute("SELECT 1")


def test_two_runs_never_share_a_port(store, tmp_path):
    with (
        Store.open(tmp_path / "other.duckdb") as other,
        serving.served(store) as one,
        serving.served(other) as two,
    ):
        assert one.uri != two.uri
        for _ in range(20):
            client = quack.Client(two)
            assert client.execute("SELECT count(*) FROM turns").fetchall() == [(0,)]
            client.close()


def test_a_plain_duckdb_reads_and_cannot_write(store, path):
    with serving.served(store) as address, duckdb.connect(":memory:") as shell:
        quack.load(shell)
        asked = serving.in_the_shell(path, address).removeprefix("INSTALL quack; LOAD quack; ")
        [progress] = shell.execute(asked).fetchall()
        assert progress[:3] == (1, "multiagent", "train")
        shell.execute(f"ATTACH '{address.uri}' AS live (TOKEN '{address.token}')")
        assert shell.execute("SELECT question_id FROM live.turns").fetchall() == [("q1",)]
        for sql in (
            "INSERT INTO live.votes SELECT * FROM live.votes",
            "INSERT INTO live.verdicts VALUES (1, true, true)",
            "CREATE TABLE live.x (y INTEGER)",
            "DROP TABLE live.turns",
            "DROP VIEW live.accuracy",
            "FROM quack_query_by_name('live', 'DELETE FROM turns')",
            "FROM quack_query_by_name('live', 'SET GLOBAL quack_authorization_function = "
            "''quack_nop_authorization''')",
        ):
            with pytest.raises(duckdb.Error):
                shell.execute(sql).fetchall()
    assert store.rows("SELECT count(*) FROM turns") == [(1,)]
    assert store.rows("SELECT count(*) FROM verdicts") == [(0,)]


def test_the_store_goes_on_as_ever_while_it_is_served(store, path, make_turn):
    with serving.served(store):
        store.write(*(make_turn(f"new {number}") for number in range(100)))
        store.transact(lambda connection: connection.execute("CHECKPOINT"))
        assert store.rows("SELECT count(*) FROM turns") == [(101,)]
    store.write(make_turn("afterwards"))
    store.close()
    with Store.open(path) as again:
        assert again.rows("SELECT count(*) FROM turns") == [(102,)]
        assert again.rows("SELECT DISTINCT database_name FROM duckdb_tables()") == [("run",)]


def test_a_debate_is_there_whole_or_not_at_all(path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, path, "80"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout.readline() == b"open\n"
        seen = []
        with open_reader(path) as reader:
            while not seen or seen[-1] < 80:
                [(votes, verdicts, torn)] = reader.rows(CONSISTENT)
                assert (verdicts, torn) == (3 * votes, 0)
                seen.append(votes)
                assert run.poll() is None
            assert reader.live
        run.communicate()
        assert run.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


def test_killed_readers_harm_nothing(path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, path, "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout.readline() == b"open\n"
        readers = [
            subprocess.Popen([sys.executable, "-c", READING, path], stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        for reader in readers:
            assert reader.stdout.readline() == b"read\n"
            time.sleep(0.02)
            reader.send_signal(signal.SIGKILL)
            reader.communicate()
        assert run.stdout.readline() == b"written\n"
        run.communicate()
        assert run.returncode == 0
    with Store.open(path) as store:
        assert store.rows(CONSISTENT) == [(60, 180, 0)]


def test_a_reader_left_behind_does_not_keep_the_file(store, path):
    """Somebody's DuckDB is still attached when the run ends, with an answer half read."""
    with duckdb.connect(":memory:") as shell:
        quack.load(shell)
        with serving.served(store) as address:
            shell.execute(f"ATTACH '{address.uri}' AS live (TOKEN '{address.token}')")
            half_read = shell.cursor()
            half_read.execute("SELECT turn_id FROM live.turns")
        store.close()
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from store.ledger import Store\nStore.open(sys.argv[1]).close()",
                path,
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_an_error_in_a_query_is_the_users(store, path):
    with serving.served(store), open_reader(path) as reader:
        with pytest.raises(InvalidQuery, match="nowhere does not exist") as found:
            _ = reader.query("FROM nowhere").rows
        assert "quack_query" not in str(found.value)


def test_votes_and_verdicts_arrive_as_records(store, path):
    vote = Vote(1, "train", "multiagent", "sampled", "q1", 1, "4", 3, 3, False)
    [turn] = store.turns(1, "train", "multiagent")
    with serving.served(store):
        store.write(vote, Verdict(turn.turn_id, True, None))
        with open_reader(path) as reader:
            assert reader.rows("SELECT answer, votes, tie FROM votes") == [("4", 3, False)]
