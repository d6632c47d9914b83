"""What a call uses and what it is billed for, attempt by attempt.

A call may take several attempts, and a server bills those too whose answers never arrived. The
payer puts a counter (`Attempts`) into `current_attempts` around a call; a provider with a retry
loop reports each attempt to it. A provider that reports nothing is taken to have made one attempt.
`Charges` records paid attempts, so that what was spent outlives the process.

Where a server does not report its tokens, bounds take their place. A tokenizer that can write any
text needs at most one token per byte of UTF-8. Chat templates add a few tokens per message, and
some put a system prompt of their own before the conversation.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from providers.types import Message, ModelRef

# Generous, since these bounds only stand in for counts that a server does not report.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_PROMPT = 128


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were billed. `estimated`: the server did not report them; they are a bound."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


FREE = Usage(0, 0)
# 408: the server stopped waiting; 424: a step behind it failed; 499: the connection was closed. In
# all three the model may have run.
_AFTER_WORK = {408, 424, 499}
_BEFORE_WORK = {501, 503, 505, 529}


def bill_refusal(status: int) -> Usage | None:
    """What a request with this HTTP status of 300 or more is billed; None if that is unknown."""
    refused = 300 <= status < 500 and status not in _AFTER_WORK
    return FREE if refused or status in _BEFORE_WORK else None


def most_prompt_tokens(messages: Iterable[Message]) -> int:
    """At least as many tokens as any tokenizer and chat template make of a conversation."""
    return TOKENS_PER_PROMPT + sum(
        TOKENS_PER_MESSAGE + utf8_bytes(message.content) for message in messages
    )


def most_written_tokens(text: str, max_tokens: int, *, truncated: bool = False) -> int:
    """At least as many tokens as a model has used for `text`, if the server counted none.

    An empty answer may follow hidden reasoning of up to `max_tokens`.
    """
    # A server may count hidden reasoning as completion tokens and report none of it.
    if truncated or not text:
        return max_tokens
    return min(max_tokens, utf8_bytes(text) + 1)


def utf8_bytes(text: str) -> int:
    """Length of `text` in bytes, also if it holds lone surrogates, which no UTF-8 file can."""
    # Most texts are ASCII, and those need no encoded copy to be measured.
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


class Attempts(Protocol):
    """Counts the attempts of one call. Each is reserved, begins, and is answered or fails."""

    @property
    def is_reserved(self) -> bool:
        """Whether the next attempt need not wait for money."""

    def report_all(self) -> None:
        """Announce that every attempt of this call will be reported."""

    async def reserve(self) -> None:
        """Return once the next attempt may be paid; raise `BudgetReached` if it never may."""

    async def begin(self) -> None:
        """The attempt is about to be sent; return once that is on record."""

    def record_answer(self, usage: Usage) -> None:
        """The attempt brought an answer."""

    def record_failure(self, usage: Usage | None = None) -> None:
        """The attempt brought none. `usage` is what it was billed; None: not known."""


class UncountedAttempts:
    """Counts nothing."""

    is_reserved = True

    def report_all(self) -> None:
        return

    async def reserve(self) -> None:
        return

    async def begin(self) -> None:
        return

    def record_answer(self, usage: Usage) -> None:
        return

    def record_failure(self, usage: Usage | None = None) -> None:
        return


UNCOUNTED: Attempts = UncountedAttempts()

current_attempts: ContextVar[Attempts] = ContextVar("attempts", default=UNCOUNTED)
"""The counter of the call that is being made. It is no argument of `Provider.complete`, so that a
provider without retries need not know of it."""


class AttemptCharge(Protocol):
    """The record of one attempt."""

    async def record_sent(self, most: Usage) -> None:
        """Record that an attempt goes out which can cost `most`; return once it is safe.

        The attempt counts whatever ends the process now.
        """

    def record_answer(self, usage: Usage) -> None:
        """It brought an answer, which was billed `usage`."""

    def record_failure(self, usage: Usage) -> None:
        """It brought none, and was billed `usage`, or may have been."""


class Charges(Protocol):
    """Records the attempts of a run."""

    def open_charge(self, model: ModelRef) -> AttemptCharge:
        """The record of an attempt at `model` that is about to be made."""

    def prune(self) -> None:
        """Forget the charges that stored turns have replaced."""


class NoCharges:
    """Records nothing, for models that cost nothing."""

    def open_charge(self, model: ModelRef) -> AttemptCharge:
        return _NO_CHARGE

    def prune(self) -> None:
        return


class _NoCharge:
    async def record_sent(self, most: Usage) -> None:
        return

    def record_answer(self, usage: Usage) -> None:
        return

    def record_failure(self, usage: Usage) -> None:
        return


_NO_CHARGE = _NoCharge()
