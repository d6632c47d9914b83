from __future__ import annotations

import asyncio
import threading
from dataclasses import astuple, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.content import messages_json
from store.errors import DuplicateRecord, InvalidRecord, StoreClosed, StoreError
from store.ledger import Store
from store.records import Dataset, Job, Model, Question, Run, StageKey, TrainingPoint, Verdict, Vote

STAGE = StageKey(1, "train", "multiagent")
VOTE = Vote(*astuple(STAGE), "q1", 1, "4", 2, 3, False, True)

NASTY = [
    "",
    "\x00",
    "a\x00b",
    "\x1f0\x1e",
    "\x1d0\x1e\x1d1\x1e\x1f1\x1e",
    "\x1f",
    "\x00null0",
    "NULL",
    "'; DROP TABLE turns; --",
    '"\\"',
    "\r\n\t\v\f\x85\u2028",
    "é \U0001f600 \u202e rtl \ufeff \U0010ffff",
    "\x1b[31mred\x1b[0m <script>alert(1)</script>",
]


async def test_what_is_appended_is_read_back(store, make_turn):
    rows = [
        Run("demo", "{}", "ab", 7, '{"duckdb": "1"}'),
        Question("q1", "arithmetic", "train", "1+1", "2", 1, 3, '{"style": "a"}'),
        make_turn(),
        make_turn(round=2, answer=None, finish_reason="length"),
        VOTE,
        Verdict(make_turn().turn_id, True, None),
        Dataset("d", 1, "multiagent", 1, "critic", 3, "ff", "final", 1, 1, 2, 0.3, None, "note"),
        Job("j", 1, "multiagent", 1, "critic", "d", "00", "intent"),
        Model("m", "embedded:", "base", "folder", "ee", "d", "j", 1, "multiagent", 1, "critic"),
        TrainingPoint("j", 1, 0.1 + 0.2, 1e-5),
    ]
    await store.append(*rows)
    assert store.run() == rows[0]
    assert store.question("q1") == rows[1]
    assert store.questions("train", 1) == [rows[1]]
    assert store.questions("train", 2) == []
    assert sorted(store.turns(STAGE), key=lambda turn: turn.round) == rows[2:4]
    assert list(store.turns(replace(STAGE, iteration=2))) == []
    assert store.votes(STAGE) == [VOTE]
    assert store.verdicts(STAGE) == {rows[5].turn_id: rows[5]}
    assert store.dataset("d") == rows[6]
    assert store.datasets(1, "multiagent") == [rows[6]]
    assert store.job("j") == rows[7]
    assert store.jobs() == [rows[7]]
    assert store.model("m") == rows[8]
    assert store.models(2) == []
    assert store.training_points("j") == [rows[9]]
    assert store.model("none") is None


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("text") / "run.duckdb") as opened:
        yield opened


@settings(max_examples=30)
@given(texts=st.lists(st.text() | st.sampled_from(NASTY), min_size=1, max_size=8))
def test_any_text_comes_back_byte_for_byte(shared_store, make_turn, texts):
    arm = f"arm{len(shared_store.rows('SELECT DISTINCT arm FROM turns'))}"
    turns = [
        make_turn(
            f"q{number}-{text}",
            arm=arm,
            messages=messages_json([{"role": "user", "content": text}]),
            response=text,
            answer=text,
        )
        for number, text in enumerate(texts)
    ]
    shared_store.write(*turns)
    found = {turn.turn_id: turn for turn in shared_store.turns(StageKey(1, "train", arm))}
    assert found == {turn.turn_id: turn for turn in turns}


def test_all_nasty_texts_in_one_statement(store, make_turn):
    turns = [make_turn(f"q{number}", response=text) for number, text in enumerate(NASTY)]
    store.write(*turns)
    assert sorted(turn.response for turn in store.turns(STAGE)) == sorted(NASTY)


async def test_a_stored_turn_is_never_stored_again(store, make_turn):
    await store.append(make_turn())
    with pytest.raises(DuplicateRecord, match=r'"q1",1,1,"answer"'):
        await store.append(make_turn(response="another"), make_turn(round=2))
    assert [turn.round for turn in store.turns(STAGE)] == [1]
    await store.append(make_turn(round=2))


async def test_duplicates_within_one_append_are_refused(store, make_turn):
    with pytest.raises(DuplicateRecord):
        await store.append(make_turn(), make_turn())
    await store.append(make_turn())
    assert len(list(store.turns(STAGE))) == 1


def test_duplicates_are_refused_after_reopening(path, make_turn):
    verdict = Verdict(make_turn().turn_id, True, True)
    with Store.open(path) as store:
        store.write(make_turn(), VOTE, verdict)
    with Store.open(path) as store:
        for row in (make_turn(), VOTE, verdict):
            with pytest.raises(DuplicateRecord):
                store.write(row)
        store.write(make_turn(round=2), replace(VOTE, round=2))
        assert store.rows("SELECT count(*) FROM turns") == [(2,)]
        assert store.rows("SELECT count(*) FROM votes") == [(2,)]
        assert store.rows("SELECT count(*) FROM verdicts") == [(1,)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "CHECK"),
        ({"agent": 0}, "CHECK"),
        ({"messages": "{not json"}, "JSON"),
        ({"response": "\ud800"}, "storable"),
        ({"model_id": None}, "NOT NULL"),
    ],
)
async def test_an_invalid_row_takes_its_whole_append_with_it(store, make_turn, changes, message):
    with pytest.raises(InvalidRecord, match=message):
        await store.append(make_turn(), VOTE, make_turn(round=2, **changes))
    assert list(store.turns(STAGE)) == []
    assert store.votes(STAGE) == []
    await store.append(make_turn(), VOTE)


async def test_a_bad_append_does_not_spoil_those_committed_with_it(store, make_turn):
    appends = [store.append(make_turn(f"q{number}")) for number in range(50)]
    bad = store.append(make_turn("bad", split="nowhere"))
    outcomes = await asyncio.gather(*appends[:25], bad, *appends[25:], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [InvalidRecord]
    assert store.rows("SELECT count(*) FROM turns") == [(50,)]


async def test_a_time_without_zone_is_refused(store, make_turn):
    turn = make_turn()
    with pytest.raises(InvalidRecord, match="time zone"):
        await store.append(replace(turn, created_at=turn.created_at.replace(tzinfo=None)))


async def test_small_tables_are_replaced_by_key(store):
    job = Job("j", 1, "multiagent", 1, "critic", "d", "00", "intent")
    await store.append(job, Model("m", "embedded:"))
    running = replace(job, status="running", provider_job_id="p1")
    await store.append(running, replace(running, status="succeeded"), Model("m", "local:x"))
    assert [job.status for job in store.jobs()] == ["succeeded"]
    assert [model.provider for model in store.models()] == ["local:x"]


async def test_an_append_that_nobody_waits_for_any_more_is_still_written(store, make_turn):
    waiting = asyncio.ensure_future(store.append(make_turn()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await store.append(make_turn(round=2))
    assert len(list(store.turns(STAGE))) == 2


def test_readers_see_whole_appends_only_while_a_writer_writes(store, make_turn):
    stop = threading.Event()
    torn: list[object] = []

    def read():
        while not stop.is_set():
            for question_id, turns in store.rows(
                "SELECT question_id, count(*) FROM turns GROUP BY ALL"
            ):
                if turns != 3:
                    torn.append((question_id, turns))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(40):
        store.write(*(make_turn(f"q{number}", agent) for agent in (1, 2, 3)))
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []


def test_work_is_one_transaction(store):
    def fail(connection):
        connection.execute("INSERT INTO verdicts VALUES (1, true, true)")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.transact(fail)
    assert store.rows("SELECT * FROM verdicts") == []
    store.transact(lambda connection: connection.execute("DELETE FROM verdicts"))


def test_a_closed_store_says_so(path, make_turn):
    store = Store.open(path)
    store.close()
    store.close()
    with pytest.raises(StoreClosed):
        store.write(make_turn())
    with pytest.raises(StoreClosed):
        store.rows("SELECT 1")


def test_a_read_only_store_refuses_to_write(path, make_turn):
    Store.open(path).close()
    with (
        Store.open(path, read_only=True) as store,
        pytest.raises(StoreError, match="read-only"),
    ):
        store.write(make_turn())
