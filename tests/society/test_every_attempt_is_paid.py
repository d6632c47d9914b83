"""Whatever a server does: its own bill is at most what `spend` says, and at most the cap."""

from __future__ import annotations

import asyncio
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from providers import registry
from providers.budget import Budget
from providers.budgeted import BudgetedProvider
from providers.errors import BudgetReached, ProviderError
from providers.pricing import PriceOverride, Prices
from providers.types import Message, ModelRef, Request, Sampling
from providers.usage import Usage
from society.costs.charges import StoredCharges
from society.method.purpose import Purpose, spend_for
from store.ledger import Store
from store.records import Model, Turn
from store.spending import Price
from tests.providers.chat_server import ChatServer, Reply, fails, says

IN_USD, OUT_USD = 3.0, 11.0
MAX_TOKENS = 40
SAMPLING = Sampling(max_tokens=MAX_TOKENS)
FAST = {"max_attempts": 5, "give_up_after_s": 3.0, "timeout_s": 0.4}


class Vendor:
    """Answers with a quirk on some requests, and writes the bill that the vendor would write."""

    def __init__(self, quirk, worked):
        self.quirk = quirk
        self.worked = worked
        self.billed = 0.0
        self.draw = random.Random(1)

    def __call__(self, asked):
        odd = self.draw.random() < 0.4
        words = self.draw.choice(["4", "The answer is \\boxed{7}.", "è molto difficile " * 3])
        prompt = 5 + sum(math.ceil(len(m["content"]) / 3) for m in asked.body["messages"])
        limit = asked.body.get("max_tokens", MAX_TOKENS)
        written = min(limit, math.ceil(len(words) / 3))
        reply = says(words)
        reply.body["usage"] = {"prompt_tokens": prompt, "completion_tokens": written}
        if not odd or self.worked:
            self.billed += (prompt * IN_USD + written * OUT_USD) / 1e6
        return self.quirk(reply, self) if odd else reply


def without(*names):
    def quirk(reply, vendor):
        body = dict(reply.body)
        usage = {k: v for k, v in body.pop("usage").items() if k not in names}
        return replace(reply, body=body if "usage" in names else {**body, "usage": usage})

    return quirk


def usage(**told):
    return lambda reply, vendor: replace(reply, body={**reply.body, "usage": told})


def instead(other):
    return lambda reply, vendor: other


def thoughtful(reply, vendor):
    """Thinks for 20 tokens, which stand in the total only."""
    told = reply.body["usage"]
    vendor.billed += 20 * OUT_USD / 1e6
    whole = {**told, "total_tokens": sum(told.values()) + 20}
    return replace(reply, body={**reply.body, "usage": whole})


def inside(reply, vendor):
    return Reply({"error": {"message": "upstream died", "code": 502}, "usage": reply.body["usage"]})


# What the server does to 4 answers in 10, and whether it has worked for it.
QUIRKS = {
    "slow": (lambda reply, vendor: replace(reply, delay_s=0.6), True),
    "reset": (lambda reply, vendor: replace(reply, fault="reset"), True),
    "cut": (lambda reply, vendor: replace(reply, fault="truncated"), True),
    "half a body": (lambda reply, vendor: Reply(raw=json.dumps(reply.body).encode()[:70]), True),
    "a page": (instead(Reply(raw=b"<html>login</html>")), True),
    "no choices": (lambda reply, vendor: Reply({**reply.body, "choices": []}), True),
    "another form": (lambda reply, vendor: Reply({"output": "7", "usage": None}), True),
    "aborted": (lambda reply, vendor: says("7", "abort"), False),
    "error after work": (instead(fails(500, "failed to serialize")), True),
    "gateway gave up": (instead(fails(504, "upstream timed out")), True),
    "cloudflare": (instead(Reply(raw=b"<html>524</html>", status=524)), True),
    "request timeout": (instead(fails(408, "took too long")), True),
    "error inside": (inside, True),
    "error inside, nothing told": (instead(Reply({"error": {"message": "dead"}})), True),
    "no usage": (without("usage"), True),
    "usage null": (lambda r, v: replace(r, body={**r.body, "usage": None}), True),
    "only the prompt's": (without("completion_tokens"), True),
    "only the answer's": (without("prompt_tokens"), True),
    "zeros": (usage(prompt_tokens=0, completion_tokens=0), True),
    "nonsense": (usage(prompt_tokens=-3, completion_tokens="many"), True),
    "thoughts beside": (thoughtful, True),
    "rate limited": (instead(fails(429, "slow down", headers={"retry-after": "0"})), False),
    "overloaded": (instead(fails(503, "overloaded")), False),
    "refused": (instead(fails(400, "no such content")), False),
}


def request(provider, key):
    text = "What is three plus four? " * (1 + key % 4) + "üß" * (key % 3)
    return Request(provider.base, (Message("user", text),), SAMPLING, str(key))


def opened(server, path, cap):
    """A metered provider, its budget, and the store that keeps its charges."""
    address = f"openai+{server.url}:m"
    rates = PriceOverride(input_usd=IN_USD, output_usd=OUT_USD)
    budget = Budget(cap)
    store = Store.open(path)
    store.write(Model(address, address), Price(address, False, IN_USD, OUT_USD, "mine"))
    provider = registry.connect(address, FAST, Path())
    paid = BudgetedProvider(
        provider, Prices({address: rates}), budget, charges=StoredCharges(store)
    )
    return paid, budget, store


def spent(store):
    [(usd, calls, failed, estimated)] = store.rows(
        "SELECT coalesce(sum(usd), 0), sum(calls), sum(failed), sum(estimated) FROM spend"
    )
    return usd, calls or 0, failed or 0, estimated or 0


CAPPED = ("slow", "cut", "half a body", "error after work", "no usage", "rate limited")


@pytest.mark.parametrize(
    ("name", "cap"), [*((name, None) for name in QUIRKS), *((name, 0.003) for name in CAPPED)]
)
async def test_the_vendors_bill_is_within_spend_and_within_the_cap(tmp_path, name, cap):
    vendor = Vendor(*QUIRKS[name])
    async with ChatServer(vendor) as server:
        provider, budget, store = opened(server, tmp_path / "run.duckdb", cap)

        async def ask(key):
            # What fails for good stops the provider; closed, it starts anew.
            try:
                await provider.complete(request(provider, key))
            except ProviderError as error:
                return error
            return None

        outcomes = []
        for start in range(0, 18, 6):
            outcomes += await asyncio.gather(*(ask(key) for key in range(start, start + 6)))
            await provider.close()
    with store:
        store.write(Model("written", "after all that was put"))
        usd, calls, failed, estimated = spent(store)
    assert vendor.billed <= usd + 1e-12
    assert usd == pytest.approx(budget.spent_usd)
    assert budget.reserved_usd == 0
    assert calls == sum(outcome is None for outcome in outcomes)
    if cap is None:
        assert calls >= 6
        assert failed or estimated or name == "thoughts beside"
        # Not wildly more either, where the server did tell all.
        if name in ("rate limited", "overloaded", "refused", "error inside", "thoughts beside"):
            assert usd == pytest.approx(vendor.billed)
            assert not estimated
    else:
        assert vendor.billed <= cap
        assert usd <= cap + 1e-12
        assert any(isinstance(outcome, BudgetReached) for outcome in outcomes) == (usd > cap / 2)


async def test_a_connection_that_was_never_made_costs_nothing(tmp_path):
    async with ChatServer(lambda asked: says("x")) as server:
        pass
    provider, budget, store = opened(server, tmp_path / "run.duckdb", 1.0)
    with store, pytest.raises(ProviderError):
        await provider.complete(request(provider, 1))
    assert (budget.spent_usd, budget.reserved_usd) == (0.0, 0.0)


async def test_what_is_given_up_on_its_way_counts_in_full_and_what_never_left_not_at_all(tmp_path):
    arrived = asyncio.Event()

    def script(asked):
        if asked.number == 19:
            arrived.set()
        return says("x", delay_s=30)

    async with ChatServer(script) as server:
        provider, budget, store = opened(server, tmp_path / "run.duckdb", 1.0)
        calls = [asyncio.ensure_future(provider.complete(request(provider, k))) for k in range(60)]
        await arrived.wait()
        sent = len(server.asked)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await provider.close()
    with store:
        store.write(Model("written", "after all that was put"))
        usd, calls_made, failed, estimated = spent(store)
    assert (calls_made, failed, estimated) == (0, sent, sent)
    assert usd == pytest.approx(budget.spent_usd)
    assert usd > sent * MAX_TOKENS * OUT_USD / 1e6


async def test_what_a_killed_run_had_on_its_way_is_known_to_the_next_start(tmp_path):
    path, arrived = tmp_path / "run.duckdb", asyncio.Event()

    async def script(asked):
        arrived.set()
        await asyncio.sleep(30)

    async with ChatServer(script) as server:
        provider, budget, store = opened(server, path, 1.0)
        purpose = Purpose("debate", 1, "multiagent", "train", "sampled", "q1", 2, "critic", 77)
        with spend_for(purpose):
            call = asyncio.ensure_future(provider.complete(request(provider, 1)))
        await arrived.wait()
        # As after kill -9: the file is what it is at this moment.
        rows = store.rows("SELECT state, turn_id, agent, role FROM charges")
        counted = spent(store)[0]
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await provider.close()
    store.close()
    assert rows == [("sent", 77, 2, "critic")]
    assert counted == pytest.approx(budget.spent_usd)
    assert counted > 0


def test_what_was_under_way_is_lost_unless_its_turn_is_stored(tmp_path):
    turn = Turn(
        1, "train", "multiagent", "sampled", "q1", 1, 1, "answer", "base", "[]", "7", "7", "stop",
        10, 2, 1.0,
    )  # fmt: skip
    with Store.open(tmp_path / "run.duckdb") as store:
        store.write(Model("base", "a"), Price("a", False, 1.0, 1.0, "mine"), turn)
        charges = StoredCharges(store)
        for turn_id in (turn.turn_id, 5):
            with spend_for(Purpose("debate", 1, "multiagent", "train", turn_id=turn_id)):
                charge = charges.open_charge(ModelRef("base", "a"))
            asyncio.run(charge.record_sent(Usage(1_000_000, 0, estimated=True)))
        before = spent(store)
        store.mark_charges_lost()
        assert store.rows("SELECT state, turn_id FROM charges") == [("lost", 5)]
        assert spent(store) == before == (pytest.approx(1.0 + 12e-6), 1, 1, 1)
