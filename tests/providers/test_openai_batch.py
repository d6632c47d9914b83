"""Batches: split, sent once, joined by id, and found again by whoever comes later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from providers.batch_account import BatchPacing
from providers.batch_lines import split_lines
from providers.batches import Batches
from providers.errors import (
    AmbiguousSubmission,
    BadRequest,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RequestFailed,
)
from providers.limits import Limiter, Limits
from providers.openai.batch import OpenAIBatches
from providers.openai.batch_format import MAX_REQUESTS, BatchChat, build_line
from providers.openai.calling import make_caller
from providers.openai.chat import Chat
from providers.openai.client import Connection
from providers.openai.settings import OpenAISettings, parse_address
from providers.types import Completion, Message, ModelRef, Request, Sampling
from tests.providers.batch_records import Records
from tests.providers.job_account import BASE
from tests.providers.job_client import ADDRESS, briefly
from tests.providers.job_server import Server, serving


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def server(process: Server) -> Server:
    process.reset()
    process.tell(job_s=0.05)
    return process


@asynccontextmanager
async def batches(
    server: Server, records: Records | None = None, max_requests: int = MAX_REQUESTS
) -> AsyncIterator[Batches]:
    """The batches of the server's account, as a process that has just started sees them."""
    settings = OpenAISettings()
    connection = Connection(parse_address(f"+{server.url}:{BASE}"), settings)
    chat = Chat(connection, settings, Limiter(Limits()))
    caller = make_caller(connection.secrets, BASE, settings.to_retry_policy(), sleep=briefly)
    vendor = OpenAIBatches(
        connection.client, caller, BatchChat(connection, chat), max_requests=max_requests
    )
    yield Batches(vendor, caller, records or Records(), BatchPacing())
    await connection.close()


def requests(count: int, first: int = 0) -> list[Request]:
    return [
        Request(
            ModelRef(ADDRESS, ADDRESS),
            (Message("user", f"What is the result of {n}+{n}*2?"),),
            Sampling(max_tokens=16),
            f"question-{n}",
        )
        for n in range(first, first + count)
    ]


def created(server: Server) -> int:
    return len(server.log("POST", "/batches"))


def right(answers: dict[str, object]) -> bool:
    """Whether every answer belongs to its own question (the server errs by at most 2)."""
    for key, answer in answers.items():
        assert isinstance(answer, Completion)
        n = int(key.removeprefix("question-"))
        said = int(answer.text.split("{")[1].split("}")[0])
        if not 3 * n <= said <= 3 * n + 2:
            return False
    return True


async def test_every_request_gets_its_own_answer_whatever_the_order(server):
    async with batches(server) as mine:
        answers = await mine.complete_batch(requests(20))
    assert list(answers) == [f"question-{n}" for n in range(20)]
    assert right(answers)
    assert created(server) == 1
    [body] = [entry["body"] for entry in server.log("POST", "/batches")]
    assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
    assert server.log("POST", "/chat/completions") == []


async def test_much_work_is_split_under_the_limits(server):
    async with batches(server, max_requests=7) as mine:
        answers = await mine.complete_batch(requests(20))
    assert right(answers)
    assert created(server) == 3
    sizes = [text.count('"method"') for text in server.state()["contents"].values()]
    assert sorted(size for size in sizes if size) == [6, 7, 7]


def test_a_batch_is_bounded_in_bytes_and_of_one_model():
    lines = [build_line(request, {"model": BASE, "x": "y" * 100}) for request in requests(10)]
    other = build_line(requests(1)[0], {"model": "ft:x"})
    size = len(lines[0].text)
    parts = split_lines([lines[0], other, *lines[1:]], max_requests=100, max_bytes=3 * size + 5)
    assert [len(part.lines) for part in parts] == [3, 3, 3, 1, 1]
    assert [line for part in parts[:4] for line in part.lines] == lines
    with pytest.raises(BadRequest, match="question-0"):
        split_lines(lines, max_requests=100, max_bytes=size - 1)


async def test_what_expired_or_met_a_passing_error_goes_into_a_further_batch(server):
    server.tell(line_errors={"of 3+3": ["expired"], "of 5+5": [500, 429], "of 7+7": ["expired"]})
    async with batches(server) as mine:
        answers = await mine.complete_batch(requests(10))
    assert right(answers)
    assert created(server) == 3
    sizes = [text.count('"method"') for text in server.state()["contents"].values()]
    assert [size for size in sizes if size] == [10, 3, 1]


async def test_what_can_never_succeed_is_said_and_not_sent_again(server):
    server.tell(line_errors={"of 3+3": [400] * 9, "of 4+4": [500] * 9})
    async with batches(server) as mine:
        answers = await mine.complete_batch(requests(6))
    assert isinstance(answers.pop("question-3"), BadRequest)
    lost = answers.pop("question-4")
    assert isinstance(lost, RequestFailed)
    assert "question-4 was not answered in 3 batches; the last time: the server" in str(lost)
    assert right(answers)
    assert created(server) == 3


@pytest.mark.parametrize(
    ("wish", "count", "error", "reason"),
    [
        (500, 1, RequestFailed, "status 500"),
        (503, 3, RequestFailed, "overloaded"),
        (500, 6, Overloaded, "status 500"),
        ("expired", 1, Overloaded, "expired before it was run"),
    ],
)
async def test_a_failing_request_is_told_from_an_outage_and_has_its_reason(
    server, wish, count, error, reason
):
    server.tell(line_errors={"What is": [wish] * 99})
    async with batches(server) as mine:
        answers = await mine.complete_batch(requests(count))
    assert [type(answer) for answer in answers.values()] == [error] * count
    assert all(reason in str(answer) for answer in answers.values())


async def test_a_killed_process_finds_its_batch_again(server):
    server.tell(job_s=0.5)
    forgotten = Records()
    async with batches(server, forgotten) as mine:
        work = asyncio.ensure_future(mine.complete_batch(requests(8)))
        await forgotten.created.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    async with batches(server) as restarted:
        assert right(await restarted.complete_batch(requests(8)))
    assert created(server) == 1
    assert len(server.log("POST", "/files")) == 1


async def test_answers_that_are_paid_for_are_used_when_less_is_asked_or_more(server):
    records = Records()
    async with batches(server, records) as mine:
        await mine.complete_batch(requests(8))
    async with batches(server, records) as restarted:
        assert right(await restarted.complete_batch(requests(5, first=2)))
        assert created(server) == 1
        assert right(await restarted.complete_batch(requests(8, first=4)))
    assert created(server) == 2
    assert [len(record.custom_ids) for record in records.kept.values()] == [8, 4]


async def test_other_parameters_are_another_request(server):
    records = Records()
    changed = [Request(r.model, r.messages, Sampling(max_tokens=99), r.key) for r in requests(3)]
    async with batches(server, records) as mine:
        await mine.complete_batch(requests(3))
        await mine.complete_batch(changed)
    assert created(server) == 2


@pytest.mark.parametrize("drop_metadata", [False, True])
@pytest.mark.parametrize("failure", ["drop", 500])
async def test_a_batch_of_unknown_outcome_is_looked_for_and_adopted(server, failure, drop_metadata):
    server.tell(created=[failure], drop_metadata=drop_metadata)
    async with batches(server) as mine:
        assert right(await mine.complete_batch(requests(4)))
    assert created(server) == 1
    assert len(server.log("POST", "/files")) == 1


@pytest.mark.parametrize("failure", [500, 503, 504, "drop"])
async def test_a_batch_that_was_not_created_is_created_again(server, failure):
    server.tell(create=[failure])
    async with batches(server) as mine:
        assert right(await mine.complete_batch(requests(4)))
    assert len(server.state()["batches"]) == 1
    assert created(server) == 2


async def test_a_batch_that_is_listed_late_is_not_created_again(server):
    server.tell(created=["drop"], lag=4)
    async with batches(server) as mine:
        assert right(await mine.complete_batch(requests(4)))
    assert created(server) == 1


async def test_a_batch_that_was_intended_before_is_looked_for_while_the_list_lags(server):
    records = Records()
    async with batches(server, records) as mine:
        await mine.complete_batch(requests(4))
    [record] = records.kept.values()
    records.kept[record.digest] = replace(record, batch_id=None)
    server.tell(lag=4)
    async with batches(server, records) as restarted:
        assert right(await restarted.complete_batch(requests(4)))
    assert created(server) == 1
    assert [record.batch_id is None for record in records.kept.values()] == [False]


async def test_a_batch_whose_creation_is_answered_unreadably_stops_until_it_is_asked_for_again(
    server,
):
    server.tell(refuse={"POST /batches": {"text": "<html>ok</html>"}})
    records = Records()
    async with batches(server, records) as mine:
        with pytest.raises(AmbiguousSubmission):
            await mine.complete_batch(requests(4))
        assert [record.batch_id for record in records.kept.values()] == [None]
        server.tell(refuse={})
        assert right(await mine.complete_batch(requests(4)))
    assert len(server.state()["batches"]) == 1


async def test_a_batch_refused_as_a_whole_says_why_and_can_be_tried_again(server):
    wish = {"code": "invalid_json_line", "message": "This line is not JSON", "line": 2}
    server.tell(batch_errors=[wish, {"code": "token_limit_exceeded", "message": "Too much"}])
    records = Records()
    async with batches(server, records) as mine:
        with pytest.raises(BadRequest, match=r"This line is not JSON \(line 2\)"):
            await mine.complete_batch(requests(4))
        with pytest.raises(RateLimited, match=r"Too much.*run again"):
            await mine.complete_batch(requests(4))
        assert right(await mine.complete_batch(requests(4)))
    assert created(server) == 3
    assert len(server.log("POST", "/files")) == 3


async def test_lack_of_credit_stops_and_the_rerun_asks_only_for_the_rest(server):
    records = Records()
    server.tell(line_errors={"of 2+2": [402]})
    async with batches(server, records) as mine:
        with pytest.raises(QuotaExhausted):
            await mine.complete_batch(requests(4))
    async with batches(server, records) as restarted:
        assert right(await restarted.complete_batch(requests(4)))
    assert [len(record.custom_ids) for record in records.kept.values()] == [4, 1]


async def test_cancelling_stops_what_is_under_way(server):
    server.tell(job_s=30)
    records = Records()
    async with batches(server, records) as mine:
        work = asyncio.ensure_future(mine.complete_batch(requests(4)))
        await records.created.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert await mine.cancel() == 1
        assert await mine.cancel() == 0
    assert [batch["status"] for batch in server.state()["batches"].values()] == ["cancelled"]


async def test_two_requests_with_one_key_are_a_mistake(server):
    async with batches(server) as mine:
        with pytest.raises(ValueError, match="same key"):
            await mine.complete_batch([*requests(2), *requests(1)])
    assert created(server) == 0
