"""What an attempt is billed by a server of OpenAI's shape, as far as that can be known.

A server that tells its usage is believed, also beside an error. What it refuses before any work
costs nothing: a connection that was never made, the statuses of 300 and 400, and those that say
that it cannot take the request now. All else may have been billed in full: the vendor, or the one
behind a gateway, may have done the work of which the answer was lost.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence

import aiohttp

from providers.attempts import FREE, Usage
from providers.openai.answers import ChatAnswer, parse_token_counts
from providers.tokens import most_prompt_tokens, most_written_tokens
from providers.types import Message, Sampling

_AFTER_WORK = {408, 424, 499}
_BEFORE_WORK = {501, 503, 505, 529}
_NEVER_SENT = (
    ConnectionRefusedError,
    socket.gaierror,
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)
# Where these stand in a body, a model has written more than its answer.
_THOUGHTS = (b'"reasoning', b'"thinking', b'"thought')


def compute_usage(
    answer: ChatAnswer, content: bytes, messages: Sequence[Message], sampling: Sampling
) -> Usage:
    """What an answer is billed: what the server tells, and a bound for what it does not.

    `content` is the body that the answer was read from. A prompt of no tokens is not believed, nor
    is a text of none.
    """
    completion = answer.completion_tokens
    if completion == 0 and answer.text:
        completion = None
    estimated = not answer.prompt_tokens or completion is None
    if completion is None:
        thinks = any(mark in content for mark in _THOUGHTS)
        shown = content.decode("utf-8", "replace") if thinks else answer.text
        truncated = answer.finish_reason == "length"
        completion = most_written_tokens(shown, sampling.max_tokens, truncated=truncated)
    return Usage(answer.prompt_tokens or most_prompt_tokens(messages), completion, estimated)


def parse_usage(body: object) -> Usage | None:
    """The usage that stands in a body, whatever else does, or None; the body is JSON or bytes."""
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return None
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = parse_token_counts(usage)
    return None if prompt is None or completion is None else Usage(prompt, completion)


def bill_status(status: int, body: object) -> Usage | None:
    """What a request is billed that the server has answered with a status that is not good."""
    told = parse_usage(body)
    if told is not None:
        return told
    refused = 300 <= status < 500 and status not in _AFTER_WORK
    return FREE if refused or status in _BEFORE_WORK else None


def bill_failure(error: BaseException) -> Usage | None:
    """What a request is billed whose answer never came, for what was met instead."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _NEVER_SENT):
            return FREE
        link = link.__cause__ or link.__context__
    return None
