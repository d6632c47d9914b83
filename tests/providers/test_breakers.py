"""Halting shuts every gate of an event loop, and nobody learns of it before all have arrived."""

import asyncio
import contextlib

import pytest

from providers.errors import Halted
from providers.limits import Limits, get_breakers, get_limiter

ONE_AT_A_TIME = Limits(max_concurrent=1)


async def let_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_waits_at_one_account_waits_for_what_is_under_way_at_another():
    answer, sent = asyncio.Event(), []

    async def work(name: str) -> str:
        sent.append(name)
        await answer.wait()
        return name

    one, other = (get_limiter(account, "m", ONE_AT_A_TIME) for account in ("one", "other"))
    tasks = {
        name: asyncio.create_task(limiter.call(lambda name=name: work(name)))
        for name, limiter in [("a", one), ("b", one), ("c", other), ("d", other)]
    }
    await let_run()
    assert sorted(sent) == ["a", "c"]
    breakers = get_breakers()
    assert breakers.halt(Halted("stop")) == 2
    await let_run()
    assert not any(task.done() for task in tasks.values())
    answer.set()
    results = await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert [type(result) for result in results] == [str, Halted, str, Halted]
    assert sorted(sent) == ["a", "c"]
    assert breakers.in_flight == 0


async def test_gates_that_are_made_later_are_shut_too():
    get_breakers().halt(Halted("stop"))
    with pytest.raises(Halted):
        await get_limiter("later", "m", ONE_AT_A_TIME).call(lambda: asyncio.sleep(0))


async def test_nothing_is_created_any_more_and_what_is_being_created_is_waited_for():
    breakers, created = get_breakers(), asyncio.Event()

    async def create() -> str:
        async with breakers.pass_through():
            await created.wait()
            return "job"

    first = asyncio.create_task(create())
    await let_run()
    assert breakers.halt(Halted("stop")) == 1
    second = asyncio.create_task(create())
    arrived = asyncio.create_task(breakers.wait_idle())
    await let_run()
    assert not any(task.done() for task in (first, second, arrived))
    created.set()
    assert await first == "job"
    with pytest.raises(Halted):
        await second
    await arrived


async def test_a_call_that_is_given_up_is_no_longer_under_way():
    breakers = get_breakers()
    limiter = get_limiter("account", "m", ONE_AT_A_TIME)
    task = asyncio.create_task(limiter.call(lambda: asyncio.sleep(3600)))
    await let_run()
    assert breakers.halt(Halted("stop")) == 1
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await breakers.wait_idle()
    assert breakers.in_flight == 0
