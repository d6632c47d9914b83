"""What can be known about a server, a model and an account before anything is spent.

Servers of this shape agree on chat; many have no list of models, or let a key answer that may not
read it. What cannot be asked is told as that, and is no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from openai import AsyncOpenAI

from providers.errors import AuthenticationFailed, ModelNotFound, ProviderError, TimedOut
from providers.openai import access
from providers.openai.address import Address
from providers.openai.calling import Caller, status_code
from providers.openai.client import Connection
from providers.openai.model_list import Facts, ModelList, describe, list_models
from providers.openai.parameters import expected
from providers.openai.preflight_errors import is_missing, is_open
from providers.openai.settings import OpenAISettings
from providers.openai.shutdown import find_shutdowns
from providers.preflight import Finding, Need, checked

_LISTED_AT_MOST = 10
_OF_THE_LIST = {"server", "model", "ending"}


async def look(
    connect: Callable[[], Connection], address: Address, settings: OpenAISettings, need: Need
) -> list[Finding]:
    """Every finding about chatting with and tuning `address`, also the good ones."""
    try:
        connection = connect()
    except ProviderError as error:
        return [Finding("error", str(error), "nothing else could be looked at", "server")]
    client = connection.client
    patience, timeout_s = settings.patience(), settings.timeout_s
    caller = Caller(connection.secrets, address.model, patience, timeout_s=timeout_s)
    findings: list[Finding] = []
    reached = True
    if not need.skip >= _OF_THE_LIST:
        reached, found = await _Model(client, caller, address, need).findings()
        findings += found
    if not reached and "server" not in need.skip:
        return findings
    findings += _transport(address, settings)
    findings += _sampling(address, settings, need)
    if need.batches and "batches" not in need.skip:
        findings += checked("batches", await _batches(client, caller))
    if need.finetune and "fine-tuning" not in need.skip:
        findings += checked("fine-tuning", await _tuning(client, address, settings, caller))
    return findings


async def _batches(client: AsyncOpenAI, caller: Caller) -> list[Finding]:
    try:
        await caller.patiently(lambda: client.batches.list(limit=1))
    except ProviderError as error:
        if is_missing(error):
            text, remedy = f"the server has no batches: {error}", "set evaluation.batch = false"
            return [Finding("error", text, remedy)]
        return [Finding("warning", f"whether the server has batches cannot be checked: {error}")]
    return [Finding("ok", "the server has batches")]


async def _tuning(
    client: AsyncOpenAI, address: Address, settings: OpenAISettings, caller: Caller
) -> list[Finding]:
    if settings.finetune:
        return await access.preflight(client, address.model, caller)
    text = "fine-tuning is switched off for this server (finetune = false in [provider])"
    return [Finding("error", text, "set iterations = 0, or choose a provider that fine-tunes")]


class _Model:
    """Looks whether key and model are accepted, and how long the model stays."""

    def __init__(self, client: AsyncOpenAI, caller: Caller, address: Address, need: Need) -> None:
        self._client = client
        self._caller = caller
        self._address = address
        self._need = need

    async def findings(self) -> tuple[bool, list[Finding]]:
        """Whether the server can be asked anything, and what it says."""
        host, model = self._address.host, self._address.model
        try:
            models = await list_models(self._client, self._caller)
        except ProviderError as error:
            if isinstance(error, TimedOut):
                text = f"{host} cannot be looked at now: {error}"
                return False, [Finding("warning", text, "", "server")]
            if not is_open(error) and not isinstance(error, AuthenticationFailed):
                return False, [_wrong(error)]
            return await self._without_list(error)
        findings = [Finding("ok", f"{host} accepts the key", check="server")]
        listed = models.facts(model)
        try:
            described = await describe(self._client, self._caller, model)
        except ProviderError as error:
            if listed is None:
                return True, [*findings, self._unlisted(models, error)]
            described = {}
        there = Finding("ok", f"model {model} is there", check="model")
        return True, [*findings, there, *self._endings(listed or {}, described)]

    async def _without_list(self, refusal: ProviderError) -> tuple[bool, list[Finding]]:
        """The list cannot be had: the model's own description may still tell everything."""
        model = self._address.model
        try:
            described = await describe(self._client, self._caller, model)
        except ModelNotFound as error:
            if not self._address.is_azure and not is_missing(refusal):
                finding = Finding("error", str(error), "correct the model address", "model")
                return True, [finding]
        except ProviderError as error:
            if not is_open(error):
                return False, [_wrong(error)]
        else:
            found = Finding("ok", f"model {model} is there", check="model")
            return True, [found, *self._endings({}, described)]
        if not is_open(refusal):
            return False, [_wrong(refusal)]
        text = (
            f"the server does not tell which models it has, so that neither {model} nor the key "
            f"nor an announced end can be checked: {refusal}"
        )
        return True, [Finding("warning", text, "check them yourself", "model")]

    def _unlisted(self, models: ModelList, error: ProviderError) -> Finding:
        model = self._address.model
        close = models.close_to(model)
        if self._address.is_azure or not models.names:
            text = f"the server does not list {model}, as is usual for a deployment"
        elif close is not None:
            text = f"the server lists {close}, not {model}"
        elif status_code(error) in (404, 405, 410, 501):
            shown = ", ".join(sorted(models.names)[:_LISTED_AT_MOST])
            text = f"the server has no model {model}; among those it has: {shown}"
            return Finding("error", text, "correct the model address", "model")
        else:
            text = f"the server does not list {model}, and does not describe it: {error}"
        return Finding("warning", text, "check the name yourself", "model")

    def _endings(self, listed: Facts, described: Facts) -> list[Finding]:
        # Some servers tell the end in the list, some only in the description of the one model.
        told = {name: value for name, value in described.items() if value is not None}
        found = find_shutdowns(self._address.model, {**listed, **told}, self._need)
        return checked("ending", found)


def _wrong(error: ProviderError) -> Finding:
    return Finding("error", str(error), "nothing else could be looked at", "server")


def _transport(address: Address, settings: OpenAISettings) -> Iterator[Finding]:
    if settings.key_variable(address) and not address.is_encrypted and not address.is_private:
        text = f"the key travels to {address.host} without encryption"
        yield Finding("warning", text, "use an https URL", "encryption")


def _sampling(address: Address, settings: OpenAISettings, need: Need) -> Iterator[Finding]:
    taken = expected(address, address.model, settings)
    fixed = [name for name in ("temperature", "top_p") if not getattr(taken, name)]
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
