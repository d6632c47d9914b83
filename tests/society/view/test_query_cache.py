"""Questions to databases: remembered, stopped at the limit, asked of running runs too."""

import asyncio
import threading
import time

import pytest

from society.view.query_cache import QueryCache, TookTooLong, read_file_state
from store.ledger import Store
from store.records import Model

ENDLESS = "SELECT count(*) FROM range(1000000000) AS a, range(1000000) AS b WHERE a.range % 7 = 3"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "run.duckdb"
    with Store.open(path) as store:
        store.write(Model("one", "x"))
    return path


@pytest.fixture
def desk():
    desk = QueryCache()
    yield desk
    desk.close()


def models(reader):
    return [name for (name,) in reader.rows("SELECT model_id FROM models ORDER BY model_id")]


async def test_an_answer_is_remembered_until_the_file_changes(database, desk):
    asked = []

    def work(reader):
        asked.append(1)
        return models(reader)

    assert await desk.get(database, "models", work) == ["one"]
    assert await desk.get(database, "models", work) == ["one"]
    assert len(asked) == 1
    version = desk.version(database)
    with Store.open(database) as store:
        store.write(Model("two", "x"))
    assert desk.version(database) != version
    deadline = time.monotonic() + 60
    while await desk.get(database, "models", work) != ["one", "two"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_an_answer_that_is_kept_too_long_shows_in_the_version(database, desk):
    def work(reader):
        time.sleep(0.3)
        return models(reader)

    await desk.get(database, "models", work)
    with Store.open(database) as store:
        store.write(Model("two", "x"))
    version = desk.version(database)
    kept = await desk.get(database, "models", work)
    deadline = time.monotonic() + 60
    while kept == ["one"] and desk.version(database) == version:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert await desk.get(database, "models", work) == ["one", "two"]


async def test_many_who_ask_the_same_ask_once(database, desk):
    asked = []

    def work(reader):
        asked.append(1)
        time.sleep(0.2)
        return models(reader)

    found = await asyncio.gather(*(desk.get(database, "m", work) for _ in range(8)))
    assert found == [["one"]] * 8
    assert len(asked) == 1


async def test_what_takes_long_comes_later(database, desk):
    go = threading.Event()

    def work(reader):
        go.wait(30)
        return models(reader)

    version = desk.version(database)
    assert await desk.get_until(database, "m", work, time.monotonic() + 0.01) is None
    go.set()
    assert await desk.get(database, "m", work) == ["one"]
    assert await desk.get_until(database, "m", work, time.monotonic() + 0.01) == ["one"]
    assert desk.version(database) != version


async def test_a_query_is_stopped_at_the_limit_and_blocks_nobody(database):
    desk = QueryCache(limit_s=0.5)
    try:
        endless = asyncio.create_task(desk.query(database, lambda reader: reader.rows(ENDLESS)))
        assert await desk.query(database, models) == ["one"]
        with pytest.raises(TookTooLong, match="stopped after"):
            await endless
        assert await desk.query(database, models) == ["one"]
    finally:
        desk.close()


async def test_the_file_is_let_go_of_so_that_a_run_can_start(database, desk):
    await desk.query(database, models)
    with Store.open(database) as store:
        store.write(Model("three", "x"))
    assert read_file_state(database)[0][1] > 0


async def test_an_error_is_told_and_not_remembered(database, desk):
    def work(reader):
        if not fixed:
            raise ValueError("once")
        return models(reader)

    fixed = []
    with pytest.raises(ValueError, match="once"):
        await desk.get(database, "m", work)
    fixed.append(1)
    assert await desk.get(database, "m", work) == ["one"]
