"""Halting shuts every gate of an event loop, and nobody learns of it before all have arrived."""

import asyncio
import contextlib

import pytest

from providers import halting
from providers.errors import Halted
from providers.limits import Limits, shared

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

    one, other = (shared(account, "m", ONE_AT_A_TIME) for account in ("one", "other"))
    tasks = {
        name: asyncio.create_task(limiter.call(lambda name=name: work(name)))
        for name, limiter in [("a", one), ("b", one), ("c", other), ("d", other)]
    }
    await let_run()
    assert sorted(sent) == ["a", "c"]
    gates = halting.of_this_loop()
    assert gates.halt(Halted("stop")) == 2
    await let_run()
    assert not any(task.done() for task in tasks.values())
    answer.set()
    results = await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert [type(result) for result in results] == [str, Halted, str, Halted]
    assert sorted(sent) == ["a", "c"]
    assert gates.under_way == 0


async def test_gates_that_are_made_later_are_shut_too():
    halting.of_this_loop().halt(Halted("stop"))
    with pytest.raises(Halted):
        await shared("later", "m", ONE_AT_A_TIME).call(lambda: asyncio.sleep(0))


async def test_nothing_is_created_any_more_and_what_is_being_created_is_waited_for():
    gates, created = halting.of_this_loop(), asyncio.Event()

    async def create() -> str:
        async with gates.passing():
            await created.wait()
            return "job"

    first = asyncio.create_task(create())
    await let_run()
    assert gates.halt(Halted("stop")) == 1
    second = asyncio.create_task(create())
    arrived = asyncio.create_task(gates.arrived())
    await let_run()
    assert not any(task.done() for task in (first, second, arrived))
    created.set()
    assert await first == "job"
    with pytest.raises(Halted):
        await second
    await arrived


async def test_a_call_that_is_given_up_is_no_longer_under_way():
    gates = halting.of_this_loop()
    limiter = shared("account", "m", ONE_AT_A_TIME)
    task = asyncio.create_task(limiter.call(lambda: asyncio.sleep(3600)))
    await let_run()
    assert gates.halt(Halted("stop")) == 1
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await gates.arrived()
    assert gates.under_way == 0
