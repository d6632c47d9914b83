"""From what google-genai, google-auth and Cloud Storage raise to our error tree.

Codes: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/api-errors and
https://ai.google.dev/gemini-api/docs/troubleshooting; bodies: https://google.aip.dev/193. No
message contains a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import httpx2
from google.auth import exceptions as auth
from google.genai import errors

from providers.calling import CallFailure
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
from providers.limits.waits import parse_duration, parse_retry_after
from providers.secrets import Secrets
from providers.usage import FREE, bill_refusal

_TOO_LONG = re.compile(
    r"token count .*exceeds|exceeds the maximum number of tokens|too many tokens"
    r"|input token count|context (length|window)",
    re.IGNORECASE,
)
_MODEL = re.compile(r"\bmodels?\b|\bendpoint", re.IGNORECASE)
_BUCKET = re.compile(r"\bbucket\b|storage", re.IGNORECASE)
_BILLING = re.compile(r"billing|credit|prepay|spend", re.IGNORECASE)
_PLACE = re.compile(
    r"(user )?location is not supported|not (supported|available) in", re.IGNORECASE
)
_CONTENT = re.compile(r"\bblocked\b|safety|prohibited|usage guidelines|policy", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call went, for messages: the model and its location, or the bucket."""

    model: str
    location: str
    on_vertex: bool = True
    storage: bool = False

    @property
    def remedy(self) -> str:
        """What to do about refused credentials."""
        if self.on_vertex:
            return (
                "log in with `gcloud auth application-default login`, and give the account the "
                "roles Vertex AI User and, for the bucket, Storage Object User"
            )
        return "check the key that api_key_env names"


@dataclass(frozen=True, slots=True)
class GoogleRefusal:
    """A refusal, reduced to what decisions depend on. `message` is scrubbed and short; `status` is
    Google's word, such as "RESOURCE_EXHAUSTED"; `reasons` are those of its details."""

    code: int
    status: str
    message: str
    reasons: frozenset[str]
    retry_after_s: float | None = None


def translate_error(error: Exception, secrets: Secrets, place: Place) -> CallFailure | None:
    """What an exception of the connection means; None for any other."""
    match error:
        case errors.APIError():
            body = error.details
            refusal = _parse_refusal(error.code, body, _get_headers(error.response), secrets)
        case httpx2.HTTPStatusError():
            # Only Cloud Storage is asked without the package.
            place = replace(place, storage=True)
            response = error.response
            refusal = _parse_refusal(
                response.status_code, _parse_json(response), response.headers, secrets
            )
        case auth.TransportError():
            text = f"Google's sign-in cannot be reached ({secrets.quote(str(error))})"
            return CallFailure(Unreachable(text), sent=False, billed=FREE)
        case auth.GoogleAuthError():
            text = f"Google refuses the credentials ({secrets.quote(str(error))}); {place.remedy}"
            return CallFailure(AuthenticationFailed(text), sent=False, billed=FREE)
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            text = f"the connection to Google could not be made ({secrets.quote(str(error))})"
            return CallFailure(Unreachable(text), sent=False, billed=FREE)
        case httpx2.TimeoutException() | TimeoutError():
            return CallFailure(TimedOut("Google did not answer in time"))
        case httpx2.HTTPError():
            reason = secrets.quote(str(error) or type(error).__name__)
            return CallFailure(ConnectionLost(f"the connection to Google broke ({reason})"))
        case _:
            return None
    found = classify_refusal(refusal, place)
    return CallFailure(found, refusal.code, billed=bill_refusal(refusal.code))


def classify_body(code: int, body: object, secrets: Secrets, place: Place) -> ProviderError:
    """The error that an answer with an HTTP status of 400 or more means."""
    return classify_refusal(_parse_refusal(code, body, {}, secrets), place)


def classify_refusal(refusal: GoogleRefusal, place: Place) -> ProviderError:
    """The error that a refusal means: by its reasons, then by its HTTP status."""
    where = f"({refusal.code} {refusal.status}: {refusal.message})"
    if refusal.reasons & {"SERVICE_DISABLED"}:
        return Unsupported(
            f"an API is switched off in the project {where}; enable it: `gcloud services enable "
            "aiplatform.googleapis.com storage.googleapis.com`"
        )
    unpaid = refusal.code in (402, 403) or refusal.status == "FAILED_PRECONDITION"
    if "BILLING_DISABLED" in refusal.reasons or (unpaid and _BILLING.search(refusal.message)):
        return QuotaExhausted(
            f"the project cannot pay {where}; link a billing account, then start again: what is "
            "stored is kept"
        )
    match refusal.code:
        case 400 | 413 | 422:
            return _classify_bad_request(refusal, place, where)
        case 401 | 403:
            return AuthenticationFailed(f"Google refuses the account {where}; {place.remedy}")
        case 404:
            return _classify_not_found(refusal, place, where)
        case 408 | 504:
            return TimedOut(f"Google gave up waiting {where}")
        case 429:
            return _classify_quota(refusal, where)
        case 405 | 501:
            return Unsupported(f"Google cannot do this {where}")
        case 503:
            return Overloaded(f"the model is overloaded {where}")
        case 409 | 499:
            return RetryableError(f"Google cannot do this now {where}")
        case code if code >= 500:
            return RetryableError(f"Google failed {where}", retry_after_s=refusal.retry_after_s)
    return BadRequest(f"Google refuses the request {where}")


def _classify_bad_request(refusal: GoogleRefusal, place: Place, where: str) -> ProviderError:
    if "API_KEY_INVALID" in refusal.reasons:
        return AuthenticationFailed(f"Google refuses the key {where}; {place.remedy}")
    if refusal.code == 413 or _TOO_LONG.search(refusal.message):
        return ContextOverflow(
            f"prompt and answer do not fit into the model's context {where}; lower "
            "sampling.max_tokens, or use fewer agents or rounds"
        )
    if _PLACE.search(refusal.message):
        return Unsupported(f"Gemini is not offered at this place {where}; set provider.location")
    if _CONTENT.search(refusal.message):
        return ContentFiltered(f"Google refuses this content {where}")
    return BadRequest(f"Google refuses the request {where}")


def _classify_not_found(refusal: GoogleRefusal, place: Place, where: str) -> ProviderError:
    if place.storage or _BUCKET.search(refusal.message):
        return InvalidSettings(
            f"the bucket does not exist {where}; correct provider.bucket, or make it in the region "
            "of the jobs: `gcloud storage buckets create`"
        )
    if _MODEL.search(refusal.message):
        return ModelNotFound(
            f"location {place.location!r} has no model {place.model!r} for this project {where}; "
            'check its name, or set provider.location to one that has it, such as "global"'
        )
    return InvalidSettings(f"Google knows no such endpoint {where}; check provider.location")


def _classify_quota(refusal: GoogleRefusal, where: str) -> ProviderError:
    # A quota of a day, or of zero, is not waited out by a run that is retried for minutes.
    if any("PerDay" in reason for reason in refusal.reasons) or "limit: 0" in refusal.message:
        return QuotaExhausted(
            f"the quota of the day is used up {where}; raise it in the Google Cloud console, or "
            "start again tomorrow: what is stored is kept"
        )
    return RateLimited(f"Google's quota is reached {where}", retry_after_s=refusal.retry_after_s)


def _parse_refusal(
    code: int, body: object, headers: Mapping[str, str], secrets: Secrets
) -> GoogleRefusal:
    if isinstance(body, list) and body:
        body = body[0]
    fields = body.get("error", body) if isinstance(body, Mapping) else {}
    fields = fields if isinstance(fields, Mapping) else {"message": fields}
    details = [item for item in _list_of(fields.get("details")) if isinstance(item, Mapping)]
    status = fields.get("status")
    return GoogleRefusal(
        code=code,
        status=secrets.quote(str(status or "no status")),
        message=secrets.quote(" ".join(str(fields.get("message") or body or "").split())),
        reasons=frozenset(_find_reasons(details)),
        retry_after_s=_find_delay(details, headers),
    )


def _find_reasons(details: list[Mapping[str, object]]) -> Iterator[str]:
    for detail in details:
        if isinstance(reason := detail.get("reason"), str):
            yield reason
        for violation in _list_of(detail.get("violations")):
            if isinstance(violation, Mapping):
                yield str(violation.get("quotaId") or "")


def _find_delay(details: list[Mapping[str, object]], headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by the details ("12.5s") or by the headers."""
    for detail in details:
        written = detail.get("retryDelay")
        if isinstance(written, str) and (seconds := parse_duration(written)) is not None:
            return seconds
    return parse_retry_after(headers)


def _list_of(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _get_headers(response: object) -> Mapping[str, str]:
    headers = getattr(response, "headers", None)
    return headers if isinstance(headers, Mapping) else {}


def _parse_json(response: httpx2.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return response.text
