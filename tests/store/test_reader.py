"""A reader of a database that runs come to and leave."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import duckdb
import pytest

from store import sql_client, sql_server
from store.errors import (
    StoreBroken,
    StoreClosed,
    StoreLocked,
    StoreMissing,
    StoreOutdated,
)
from store.ledger import Store
from store.reader import open_reader

COUNT = "SELECT count(*) FROM turns"
RUN = """
import sys
from store.sql_server import serve_readers
from store.ledger import Store
with Store.open(sys.argv[1]) as store, serve_readers(store):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def filled(path, make_turn):
    with Store.open(path) as store:
        store.write(*(make_turn(f"q{number}") for number in range(5000)))
    return path


def test_rows_a_stream_and_parameters(filled):
    with open_reader(filled) as reader:
        assert reader.rows("SELECT count(*) FROM turns WHERE agent = ?", [1]) == [(5000,)]
        assert len(list(reader.stream("SELECT turn_id FROM turns"))) == 5000
        assert not reader.running
    with pytest.raises(StoreClosed):
        reader.rows(COUNT)
    reader.close()


def test_what_cannot_be_read_is_named(path):
    with pytest.raises(StoreMissing):
        open_reader(path)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreBroken):
        open_reader(path)
    path.unlink()
    with Store.open(path) as store:
        store.transact(lambda connection: connection.execute("DELETE FROM schema_migrations"))
    with pytest.raises(StoreOutdated):
        open_reader(path)


def test_a_run_may_start_while_a_reader_is_idle(filled):
    with open_reader(filled) as reader:
        reader.rows(COUNT)
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from store.ledger import Store\nStore.open(sys.argv[1]).close()",
                filled,
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert reader.rows(COUNT) == [(5000,)]


def test_a_run_that_starts_and_one_that_ends_between_two_queries(filled, make_turn):
    with open_reader(filled) as reader:
        assert (reader.rows(COUNT), reader.running) == ([(5000,)], False)
        for number in range(2):
            time.sleep(0.7)
            with Store.open(filled) as store, sql_server.serve_readers(store):
                store.write(make_turn(f"new {number}"))
                assert (reader.rows(COUNT), reader.running) == ([(5001 + number,)], True)
                values = {"agent": 1, "questions": ["q1", "q2", "it's"]}
                sql = (
                    "SELECT count(*) FROM turns WHERE agent = $agent AND question_id IN $questions"
                )
                assert reader.rows(sql, values) == [(2,)]
                assert len(list(reader.stream("FROM turns"))) == 5001 + number
            assert (reader.rows(COUNT), reader.running) == ([(5001 + number,)], False)


def test_what_a_killed_run_leaves_is_read_from_the_file(filled):
    with subprocess.Popen(
        [sys.executable, "-c", RUN, filled], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout.readline() == b"open\n"
        with open_reader(filled) as reader:
            assert (reader.rows(COUNT), reader.running) == ([(5000,)], True)
            run.kill()
            run.wait()
            assert sql_client.address_path(filled).exists()
            assert (reader.rows(COUNT), reader.running) == ([(5000,)], False)
    with (
        Store.open(filled) as store,
        sql_server.serve_readers(store),
        open_reader(filled) as reader,
    ):
        assert reader.running


def test_an_answer_outlives_the_run_that_gave_it(filled):
    with open_reader(filled) as reader:
        time.sleep(0.7)
        with Store.open(filled) as store, sql_server.serve_readers(store):
            rows = reader.stream("SELECT turn_id FROM turns, range(10)")
            next(rows)
            assert reader.running
        assert len(list(rows)) == 10 * 5000 - 1
        assert reader.rows(COUNT) == [(5000,)]


def test_a_process_that_does_not_serve_is_named(filled):
    hold = RUN.replace(", serve_readers(store)", "")
    with subprocess.Popen(
        [sys.executable, "-c", hold, filled], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout.readline() == b"open\n"
        with pytest.raises(StoreLocked, match=f"process {run.pid}"):
            open_reader(filled)
        run.communicate()


def test_a_store_opened_for_reading_asks_the_run(filled, make_turn):
    with Store.open(filled) as running, sql_server.serve_readers(running):
        running.write(make_turn("one more"))
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from store.ledger import Store; from store.records import StageKey\n"
                "with Store.open(sys.argv[1], read_only=True) as store:\n"
                "    stage = StageKey(1, 'train', 'multiagent')\n"
                "    print(store.running, len(list(store.turns(stage))), store.question('q1'))\n"
                "    print(store.query('SELECT max(agent) FROM turns').rows)\n",
                filled,
            ],
            capture_output=True,
            text=True,
        )
    assert done.stdout.splitlines() == ["True 5001 None", "[(1,)]"], done.stderr


def test_a_query_can_be_stopped_from_another_thread(filled):
    with open_reader(filled) as reader:
        asked = threading.Event()

        def stop():
            asked.wait()
            while thread.is_alive():
                reader.interrupt()
                time.sleep(0.02)

        stopping = threading.Thread(target=stop)
        ended = []

        def ask():
            asked.set()
            try:
                reader.rows("SELECT count(*) FROM turns a, turns b, turns c, turns d")
            except duckdb.InterruptException as error:
                ended.append(error)

        thread = threading.Thread(target=ask)
        stopping.start()
        thread.start()
        thread.join()
        stopping.join()
        assert len(ended) == 1
        assert reader.rows(COUNT) == [(5000,)]


def test_many_threads_share_a_reader(filled):
    found = []
    with open_reader(filled) as reader:
        threads = [
            threading.Thread(target=lambda: found.append(reader.rows(COUNT))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[(5000,)]] * 8


def test_a_half_written_address_is_none(path):
    sql_client.address_path(path).write_text("{", encoding="utf-8")
    assert sql_client.read_address(path) is None
    sql_client.address_path(path).write_text(json.dumps({"uri": "x"}), encoding="utf-8")
    assert sql_client.read_address(path) is None
