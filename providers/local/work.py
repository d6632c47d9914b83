"""The four kinds of work the engine does, each with the future its caller waits for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from providers.errors import ContextOverflow, OutOfMemory, ProviderError, RunError
from providers.local.answers import read_answer
from providers.local.backbone import Backbone
from providers.local.conversation import decode_answer, encode_prompt
from providers.local.plans import DecoderKind
from providers.local.rows import DecodingRow
from providers.local.scoring import DivergenceQuery, Passage
from providers.types import Completion, Divergence, Request, Score

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a row; rows of one route may share a batch.

    `group` is the adapter if it cannot be mixed with others; see `AdapterStore.find_group`.
    """

    backbone: Backbone
    decoder: DecoderKind
    group: str | None

    @classmethod
    def of(cls, backbone: Backbone, row: DecodingRow) -> Route:
        """The route of a row, by the plan for its adapter."""
        decoder = backbone.find_plan(row.adapter).choose_decoder(row.longest)
        return cls(backbone, decoder, backbone.adapters.find_group(row.adapter))


@dataclass(frozen=True, eq=False, slots=True)
class CompletionWork:
    """A conversation to answer."""

    future: Future[Completion]
    asked_at: float
    route: Route
    row: DecodingRow

    @property
    def backbone(self) -> Backbone:
        """The model that answers it."""
        return self.route.backbone

    def finish(self) -> None:
        """Give the row's answer to the caller."""
        row, reason = self.row, self.row.finish or "error"
        # The text has neither the token nor the string that ends the answer; the token count has.
        ended = reason == "stop" and row.answer[-1] in self.backbone.ends
        tokens = row.answer[:-1] if ended else row.answer
        text, thought = read_answer(self.backbone.tokenizer, row.prompt, tokens, row.sampling.stop)
        latency_ms = (time.perf_counter() - self.asked_at) * 1e3
        counts = len(row.prompt), len(row.answer)
        set_result(self.future, Completion(text, reason, *counts, latency_ms, thought=thought))

    def make_memory_error(self, error: BaseException) -> OutOfMemory:
        """The error for this request if memory ran out with `error` for it alone."""
        return OutOfMemory(
            f"request {self.row.key!r} alone, {self.row.longest} tokens with its answer, does not "
            f"fit into memory ({error}); lower max_tokens, or use a smaller model or dtype"
        )


@dataclass(frozen=True, eq=False, slots=True)
class ScoringWork:
    """An answer to score."""

    future: Future[Score]
    backbone: Backbone
    passage: Passage


@dataclass(frozen=True, eq=False, slots=True)
class DivergenceWork:
    """An answer along which to compare models."""

    future: Future[tuple[Divergence, ...]]
    query: DivergenceQuery


@dataclass(frozen=True, eq=False, slots=True)
class DeviceTask:
    """Anything else that needs the whole device, such as training or loading models."""

    future: Future[Any]
    run: Callable[[], Any]


Work = CompletionWork | ScoringWork | DivergenceWork | DeviceTask


def encode_request(backbone: Backbone, adapter: str | None, request: Request) -> DecodingRow:
    """The row of a request, with `max_tokens` cut to what fits into the model's context.

    Raises `ContextOverflow` if nothing fits, and `BadRequest` if the chat template refuses.
    """
    prompt = encode_prompt(backbone.tokenizer, request.messages)
    left = backbone.context - len(prompt)
    if left < 1:
        raise ContextOverflow(
            f"request {request.key!r} has a prompt of {len(prompt)} tokens, the model's context is "
            f"{backbone.context}; shorten the conversation or use a model with a longer context"
        )
    # Cut here, so that a row never needs a slot beyond the context.
    most = min(request.sampling.max_tokens, left)
    return DecodingRow(
        tuple(prompt),
        adapter,
        replace(request.sampling, max_tokens=most),
        request.key,
        partial(decode_answer, backbone.tokenizer),
    )


def set_result(future: Future[T], result: T) -> None:
    """Set a result, unless the future was cancelled meanwhile."""
    # A caller may cancel at any moment, also between a check and this line.
    with contextlib.suppress(InvalidStateError):
        future.set_result(result)


def set_error(
    futures: Iterable[Future[Any]], error: ProviderError, cause: BaseException | None = None
) -> None:
    """Raise `error` in every caller that waits for one of `futures`."""
    error.__cause__ = cause
    for future in futures:
        with contextlib.suppress(InvalidStateError):
            future.set_exception(error)


@contextlib.contextmanager
def deliver_errors(future: Future[Any]) -> Iterator[None]:
    """Raise an error of the block in the caller that waits for `future`, as a `ProviderError`."""
    try:
        yield
    except ProviderError as error:
        set_error([future], error, error.__cause__)
    except Exception as error:
        set_error([future], RunError(f"the local model failed: {error!r}"), error)
