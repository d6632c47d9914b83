"""The tokens a server says it used, and what it bills for an attempt that brought no answer.

The usage in a body is trusted, even beside an error. A request that the server refuses before any
work costs nothing: a connection that was never made, the statuses 300 to 499, and statuses that say
the server cannot take the request now. Any other failure may have been billed in full, because the
vendor, or the vendor behind a gateway, may have done the work although its answer was lost.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from providers.usage import FREE, Usage, bill_refusal

_PROMPT_TOKENS = ("prompt_tokens", "input_tokens", "prompt_token_count")
_COMPLETION_TOKENS = ("completion_tokens", "output_tokens", "generated_tokens")
_MOST_TOKENS = 2**31 - 1
_NEVER_SENT = (
    ConnectionRefusedError,
    socket.gaierror,
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)


def parse_usage(body: object) -> Usage | None:
    """The usage in a body (parsed JSON, or bytes), whatever else it says; None if incomplete.

    >>> parse_usage(b'{"usage": {"prompt_tokens": 9, "completion_tokens": 12}}')
    Usage(prompt_tokens=9, completion_tokens=12, estimated=False)
    """
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        # A cut body has no readable usage, even if the numbers are in it.
        except (ValueError, RecursionError):
            return None
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = parse_token_counts(usage)
    return None if prompt is None or completion is None else Usage(prompt, completion)


def parse_token_counts(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of prompt and answer, each None if it is missing or makes no sense.

    Some vendors do not count reasoning among the answer's tokens, but bill it; the total has it.
    """
    prompt = _find_count(usage, _PROMPT_TOKENS)
    completion = _find_count(usage, _COMPLETION_TOKENS)
    total = parse_count(usage.get("total_tokens"))
    if total is not None and prompt is not None and total > prompt:
        completion = max(completion or 0, total - prompt)
    if total is not None and completion is not None and prompt is None and total > completion:
        prompt = total - completion
    return prompt, completion


def parse_count(value: object) -> int | None:
    """A number of tokens, rounded up; None for what is no such number."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or not 0 <= value <= _MOST_TOKENS:
        return None
    return math.ceil(value)


def _find_count(usage: Mapping[str, Any], names: Sequence[str]) -> int | None:
    counts = (parse_count(usage.get(name)) for name in names)
    return next((count for count in counts if count is not None), None)


def bill_status(status: int, body: object) -> Usage | None:
    """What a request with an error status is billed; None if that is unknown."""
    return parse_usage(body) or bill_refusal(status)


def bill_failure(error: BaseException) -> Usage | None:
    """What a request without any answer is billed, by the error met; None if that is unknown."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _NEVER_SENT):
            return FREE
        link = link.__cause__ or link.__context__
    return None
