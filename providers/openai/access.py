"""Whether jobs can be created here, as far as it can be known without creating one.

The dates are from https://platform.openai.com/docs/deprecations, read on 2026-11-22, and concern
OpenAI's own service only.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

from openai import AsyncOpenAI
from openai.types.fine_tuning import FineTuningJob

from providers.base import Hyperparameters
from providers.errors import (
    AuthenticationFailed,
    ProviderError,
    QuotaExhausted,
    RetryableError,
)
from providers.openai.calling import Caller, Unreadable
from providers.openai.job_request import unsupported
from providers.openai.job_state import status_of
from providers.openai.preflight_errors import lacks_scope
from providers.preflight import Finding

CLOSED_TO_NEWCOMERS = date(2026, 5, 7)
CLOSED_TO_INACTIVE = date(2026, 7, 2)
CLOSED_TO_ALL = date(2027, 1, 6)
_ELSEWHERE = 'take another vendor of this shape (model = "openai+URL:MODEL"), or a local model'


async def preflight(
    client: AsyncOpenAI,
    model: str,
    caller: Caller,
    *,
    hyperparameters: Hyperparameters | None = None,
    now: datetime | None = None,
) -> list[Finding]:
    """Every finding about fine-tuning `model` with this account; lists only, creates nothing."""
    return [
        *_recipe(hyperparameters),
        *await _endpoint(client, model, caller, (now or datetime.now(UTC)).date()),
    ]


def _recipe(hyperparameters: Hyperparameters | None) -> list[Finding]:
    problems = () if hyperparameters is None else unsupported(hyperparameters)
    return [Finding("error", problem) for problem in problems]


async def _endpoint(client: AsyncOpenAI, model: str, caller: Caller, today: date) -> list[Finding]:

    async def latest() -> list[FineTuningJob]:
        page = await client.fine_tuning.jobs.list(limit=20)
        if not isinstance(page.data, list | None):
            raise Unreadable("the server answered the list of fine-tuning jobs with something else")
        return page.data or []

    try:
        jobs = await caller.patiently(latest)
    except ProviderError as error:
        return [_refused(error)]
    findings = [Finding("ok", f"the fine-tuning endpoint answers ({len(jobs)} recent jobs)")]
    host = client.base_url.host
    if host == "openai.com" or host.endswith(".openai.com"):
        findings += _openai(model, jobs, today)
    running = sum(status_of(job.status) in ("queued", "running") for job in jobs)
    if running:
        findings.append(
            Finding("warning", f"{running} fine-tuning jobs of this account are under way already")
        )
    return findings


def _refused(error: ProviderError) -> Finding:
    """What it means that the jobs of the account cannot be listed. A run has to list them: that is
    how it never creates one twice."""
    if isinstance(error, RetryableError) and not isinstance(error, Unreadable):
        text = f"whether fine-tuning jobs can be created cannot be checked now: {error}"
        return Finding("warning", text, "ask again with `society doctor` when the server is well")
    if lacks_scope(error):
        text = f"the key may not list fine-tuning jobs: {error}"
        return Finding("error", text, "let the key read and write fine-tuning jobs")
    if isinstance(error, (AuthenticationFailed, QuotaExhausted)):
        return Finding("error", f"the fine-tuning endpoint refuses: {error}")
    return Finding("error", f"the server has no fine-tuning endpoint: {error}", _ELSEWHERE)


def _openai(model: str, jobs: list[FineTuningJob], today: date) -> list[Finding]:
    if today >= CLOSED_TO_ALL:
        return [
            Finding(
                "error",
                f"OpenAI takes no fine-tuning jobs since {CLOSED_TO_ALL}, from anybody",
                _ELSEWHERE,
            )
        ]
    findings = [
        Finding("warning", f"OpenAI takes no fine-tuning jobs from {CLOSED_TO_ALL} on", _ELSEWHERE)
    ]
    if not jobs and today >= CLOSED_TO_NEWCOMERS:
        text = (
            f"this organisation has no fine-tuning job for {model} or any other model; OpenAI "
            f"refuses those that had none before {CLOSED_TO_NEWCOMERS}"
        )
        findings.append(Finding("error", text, _ELSEWHERE))
    elif today >= CLOSED_TO_INACTIVE:
        text = (
            f"since {CLOSED_TO_INACTIVE} OpenAI refuses organisations that have not asked a "
            "fine-tuned model for 60 days; this cannot be seen from here"
        )
        findings.append(Finding("warning", text, "ask one of your fine-tuned models, then start"))
    return findings
