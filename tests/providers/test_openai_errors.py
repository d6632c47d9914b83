"""What servers say when they refuse, as errors of ours."""

import asyncio
from pathlib import Path

import pytest

from providers import registry
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    ContentFiltered,
    ContextOverflow,
    InvalidSettings,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    TimedOut,
    Unsupported,
    UnusableAnswer,
)
from providers.openai.errors import find_wait, parse_quotas
from providers.types import Message, Request, Sampling
from tests.providers.chat_server import ChatServer, Reply, fails, says

ONCE = {"max_attempts": 1}


async def ask(server, **settings):
    provider = registry.connect(f"openai+{server.url}:gpt-4o", settings, Path())
    try:
        request = Request(provider.base, (Message("user", "Hi"),), Sampling(), "key")
        return await provider.complete(request)
    finally:
        await provider.close()


@pytest.mark.parametrize(
    ("reply", "error", "told"),
    [
        (fails(429, code="insufficient_quota"), QuotaExhausted, "add credit"),
        (fails(429, type="insufficient_quota"), QuotaExhausted, "add credit"),
        (fails(429, code="credit_balance_exhausted"), QuotaExhausted, "add credit"),
        (fails(429, code="project_spend_limit_exceeded"), QuotaExhausted, "add credit"),
        (fails(429, code="organization_usage_limit_exceeded"), QuotaExhausted, "add credit"),
        (fails(402), QuotaExhausted, "add credit"),
        (fails(429, code="rate_limit_exceeded"), RateLimited, "rate limit"),
        (fails(429), RateLimited, "rate limit"),
        (fails(429, "Request too large for gpt-4o"), ContextOverflow, "tokens per minute"),
        (fails(503, code="slow_down"), RateLimited, "slow down"),
        (fails(503, code="server_is_overloaded"), Overloaded, "overloaded"),
        (fails(503), Overloaded, "overloaded"),
        (fails(502), Overloaded, "overloaded"),
        (fails(529), Overloaded, "overloaded"),
        (fails(500), RetryableError, "the server failed"),
        (fails(409), RetryableError, "cannot do this now"),
        (fails(408), TimedOut, "gave up waiting"),
        (fails(401, "Incorrect API key"), AuthenticationFailed, "check the key"),
        (fails(403), AuthenticationFailed, "check the key"),
        (fails(400, code="invalid_api_key"), AuthenticationFailed, "check the key"),
        (fails(404, "The model `x` does not exist"), ModelNotFound, "no model 'gpt-4o'"),
        (fails(404, code="model_not_found"), ModelNotFound, "no model"),
        (fails(400, code="model_not_found"), ModelNotFound, "no model"),
        (fails(404, code="DeploymentNotFound"), ModelNotFound, "no model"),
        (Reply({"detail": "Not Found"}, 404), InvalidSettings, "usually ends in /v1"),
        (Reply(raw=b"<html>nginx</html>", status=404), InvalidSettings, "usually ends in /v1"),
        (Reply(status=307, headers={"location": "http://x/"}), InvalidSettings, "redirects"),
        (fails(405), Unsupported, "check the URL"),
        (fails(400, code="context_length_exceeded"), ContextOverflow, "sampling.max_tokens"),
        (
            fails(400, "This model's maximum context length is 4096 tokens"),
            ContextOverflow,
            "sampling.max_tokens",
        ),
        (fails(413), ContextOverflow, "too large"),
        (fails(400, code="content_filter"), ContentFiltered, "content"),
        (fails(400, code="invalid_prompt"), ContentFiltered, "content"),
        (fails(400, "some other thing"), BadRequest, "some other thing"),
        (Reply({"detail": [{"loc": ["body"], "msg": "odd"}]}, 422), BadRequest, "odd"),
        (Reply({"error": "just words"}, 400), BadRequest, "just words"),
        (Reply(raw=b"", status=400), BadRequest, "status 400"),
        (Reply(raw=b"\xff\xfe", status=500), RetryableError, "status 500"),
        (Reply({"error": {"message": "inside", "code": 429}}), RateLimited, "inside"),
        (Reply({"error": {"message": "inside"}}), RetryableError, "inside"),
        (Reply(raw=b"{"), RetryableError, "not usable"),
        (Reply(raw=b"<html>", headers={"content-type": "text/html"}), RetryableError, "not usable"),
        (Reply({"choices": []}), RetryableError, "no choices"),
        (Reply([1]), UnusableAnswer, "not usable"),
        (says("half of it", "abort"), RetryableError, "broke the answer off"),
        (Reply({"x": "y" * 99}, fault="truncated"), ConnectionLost, "connection"),
        (Reply(fault="reset"), ConnectionLost, "connection"),
    ],
    ids=lambda value: (
        f"{value.status} {value.body} {value.raw} {value.fault}"[:60]
        if isinstance(value, Reply)
        else ""
    ),
)
async def test_what_a_server_says_becomes_the_error_it_means(reply, error, told):
    async with ChatServer(lambda asked: reply) as server:
        with pytest.raises(error) as raised:
            await ask(server, **ONCE)
    assert type(raised.value) is error
    assert told in str(raised.value)


async def test_an_answer_that_does_not_come_in_time_is_a_timeout():
    async with ChatServer(lambda asked: Reply(fault="silence")) as server:
        with pytest.raises(TimedOut, match="in time"):
            await ask(server, timeout_s=0.2, **ONCE)


async def test_a_server_that_is_not_there_is_a_lost_connection():
    async with ChatServer(lambda asked: says("x")) as server:
        pass
    with pytest.raises(ConnectionLost, match="given up after 1 attempt"):
        await ask(server, **ONCE)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
async def test_a_passing_refusal_is_asked_again(status):
    refusal = fails(status, headers={"retry-after-ms": "10"})
    async with ChatServer(lambda asked: says("x") if asked.number else refusal) as server:
        assert (await ask(server)).text == "x"
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
async def test_a_lasting_refusal_is_not_asked_again(status):
    async with ChatServer(lambda asked: fails(status)) as server:
        with pytest.raises(Exception, match=f"status {status}"):
            await ask(server)
        assert len(server.asked) == 1


async def test_requests_that_are_refused_one_and_all_stop_the_run_instead_of_going_unheard():
    async with ChatServer(lambda asked: fails(400, "odd")) as server:
        provider = registry.connect(f"openai+{server.url}:m", {}, Path())
        outcomes = [
            await asyncio.gather(
                provider.complete(
                    Request(provider.base, (Message("user", "Hi"),), Sampling(), str(number))
                ),
                return_exceptions=True,
            )
            for number in range(20)
        ]
        await provider.close()
    kinds = [type(outcome) for (outcome,) in outcomes]
    assert kinds == [BadRequest] * 19 + [InvalidSettings]


def test_without_a_hint_the_reset_of_the_used_up_budget_counts():
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "6m0s",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "1h0m0s",
    }
    assert find_wait(headers) == 360.0
    assert find_wait({**headers, "retry-after": "2"}) == 2.0


def test_budgets_are_read_only_where_they_are_told_in_full():
    told = {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "590",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "100",
    }
    (kind, quota), *others = parse_quotas(told).items()
    assert (kind, quota.limit, quota.remaining, quota.reset_s) == ("requests", 600, 590, 1.0)
    assert not others
