"""From what the SDK raises to our error tree. No message contains a secret.

Servers say most in words: https://github.com/NovaSky-AI/SkyRL/tree/main/skyrl/tinker (read
2026-11-30) and the SDK's own `tinker._exceptions`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import tinker

from providers.calling import CallFailure
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    ContextOverflow,
    InvalidSettings,
    ModelNotFound,
    Overloaded,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    TimedOut,
    TrainingFailed,
    Unreachable,
    Unsupported,
)
from providers.secrets import Secrets
from providers.tinker.transport import FAILED, LOST
from providers.usage import FREE, bill_refusal

_STATUS = re.compile(r"\bstatus (\d{3})\b")
_SLOTS = re.compile(r"maximum number of .*adapters|no free (adapter )?slot|adapter slots", re.I)
_RANK = re.compile(r"\brank\b.*(between|exceeds|at most|mismatch)", re.I)
_GONE = re.compile(
    r"not loaded|model not found|evicted|unknown model|no longer (loaded|live)", re.I
)
_BASE = re.compile(r"base model|configured for|unsupported model|not supported.*model", re.I)
_LONG = re.compile(
    r"context (length|window)|too long|max(imum)?[_ ]?(sequence |model |prompt )?len"
    r"|exceeds.*tokens",
    re.I,
)
_MISSING = re.compile(r"checkpoint.*not found|not found.*checkpoint|no such checkpoint", re.I)
_FORM = re.compile(
    r"field required|extra (inputs|fields)|validation error|unexpected keyword", re.I
)


class AdapterGone(ModelNotFound):
    """The server has the adapter no longer in memory; it can be loaded again from its state."""


class SlotsFull(Overloaded):
    """The server has no slot for another adapter."""


class OutcomeUnknown(ConnectionLost):
    """A request that changes something was sent, and its answer did not arrive."""


Translate = Callable[[BaseException], ProviderError]


def translate_error(error: BaseException, secrets: Secrets, server: str) -> ProviderError | None:
    """The error that an exception of the SDK means; None for any other."""
    match error:
        case ProviderError():
            return error
        case tinker.APITimeoutError() | TimeoutError():
            return TimedOut(f"{server} did not answer in time")
        case tinker.APIConnectionError():
            reason = secrets.quote(str(error.__cause__ or error))
            return Unreachable(
                f"{server} cannot be reached ({reason}); start it, or correct its URL"
            )
        case tinker.APIStatusError():
            return classify_answer(error.status_code, _find_detail(error, secrets), server)
        case tinker.RequestFailedError():
            return classify_answer(400, secrets.quote(error.message), server)
        case ValueError() if "Error retrieving result" in str(error):
            status = _STATUS.search(str(error))
            return classify_answer(
                int(status[1]) if status else 400, secrets.quote(str(error)), server
            )
        case tinker.TinkerError() if "api_key" in str(error):
            return AuthenticationFailed(
                f"the SDK refuses the key ({secrets.quote(str(error))}); export one that begins "
                'with "tml-", and name its variable as provider.api_key_env'
            )
        case tinker.TinkerError():
            return RetryableError(f"the SDK gave up on {server} ({secrets.quote(str(error))})")
    if type(error).__name__ == "RetryableException":
        return OutcomeUnknown(f"{server} has lost a request ({secrets.quote(str(error))})")
    return None


def translate_sampling(error: Exception, secrets: Secrets, server: str) -> CallFailure | None:
    """What an exception of a sampling call means, with what it was billed."""
    found = translate_error(error, secrets, server)
    if found is None:
        return None
    status = error.status_code if isinstance(error, tinker.APIStatusError) else None
    unsent = isinstance(found, Unreachable) and not isinstance(found, OutcomeUnknown)
    billed = FREE if unsent else None if status in (None, LOST) else bill_refusal(status or 0)
    return CallFailure(found, status, sent=not unsent, billed=billed)


def classify_answer(status: int, detail: str, server: str) -> ProviderError:
    """The error of a refusal: by its words, then by its HTTP status."""
    where = f"({status}: {detail})"
    if _SLOTS.search(detail):
        return SlotsFull(
            f"{server} has no slot for another adapter {where}; start it with more, such as "
            "max_lora_adapters of SkyRL, lower provider.max_parallel_jobs, or end its other clients"
        )
    if _RANK.search(detail):
        return InvalidSettings(
            f"{server} refuses the adapter's rank {where}; set finetune.lora_rank to a value that "
            "it takes, or start it with a greater max_lora_rank"
        )
    if _MISSING.search(detail):
        return ModelNotFound(
            f"{server} has not the saved weights {where}; were they deleted, or is it another "
            "server? Start that one, or a new run"
        )
    if _GONE.search(detail):
        return AdapterGone(f"{server} has not the adapter in memory {where}")
    if _BASE.search(detail):
        return ModelNotFound(
            f"{server} does not offer this model {where}; name one that `society doctor` lists"
        )
    if _LONG.search(detail):
        return ContextOverflow(
            f"the conversation does not fit into the model's context {where}; lower "
            "sampling.max_tokens, or use fewer agents or rounds"
        )
    return _classify_status(status, detail, where, server)


def _classify_status(status: int, detail: str, where: str, server: str) -> ProviderError:
    match status:
        case 401 | 403:
            return AuthenticationFailed(
                f"{server} refuses the key {where}; check the variable that provider.api_key_env "
                "names"
            )
        case 402:
            return QuotaExhausted(
                f"the account at {server} has no credit {where}; add some, then start again: what "
                "is stored is kept"
            )
        case 404:
            return AdapterGone(f"{server} does not know what it is asked for {where}")
        case 408:
            return TimedOut(f"{server} gave up waiting {where}")
        case code if code == LOST:
            return OutcomeUnknown(f"the answer of {server} was lost {where}")
        case code if code == FAILED:
            return TrainingFailed(
                f"{server} failed at its work {where}; look into the server's log"
            )
        case 429:
            return RateLimited(f"{server} has no capacity now {where}")
        case 503:
            return Overloaded(f"{server} is overloaded {where}")
        case code if code >= 500:
            return RetryableError(f"{server} failed {where}")
    if _FORM.search(detail):
        return Unsupported(
            f"{server} does not understand requests of tinker {tinker.__version__} {where}; "
            f"{VERSIONS}"
        )
    return BadRequest(f"{server} refuses the request {where}")


VERSIONS = (
    "install the SDK that the server wants: pip install 'tinker==0.24.1' for SkyRL up to 0.3.0, "
    "'tinker>=0.25,<0.26' for TuFT, the newest for Thinking Machines"
)
"""The remedy for an SDK and a server of different generations, by what was read on 2026-11-28."""


def _find_detail(error: tinker.APIStatusError, secrets: Secrets) -> str:
    body = error.body
    detail = body.get("detail", body) if isinstance(body, dict) else body
    return secrets.quote(" ".join(str(detail or error.message).split()))
