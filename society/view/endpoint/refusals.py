"""Errors in the shape that OpenAI's API gives them, and what each of our errors becomes there."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from providers.errors import (
    BudgetReached,
    ContextOverflow,
    ProviderError,
    RateLimited,
    RequestError,
    RetryableError,
)
from store.errors import StoreError

_RETRY_AFTER_S = 5.0


class RequestRefused(Exception):
    """A request that gets an error in place of an answer; `status` is that of HTTP.

    `kind`, `code` and `param` are what OpenAI's clients sort errors by. `again`: whether the same
    request may succeed later, after `retry_after_s` where that is known.

        raise RequestRefused(404, "no model 'gpt-5' here; there are …", code="model_not_found")
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        *,
        again: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind, self.code, self.param = kind, code, param
        self.again, self.retry_after_s = again, retry_after_s

    @property
    def body(self) -> dict[str, object]:
        """The JSON that is answered."""
        error = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def headers(self) -> Mapping[str, str]:
        """The official clients repeat every 429 and 5xx by themselves unless they are told."""
        told = {"x-should-retry": "true" if self.again else "false"}
        if self.retry_after_s is not None:
            told["retry-after"] = str(max(1, ceil(self.retry_after_s)))
        return told


def refuse_error(error: BaseException) -> RequestRefused:
    """What an error of the society's models, or of the store, means for whoever has asked.

    >>> refuse_error(ContextOverflow("too long")).code
    'context_length_exceeded'
    """
    text = str(error)
    match error:
        case RequestRefused():
            return error
        # OpenAI's own word for an account without credit, which no client repeats.
        case BudgetReached():
            return RequestRefused(429, text, "insufficient_quota", "insufficient_quota")
        case RateLimited():
            wait_s = error.retry_after_s or _RETRY_AFTER_S
            return RequestRefused(
                *(429, text, "rate_limit_error", "rate_limit_exceeded"),
                again=True,
                retry_after_s=wait_s,
            )
        case RetryableError():
            wait_s = error.retry_after_s or _RETRY_AFTER_S
            said = f"the society's model did not answer: {text}"
            return RequestRefused(
                *(503, said, "server_error", "overloaded"), again=True, retry_after_s=wait_s
            )
        case ContextOverflow():
            return RequestRefused(400, text, code="context_length_exceeded", param="messages")
        case RequestError():
            return RequestRefused(400, text, param="messages")
        # A key that the society's own provider refuses is not the asker's: never a 401.
        case ProviderError():
            said = f"the society's model cannot answer: {text}"
            return RequestRefused(502, said, "server_error", "upstream_error")
        case StoreError():
            said = f"the answer could not be stored: {text}"
            return RequestRefused(500, said, "server_error", "storage_error")
    return RequestRefused(500, "the server failed; its log says why", "server_error")
