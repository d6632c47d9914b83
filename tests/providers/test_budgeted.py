"""A cap that holds, whatever is in flight."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.budget import Budget
from providers.budgeted import (
    BudgetedProvider,
    call_usd,
    most_trained_tokens,
)
from providers.errors import (
    AmbiguousSubmission,
    BadRequest,
    BudgetReached,
    InvalidSettings,
    RateLimited,
    TimedOut,
    TrainingFailed,
)
from providers.pricing import PriceOverride, Prices
from providers.scripted import ScriptedProvider
from providers.types import (
    Completion,
    Example,
    Finding,
    FinetuneSpec,
    Hyperparameters,
    JobState,
    Message,
    ModelRef,
    Need,
    Request,
    Sampling,
)
from providers.usage import most_prompt_tokens

ADDRESS = "scripted:"
BASE = ModelRef("base", ADDRESS)
PRICES = Prices(
    {
        ADDRESS: PriceOverride(
            input_usd=1.0,
            output_usd=10.0,
            tuned_input_usd=2.0,
            tuned_output_usd=20.0,
            training_usd=100.0,
        )
    }
)
MILLION = 1_000_000
NEED = Need(finetune=True, ends_at=datetime.now(UTC))


def usd(completion: Completion) -> float:
    return (completion.prompt_tokens * 1.0 + completion.completion_tokens * 10.0) / MILLION


def asked(key: str, text: str = "how many?", max_tokens: int = 100, model: ModelRef = BASE):
    return Request(model, (Message("user", text),), Sampling(max_tokens=max_tokens), key)


def job(name: str, words: int = 10, epochs: int = 2) -> FinetuneSpec:
    conversation = (Message("user", "word " * words), Message("assistant", "yes"))
    return FinetuneSpec(
        name, BASE, (Example(conversation, (1,)),), "0" * 64, Hyperparameters(epochs=epochs)
    )


class Vendor(ScriptedProvider):
    """Answers in an order of its own and keeps the bill."""

    def __init__(self, tokens, seed=0):
        super().__init__(lambda request: "")
        self._tokens = tokens
        self._random = random.Random(seed)
        self.billed = 0.0
        self.answered = 0
        self.in_flight = 0

    async def complete(self, request):
        self.requests.append(request)
        self.in_flight += 1
        for _ in range(self._random.randrange(5)):
            await asyncio.sleep(0)
        prompt, completion = self._tokens[request.key]
        answer = Completion("x", "stop", prompt, completion, 0.0)
        self.in_flight -= 1
        self.billed += usd(answer)
        self.answered += 1
        return answer


calls = st.lists(
    st.tuples(
        st.integers(0, 400),  # characters of the prompt
        st.floats(0, 1),  # share of the possible prompt tokens that are used
        st.integers(1, 300),  # max_tokens
        st.floats(0, 1),  # share of them that are used
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(calls, st.floats(1e-5, 0.05), st.integers(0, 2**16))
def test_a_cap_is_never_exceeded_and_every_paid_answer_arrives(plan, cap, seed):
    requests, tokens = [], {}
    for number, (length, prompt_share, max_tokens, share) in enumerate(plan):
        request = asked(str(number), "é" * length, max_tokens)
        requests.append(request)
        most = most_prompt_tokens(request.messages)
        tokens[request.key] = (
            max(1, int(prompt_share * most)),
            max(1, int(share * max_tokens)),
        )
    vendor = Vendor(tokens, seed)
    budget = Budget(cap)
    provider = BudgetedProvider(vendor, PRICES, budget)
    received = []

    async def ask(request):
        received.append(await provider.complete(request))

    async def everything():
        return await asyncio.gather(*map(ask, requests), return_exceptions=True)

    outcomes = asyncio.run(everything())
    assert all(isinstance(outcome, (BudgetReached, type(None))) for outcome in outcomes)
    assert vendor.billed <= cap + 1e-12
    assert budget.spent_usd == pytest.approx(vendor.billed, abs=1e-10)
    assert budget.reserved_usd == 0
    assert len(received) == vendor.answered == len(vendor.requests)
    worst = sum(call_usd(PRICES.of(BASE), *tokens[r.key]) for r in requests)
    if len(received) < len(requests):
        assert worst > 0
        [stopped, *_] = [r for r, o in zip(requests, outcomes, strict=True) if o is not None]
        assert "raise budget_usd" in str(outcomes[int(stopped.key)])
    else:
        assert vendor.billed == pytest.approx(worst)


async def test_a_call_waits_for_what_calls_in_flight_give_back():
    request = asked("a")
    most = call_usd(PRICES.of(BASE), most_prompt_tokens(request.messages), 100)
    vendor = Vendor(dict.fromkeys("abcd", (5, 1)))
    budget = Budget(1.5 * most)
    provider = BudgetedProvider(vendor, PRICES, budget)
    await asyncio.gather(*(provider.complete(asked(key)) for key in "abcd"))
    assert vendor.answered == 4


async def test_what_is_paid_for_is_handed_on_before_the_run_is_stopped():
    stored = []
    vendor = Vendor({str(n): (10, 90) for n in range(30)}, seed=3)
    provider = BudgetedProvider(vendor, PRICES, Budget(0.012))

    async def answer(key):
        completion = await provider.complete(asked(key))
        stored.append(key)
        return completion

    tasks = [asyncio.create_task(answer(str(n))) for n in range(30)]
    running = set(tasks)
    while not any(task.done() and task.exception() for task in tasks):
        _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in running:
        task.cancel()
    assert vendor.in_flight == 0
    assert 0 < len(stored) == vendor.answered == len(vendor.requests) < 30
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(o) for o in outcomes if isinstance(o, BaseException)} == {BudgetReached}


async def test_once_the_cap_is_reached_nothing_more_is_sent():
    vendor = Vendor({"big": (1, 1), "small": (1, 1)})
    provider = BudgetedProvider(vendor, PRICES, Budget(0.003))
    with pytest.raises(BudgetReached, match=r"budget_usd = 0\.003 is reached"):
        await provider.complete(asked("big", max_tokens=1000))
    with pytest.raises(BudgetReached):
        await provider.complete(asked("small", max_tokens=1))
    assert vendor.requests == []


async def test_a_cancelled_wait_gives_up_its_place():
    request = asked("a")
    most = call_usd(PRICES.of(BASE), most_prompt_tokens(request.messages), 100)
    release = asyncio.Event()

    class Slow(ScriptedProvider):
        async def complete(self, request):
            await release.wait()
            return Completion("x", "stop", 1, 1, 0.0)

    budget = Budget(1.2 * most)
    provider = BudgetedProvider(Slow(lambda request: ""), PRICES, budget)
    first = asyncio.create_task(provider.complete(request))
    await asyncio.sleep(0)
    second, third = (asyncio.create_task(provider.complete(asked(k))) for k in "bc")
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    release.set()
    assert (await first).text == "x"
    assert (await third).text == "x"
    with pytest.raises(asyncio.CancelledError):
        await second
    assert budget.reserved_usd == 0
    assert budget.spent_usd == pytest.approx(2 * 11 / MILLION)


@pytest.mark.parametrize(
    ("error", "billed"),
    [(BadRequest("no"), False), (RateLimited("slow"), False), (TimedOut("late"), True)],
)
async def test_a_call_that_may_have_been_billed_counts_in_full(error, billed):
    def fail(request):
        raise error

    budget = Budget(1.0)
    provider = BudgetedProvider(ScriptedProvider(fail), PRICES, budget)
    with pytest.raises(type(error)):
        await provider.complete(asked("a"))
    assert budget.reserved_usd == 0
    assert (budget.spent_usd > 0) is billed


async def test_an_answer_without_usage_counts_with_what_it_can_have_taken():
    provider = BudgetedProvider(
        ScriptedProvider(lambda r: Completion("four words of text", "stop", 0, 0, 0.0)),
        PRICES,
        Budget(1.0),
    )
    await provider.complete(asked("a"))
    assert provider.budget.spent_usd > 4 * 10 / MILLION


async def test_tuned_models_cost_their_own_rate():
    tuned = replace(BASE, artifact="ft:1")
    provider = BudgetedProvider(Vendor({"a": (100, 10)}), PRICES, Budget())
    await provider.complete(asked("a", model=tuned))
    assert provider.budget.spent_usd == pytest.approx((100 * 2 + 10 * 20) / MILLION)


async def test_an_unknown_price_is_counted_without_a_cap_and_refused_with_one():
    unknown = ModelRef("m", "openai:gpt-9")
    vendor = Vendor({"a": (1, 1)})
    free = BudgetedProvider(vendor, Prices(), Budget())
    await free.complete(asked("a", model=unknown))
    assert (free.budget.unpriced_calls, free.budget.spent_usd) == (1, 0.0)
    with pytest.raises(InvalidSettings, match="input_usd"):
        await BudgetedProvider(vendor, Prices(), Budget(5.0)).complete(asked("a", model=unknown))
    assert len(vendor.requests) == 1


class Trainer(ScriptedProvider):
    """Its jobs end when told to, in the state they are told."""

    def __init__(self):
        super().__init__(lambda request: "")
        self.state = JobState("running", "running")
        self.submitted = []
        self.fault = None

    async def submit(self, spec):
        self.submitted.append(spec.name)
        handle = await super().submit(spec)
        if self.fault is not None:
            raise self.fault
        return handle

    async def poll(self, handle):
        return self.state


async def test_a_job_holds_its_worst_case_until_it_is_done():
    trainer, spec = Trainer(), job("j1")
    most = most_trained_tokens(spec) * 100 / MILLION
    budget = Budget(1.5 * most)
    provider = BudgetedProvider(trainer, PRICES, budget)
    handle = await provider.submit(spec)
    assert budget.reserved_usd == pytest.approx(most)
    waiting = asyncio.create_task(provider.submit(job("j2")))
    for _ in range(3):
        await provider.poll(handle)
        await asyncio.sleep(0)
    assert trainer.submitted == ["j1"]
    trainer.state = JobState("succeeded", "succeeded", 1.0, trained_tokens=24)
    await provider.poll(handle)
    await waiting
    assert trainer.submitted == ["j1", "j2"]
    assert budget.spent_usd == pytest.approx(24 * 100 / MILLION)


async def test_a_job_that_can_never_fit_is_not_submitted():
    trainer = Trainer()
    provider = BudgetedProvider(trainer, PRICES, Budget(1e-6))
    with pytest.raises(BudgetReached):
        await provider.submit(job("j1"))
    assert trainer.submitted == []


async def test_a_job_of_unknown_outcome_counts_until_it_is_found_and_done():
    trainer, spec = Trainer(), job("j1")
    most = most_trained_tokens(spec) * 100 / MILLION
    trainer.fault = AmbiguousSubmission("who knows")
    budget = Budget(10 * most)
    provider = BudgetedProvider(trainer, PRICES, budget)
    with pytest.raises(AmbiguousSubmission):
        await provider.submit(spec)
    assert (budget.spent_usd, budget.reserved_usd) == (pytest.approx(most), 0.0)
    handle = await provider.find(spec)
    assert handle is not None
    assert (budget.spent_usd, budget.reserved_usd) == (0.0, pytest.approx(most))
    trainer.state = JobState("succeeded", "succeeded", 1.0, trained_tokens=30)
    await provider.poll(handle)
    await provider.poll(handle)
    assert budget.spent_usd == pytest.approx(30 * 100 / MILLION)


async def test_a_refused_job_costs_nothing_and_a_failed_one_only_what_it_trained():
    trainer = Trainer()
    trainer.fault = TrainingFailed("bad data")
    budget = Budget(1.0)
    provider = BudgetedProvider(trainer, PRICES, budget)
    with pytest.raises(TrainingFailed):
        await provider.submit(job("j1"))
    assert (budget.spent_usd, budget.reserved_usd) == (0.0, 0.0)
    trainer.fault = None
    never, begun = await provider.submit(job("j2")), await provider.submit(job("j3"))
    trainer.state = JobState("failed", "failed")
    await provider.poll(never)
    assert budget.spent_usd == 0.0
    trainer.state = JobState("cancelled", "cancelled", 0.5)
    await provider.poll(begun)
    assert budget.spent_usd == pytest.approx(most_trained_tokens(job("j3")) * 100 / MILLION)


async def test_jobs_of_an_earlier_start_count_once_however_they_are_met_again():
    trainer, spec = Trainer(), job("open")
    await trainer.submit(spec)
    await trainer.submit(job("paid"))
    budget = Budget(1.0, spent_usd=0.1, jobs={"open": 0.02, "lost": 0.03}, paid=["paid"])
    provider = BudgetedProvider(trainer, PRICES, budget)
    assert budget.spent_usd == pytest.approx(0.15)
    trainer.state = JobState("succeeded", "succeeded", 1.0, trained_tokens=50)
    for known in (spec, job("paid")):
        handle = await provider.find(known)
        assert handle is not None
        await provider.poll(handle)
    assert budget.spent_usd == pytest.approx(0.1 + 0.03 + 50 * 100 / MILLION)
    await provider.submit(job("lost"))
    assert budget.spent_usd == pytest.approx(0.1 + 50 * 100 / MILLION)


async def test_everything_else_is_passed_on():
    class Asked(ScriptedProvider):
        async def preflight(self, need):
            return (Finding("ok", "fine"),)

    inner = Asked(lambda request: "yes", min_examples=7)
    provider = BudgetedProvider(inner, PRICES, Budget())
    assert list(await provider.preflight(NEED)) == [Finding("ok", "fine")]
    plain = ScriptedProvider(str)
    wrapped = BudgetedProvider(plain, PRICES, Budget())
    assert await wrapped.preflight(NEED) == await plain.preflight(NEED)
    assert provider.capabilities.min_examples == 7
    assert provider.base == inner.base
    await provider.load_adapters([BASE])
    assert inner.loaded_adapters == (BASE,)
    assert isinstance(provider, BudgetedProvider)
