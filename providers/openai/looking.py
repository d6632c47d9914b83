"""What can be known about a server, a model and an account before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from openai.types import Model

from providers.errors import ModelNotFound, ProviderError
from providers.openai import access
from providers.openai.address import Address
from providers.openai.calling import Caller
from providers.openai.client import Connection
from providers.openai.parameters import expected
from providers.openai.settings import OpenAISettings
from providers.preflight import Finding, Need

_LISTED_AT_MOST = 10
_OTHER_MODEL = "choose a model that stays, or run fewer iterations"


async def look(
    connect: Callable[[], Connection], address: Address, settings: OpenAISettings, need: Need
) -> list[Finding]:
    """Every finding about chatting with and tuning `address`, also the good ones."""
    try:
        connection = connect()
        caller = Caller(connection.secrets, address.model, settings.patience())
        findings, model = await _model(connection, caller, address)
    except ProviderError as error:
        return [Finding("error", str(error), "nothing else could be looked at")]
    if model is not None:
        findings += _end_of_life(model, need)
    findings += _transport(address, settings)
    findings += _sampling(address, settings, need)
    if need.finetune and settings.finetune:
        findings += await access.preflight(connection.client, address.model, caller)
    elif need.finetune:
        findings.append(
            Finding(
                "error",
                "fine-tuning is switched off for this server (finetune = false in [provider])",
                "set iterations = 0, or choose a provider that fine-tunes",
            )
        )
    return findings


async def _model(
    connection: Connection, caller: Caller, address: Address
) -> tuple[list[Finding], Model | None]:
    """Whether key and model are accepted, and the model's description."""
    client, names = connection.client, set()
    listed = await caller.patiently(lambda: client.models.list())
    findings = [Finding("ok", f"{address.host} accepts the key")]
    for model in listed.data or []:
        names.add(model.id)
        if model.id == address.model:
            return [*findings, Finding("ok", f"model {address.model} is there")], model
    try:
        model = await caller.patiently(lambda: client.models.retrieve(address.model))
    except ProviderError as error:
        if address.is_azure or not names:
            text = f"the server does not list {address.model}, as is usual for a deployment"
            return [*findings, Finding("warning", text, "check the name yourself")], None
        if not isinstance(error, ModelNotFound):
            return [*findings, Finding("warning", f"model {address.model}: {error}")], None
        shown = ", ".join(sorted(names)[:_LISTED_AT_MOST])
        text = f"the server has no model {address.model}; among those it has: {shown}"
        return [*findings, Finding("error", text, "correct the model address")], None
    return [*findings, Finding("ok", f"model {address.model} is there")], model


def _end_of_life(model: Model, need: Need) -> Iterator[Finding]:
    for what, ends in _ends(model):
        if what == "fine-tuning" and not need.finetune:
            continue
        day = f"{ends:%Y-%m-%d}"
        if ends <= datetime.now(UTC):
            yield Finding("error", f"{what} of {model.id} ended on {day}", _OTHER_MODEL)
        elif ends <= _utc(need.ends_at):
            text = f"{what} of {model.id} ends on {day}, before the run may be over"
            yield Finding("error", text, _OTHER_MODEL)
        else:
            text = f"{what} of {model.id} ends on {day}, and so do the models tuned from it"
            yield Finding("warning", text)


def _ends(model: Model) -> Iterator[tuple[str, datetime]]:
    """Announced ends: OpenAI's `shutdown_date`, Azure's and Mistral's `deprecation`."""
    extra: Mapping[str, object] = model.model_extra or {}
    told = {"answering": model.shutdown_date}
    deprecation = extra.get("deprecation")
    ends: dict[str, object] = dict(told)
    if isinstance(deprecation, Mapping):
        ends["answering"] = ends["answering"] or deprecation.get("inference")
        ends["fine-tuning"] = deprecation.get("fine_tune")
    elif deprecation:
        ends["answering"] = ends["answering"] or deprecation
    for what, value in ends.items():
        moment = _moment(value)
        if moment is not None:
            yield what, moment


def _moment(value: object) -> datetime | None:
    """A date, a time or Unix seconds; None for what is none of them."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            return _utc(datetime.fromisoformat(value))
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _transport(address: Address, settings: OpenAISettings) -> Iterator[Finding]:
    if settings.key_variable(address) and not address.is_encrypted and not address.is_private:
        text = f"the key travels to {address.host} without encryption"
        yield Finding("warning", text, "use an https URL")


def _sampling(address: Address, settings: OpenAISettings, need: Need) -> Iterator[Finding]:
    taken = expected(address, address.model, settings)
    fixed = [name for name in ("temperature", "top_p") if not getattr(taken, name)]
    if fixed:
        yield Finding(
            "warning",
            f"{address.model} takes no {' and no '.join(fixed)}: it always uses 1",
            'set sampling.temperature = 1, sampling.top_p = 1, evaluation.decodings = ["sampled"]',
        )
    if need.sampling_seed:
        text = "the server's seed is best effort: a rerun need not give the same answers"
        yield Finding("warning", text, "choose a local model where that matters")
    if need.score and settings.score is None:
        yield Finding(
            "error",
            f"{address.host} gives no log-probabilities of a given text",
            'set score = "vllm" in [provider] if the server is vLLM, or leave out what needs them',
        )
