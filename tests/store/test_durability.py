from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from store.ledger import Store
from tests.store.conftest import query

WRITE = """
import sys
from store.ledger import Store
from store.records import Turn, Verdict, Vote

store = Store.open(sys.argv[1])
known = {row[0] for row in store.rows("SELECT question_id FROM votes")}
for number in range(100_000):
    question = f"q{number}"
    if question in known:
        continue
    turns = [
        Turn(1, "train", "multiagent", "sampled", question, agent, 1, "answer", "base", "[]",
             "x" * 2000 + question, "4", "stop", 1, 2, 3.0)
        for agent in (1, 2, 3)
    ]
    vote = Vote(1, "train", "multiagent", "sampled", question, 1, "4", 3, 3, False)
    store.write(*turns, vote, *(Verdict(turn.turn_id, True, None) for turn in turns))
    print(question, flush=True)
"""
COUNTS = """
SELECT (SELECT count(*) FROM votes), (SELECT count(*) FROM turns),
    (SELECT count(DISTINCT turn_id) FROM turns), (SELECT count(*) FROM verdicts)
"""


@pytest.mark.long
def test_kill_at_any_moment_loses_nothing_that_was_committed(path):
    delays = random.Random(4)
    confirmed: set[str] = set()
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            confirmed.add(writer.stdout.readline().strip())
            time.sleep(delays.uniform(0.0, 0.4))
            writer.send_signal(signal.SIGKILL)
            lines = writer.stdout.read().split("\n")
            confirmed.update(lines[:-1])
        stored = {row[0] for row in query(path, "SELECT question_id FROM votes").rows}
        assert confirmed <= stored
        with Store.open(path) as store:
            ((votes, turns, distinct, verdicts),) = store.rows(COUNTS)
            assert turns == distinct == verdicts == 3 * votes
            assert votes == len(stored)
    assert len(confirmed) > 3


FILL = """
import asyncio, sys
from store.errors import StoreError, WriteFailed
from store.ledger import Store
from store.records import Turn

def turn(number):
    return Turn(1, "train", "multiagent", "sampled", f"q{number}", 1, 1, "answer", "base", "[]",
                f"{number} " * 20_000, "4", "stop", 1, 2, 3.0)

async def main():
    store = Store.open(sys.argv[1])
    stored = 0
    try:
        while stored < 10_000:
            await store.append(turn(2 * stored), turn(2 * stored + 1))
            stored += 1
    except WriteFailed as error:
        assert isinstance(error, OSError)
    try:
        await store.append(turn(-1))
    except StoreError:
        print(stored)
    store.close()

asyncio.run(main())
"""


def test_a_full_disk_is_an_error_and_leaves_a_readable_file(path, make_turn):
    Store.open(path).close()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000))

    done = subprocess.run(
        [sys.executable, "-c", FILL, str(path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    stored = int(done.stdout)
    assert stored > 0
    with Store.open(path) as store:
        assert store.rows("SELECT count(*), count(DISTINCT turn_id) FROM turns") == [
            (2 * stored, 2 * stored)
        ]
        store.write(make_turn("after"))


def test_a_disk_full_from_the_start_is_named(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path / "run.duckdb")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "WriteFailed" in done.stderr


@pytest.mark.parametrize("read_only", [False, True])
def test_a_log_left_behind_is_read(path, read_only):
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.kill()
    assert path.with_suffix(".duckdb.wal").exists()
    with Store.open(path, read_only=read_only) as store:
        assert store.rows("SELECT count(*) >= 1 FROM votes") == [(True,)]
