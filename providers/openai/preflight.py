"""What can be known about a server, a model and an account before anything is spent.

Everything here only lists and describes. Servers of this kind agree on chat, but many have no list
of models, or a key that may chat and not list. What cannot be checked gives a warning, not an
error.

Ends that a vendor has announced are also in `closings.toml`, for what a server does not tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from openai import AsyncOpenAI
from openai.types.fine_tuning import FineTuningJob

from providers.calling import Caller, UnreadableAnswer, find_status, is_unreachable
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ModelNotFound,
    ProviderError,
    QuotaExhausted,
    RetryableError,
    TimedOut,
)
from providers.openai import closings
from providers.openai.calling import make_caller
from providers.openai.client import Connection
from providers.openai.job_format import map_status
from providers.openai.models import Facts, ModelList, describe_model, find_shutdowns, list_models
from providers.openai.parameters import guess_parameters
from providers.openai.settings import ModelAddress, OpenAISettings
from providers.preflight import label_findings
from providers.types import Finding, Need

_LISTED_AT_MOST = 10
_OF_THE_LIST = {"server", "model", "ending"}
_MISSING = frozenset({404, 405, 410, 501})
# OpenAI answers 401 with "Missing scopes: api.model.read" to a restricted key; others 403.
_SCOPE = re.compile(r"\bscopes?\b|permission|not permitted|restricted", re.IGNORECASE)
_ACCOUNT = re.compile(
    r"(invalid|incorrect|wrong|expired|revoked|unknown|malformed) (api[ -]?)?(key|token)"
    r"|(key|token) (is |was |has |been )*(invalid|incorrect|expired|revoked|disabled)"
    r"|country|region|deactivat|suspend|banned|blocked|disabled",
    re.IGNORECASE,
)


async def preflight_model(
    connect: Callable[[], Connection], address: ModelAddress, settings: OpenAISettings, need: Need
) -> list[Finding]:
    """Every finding about chatting with and tuning `address`, including the good ones.

    Example::

        connect = partial(Connection, address, settings)
        findings = await preflight_model(connect, address, settings, need)
    """
    try:
        connection = connect()
    except ProviderError as error:
        return [Finding("error", str(error), "nothing else could be checked", "server")]
    client = connection.client
    policy, timeout_s = settings.to_retry_policy(), settings.timeout_s
    caller = make_caller(connection.secrets, address.model, policy, timeout_s=timeout_s)
    findings: list[Finding] = []
    reached = True
    # The list of models answers all three, so it is read unless the user skips all three.
    if not need.skip >= _OF_THE_LIST:
        reached, found = await _ModelCheck(client, caller, address, need).check()
        findings += found
        # What the server announces itself is newer than our table.
        if all(finding.check != "ending" for finding in found):
            findings += closings.check_base(address, need)
    if not reached and "server" not in need.skip:
        return findings
    findings += _check_encryption(address, settings)
    findings += _check_sampling(address, settings, need)
    if need.batches and "batches" not in need.skip:
        findings += label_findings("batches", await _check_batches(client, caller))
    if need.finetune and "fine-tuning" not in need.skip:
        findings += label_findings(
            "fine-tuning", await _check_finetuning(client, address, settings, caller, need)
        )
    return findings


async def _check_batches(client: AsyncOpenAI, caller: Caller) -> list[Finding]:
    try:
        await caller.call_with_retry(lambda: client.batches.list(limit=1))
    except ProviderError as error:
        if is_missing(error):
            text, remedy = f"the server has no batches: {error}", "set evaluation.batch = false"
            return [Finding("error", text, remedy)]
        return [Finding("warning", f"whether the server has batches cannot be checked: {error}")]
    return [Finding("ok", "the server has batches")]


async def _check_finetuning(
    client: AsyncOpenAI,
    address: ModelAddress,
    settings: OpenAISettings,
    caller: Caller,
    need: Need,
) -> list[Finding]:
    if settings.finetune:
        return await preflight_finetuning(client, address, caller, need)
    text = "fine-tuning is switched off for this server (finetune = false in [provider])"
    return [Finding("error", text, "set iterations = 0, or choose a provider that fine-tunes")]


class _ModelCheck:
    """Checks whether the server accepts key and model, and how long the model will exist."""

    def __init__(
        self, client: AsyncOpenAI, caller: Caller, address: ModelAddress, need: Need
    ) -> None:
        self._client = client
        self._caller = caller
        self._address = address
        self._need = need

    async def check(self) -> tuple[bool, list[Finding]]:
        """Whether the server answers at all, and the findings."""
        host, model = self._address.host, self._address.model
        try:
            models = await list_models(self._client, self._caller)
        except ProviderError as error:
            # A server that is slow now may be well when the run starts.
            if isinstance(error, TimedOut):
                text = f"{host} cannot be looked at now: {error}"
                return False, [Finding("warning", text, "", "server")]
            if not is_harmless(error) and not isinstance(error, AuthenticationFailed):
                return False, [_make_server_error(error)]
            return await self._check_without_list(error)
        findings = [Finding("ok", f"{host} accepts the key", check="server")]
        listed = models.facts(model)
        try:
            described = await describe_model(self._client, self._caller, model)
        except ProviderError as error:
            if listed is None:
                return True, [*findings, self._explain_unlisted(models, error)]
            described = {}
        there = Finding("ok", f"model {model} is there", check="model")
        return True, [*findings, there, *self._find_shutdowns(listed or {}, described)]

    async def _check_without_list(self, refusal: ProviderError) -> tuple[bool, list[Finding]]:
        """The findings if the server gives no list: the model's own description may say enough."""
        model = self._address.model
        try:
            described = await describe_model(self._client, self._caller, model)
        except ModelNotFound as error:
            if not self._address.is_azure and not is_missing(refusal):
                finding = Finding("error", str(error), "correct the model address", "model")
                return True, [finding]
        except ProviderError as error:
            if not is_harmless(error):
                return False, [_make_server_error(error)]
        else:
            found = Finding("ok", f"model {model} is there", check="model")
            return True, [found, *self._find_shutdowns({}, described)]
        if not is_harmless(refusal):
            return False, [_make_server_error(refusal)]
        text = (
            f"the server does not tell which models it has, so that neither {model} nor the key "
            f"nor an announced end can be checked: {refusal}"
        )
        return True, [Finding("warning", text, "check them yourself", "model")]

    def _explain_unlisted(self, models: ModelList, error: ProviderError) -> Finding:
        model = self._address.model
        variant = models.find_variant(model)
        # Azure lists its base models, while requests name deployments.
        if self._address.is_azure or not models.names:
            text = f"the server does not list {model}, as is usual for a deployment"
        elif variant is not None:
            text = f"the server lists {variant}, not {model}"
        elif find_status(error) in (404, 405, 410, 501):
            names = ", ".join(sorted(models.names)[:_LISTED_AT_MOST])
            text = f"the server has no model {model}; among those it has: {names}"
            return Finding("error", text, "correct the model address", "model")
        else:
            text = f"the server does not list {model}, and does not describe it: {error}"
        return Finding("warning", text, "check the name yourself", "model")

    def _find_shutdowns(self, listed: Facts, described: Facts) -> list[Finding]:
        # Some servers announce the end in the list, some only in the description of the model.
        known = {name: value for name, value in described.items() if value is not None}
        found = find_shutdowns(self._address.model, {**listed, **known}, self._need)
        return label_findings("ending", found)


def _make_server_error(error: ProviderError) -> Finding:
    return Finding("error", str(error), "nothing else could be checked", "server")


def _check_encryption(address: ModelAddress, settings: OpenAISettings) -> Iterator[Finding]:
    if settings.key_variable(address) and not address.is_encrypted and not address.is_private:
        text = f"the key travels to {address.host} without encryption"
        yield Finding("warning", text, "use an https URL", "encryption")


def _check_sampling(
    address: ModelAddress, settings: OpenAISettings, need: Need
) -> Iterator[Finding]:
    accepted = guess_parameters(address, address.model, settings)
    fixed = [name for name in ("temperature", "top_p") if not getattr(accepted, name)]
    if fixed:
        yield Finding(
            "warning",
            f"{address.model} takes no {' and no '.join(fixed)}: it always uses 1",
            'set sampling.temperature = 1, sampling.top_p = 1, evaluation.decodings = ["sampled"]',
            "sampling",
        )
    if need.sampling_seed:
        text = "the server's seed is best effort: a rerun need not give the same answers"
        yield Finding("warning", text, "choose a local model where that matters", "sampling")
    if need.score and settings.score is None:
        yield Finding(
            "error",
            f"{address.host} gives no log-probabilities of a given text",
            'set score = "vllm" in [provider] if the server is vLLM, or leave out what needs them',
            "scores",
        )


async def preflight_finetuning(
    client: AsyncOpenAI, address: ModelAddress, caller: Caller, need: Need
) -> list[Finding]:
    """Every finding about fine-tuning the model at `address` with this account.

    Lists only, creates nothing. If the vendor takes no more jobs on the day `need.now`, the account
    is not asked for its jobs.
    """
    dated = list(closings.check_jobs(address, need))
    if any(finding.level == "error" and not finding.check for finding in dated):
        return dated

    async def list_latest() -> list[FineTuningJob]:
        page = await client.fine_tuning.jobs.list(limit=20)
        if not isinstance(page.data, list | None):
            raise UnreadableAnswer(
                "the server answered the list of fine-tuning jobs with something else"
            )
        return page.data or []

    try:
        jobs = await caller.call_with_retry(list_latest)
    except ProviderError as error:
        return [_explain_refused_list(error)]
    findings = [Finding("ok", f"the fine-tuning endpoint answers ({len(jobs)} recent jobs)")]
    findings += [*dated, *_check_account(address, jobs, need)]
    running = sum(map_status(job.status) in ("queued", "running") for job in jobs)
    if running:
        findings.append(
            Finding("warning", f"{running} fine-tuning jobs of this account are under way already")
        )
    return findings


def _explain_refused_list(error: ProviderError) -> Finding:
    """What it means that the account's jobs cannot be listed. A run must list them, because that is
    how it avoids creating a job twice."""
    if isinstance(error, RetryableError) and not isinstance(error, UnreadableAnswer):
        text = f"whether fine-tuning jobs can be created cannot be checked now: {error}"
        return Finding("warning", text, "ask again with `society doctor` when the server is well")
    # Before the general case: the remedy is another scope, not another key.
    if lacks_scope(error):
        text = f"the key may not list fine-tuning jobs: {error}"
        return Finding("error", text, "let the key read and write fine-tuning jobs")
    if isinstance(error, (AuthenticationFailed, QuotaExhausted)):
        return Finding("error", f"the fine-tuning endpoint refuses: {error}")
    remedy = f"train elsewhere: {closings.list_alternatives()}"
    return Finding("error", f"the server has no fine-tuning endpoint: {error}", remedy)


def _check_account(
    address: ModelAddress, jobs: list[FineTuningJob], need: Need
) -> Iterator[Finding]:
    """Whether the vendor's rules shut out this account, as far as its own jobs show."""
    vendor, today = closings.find_vendor(address), need.now.date()
    if vendor is None:
        return
    remedy = f"train elsewhere: {closings.list_alternatives()}"
    if vendor.newcomers_end and today >= vendor.newcomers_end and not jobs:
        text = (
            f"this organization has no fine-tuning job for {address.model} or any other model; "
            f"{vendor.name} refuses those that had none before {vendor.newcomers_end}"
        )
        yield Finding("error", text, remedy)
    elif vendor.inactive_end and today >= vendor.inactive_end:
        text = (
            f"since {vendor.inactive_end} {vendor.name} refuses organizations that have not used a "
            "fine-tuned model for 60 days; whether this one has cannot be checked"
        )
        remedy = "send a request to one of your fine-tuned models, then start"
        yield Finding("warning", text, remedy)


def is_harmless(error: ProviderError) -> bool:
    """Whether chat may work although the server refused this question.

    A list of models that is missing, closed to this key or out of order for a moment says nothing
    about chat. A wrong key, an unreachable address and an account without credit do.
    """
    if isinstance(error, RetryableError):
        # A server that fails for the moment exists; an address where nothing listens is wrong.
        return not is_unreachable(error)
    if isinstance(error, AuthenticationFailed):
        return lacks_scope(error)
    return is_missing(error) or isinstance(error, (BadRequest, ModelNotFound))


def is_missing(error: ProviderError) -> bool:
    """Whether the server has no such endpoint."""
    return find_status(error) in _MISSING


def lacks_scope(error: ProviderError) -> bool:
    """Whether the key is valid, but not for this endpoint."""
    text = str(error)
    status = find_status(error)
    if status == 401:
        return _SCOPE.search(text) is not None
    return status == 403 and _ACCOUNT.search(text) is None
