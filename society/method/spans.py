"""Spans of OpenTelemetry for debates: question, round, call. They carry no text of a debate.

Nothing is measured until `set_tracer` has been called; until then a span costs one comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from providers.types import Completion
from store.records import Turn

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

# One for all spans: it holds nothing, so it can be entered many times at once.
_OFF: AbstractContextManager[Span | None] = nullcontext()
_tracer: Tracer | None = None


def set_tracer(tracer: Tracer | None) -> None:
    """Begin to open spans with `tracer`, or end it with None."""
    global _tracer
    _tracer = tracer


def open_span(
    name: str, attributes: Mapping[str, str | int]
) -> AbstractContextManager[Span | None]:
    """A span around the block, inside the span of the task that it runs in.

    with open_span("round", {"society.round": 2}):
        ...
    """
    if _tracer is None:
        return _OFF
    return _tracer.start_as_current_span(name, attributes=attributes)


def open_call_span(turn: Turn) -> AbstractContextManager[Span | None]:
    """A span around the request of one turn, named as the conventions for generative AI say."""
    if _tracer is None:
        return _OFF
    attributes: dict[str, str | int] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": turn.model_id,
        "society.agent": turn.agent,
        "society.round": turn.round,
        "society.kind": turn.kind,
    }
    return _tracer.start_as_current_span(f"chat {turn.model_id}", attributes=attributes)


def describe_completion(span: Span | None, completion: Completion) -> None:
    """Put what a call has brought onto its span."""
    if span is not None:
        span.set_attributes(
            {
                "gen_ai.usage.input_tokens": completion.prompt_tokens,
                "gen_ai.usage.output_tokens": completion.completion_tokens,
                "gen_ai.response.finish_reasons": (completion.finish_reason,),
            }
        )
