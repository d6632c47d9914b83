"""Whole debates over an API that fails: nothing lost, nothing twice, nothing after the stop."""

import asyncio
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from evals.tasks.arithmetic import create
from providers import registry
from providers.errors import ConnectionLost, QuotaExhausted
from providers.types import Sampling
from society.method.agents import Society
from society.method.debate import Debate, DebateRules
from society.method.failed_requests import withdraw_failed
from store.ledger import Store
from store.records import Model, StageKey
from tests.providers.chat_server import ChatServer, fails, gateway, says

TASK = create({})
AGENTS, ROUNDS = 3, 2
STAGE = StageKey(1, "train", "multiagent", "sampled")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "run.duckdb") as opened:
        yield opened


async def debate(url, store, questions, **settings):
    provider = registry.connect(f"openai+{url}:gpt-4o-mini", settings, Path())
    sampling = Sampling(max_tokens=64)
    engine = Debate(
        Society.from_bases([provider.base] * AGENTS, provider.base),
        TASK,
        {provider.base.address: provider},
        store,
        STAGE,
        DebateRules(ROUNDS, "quoted", sampling, sampling, drop_ties=True),
        again=withdraw_failed(store, STAGE),
        known=store.turns(STAGE),
    )
    try:
        async for _ in engine.run(TASK.questions("train", 0, questions)):
            pass
    finally:
        await provider.close()


def counted(store):
    return store.rows(
        "SELECT (SELECT count(*) FROM turns), (SELECT count(DISTINCT turn_id) FROM turns), "
        "(SELECT count(*) FROM votes), (SELECT count(*) FROM turns WHERE error IS NOT NULL)"
    )[0]


@pytest.fixture
def llmock():
    """The URL of an llmock that refuses two in ten and enforces a budget, in its own process."""
    pytest.importorskip("llmock", reason="llmock is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "LLMOCK_ERROR_RATE_429": "0.111",
        "LLMOCK_ERROR_RATE_503": "0.111",
        "LLMOCK_RPM": "450",
    }
    command = [sys.executable, "-m", "uvicorn", "llmock.main:create_app", "--factory"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()


async def test_with_three_failures_in_ten_debates_end_complete(store, llmock):
    questions = 60
    turns = questions * AGENTS * ROUNDS
    async with (
        aiohttp.ClientSession() as session,
        ChatServer(gateway(llmock, session, 0.1, seed=1)) as server,
    ):
        await debate(server.url, store, questions)
    assert counted(store) == (turns, turns, questions * ROUNDS, 0)
    assert len(server.asked) <= 1.6 * turns


def number_in(asked):
    """Any answer; different questions get different ones."""
    return says(f"\\boxed{{{len(asked.body['messages'][0]['content'])}}}", delay_s=0.02)


async def test_after_a_quota_error_no_call_goes_out_and_what_was_paid_for_is_kept(store):
    questions, exhausted_at = 40, 100

    def script(asked):
        if asked.number >= exhausted_at:
            return fails(429, "You exceeded your current quota", code="insufficient_quota")
        return number_in(asked)

    async with ChatServer(script) as server:
        with pytest.raises(QuotaExhausted, match="add credit"):
            await debate(server.url, store, questions, limits={"max_concurrent": 10})
        sent = len(server.asked)
        await asyncio.sleep(0.3)
        assert len(server.asked) == sent <= exhausted_at + 10
        assert counted(store)[0] == exhausted_at
        server.script = number_in
        await debate(server.url, store, questions)
    turns = questions * AGENTS * ROUNDS
    assert counted(store) == (turns, turns, questions * ROUNDS, 0)
    assert len(server.asked) == sent + turns - exhausted_at


async def test_a_server_that_stays_down_stops_the_run_and_a_rerun_completes_it(store):
    questions = 10

    def script(asked):
        return fails(500) if asked.number >= 20 else number_in(asked)

    async with ChatServer(script) as server:
        with pytest.raises(Exception, match="given up after 2 attempt"):
            await debate(server.url, store, questions, max_attempts=2)
        # What was on its way when the run broke off is stored before this row.
        await store.append(Model(model_id="m", provider="openai:m"))
        assert store.rows("SELECT count(*) FROM turns WHERE failure IS NULL") == [(20,)]
        server.script = number_in
        await debate(server.url, store, questions)
    turns = questions * AGENTS * ROUNDS
    assert counted(store) == (turns, turns, questions * ROUNDS, 0)


async def test_no_prompt_is_answered_twice_when_the_line_breaks_before_the_answer(store):
    draw, answered = random.Random(5), Counter()

    def script(asked):
        if draw.random() < 0.2:
            return gateway_fault(draw)
        answered[re.sub(r"\s+", " ", str(asked.body["messages"])), asked.body["seed"]] += 1
        return number_in(asked)

    async with ChatServer(script) as server:
        await debate(server.url, store, 20)
    assert set(answered.values()) == {1}
    assert sum(answered.values()) == 20 * AGENTS * ROUNDS


def gateway_fault(draw):
    return draw.choice([fails(503, headers={"retry-after-ms": "20"}), fails(500)])


async def test_cancelling_a_run_leaves_no_call_behind(store):
    busy = asyncio.Event()

    def script(asked):
        if asked.number == 19:
            busy.set()
        return says("x", delay_s=30.0)

    async with ChatServer(script) as server:
        running = asyncio.create_task(debate(server.url, store, 50))
        await busy.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0.1)
        assert len(server.asked) == 20


async def test_a_server_that_was_never_there_is_told_and_nothing_is_stored(store):
    with pytest.raises(ConnectionLost, match="given up"):
        await debate("http://127.0.0.1:9/v1", store, 3, max_attempts=1)
    assert counted(store)[0] == 0
