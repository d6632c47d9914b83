"""A run that is read while it goes on, by its readers and by a plain DuckDB."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from store import sql_client, sql_server
from store.errors import InvalidQuery
from store.ledger import Store
from store.reader import open_reader
from store.records import StageKey, Verdict, Vote

WRITING = """
import sys
from store.sql_server import serve_readers
from store.ledger import Store
from store.records import Turn, Verdict, Vote

with Store.open(sys.argv[1]) as store, serve_readers(store):
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


def test_only_the_user_reaches_the_socket_and_it_is_gone_in_the_end(store, path):
    with sql_server.serve_readers(store) as address:
        place = Path(address.socket)
        assert sql_client.read_address(path) == address
        assert stat.S_IMODE(sql_client.address_path(path).stat().st_mode) == 0o600
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert not sql_client.address_path(path).exists()
    assert not place.parent.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can ask as another user")
def test_another_user_is_turned_away_where_the_folder_lets_him_in(store):
    """A folder can be opened to others by mistake; who asks is looked at all the same."""
    code = (
        "import os, socket, sys\n"
        "os.setuid(65534)\n"
        "asking = socket.socket(socket.AF_UNIX)\n"
        "asking.connect(sys.argv[1])\n"
        "try:\n"
        "    asking.sendall(b'POST /csv HTTP/1.0\\r\\nContent-Length: 8\\r\\n\\r\\nSELECT 1')\n"
        "    print(asking.recv(100))\n"
        "except ConnectionError: print(b'')\n"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(Path(folder) / "run.duckdb") as mine,
        sql_server.serve_readers(mine) as address,
    ):
        for place in (Path(address.socket), *list(Path(address.socket).parents)[:2]):
            place.chmod(0o777)
        asked = subprocess.run(
            ["/usr/bin/env", "python3", "-c", code, address.socket], capture_output=True, text=True
        )
    assert asked.stdout == "b''\n", asked.stderr


def test_a_path_that_is_too_long_for_a_socket_is_no_obstacle(tmp_path, make_turn):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with Store.open(folder / "run.duckdb") as store:
        store.write(make_turn())
        with (
            sql_server.serve_readers(store) as address,
            open_reader(folder / "run.duckdb") as reader,
        ):
            assert reader.rows("SELECT count(*) FROM turns") == [(1,)]
            assert reader.running
        assert not Path(address.socket).exists()


def test_a_run_listens_on_no_port(store):
    """Other users of the machine, and web sites in its browser, have nothing to send to."""
    before = ports_held()
    with sql_server.serve_readers(store):
        assert ports_held() <= before


def ports_held():
    """The TCP sockets of this process, by inode; servers of other tests may have left some."""
    inodes = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
    }
    links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
    held = {link.removeprefix("socket:[").rstrip("]") for link in links if "socket:" in link}
    return held & inodes


def send(address, *pieces):
    """The raw answer to a raw request."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(address.socket)
        asking.sendall(b"".join(pieces))
        answer = b""
        with suppress(ConnectionError):
            while found := asking.recv(65536):
                answer += found
        return answer


def test_any_tool_asks_and_gets_csv(store):
    with sql_server.serve_readers(store) as address:
        sql = b"SELECT question_id, agent FROM turns"
        head = b"POST /csv HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(sql)
        assert send(address, head, sql).endswith(b"\r\n\r\nquestion_id,agent\nq1,1\n")
        assert address.socket in sql_server.format_curl_command(address)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /answer HTTP/1.0\r\nContent-Length: 300000000\r\n\r\n", b"413"),
        (b"POST /csv HTTP/1.0\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"413"),
        (b"POST /answer HTTP/1.0\r\nContent-Length: -1\r\n\r\n", b"413"),
        (b"POST /answer HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n", b"413"),
        (b"POST /csv HTTP/1.0\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00\x00", b"400"),
        (b"POST /csv HTTP/1.0\r\nContent-Length: 16\r\n\r\nDROP TABLE turns", b"400"),
        (b"POST /nowhere HTTP/1.0\r\nContent-Length: 8\r\n\r\nSELECT 1", b"404"),
        (b"GET /csv HTTP/1.0\r\n\r\n", b"501"),
        (b"X" * 70000 + b"\r\n\r\n", b"414"),
        (b"\x00\x01\x02\r\n\r\n", b"400"),
    ],
)
def test_a_bad_request_is_answered_and_nothing_else(store, path, request_, status):
    with sql_server.serve_readers(store) as address:
        assert status in send(address, request_).split(b"\r\n")[0]
        with open_reader(path) as reader:
            assert reader.rows("SELECT count(*) FROM turns") == [(1,)]


def test_readers_without_end_take_no_memory_and_leave_room(store, path):
    """More connections than are served at once, each saying nothing."""
    with sql_server.serve_readers(store) as address:
        silent = []
        for _ in range(sql_server.READERS + 5):
            asking = socket.socket(socket.AF_UNIX)
            asking.connect(address.socket)
            silent.append(asking)
        silent[-1].settimeout(20)
        assert silent[-1].recv(100).startswith(b"HTTP/1.0 503")
        for asking in silent:
            asking.close()
        with open_reader(path) as reader:
            assert reader.rows("SELECT count(*) FROM turns") == [(1,)]


def test_a_query_ends_when_its_reader_has_gone(store, path):
    endless = b"SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000) c"
    head = b"POST /csv HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(endless)
    with sql_server.serve_readers(store) as address:
        asking = [socket.socket(socket.AF_UNIX) for _ in range(sql_server.AT_ONCE)]
        for each in asking:
            each.connect(address.socket)
            each.sendall(head + endless)
        for each in asking:
            each.close()
        with open_reader(path) as reader:
            assert reader.rows("SELECT count(*) FROM turns") == [(1,)]


def test_the_end_of_a_run_waits_for_no_query(store, path):
    asked = threading.Event()
    said = []

    def ask():
        client = sql_client.SqlClient(address)
        asked.set()
        try:
            client.execute("SELECT count(*) FROM range(1000000) a, range(1000000) b, range(999) c")
        except sql_client.ServerGone as error:
            said.append(error)

    with sql_server.serve_readers(store) as address:
        reading = threading.Thread(target=ask)
        reading.start()
        asked.wait()
        while not list(Path(address.socket).parent.glob("*")):
            time.sleep(0.01)
    reading.join()
    store.close()
    assert len(said) == 1
    with Store.open(path) as again:
        assert again.rows("SELECT count(*) FROM turns") == [(1,)]


TYPES = [
    "sum(agent)",
    "170141183460469231731687303715884105727::HUGEINT",
    "[1::HUGEINT, NULL]",
    "{'a': 1::UHUGEINT, 'b': [INTERVAL 3 MICROSECONDS]}",
    "INTERVAL '1 month 2 days 3.000001 seconds'",
    "'01:02:03.000004+05:30'::TIMETZ",
    "'2026-01-02 03:04:05.678901'::TIMESTAMP",
    "'2026-01-02'::TIMESTAMP_S",
    "'infinity'::DATE",
    "'nan'::DOUBLE",
    "0.1::FLOAT",
    "1.50::DECIMAL(38, 10)",
    "'a'::ENUM('a', 'it''s')",
    "'101'::BIT",
    "MAP {'a': [1]}",
    "'{\"a\": 1}'::JSON",
    "'\\x00\\xff'::BLOB",
    "chr(0) || 'ü'",
    "uuid() IS NULL",
    "NULL",
    "[1, 2]::INTEGER[2]",
    "12345678901234567890123456789012345678901234567890::BIGNUM",
    "union_value(num := 2)",
    "union_value(num := 2::UHUGEINT)",
    "{'HUGEINT': 1, 'INTERVAL': 'a \"TIME WITH TIME ZONE\"'}",
    "'INTERVAL'::ENUM('INTERVAL', 'HUGEINT')",
    "[{'x \"y\"': MAP {1::HUGEINT: {'INTERVAL': INTERVAL 1 DAY}}}]",
    "[1, 2]::HUGEINT[2]",
    "row(1, 'a')",
]


def test_every_type_arrives_as_it_was(store, path):
    columns = ", ".join(f"{value} AS c{number}" for number, value in enumerate(TYPES))
    sql = f'SELECT {columns}, 1 AS "a ""b""", 2 AS c0 FROM turns'
    expected = store.query(sql).result()
    with sql_server.serve_readers(store), open_reader(path) as reader:
        found = reader.query(sql).result()
    assert found.columns == expected.columns
    assert found.types == expected.types
    assert repr(found.rows) == repr(expected.rows)


@pytest.mark.parametrize(
    "value",
    [
        "json_contains(repeat('[', 200000) || repeat(']', 200000), '1')",
        "json_structure(repeat('[', 200000) || repeat(']', 200000))",
        "(repeat('[', 200000) || repeat(']', 200000))::JSON::VARIANT",
        "TRY_CAST((repeat('[', 200000) || repeat(']', 200000))::JSON AS \"Variant\")",
        "json_transform('1', repeat('{\"a\":', 9000) || '\"INT\"' || repeat('}', 9000))",
    ],
)
def test_no_nested_text_ends_the_process_of_a_run(store, path, value):
    with sql_server.serve_readers(store), open_reader(path) as reader:
        with pytest.raises(InvalidQuery, match="--snapshot"):
            _ = reader.query(f"SELECT {value}").rows
        assert reader.rows("SELECT json('[[1]]') ->> '$[0][0]' FROM turns") == [("1",)]


def test_the_order_of_rows_arrives(store, path):
    sql = "SELECT hash(range)::HUGEINT AS h FROM range(100000) ORDER BY h DESC"
    with sql_server.serve_readers(store), open_reader(path) as reader:
        found = [h for (h,) in reader.stream(sql)]
        table = reader.query(sql).arrow()
    assert found == sorted(found, reverse=True)
    assert table.num_rows == 100000


def test_the_store_goes_on_as_ever_while_it_is_served(store, path, make_turn):
    with sql_server.serve_readers(store):
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
            assert reader.running
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


def test_an_error_in_a_query_is_the_users(store, path):
    with sql_server.serve_readers(store), open_reader(path) as reader:
        with pytest.raises(InvalidQuery, match="nowhere does not exist") as found:
            _ = reader.query("FROM nowhere").rows
        assert "COPY" not in str(found.value)


def test_votes_and_verdicts_arrive_as_records(store, path):
    vote = Vote(1, "train", "multiagent", "sampled", "q1", 1, "4", 3, 3, False)
    [turn] = store.turns(StageKey(1, "train", "multiagent"))
    with sql_server.serve_readers(store):
        store.write(vote, Verdict(turn.turn_id, True, None))
        with open_reader(path) as reader:
            assert reader.rows("SELECT answer, votes, tie FROM votes") == [("4", 3, False)]
