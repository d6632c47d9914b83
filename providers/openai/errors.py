"""From what the openai package raises and what a server answers to our error tree.

    exception of the package ── translate_error ─┐
    status and body ── parse_refusal ── Refusal ─┴─ classify_refusal ── ProviderError

Error codes: https://platform.openai.com/docs/guides/error-codes, and those seen at Azure, Nebius,
vLLM, SGLang and OpenRouter. No message contains a secret. The second half of the file reads what a
server's headers say about waiting and about its budgets.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import aiohttp
import openai
from openai import APIConnectionError, APIStatusError

from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    ContentFiltered,
    ContextOverflow,
    InvalidSettings,
    ModelNotFound,
    Overloaded,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    TimedOut,
    Unreachable,
    Unsupported,
)
from providers.limits import Quota
from providers.limits.waits import parse_duration, parse_number, parse_retry_after
from providers.secrets import Secrets

# Codes for an account that cannot pay. OpenAI sends them with status 429, like a rate limit that
# passes; but no waiting brings credit.
_QUOTA = {
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
    "insufficient_balance",
}
_FILTERED = {"content_filter", "content_policy_violation", "invalid_prompt", "moderation_blocked"}
# Codes for an unknown model; "deploymentnotfound" is Azure's.
_NO_MODEL = {"model_not_found", "deploymentnotfound", "invalid_model", "model_not_available"}
# Only OpenAI has a code for a prompt that is too long; other servers say it in words.
_TOO_LONG = re.compile(
    r"maximum context length|context window|context length|prompt is too long|too many tokens"
    r"|longer than the model|exceeds? the (model'?s )?max|input is too long|max_model_len",
    re.IGNORECASE,
)
_TOO_LARGE_FOR_QUOTA = re.compile(r"request too large", re.IGNORECASE)
_NAMES_A_MODEL = re.compile(r"\b(model|deployment)\b", re.IGNORECASE)
_NEVER_SENT = (aiohttp.ClientConnectorError, ConnectionRefusedError, socket.gaierror)
_MODERATION = re.compile(
    r"moderat|flagged|content.?(policy|filter)|safety|guardrail|prohibited content|usage polic"
    r"|inappropriate|harmful",
    re.IGNORECASE,
)
# Some gateways send no number at all, but "RESOURCE_EXHAUSTED" or "rate_limit_error".
_STATUS_WORDS = (
    (re.compile(r"rate.?limit|too.?many|throttl|resource.?exhausted"), 429),
    (re.compile(r"overload|unavailable|capacity"), 503),
    (re.compile(r"authentication|unauthori|invalid.api.key"), 401),
    (re.compile(r"permission|forbidden|moderation"), 403),
    (re.compile(r"not.?found"), 404),
    (re.compile(r"invalid.?(request|argument|parameter|prompt)|bad.?request|context.?length"), 400),
)
_BUDGETS: tuple[Literal["requests", "tokens"], ...] = ("requests", "tokens")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server's refusal, reduced to what decisions depend on. `message` is scrubbed and short.

    >>> body = {"error": {"message": "No such model", "code": "model_not_found"}}
    >>> parse_refusal(404, body, {}, Secrets()).code
    'model_not_found'
    """

    status: int
    code: str
    type: str
    param: str | None
    message: str
    retry_after_s: float | None = None


def translate_error(error: BaseException, secrets: Secrets, model: str) -> ProviderError | None:
    """The error to raise instead; None if `error` does not come from the connection.

    Messages that say what the user can do name `model`.
    """
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, APIStatusError):
        refusal = parse_status_error(error, secrets)
        # A traceback prints this error as the cause of ours, so its own text must be scrubbed too.
        error.message = f"Error code: {refusal.status} - {refusal.message}"
        error.args = (error.message,)
        return classify_refusal(refusal, model)
    if isinstance(error, APIConnectionError):
        return _classify_transport_error(_find_root_cause(error), secrets)
    if isinstance(error, (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)):
        return _classify_transport_error(error, secrets)
    if isinstance(error, openai.OpenAIError):
        text = f"the server's answer is not usable: {error}"
        return RetryableError(secrets.quote(text))
    return None


def parse_status_error(error: APIStatusError, secrets: Secrets) -> Refusal:
    """The refusal in an answer with a status of 400 or above."""
    return parse_refusal(error.status_code, error.body, error.response.headers, secrets)


def parse_refusal(
    status: int, body: object, headers: Mapping[str, str], secrets: Secrets
) -> Refusal:
    """The refusal in a status and a body; the body is parsed JSON, or text."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    fields = error if isinstance(error, Mapping) else {}
    message = fields.get("message") or fields.get("detail") or fields.get("msg")
    if message is None:
        message = error if isinstance(error, str) else json.dumps(error, default=str)
    elif not isinstance(message, str):
        message = json.dumps(message, default=str)
    # Without it OpenRouter only says "Provider returned error".
    message += _format_metadata(fields.get("metadata"))
    inner = fields.get("innererror")  # Azure
    inner_code = inner.get("code") if isinstance(inner, Mapping) else None
    param = fields.get("param")
    return Refusal(
        status=status,
        code=str(fields.get("code") or inner_code or "").lower(),
        type=str(fields.get("type") or "").lower(),
        param=param if isinstance(param, str) else None,
        message=secrets.quote(_strip_html(message)),
        retry_after_s=find_wait(headers),
    )


def _format_metadata(metadata: object) -> str:
    """What a gateway adds: the message of the vendor behind it, or why it blocks a request."""
    if not isinstance(metadata, Mapping):
        return ""
    values = [metadata.get("raw"), metadata.get("reasons")]
    parts = [v if isinstance(v, str) else json.dumps(v, default=str) for v in values if v]
    if metadata.get("flagged_input"):
        parts.append("flagged by moderation")
    return f" ({'; '.join(parts)})" if parts else ""


def find_embedded_status(body: object) -> int:
    """The status of an error that came with HTTP status 200; 500 if the body names none.

    Gateways that have begun to answer cannot change the HTTP status any more. They write it into
    the body, as a number or as a word.
    """
    fields = body if isinstance(body, Mapping) else {}
    for name in ("code", "status", "status_code"):
        code = str(fields.get(name, ""))
        if code.isdigit() and 400 <= int(code) < 600:
            return int(code)
    words = f"{fields.get('code', '')} {fields.get('type', '')} {fields.get('status', '')}".lower()
    found = (status for pattern, status in _STATUS_WORDS if pattern.search(words))
    return next(found, 500)


def classify_refusal(refusal: Refusal, model: str) -> ProviderError:
    """The error that a refusal means: by its code if that is known, otherwise by its status."""
    where = f"(status {refusal.status}: {refusal.message})"
    by_code = _classify_by_code(refusal, model, where)
    if by_code is not None:
        return by_code
    hint = refusal.retry_after_s
    match refusal.status:
        # OpenRouter answers 403 for flagged content, others for a wrong key: only the text differs.
        case 403 if is_moderation(refusal):
            return ContentFiltered(f"the server refuses this content {where}")
        case 401 | 403:
            return AuthenticationFailed(
                f"the server refuses the key {where}; check the key and what its account may use"
            )
        case 402:
            return _make_quota_error(where)
        case 404 | 410:
            return _make_not_found_error(refusal, model, where)
        # A gateway's limit, not ours: the model may be slow only now.
        case 408:
            return TimedOut(f"the server gave up waiting {where}", retry_after_s=hint)
        case 413:
            return ContextOverflow(f"the request is too large {where}; shorten it")
        case 429:
            return RateLimited(f"the server's rate limit is reached {where}", retry_after_s=hint)
        case 405 | 501:
            return Unsupported(f"the server cannot do this {where}; check the URL of the model")
        # 529 is Anthropic's and some gateways' "overloaded".
        case 502 | 503 | 504 | 529:
            return Overloaded(f"the server is overloaded {where}", retry_after_s=hint)
        case 409 | 425:
            # A conflict, or a request that came too early, resolves itself with time.
            return RetryableError(f"the server cannot do this now {where}", retry_after_s=hint)
        case status if 300 <= status < 400:
            return InvalidSettings(
                f"the server redirects {where}; write the URL it names into the model address"
            )
        case status if status >= 500:
            return RetryableError(f"the server failed {where}", retry_after_s=hint)
    return BadRequest(f"the server refuses the request {where}")


def is_moderation(refusal: Refusal) -> bool:
    """Whether the server refuses because of the content, not because of the account."""
    return any(_MODERATION.search(text) for text in (refusal.code, refusal.type, refusal.message))


def _classify_by_code(refusal: Refusal, model: str, where: str) -> ProviderError | None:
    words = {refusal.code, refusal.type}
    if words & _QUOTA or any(word.endswith("_spend_limit_exceeded") for word in words):
        return _make_quota_error(where)
    if "slow_down" in words:
        return RateLimited(
            f"the server asks to slow down {where}", retry_after_s=refusal.retry_after_s
        )
    if "server_is_overloaded" in words or "overloaded_error" in words:
        return Overloaded(f"the server is overloaded {where}", retry_after_s=refusal.retry_after_s)
    if refusal.status in (400, 404, 410, 422) and words & _NO_MODEL:
        return _make_not_found_error(refusal, model, where)
    # OpenAI sends 429 also for a single request that exceeds the budget of a whole minute; waiting
    # would never help.
    if refusal.status == 429 and _TOO_LARGE_FOR_QUOTA.search(refusal.message):
        return ContextOverflow(
            f"the request is larger than the tokens per minute of this account {where}; lower "
            "sampling.max_tokens or raise the account's limit"
        )
    if refusal.status not in (400, 422):
        return None
    if words & _FILTERED or any("content_filter" in word for word in words):
        return ContentFiltered(f"the server refuses this content {where}")
    if "invalid_api_key" in words:
        return AuthenticationFailed(f"the server refuses the key {where}; check the key")
    if "context_length_exceeded" in words or _TOO_LONG.search(refusal.message):
        return ContextOverflow(
            f"prompt and answer do not fit into the model's context {where}; lower "
            "sampling.max_tokens, or use fewer agents or rounds"
        )
    return None


def _make_quota_error(where: str) -> QuotaExhausted:
    return QuotaExhausted(
        f"the account's credit or spending limit is used up {where}; add credit or raise the "
        "limit, then start again: what is stored is kept"
    )


def _make_not_found_error(refusal: Refusal, model: str, where: str) -> ProviderError:
    # A wrong path also gives 404. A server that knows the path names the model in its message.
    if refusal.code in _NO_MODEL or _NAMES_A_MODEL.search(refusal.message):
        return ModelNotFound(
            f"the server has no model {model!r} for this key {where}; check its name, or which "
            "models the key may use"
        )
    return InvalidSettings(
        f"the server knows no such endpoint {where}; check the URL in the model address, which "
        "usually ends in /v1"
    )


def _classify_transport_error(error: BaseException, secrets: Secrets) -> ProviderError:
    # The transport (https://github.com/karpetrosyan/httpx-aiohttp) reports a connection that was
    # reset as a timeout; only the cause tells the two apart.
    reason = secrets.quote(str(error) or type(error).__name__)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unreachable(f"the server did not accept the connection in time ({reason})")
    if isinstance(error, (asyncio.TimeoutError, aiohttp.ServerTimeoutError)):
        return TimedOut(f"the server did not answer in time ({reason})")
    if isinstance(error, aiohttp.InvalidURL):
        return InvalidSettings(f"the model address has no usable URL ({reason}); correct it")
    # Checked before _NEVER_SENT, which includes it: no retry mends a certificate.
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return InvalidSettings(
            f"the server's certificate is not trusted ({reason}); check the URL, or make the "
            "certificate's authority known to this machine (SSL_CERT_FILE)"
        )
    if isinstance(error, _NEVER_SENT):
        return Unreachable(f"the connection to the server could not be made ({reason})")
    return ConnectionLost(f"the connection to the server broke ({reason})")


def _find_root_cause(error: BaseException) -> BaseException:
    """The first error of the transport in the chain behind `error`, or the last error of it."""
    while error.__cause__ is not None or error.__context__ is not None:
        deeper = error.__cause__ or error.__context__
        if deeper is None or not isinstance(deeper, Exception):
            break
        if isinstance(error, (aiohttp.ClientError, asyncio.TimeoutError)):
            break
        error = deeper
    return error


def _strip_html(message: str) -> str:
    """The text of an HTML page; any other message with its white space joined."""
    if "<html" in message.lower() or "<!doctype" in message.lower():
        message = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", message, flags=re.S | re.I)
    return " ".join(message.split())


def find_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait before the next try; None if it does not say.

    Without a `retry-after` header this is the longest reset time of the exhausted budgets.
    """
    asked = parse_retry_after(headers)
    if asked is not None:
        return asked
    resets = [
        parse_duration(headers.get(f"x-ratelimit-reset-{kind}"))
        for kind in _BUDGETS
        if parse_number(headers.get(f"x-ratelimit-remaining-{kind}")) == 0
    ]
    return max((reset for reset in resets if reset is not None), default=None)


def parse_quotas(headers: Mapping[str, str]) -> dict[Literal["requests", "tokens"], Quota]:
    """The budgets that the headers describe completely: limit, remainder and reset time."""
    found: dict[Literal["requests", "tokens"], Quota] = {}
    for kind in _BUDGETS:
        remaining = parse_number(headers.get(f"x-ratelimit-remaining-{kind}"))
        if remaining is None:
            continue
        limit = parse_number(headers.get(f"x-ratelimit-limit-{kind}"))
        reset = parse_duration(headers.get(f"x-ratelimit-reset-{kind}"))
        if limit is not None and reset is not None:
            found[kind] = Quota(limit, remaining, reset)
    return found
