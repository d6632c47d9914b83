"""From what the openai package raises, and what a server says, to our error tree.

Codes: https://platform.openai.com/docs/guides/error-codes, and those seen at Azure, Nebius, vLLM,
SGLang and OpenRouter. One exception is never translated twice, and no message holds a secret.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

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
from providers.openai.hints import retry_after_s
from providers.openai.secrets import Secrets

_LONGEST_MESSAGE = 400
_QUOTA = {
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
    "insufficient_balance",
}
_FILTERED = {"content_filter", "content_policy_violation", "invalid_prompt", "moderation_blocked"}
_NO_MODEL = {"model_not_found", "deploymentnotfound", "invalid_model", "model_not_available"}
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
_STATUS_WORDS = (
    (re.compile(r"rate.?limit|too.?many|throttl|resource.?exhausted"), 429),
    (re.compile(r"overload|unavailable|capacity"), 503),
    (re.compile(r"authentication|unauthori|invalid.api.key"), 401),
    (re.compile(r"permission|forbidden|moderation"), 403),
    (re.compile(r"not.?found"), 404),
    (re.compile(r"invalid.?(request|argument|parameter|prompt)|bad.?request|context.?length"), 400),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server's refusal, reduced to what is decided on. `message` is scrubbed and short."""

    status: int
    code: str
    type: str
    param: str | None
    message: str
    retry_after_s: float | None = None


def translate(error: BaseException, secrets: Secrets, model: str) -> ProviderError | None:
    """The error to raise instead, or None where `error` is not of the connection's making.

    `model` is named in what the user can do about it.
    """
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, APIStatusError):
        told = refusal(error, secrets)
        # Whoever raises from it prints it: what the server said must not hold a secret there.
        error.message = f"Error code: {told.status} - {told.message}"
        error.args = (error.message,)
        return judged(told, model)
    if isinstance(error, APIConnectionError):
        return _unreached(_root(error), secrets)
    if isinstance(error, (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)):
        return _unreached(error, secrets)
    if isinstance(error, openai.OpenAIError):
        return RetryableError(_short(secrets, f"the server's answer is not usable: {error}"))
    return None


def refusal(error: APIStatusError, secrets: Secrets) -> Refusal:
    """What the server said with a status of 400 or above."""
    headers = error.response.headers
    return said(error.status_code, error.body, headers, secrets)


def said(status: int, body: object, headers: Mapping[str, str], secrets: Secrets) -> Refusal:
    """A refusal from its status and body; the body is JSON that was read already, or text."""
    told = body.get("error", body) if isinstance(body, Mapping) else body
    fields = told if isinstance(told, Mapping) else {}
    message = fields.get("message") or fields.get("detail") or fields.get("msg")
    if message is None:
        message = told if isinstance(told, str) else json.dumps(told, default=str)
    elif not isinstance(message, str):
        message = json.dumps(message, default=str)
    message += _upstream(fields.get("metadata"))
    inner = fields.get("innererror")
    deeper = inner.get("code") if isinstance(inner, Mapping) else None
    param = fields.get("param")
    return Refusal(
        status=status,
        code=str(fields.get("code") or deeper or "").lower(),
        type=str(fields.get("type") or "").lower(),
        param=param if isinstance(param, str) else None,
        message=_short(secrets, _text_of(message)),
        retry_after_s=retry_after_s(headers),
    )


def _upstream(metadata: object) -> str:
    """What a gateway adds: the words of the vendor behind it, or why it withholds a request."""
    if not isinstance(metadata, Mapping):
        return ""
    parts = [metadata.get("raw"), metadata.get("reasons")]
    told = [p if isinstance(p, str) else json.dumps(p, default=str) for p in parts if p]
    if metadata.get("flagged_input"):
        told.append("flagged by moderation")
    return f" ({'; '.join(told)})" if told else ""


def status_inside(body: object) -> int:
    """The status that an error means which came with status 200; its code may be one itself."""
    fields = body if isinstance(body, Mapping) else {}
    for name in ("code", "status", "status_code"):
        code = str(fields.get(name, ""))
        if code.isdigit() and 400 <= int(code) < 600:
            return int(code)
    words = f"{fields.get('code', '')} {fields.get('type', '')} {fields.get('status', '')}".lower()
    found = (status for pattern, status in _STATUS_WORDS if pattern.search(words))
    return next(found, 500)


def judged(told: Refusal, model: str) -> ProviderError:
    """The error that a refusal means. What is not known by its code goes by its status."""
    where = f"(status {told.status}: {told.message})"
    by_code = _by_code(told, model, where)
    if by_code is not None:
        return by_code
    hint = told.retry_after_s
    match told.status:
        case 403 if is_moderation(told):
            return ContentFiltered(f"the server refuses this content {where}")
        case 401 | 403:
            return AuthenticationFailed(
                f"the server refuses the key {where}; check the key and what its account may use"
            )
        case 402:
            return _no_credit(where)
        case 404 | 410:
            return _not_found(told, model, where)
        case 408:
            return TimedOut(f"the server gave up waiting {where}", retry_after_s=hint)
        case 413:
            return ContextOverflow(f"the request is too large {where}; shorten it")
        case 429:
            return RateLimited(f"the server's rate limit is reached {where}", retry_after_s=hint)
        case 405 | 501:
            return Unsupported(f"the server cannot do this {where}; check the URL of the model")
        case 502 | 503 | 504 | 529:
            return Overloaded(f"the server is overloaded {where}", retry_after_s=hint)
        case 409 | 425:
            return RetryableError(f"the server cannot do this now {where}", retry_after_s=hint)
        case status if 300 <= status < 400:
            return InvalidSettings(
                f"the server sends elsewhere {where}; write the URL it names into the model address"
            )
        case status if status >= 500:
            return RetryableError(f"the server failed {where}", retry_after_s=hint)
    return BadRequest(f"the server refuses the request {where}")


def is_moderation(told: Refusal) -> bool:
    """Whether a refusal is about what was asked, and not about who asks."""
    return any(_MODERATION.search(text) for text in (told.code, told.type, told.message))


def _by_code(told: Refusal, model: str, where: str) -> ProviderError | None:
    words = {told.code, told.type}
    if words & _QUOTA or any(word.endswith("_spend_limit_exceeded") for word in words):
        return _no_credit(where)
    if "slow_down" in words:
        return RateLimited(
            f"the server asks to slow down {where}", retry_after_s=told.retry_after_s
        )
    if "server_is_overloaded" in words or "overloaded_error" in words:
        return Overloaded(f"the server is overloaded {where}", retry_after_s=told.retry_after_s)
    if told.status in (400, 404, 410, 422) and words & _NO_MODEL:
        return _not_found(told, model, where)
    if told.status == 429 and _TOO_LARGE_FOR_QUOTA.search(told.message):
        return ContextOverflow(
            f"the request is larger than the tokens per minute of this account {where}; lower "
            "sampling.max_tokens or raise the account's limit"
        )
    if told.status not in (400, 422):
        return None
    if words & _FILTERED or any("content_filter" in word for word in words):
        return ContentFiltered(f"the server refuses this content {where}")
    if "invalid_api_key" in words:
        return AuthenticationFailed(f"the server refuses the key {where}; check the key")
    if "context_length_exceeded" in words or _TOO_LONG.search(told.message):
        return ContextOverflow(
            f"prompt and answer do not fit into the model's context {where}; lower "
            "sampling.max_tokens, or use fewer agents or rounds"
        )
    return None


def _no_credit(where: str) -> QuotaExhausted:
    return QuotaExhausted(
        f"the account's credit or spending limit is used up {where}; add credit or raise the "
        "limit, then start again: what is stored is kept"
    )


def _not_found(told: Refusal, model: str, where: str) -> ProviderError:
    if told.code in _NO_MODEL or _NAMES_A_MODEL.search(told.message):
        return ModelNotFound(
            f"the server has no model {model!r} for this key {where}; check its name, or which "
            "models the key may use"
        )
    return InvalidSettings(
        f"the server knows no such endpoint {where}; check the URL in the model address, which "
        "usually ends in /v1"
    )


def _unreached(error: BaseException, secrets: Secrets) -> ProviderError:
    # The transport files a connection that was reset under its timeouts; the cause tells them
    # apart. https://github.com/karpetrosyan/httpx-aiohttp
    reason = _short(secrets, str(error) or type(error).__name__)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unreachable(f"the server did not take the connection in time ({reason})")
    if isinstance(error, (asyncio.TimeoutError, aiohttp.ServerTimeoutError)):
        return TimedOut(f"the server did not answer in time ({reason})")
    if isinstance(error, aiohttp.InvalidURL):
        return InvalidSettings(f"the model address has no usable URL ({reason}); correct it")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return InvalidSettings(
            f"the server's certificate is not trusted ({reason}); check the URL, or make the "
            "certificate's authority known to this machine (SSL_CERT_FILE)"
        )
    if isinstance(error, _NEVER_SENT):
        return Unreachable(f"the connection to the server could not be made ({reason})")
    return ConnectionLost(f"the connection to the server broke ({reason})")


def _root(error: BaseException) -> BaseException:
    """The error at the bottom that the transport met with."""
    while error.__cause__ is not None or error.__context__ is not None:
        deeper = error.__cause__ or error.__context__
        if deeper is None or not isinstance(deeper, Exception):
            break
        if isinstance(error, (aiohttp.ClientError, asyncio.TimeoutError)):
            break
        error = deeper
    return error


def _text_of(message: str) -> str:
    """A page of HTML without its tags."""
    if "<html" in message.lower() or "<!doctype" in message.lower():
        message = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", message, flags=re.S | re.I)
    return " ".join(message.split())


def _short(secrets: Secrets, text: str) -> str:
    # Cut after scrubbing: half a key would not be recognised.
    clean = secrets.scrubbed(text)
    return clean if len(clean) <= _LONGEST_MESSAGE else clean[:_LONGEST_MESSAGE] + "…"
