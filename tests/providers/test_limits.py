"""Slots, budgets, retries and the breaker, on a clock that jumps."""

import asyncio
import random
from dataclasses import replace

import pytest

from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    TimedOut,
)
from providers.limits import Limiter, Limits, Quota, RetryPolicy, get_limiter
from providers.limits.concurrency import AdaptiveLimit
from tests.providers.virtual_time import run


def now() -> float:
    return asyncio.get_running_loop().time()


def limiter(seed: int = 0, **limits) -> Limiter:
    return Limiter(
        Limits(**limits), clock=now, sleep=asyncio.sleep, draw=random.Random(seed).random
    )


class Server:
    """Answers after `latency_s`; counts who is there. `fate` may raise."""

    def __init__(self, latency_s=1.0, fate=lambda number: None) -> None:
        self.latency_s = latency_s
        self.fate = fate
        self.calls = self.now = self.most = 0

    async def __call__(self):
        number, self.calls = self.calls, self.calls + 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            latency = self.latency_s(number) if callable(self.latency_s) else self.latency_s
            await asyncio.sleep(latency)
            self.fate(number)
            return number
        finally:
            self.now -= 1


def failing(*errors):
    """The first calls raise `errors`, the later ones succeed."""

    def fate(number):
        if number < len(errors):
            raise errors[number]

    return fate


def test_concurrency_starts_at_20_and_doubles_with_every_clean_round_that_is_used():
    async def main():
        server, here = Server(), limiter()
        seen = []

        async def call():
            await here.call(server)
            seen.append(here.slots.limit.value)

        await asyncio.gather(*(call() for _ in range(140)))
        return server.most, seen

    most, seen = run(main())
    assert most == 80
    assert seen[0] == 20
    assert seen[20:22] == [40, 40]
    assert seen[-1] == 160


def test_slots_that_are_not_needed_do_not_grow():
    async def main():
        server, here = Server(), limiter()
        for _ in range(20):
            await asyncio.gather(*(here.call(server) for _ in range(15)))
        return here.slots.limit.value

    assert run(main()) == 20


def test_a_rate_limit_takes_a_fifth_away_once_in_15_seconds_and_growth_is_slow_afterwards():
    clock = [0.0]
    limit = AdaptiveLimit(512, start=100, clock=lambda: clock[0])
    for _ in range(30):
        limit.record_rate_limit()
    assert limit.value == 80
    clock[0] = 14.9
    limit.record_rate_limit()
    assert limit.value == 80
    clock[0] = 15.0
    limit.record_rate_limit()
    assert limit.value == 64
    for _ in range(2):
        for _ in range(limit.value):
            limit.record_use(limit.value)
            limit.record_success()
    assert limit.value == 72


def test_it_never_falls_below_one_slot_nor_rises_above_what_is_allowed():
    clock = [0.0]
    limit = AdaptiveLimit(50, clock=lambda: clock[0])
    for _ in range(30):
        clock[0] += 16
        limit.record_rate_limit()
    assert limit.value == 1

    async def main():
        server, here = Server(), limiter(max_concurrent=33)
        await asyncio.gather(*(here.call(server) for _ in range(500)))
        return server.most

    assert run(main()) == 33


@pytest.mark.parametrize(("most", "at_once"), [(512, 256), (100, 100)])
def test_a_start_above_the_usual_one_is_taken_up_to_the_most(most, at_once):
    async def main():
        server, here = Server(), limiter(start_concurrent=256, max_concurrent=most)
        await asyncio.gather(*(here.call(server) for _ in range(at_once)))
        return server.most

    assert run(main()) == at_once


@pytest.mark.parametrize(
    "error", [Overloaded("busy"), ConnectionLost("gone"), TimedOut("slow"), RetryableError("odd")]
)
def test_a_passing_failure_is_retried_and_only_rate_limits_change_the_slots(error):
    async def main():
        server, here = Server(fate=failing(error, error)), limiter()
        assert await here.call(server) == 2
        return here.slots.limit.value, here.slots.taken

    assert run(main()) == (20, 0)


def test_the_wait_is_the_servers_hint_or_the_backoff_whichever_is_longer():
    async def main():
        waits = []
        for error in (RateLimited("slow", retry_after_s=7.0), RateLimited("slow"), Overloaded("x")):
            began = now()
            await limiter().call(Server(latency_s=0.0, fate=failing(error)))
            waits.append(now() - began)
        return waits

    hinted, plain, overloaded = run(main())
    assert 7.0 <= hinted <= 7.7
    assert 0.25 <= plain <= 0.5
    assert 0.25 <= overloaded <= 0.5


def test_the_backoff_doubles_up_to_its_longest_wait():
    policy = RetryPolicy(first_wait_s=1.0, longest_wait_s=10.0)
    assert [policy.wait_s(n, None, 1.0) for n in (1, 2, 3, 4, 5, 9)] == [1, 2, 4, 8, 10, 10]
    assert policy.wait_s(3, None, 0.0) == 2
    assert policy.wait_s(9, 3.0, 0.5) == 7.5


def test_a_call_that_fails_for_too_long_ends_the_run_with_an_error_that_says_so():
    policy = RetryPolicy(attempts=4)

    async def main():
        server = Server(fate=failing(*[ConnectionLost("the line is dead")] * 99))
        here = limiter(retry_policy=policy)
        with pytest.raises(ConnectionLost, match=r"the line is dead; given up after 4 attempt"):
            await here.call(server)
        with pytest.raises(ConnectionLost, match="given up after 4"):
            await here.call(server)
        return server.calls, here.slots.taken

    assert run(main()) == (4, 0)


def test_a_hint_beyond_all_patience_is_not_waited_for():
    async def main():
        began = now()
        with pytest.raises(RateLimited, match=r"asks to wait 3,600 s"):
            await limiter().call(
                Server(latency_s=0.0, fate=failing(RateLimited("used up", retry_after_s=3600.0)))
            )
        return now() - began

    assert run(main()) == 0.0


def test_a_request_error_concerns_one_call_only():
    async def main():
        server, here = Server(fate=failing(BadRequest("no"))), limiter()
        with pytest.raises(BadRequest, match="no"):
            await here.call(server)
        assert await here.call(server) == 1
        return here.slots.taken

    assert run(main()) == 0


def test_a_cancelled_call_gives_its_slot_back_wherever_it_is():
    async def main():
        here = limiter(max_concurrent=2, requests_per_minute=600.0)
        for wait in (0.0, 0.01, 0.5, 1.0, 1.2):
            server = Server(fate=failing(*[Overloaded("busy")] * 9))
            calls = [asyncio.create_task(here.call(server)) for _ in range(6)]
            await asyncio.sleep(wait)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert here.slots.taken == 0
        healthy = Server()
        await asyncio.gather(*(here.call(healthy) for _ in range(6)))
        return here.slots.taken, healthy.most

    assert run(main()) == (0, 2)


def test_a_slot_granted_to_a_call_that_is_cancelled_in_the_same_moment_is_not_lost():
    async def main():
        here = limiter(max_concurrent=1)
        first = asyncio.create_task(here.call(Server()))
        second = asyncio.create_task(here.call(Server()))
        first.add_done_callback(lambda _: second.cancel())
        await asyncio.gather(first, second, return_exceptions=True)
        return await here.call(Server(latency_s=0.0)), here.slots.taken

    assert run(main()) == (0, 0)


@pytest.mark.parametrize("error", [QuotaExhausted("no credit"), AuthenticationFailed("bad key")])
def test_after_a_fatal_error_no_call_goes_out_and_those_under_way_arrive(error):
    arrived, failed = [], []

    async def main():
        def fate(number):
            if number == 30:
                raise error

        server = Server(latency_s=lambda number: 0.5 if number == 30 else 1.0, fate=fate)
        here = limiter(max_concurrent=20)

        async def call():
            try:
                arrived.append(await here.call(server))
            except type(error) as stopped:
                failed.append((str(stopped), now()))

        await asyncio.gather(*(call() for _ in range(200)))
        # Numbers 20 to 39 were under way, and 30 is what failed.
        assert server.calls == 40
        return here.slots.taken

    assert run(main()) == 0
    assert sorted(arrived) == [number for number in range(40) if number != 30]
    assert len(failed) == 161
    assert {text for text, _ in failed} == {str(error)}
    assert min(at for _, at in failed) == 2.0


def test_calls_that_wait_for_a_retry_or_a_budget_are_stopped_as_well():
    async def main():
        here = limiter(requests_per_minute=6.0)
        hinted = RateLimited("slow", retry_after_s=300.0)
        calls = [asyncio.create_task(here.call(Server(fate=failing(hinted)))) for _ in range(3)]
        await asyncio.sleep(2.0)
        here.breaker.trip(QuotaExhausted("no credit"))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [QuotaExhausted] * 3
        return now()

    assert run(main()) == 2.0


def test_all_models_of_an_account_stop_together_and_a_rerun_starts_fresh():
    async def main():
        one = get_limiter("https://server abc", "model-a", Limits())
        assert get_limiter("https://server abc", "model-a", Limits()) is one
        other = get_limiter("https://server abc", "model-b", Limits())
        elsewhere = get_limiter("https://server xyz", "model-a", Limits())
        with pytest.raises(QuotaExhausted):
            await one.call(Server(latency_s=0.0, fate=failing(QuotaExhausted("no credit"))))
        with pytest.raises(QuotaExhausted):
            await other.call(Server(latency_s=0.0))
        await elsewhere.call(Server(latency_s=0.0))
        again = get_limiter("https://server abc", "model-a", Limits())
        await again.call(Server(latency_s=0.0))
        assert again is not one

    run(main())


def most_in_a_minute(sent):
    """The most that was sent in any minute, both ends included; `sent` holds (moment, amount)."""
    return max(sum(amount for at, amount in sent if 0 <= at - start <= 60.0) for start, _ in sent)


@pytest.mark.parametrize(
    "budget", [{"requests_per_minute": 120.0}, {"tokens_per_minute": 12_000.0}]
)
def test_a_budget_per_minute_is_kept_in_every_minute(budget):
    async def main():
        at = []

        async def work():
            at.append(now())

        here = limiter(**budget)
        await asyncio.gather(*(here.call(work, tokens=100.0) for _ in range(600)))
        return at

    at = run(main())
    assert most_in_a_minute([(moment, 1) for moment in at]) == 120
    assert at[-1] == pytest.approx((600 - 20) / 2, abs=2.0)


@pytest.mark.parametrize("seed", range(8))
def test_no_minute_has_more_than_is_allowed_however_calls_come_fail_and_are_delayed(seed):
    draw = random.Random(seed)
    requests, tokens = draw.choice([1, 7, 90]), draw.choice([500, 4_000])

    async def main():
        policy = RetryPolicy(attempts=50, give_up_after_s=1e6)
        here = limiter(
            seed, requests_per_minute=requests, tokens_per_minute=tokens, retry_policy=policy
        )
        counted = []

        async def call(amount):
            async def work():
                # On its way to the server, which counts it, and then back.
                await asyncio.sleep(draw.random())
                counted.append((now(), amount))
                await asyncio.sleep(draw.choice([0.0, 3.0, 40.0]))
                if draw.random() < 0.2:
                    raise draw.choice([Overloaded("busy"), RateLimited("slow"), TimedOut("late")])

            await asyncio.sleep(draw.choice([0.0, 30.0, 90.0]))
            await here.call(work, tokens=amount)

        amounts = [draw.choice([10, 200, 450]) for _ in range(60)]
        calls = [asyncio.ensure_future(call(amount)) for amount in amounts]
        await asyncio.sleep(20.0)
        calls[-1].cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes[:-1]} == {type(None)}
        return counted

    counted = run(main())
    assert len(counted) >= 59
    assert most_in_a_minute([(at, 1) for at, _ in counted]) <= requests
    assert most_in_a_minute(counted) <= tokens


def test_less_than_one_request_a_minute_is_one_in_several_minutes():
    async def main():
        at = []

        async def work():
            at.append(now())

        here = limiter(requests_per_minute=0.25, retry_policy=RetryPolicy(give_up_after_s=10_000.0))
        await asyncio.gather(*(here.call(work) for _ in range(4)))
        return at

    assert run(main()) == pytest.approx([0.0, 240.0, 480.0, 720.0])


def test_a_fresh_start_goes_on_with_the_minute_that_was_begun():
    async def main():
        limits = Limits(requests_per_minute=30.0)
        one = get_limiter("https://server key", "m", limits)
        for _ in range(5):
            await one.call(Server(latency_s=0.0))
        one.breaker.trip(QuotaExhausted("no credit"))
        again = get_limiter("https://server key", "m", limits)
        assert again is not one
        return again._window_wait_s({"requests": 26.0, "tokens": 0.0})

    # The first run is at an end and its loop is closed; the clock of the machine goes on.
    assert asyncio.run(main()) > 50.0


def test_one_call_larger_than_the_burst_waits_its_due_and_goes_out():
    async def main():
        here = limiter(tokens_per_minute=6_000.0)
        for _ in range(4):
            await here.call(Server(latency_s=0.0), tokens=3_000.0)
        return now()

    assert run(main()) == pytest.approx((4 * 3_000 - 1_000) / 100)


def test_a_budget_that_the_server_tells_is_followed():
    class Metered:
        """A server with a bucket of 60 requests, refilled by one a second, that tells its level."""

        def __init__(self, here):
            self.here, self.level, self.at = here, 60.0, 0.0
            self.served = self.refused = 0

        async def __call__(self):
            await asyncio.sleep(0.1)
            self.level = min(60.0, self.level + now() - self.at)
            self.at = now()
            granted = self.level >= 1.0
            self.level -= granted
            self.here.observe("requests", Quota(60, int(self.level), 60.0 - self.level))
            if not granted:
                self.refused += 1
                raise RateLimited("too fast", retry_after_s=1.0 - self.level)
            self.served += 1

    async def main():
        here = limiter()
        server = Metered(here)
        await asyncio.gather(*(here.call(server) for _ in range(600)))
        return server.served, server.refused, now()

    served, refused, seconds = run(main())
    assert served == 600
    assert refused <= 60
    assert seconds <= 1.1 * (600 - 60)


@pytest.mark.parametrize(
    "quota", [Quota(-1, -1, 0), Quota(0, 0, 0), Quota(60, 60, 0), Quota(9, 0, 0)]
)
def test_implausible_budgets_of_a_server_are_not_followed(quota):
    async def main():
        here = limiter()

        async def work():
            here.observe("requests", quota)

        for _ in range(50):
            await here.call(work)
        return now()

    assert run(main()) == 0.0


def test_a_budget_of_the_users_is_not_replaced_by_the_servers():
    async def main():
        here = limiter(requests_per_minute=60.0)

        async def work():
            here.observe("requests", Quota(10_000, 9_000, 0.1))

        await asyncio.gather(*(here.call(work) for _ in range(70)))
        return now()

    assert run(main()) == pytest.approx(60.0)


def test_refusals_in_a_row_make_everyone_wait_for_the_hint():
    async def main():
        at = []

        async def work():
            at.append(now())
            if now() < 20.0:
                raise RateLimited("closed", retry_after_s=20.0 - now())

        here = limiter()
        await asyncio.gather(*(here.call(work) for _ in range(200)))
        return sum(moment < 20.0 for moment in at), len(at)

    early, total = run(main())
    assert early == 3
    assert total == 203


def test_a_hundred_slow_answers_among_ten_thousand_hold_nobody_up():
    concurrent, draw = 16, random.Random(7)
    latencies = [0.05] * 9_900 + [5.0] * 100
    draw.shuffle(latencies)

    async def main():
        server = Server(latency_s=lambda number: latencies[number])
        here = limiter(max_concurrent=concurrent)
        await asyncio.gather(*(here.call(server) for _ in latencies))
        return now()

    assert run(main()) <= 1.15 * sum(latencies) / concurrent


def test_with_three_failures_in_ten_every_call_ends_well_with_few_calls_more():
    draw = random.Random(3)

    def fate(number):
        luck = draw.random()
        if luck < 0.1:
            raise RateLimited("slow", retry_after_s=1.0)
        if luck < 0.3:
            raise Overloaded("busy") if luck < 0.2 else ConnectionLost("reset")

    async def main():
        server, here = Server(latency_s=0.05, fate=fate), limiter()
        results = await asyncio.gather(*(here.call(server) for _ in range(6_000)))
        assert len(set(results)) == 6_000
        return server.calls

    assert run(main()) <= 1.6 * 6_000


def test_refusals_by_chance_do_not_starve_the_calls():
    draw = random.Random(1)

    def fate(number):
        if draw.random() < 0.1:
            raise RateLimited("slow", retry_after_s=1.0)

    async def main():
        here, seen = limiter(), []

        async def call():
            await here.call(Server(latency_s=0.2, fate=fate))
            seen.append(here.slots.limit.value)

        await asyncio.gather(*(call() for _ in range(4_000)))
        return seen

    assert min(run(main())) >= 8


def test_a_stopped_call_raises_its_own_copy_of_the_error():
    error = RateLimited("slow", retry_after_s=9e9)

    async def main():
        here = limiter(retry_policy=replace(RetryPolicy(), attempts=1))
        return await asyncio.gather(
            *(here.call(Server(latency_s=0.0, fate=failing(error))) for _ in range(3)),
            return_exceptions=True,
        )

    outcomes = run(main())
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert {type(outcome) for outcome in outcomes} == {RateLimited}
