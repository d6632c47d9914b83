"""Batch prediction of Gemini: lines joined by their label, batches made once and found again."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers import registry
from providers.batches import Batches
from providers.calling import Caller
from providers.errors import (
    BadRequest,
    InvalidSettings,
    ModelNotFound,
    Overloaded,
    RateLimited,
    RequestFailed,
    Unsupported,
)
from providers.gemini.batch import GeminiBatches
from providers.gemini.client import open_connection
from providers.gemini.jobs import TuningJobs
from providers.gemini.settings import GeminiSettings
from providers.limits import RetryPolicy
from providers.types import Completion, Message, Need, Request, Sampling
from tests.providers.batch_records import Records
from tests.providers.gemini_client import ADDRESS, BASE, SPEC, ask, follow, provider
from tests.providers.gemini_server import BUCKET, MODEL, PARENT, serving
from tests.providers.job_client import briefly

CREATE = "POST batchPredictionJobs"
QUOTA = (
    'Too Many Requests: {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "q"}}'
)
WRONG = 'Bad Request: {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "no field"}}'


@pytest.fixture
def google(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path) as running:
        yield running


@asynccontextmanager
async def batches(google, records=None):
    """The batches of the project, as a process that has just started sees them."""
    connection = await open_connection(MODEL, GeminiSettings.parse(google.settings))
    caller = Caller(connection.translate, str, RetryPolicy(attempts=3), sleep=briefly)
    vendor = GeminiBatches(connection, TuningJobs(connection, ADDRESS))
    yield Batches(vendor, caller, records or Records())
    await connection.close()


def requests(count, model=BASE):
    return [
        Request(
            model,
            (Message("system", "Be brief."), Message("user", f"What is {n}+{n}*2?")),
            Sampling(max_tokens=16, temperature=0.5, top_k=20),
            f"question-{n}",
        )
        for n in range(count)
    ]


def right(answers):
    """Whether every answer belongs to its own question (the stand-in errs by at most 2)."""
    for key, answer in answers.items():
        assert isinstance(answer, Completion), answer
        n = int(key.removeprefix("question-"))
        if not 3 * n <= int(answer.text.split("{")[1].split("}")[0]) <= 3 * n + 2:
            return False
    return True


def read_input(google, number):
    """The lines of the batch with this number."""
    job = google.batches.jobs[f"{PARENT}/batchPredictionJobs/{number}"]
    [uri] = job["inputConfig"]["gcsSource"]["uris"]
    text = google.objects()[uri.removeprefix(f"gs://{BUCKET}/")].decode()
    return [json.loads(line) for line in text.splitlines()]


async def test_every_request_gets_its_own_answer_whatever_the_order(google):
    asked = requests(7)
    async with batches(google) as mine:
        answers = await mine.complete_batch(asked)
    assert list(answers) == [f"question-{n}" for n in range(7)]
    assert right(answers)
    [body] = google.asked(CREATE)
    assert body["model"] == f"publishers/google/models/{MODEL}"
    assert google.asked("POST generateContent") == []
    lines = read_input(google, 1)
    assert lines[2]["request"]["generationConfig"].keys() == {
        *("temperature", "topP", "topK", "maxOutputTokens", "seed"),
    }
    assert lines[2]["request"]["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    # A single call says the same, so a run may change between the two.
    async with provider(google) as opened:
        single = await opened.complete(asked[3])
    batched = answers["question-3"]
    assert replace(single, latency_ms=0.0) == batched


async def test_tuned_models_are_asked_in_batches_of_their_own(google):
    async with provider(google) as opened:
        tuned = (await follow(opened, await opened.submit(SPEC))).model
        asked = [*requests(2), replace(requests(3)[2], model=tuned)]
        mine = opened.batches(Records())
        assert right(await mine.complete_batch(asked))
        stranger = replace(tuned, artifact=f"{PARENT}/endpoints/77")
        with pytest.raises(ModelNotFound, match=r"evaluation\.batch = false"):
            await mine.complete_batch([ask(model=stranger)])
    models = [body["model"] for body in google.asked(CREATE)]
    assert sorted(models) == [f"{PARENT}/models/1@1", f"publishers/google/models/{MODEL}"]


async def test_what_failed_for_a_passing_reason_goes_into_a_further_batch(google):
    google.batches.line_errors = {"2+2": [QUOTA], "4+4": [""], "5+5": ["Internal error", QUOTA]}
    async with batches(google) as mine:
        assert right(await mine.complete_batch(requests(6)))
    assert [len(read_input(google, n)) for n in (1, 2, 3)] == [6, 3, 1]


async def test_what_can_never_succeed_is_said_and_not_sent_again(google):
    google.batches.line_errors = {"3+3": [WRONG] * 9, "4+4": [QUOTA] * 9}
    google.script = lambda body: (
        {"promptFeedback": {"blockReason": "SAFETY"}} if "1+1" in json.dumps(body) else None
    )
    async with batches(google) as mine:
        answers = await mine.complete_batch(requests(6))
    wrong, lost = answers.pop("question-3"), answers.pop("question-4")
    blocked = answers.pop("question-1")
    assert isinstance(wrong, BadRequest)
    assert "no field" in str(wrong)
    assert isinstance(lost, RequestFailed)
    assert "Google's quota is reached" in str(lost)
    assert (blocked.finish_reason, blocked.error) == ("filtered", "the prompt is blocked: SAFETY")
    assert right(answers)
    assert len(google.batches.jobs) == 3


@pytest.mark.parametrize("failure", ["late", "drop", 500, 503])
async def test_a_batch_of_unknown_outcome_is_looked_for_and_made_once(google, failure):
    google.fail[CREATE] = [failure]
    async with batches(google) as mine:
        assert right(await mine.complete_batch(requests(4)))
    assert len(google.batches.jobs) == 1
    assert sum(name.endswith(".jsonl") for name in google.objects()) == 3


async def test_a_killed_process_finds_its_batch_again(google):
    google.batches.batch_s = 0.5
    records = Records()
    async with batches(google, records) as mine:
        work = asyncio.ensure_future(mine.complete_batch(requests(5)))
        await records.created.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    [record] = records.kept.values()
    for known in (record, replace(record, batch_id=None)):
        records.kept = {record.digest: known}
        async with batches(google, records) as restarted:
            assert right(await restarted.complete_batch(requests(5)))
    async with batches(google) as forgotten:
        assert right(await forgotten.complete_batch(requests(5)))
    assert len(google.batches.jobs) == 1


async def test_cancelling_stops_what_is_under_way(google):
    google.batches.batch_s = 60.0
    records = Records()
    async with batches(google, records) as mine:
        work = asyncio.ensure_future(mine.complete_batch(requests(3)))
        await records.created.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert await mine.cancel() == 1
        assert await mine.cancel() == 0
    [job] = google.batches.jobs.values()
    assert job["state"] == "JOB_STATE_CANCELLED"


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        ("Cannot read the input", BadRequest, r"Cannot read the input; look at .*gs://a-bucket"),
        ("Quota of batches exceeded", RateLimited, "earlier batches have ended, then run again"),
    ],
)
async def test_a_batch_that_failed_as_a_whole_says_why(google, failure, kind, words):
    google.batches.failure = failure
    async with batches(google) as mine:
        with pytest.raises(kind, match=words):
            await mine.complete_batch(requests(3))
        google.batches.failure = None
        assert right(await mine.complete_batch(requests(3)))
    assert len(google.batches.jobs) == 2


async def test_an_expired_batch_keeps_what_it_has_answered(google):
    google.batches.ends = "JOB_STATE_EXPIRED"
    google.batches.line_errors = {"1+1": ["", "", ""]}
    async with batches(google) as mine:
        answers = await mine.complete_batch(requests(4))
    lost = answers.pop("question-1")
    assert isinstance(lost, Overloaded)
    assert "say nothing about it" in str(lost)
    assert right(answers)


def need():
    return Need(finetune=False, ends_at=datetime.now(UTC), batches=True)


async def test_without_a_bucket_or_with_a_key_there_are_no_batches(google, monkeypatch):
    async with provider(google, bucket=None) as opened:
        with pytest.raises(InvalidSettings, match="bucket is not set"):
            await opened.batches(Records()).complete_batch(requests(1))
        [error] = [f for f in await opened.preflight(need()) if f.level == "error"]
        assert error.check == "batches"
    monkeypatch.setenv("A_KEY", "AIzaSy-not-a-real-key-0123")
    opened = registry.connect(ADDRESS, {"api_key_env": "A_KEY", "endpoint": google.url}, Path())
    assert not opened.capabilities.batches
    with pytest.raises(Unsupported, match=r"evaluation\.batch = false"):
        opened.batches(Records())
    findings = await opened.preflight(need())
    assert any("has no batches here" in finding.text for finding in findings)
    await opened.close()
    async with provider(google) as opened:
        assert [f.level for f in await opened.preflight(need()) if f.check == "batches"] == ["ok"]
