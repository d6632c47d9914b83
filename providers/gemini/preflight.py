"""What can be known about Gemini, a project and a bucket before anything is spent.

Everything here is free: tokens are counted, jobs are listed, the bucket is described. The models
that can be tuned are from
https://docs.cloud.google.com/gemini-enterprise-agent-platform/reference/models/tuning (2026-11-28),
the days of their ends from …/gemini-enterprise-agent-platform/models/model-versions (2026-11-30).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import date

from google.genai import types

from providers.errors import InvalidSettings, ProviderError, RetryableError
from providers.gemini.client import GeminiConnection
from providers.gemini.jobs import TuningJobs
from providers.gemini.settings import GeminiSettings, find_location
from providers.preflight import label_findings
from providers.types import Finding, Message, Need

TUNABLE = ("gemini-3.5-flash", "gemini-3.5-flash-lite", "gemini-3.1-flash-lite")
# Google's page of 2026-11-28 names the others for tuning that goes on from a tuned model.
BASE_ONLY = frozenset({"gemini-3.5-flash-lite"})
ENDINGS: Mapping[str, date] = {
    "gemini-2.5-pro": date(2026, 10, 20),
    "gemini-2.5-flash": date(2026, 10, 20),
    "gemini-2.5-flash-lite": date(2026, 10, 20),
    "gemini-3.1-flash-lite": date(2027, 5, 7),
    "gemini-3.5-flash": date(2027, 5, 19),
    "gemini-3.5-flash-lite": date(2027, 7, 21),
}
"""The day before which Vertex AI does not retire a model, with its tunes."""
_VERSION = re.compile(r"-\d{3}$")
_OTHER = "choose one of: " + ", ".join(TUNABLE)


async def preflight_gemini(
    connect: Callable[[], Awaitable[GeminiConnection]],
    model: str,
    settings: GeminiSettings,
    address: str,
    need: Need,
) -> list[Finding]:
    """Every finding about chatting with and tuning `model`, including the good ones."""
    findings = [*_check_sampling(need)]
    if settings.on_vertex and "ending" not in need.skip:
        findings += _check_ending(model, need)
    if need.finetune and "fine-tuning" not in need.skip:
        findings += label_findings("fine-tuning", _check_settings(model, settings))
    if need.batches and "batches" not in need.skip:
        findings += label_findings("batches", _check_batches(settings))
    if need.finetune and "recipe" not in need.skip:
        findings += _check_conversations(need)
    try:
        connection = await connect()
    except ProviderError as error:
        return [*findings, Finding("error", str(error), "nothing else could be checked", "server")]
    if not need.skip >= {"server", "model"}:
        findings.append(await _check_model(connection, model))
    if need.finetune and "fine-tuning" not in need.skip and settings.on_vertex:
        jobs = TuningJobs(connection, address)
        found = [await _check_jobs(jobs, settings)]
        if settings.bucket is not None:
            found.append(await _check_bucket(jobs, settings))
        findings += label_findings("fine-tuning", found)
    return findings


async def _check_model(connection: GeminiConnection, model: str) -> Finding:
    settings = connection.settings
    location = find_location(model, settings)
    client = connection.get_client(location)

    async def count() -> types.CountTokensResponse:
        return await client.models.count_tokens(model=model, contents="1+1?")

    try:
        await connection.make_caller().call_with_retry(count)
    except RetryableError as error:
        text = f"Google cannot be looked at now: {error}"
        return Finding("warning", text, "", "server")
    except ProviderError as error:
        return Finding("error", str(error), "nothing else could be checked", "server")
    where = f"in {location}" if settings.on_vertex else "at the Gemini Developer API"
    return Finding("ok", f"model {model} answers {where}", check="model")


def _check_ending(model: str, need: Need) -> Iterator[Finding]:
    ends_on = ENDINGS.get(_VERSION.sub("", model))
    if ends_on is None or need.ends_at.date() < ends_on:
        return
    if need.now.date() >= ends_on:
        text = f"Vertex AI may have retired {model}, and the models tuned from it, on {ends_on}"
    else:
        text = f"Vertex AI may retire {model} from {ends_on} on, before the run ends"
    yield Finding("warning", text, _OTHER, "ending")


def _check_settings(model: str, settings: GeminiSettings) -> Iterator[Finding]:
    if not settings.on_vertex:
        yield Finding(
            "error",
            "the Gemini Developer API, which api_key_env chooses, has no tuning jobs",
            "remove api_key_env and use application-default credentials, or set iterations = 0",
        )
        return
    if settings.bucket is None:
        text = "provider.bucket is not set, and jobs read their data from a bucket"
        remedy = f"make one: gcloud storage buckets create --location={settings.jobs_at}"
        yield Finding("error", text, remedy)
    if _VERSION.sub("", model) not in TUNABLE:
        text = f"{model} is not among the models that could be tuned on 2026-11-28"
        yield Finding("warning", text, _OTHER)


def _check_batches(settings: GeminiSettings) -> Iterator[Finding]:
    if not settings.on_vertex:
        text = "the Gemini Developer API, which api_key_env chooses, has no batches here"
        yield Finding("error", text, "remove api_key_env, or set evaluation.batch = false")
    elif settings.bucket is None:
        text = "provider.bucket is not set, and batches read and write objects of a bucket"
        yield Finding("error", text, "set it, or set evaluation.batch = false")
    else:
        yield Finding("ok", f"evaluation goes out in batches, through bucket {settings.bucket}")


async def _check_jobs(jobs: TuningJobs, settings: GeminiSettings) -> Finding:
    try:
        count, running = await jobs.count_running()
    except RetryableError as error:
        text = f"whether jobs can be created cannot be checked now: {error}"
        return Finding("warning", text, "ask again with `society doctor` later")
    except ProviderError as error:
        return Finding("error", f"the tuning jobs cannot be listed: {error}")
    if running:
        return Finding("warning", f"{running} tuning jobs of this project are under way already")
    return Finding("ok", f"tuning jobs in {settings.jobs_at} can be listed ({count} so far)")


async def _check_bucket(jobs: TuningJobs, settings: GeminiSettings) -> Finding:
    bucket = jobs.get_bucket()
    try:
        location = (await jobs.call(bucket.read_location)).lower()
    except RetryableError as error:
        return Finding("warning", f"bucket {settings.bucket} cannot be looked at now: {error}")
    except InvalidSettings as error:
        return Finding("error", str(error))
    except ProviderError as error:
        text = f"bucket {settings.bucket} cannot be described: {error}"
        return Finding("warning", text, "a run needs to write and read its objects")
    if location and location != settings.jobs_at and not settings.jobs_at.startswith(location):
        text = f"bucket {settings.bucket} is in {location}, and the jobs are in {settings.jobs_at}"
        return Finding("warning", text, "Google wants both in one region")
    return Finding("ok", f"bucket {settings.bucket} is in {location or 'an unknown place'}")


def _check_conversations(need: Need) -> Iterator[Finding]:
    if not need.trains_all and any(_count_answers(each) > 1 for each in need.conversations):
        yield Finding(
            "warning",
            "critics learn the last answer of a conversation only, and Google does not say whether "
            "its jobs learn the earlier ones too",
            'if that matters, set datasets.critic_loss = "all", or train on this machine',
            "recipe",
        )


def _count_answers(conversation: tuple[Message, ...]) -> int:
    return sum(message.role == "assistant" for message in conversation)


def _check_sampling(need: Need) -> Iterator[Finding]:
    if need.sampling_seed and "sampling" not in need.skip:
        text = "Gemini's seed is best effort: a rerun need not give the same answers"
        yield Finding("warning", text, "choose a local model where that matters", "sampling")
    if need.score and "scores" not in need.skip:
        text = "Gemini gives no log-probabilities of a given text"
        yield Finding("error", text, "leave out what needs them, or use a local model", "scores")
