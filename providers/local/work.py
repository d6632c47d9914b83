"""What can be asked of the engine, each with the future of whoever waits for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from providers.errors import ContextOverflow, OutOfMemory, ProviderError, RunError
from providers.local.backbone import Backbone
from providers.local.conversation import encode_prompt
from providers.local.divergence import Contrast
from providers.local.rows import Row
from providers.local.score import Passage
from providers.types import Completion, Divergence, Request, Score

T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """A conversation to be answered."""

    future: Future[Completion]
    asked_at: float
    backbone: Backbone
    row: Row

    def finish(self) -> None:
        """Give the row's answer to whoever waits for it."""
        row, reason = self.row, self.row.finish or "error"
        said = row.answer[:-1] if reason == "stop" else row.answer
        text = self.backbone.tokenizer.decode(
            said, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        latency_ms = (time.perf_counter() - self.asked_at) * 1e3
        done = Completion(text, reason, len(row.prompt), len(row.answer), latency_ms)
        resolve(self.future, done)

    def too_large(self, error: BaseException) -> OutOfMemory:
        """What to raise where memory ran out with `error` for this request alone."""
        return OutOfMemory(
            f"request {self.row.key!r} alone, {self.row.longest} tokens with its answer, does not "
            f"fit into memory ({error}); lower max_tokens, or use a smaller model or dtype"
        )


@dataclass(frozen=True, eq=False, slots=True)
class Scoring:
    """An answer to be scored."""

    future: Future[Score]
    backbone: Backbone
    passage: Passage


@dataclass(frozen=True, eq=False, slots=True)
class Comparing:
    """An answer along which models are to be compared."""

    future: Future[tuple[Divergence, ...]]
    contrast: Contrast


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """Anything else that needs the device for itself."""

    future: Future[Any]
    run: Callable[[], Any]


Work = Answer | Scoring | Comparing | Task


def encode_request(backbone: Backbone, adapter: str | None, request: Request) -> Row:
    """The row of a request, its answer cut to what fits into the model's context.

    Raises `ContextOverflow` where nothing fits, and `BadRequest` from the chat template.
    """
    prompt = encode_prompt(backbone.tokenizer, request.messages)
    left = backbone.context - len(prompt)
    if left < 1:
        raise ContextOverflow(
            f"request {request.key!r} has a prompt of {len(prompt)} tokens, the model's context is "
            f"{backbone.context}; shorten the conversation or use a model with a longer context"
        )
    most = min(request.sampling.max_tokens, left)
    return Row(tuple(prompt), adapter, replace(request.sampling, max_tokens=most), request.key)


def resolve(future: Future[T], result: T) -> None:
    """Set a result, unless the future was cancelled meanwhile."""
    with contextlib.suppress(InvalidStateError):
        future.set_result(result)


def fail(
    futures: Iterable[Future[Any]], error: ProviderError, cause: BaseException | None = None
) -> None:
    """Raise `error` in everyone who waits."""
    error.__cause__ = cause
    for future in futures:
        with contextlib.suppress(InvalidStateError):
            future.set_exception(error)


@contextlib.contextmanager
def errors_to(future: Future[Any]) -> Iterator[None]:
    """Hand an error to whoever waits for `future`, as a `ProviderError`, instead of raising it."""
    try:
        yield
    except ProviderError as error:
        fail([future], error, error.__cause__)
    except Exception as error:
        fail([future], RunError(f"the local model failed: {error!r}"), error)
