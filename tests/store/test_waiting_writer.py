"""Readers never keep a run from starting."""

from __future__ import annotations

import subprocess
import sys

import pytest

from store import connection
from store.errors import StoreLocked
from store.ledger import Store
from store.reader import open_reader
from store.union import RunUnion

READING = """
import sys, threading
from store.errors import StoreLocked
from store.reader import open_reader
with open_reader(sys.argv[1]) as reader:
    def ask():
        while True:
            try: reader.rows("SELECT count(*) FROM turns, range(200000) WHERE turn_id <> range")
            except StoreLocked: pass
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(7)]
    for thread in threads: thread.start()
    print("reading", flush=True)
    sys.stdin.read()
"""
START = """
import sys
from store.ledger import Store
with Store.open(sys.argv[1]) as store:
    print(store.rows("SELECT count(*) FROM turns"))
"""


@pytest.fixture
def filled(path, make_turn):
    with Store.open(path) as store:
        store.write(*(make_turn(f"q{number}") for number in range(20)))
    return path


def start(path):
    return subprocess.run([sys.executable, "-c", START, path], capture_output=True, text=True)


@pytest.mark.long
def test_twenty_one_readers_without_a_pause_let_every_run_start(filled):
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READING, filled], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    try:
        for reader in readers:
            assert reader.stdout.readline() == b"reading\n"
        for _ in range(3):
            started = start(filled)
            assert started.stdout == "[(20,)]\n", started.stderr
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()
    assert not connection.is_writer_waiting(filled)


def test_a_mark_that_a_killed_start_left_counts_for_a_moment_only(filled):
    connection.announce_writer(filled)
    assert connection.is_writer_waiting(filled)
    for opened in (lambda: open_reader(filled), lambda: Store.open(filled, read_only=True)):
        opened().close()  # waits until the mark counts no more
    assert not connection.is_writer_waiting(filled)
    with RunUnion({"run": filled}) as several:
        assert several.rows("SELECT count(*) FROM turns") == [(20,)]


def test_a_reader_that_waits_too_long_says_for_what(filled):
    connection.announce_writer(filled)
    with pytest.raises(StoreLocked, match="a run that starts is waiting for"):
        connection.yield_to_writer(filled, patience_s=0)
    connection.withdraw_writer(filled)
    connection.yield_to_writer(filled, patience_s=0)
