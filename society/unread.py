"""Why an answer could not be read, and what can be done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import shorten

from evals.tasks.base import Task
from store.records import Turn

_SAMPLES = 3
_SHOWN = 300
_THOUGHT_BEGINS = ("<think", "<thought", "<reasoning", "[think]", "<|channel|>analysis")
_THOUGHT_ENDS = ("</think", "</thought", "</reasoning", "[/think]", "<|channel|>final")


@dataclass(frozen=True, slots=True)
class Cause:
    """What was wrong with an answer, and the remedy."""

    text: str
    remedy: str


def cause_of(turn: Turn, task: Task) -> Cause:
    """Why `turn` has no answer."""
    if turn.failure is not None:
        return Cause(f"the request failed: {turn.error}", "remove the cause")
    if not turn.response.strip():
        # The provider knows more than its end tells, and names the remedy itself.
        return Cause(f"empty: {turn.error or turn.finish_reason}", "")
    match turn.finish_reason:
        case "length":
            return _cut(turn.response, task)
        case "refused":
            return Cause("the model refuses to answer", "take another model or task.template")
        case "filtered":
            return Cause("withheld by a content filter", "take another model or server")
        case "stop":
            form = task.answer_form.strip()
            return Cause(
                f"the answer is in another form than the task asks for ({form})",
                "take a model that follows the form, or a task.template or kind of answer that "
                "suits it",
            )
    return Cause(f"ended as {turn.finish_reason!r}", "look at the server's log")


def _cut(response: str, task: Task) -> Cause:
    text = response.lower()
    begun = max(map(text.rfind, _THOUGHT_BEGINS))
    if begun > max(map(text.rfind, _THOUGHT_ENDS)):
        return Cause(
            "cut off while the model was still reasoning",
            "raise sampling.max_tokens, or switch the model's reasoning off",
        )
    if task.extract(response) is not None:
        return Cause(
            "an answer is there and the model goes on until it is cut off: it never ends its turn",
            "give the model or its server the chat template and the end token that it was trained "
            "with, or raise sampling.max_tokens if the answers are only long",
        )
    return Cause("cut off before the answer", "raise sampling.max_tokens")


def describe_unread(turns: Iterable[Turn], task: Task) -> str:
    """The causes, most frequent first, each with its remedy, and what such answers look like."""
    unread = list(turns)
    causes = Counter(cause_of(turn, task) for turn in unread)
    lines = [
        f"  {count} × {cause.text}" + (f": {cause.remedy}" if cause.remedy else "")
        for cause, count in causes.most_common()
    ]
    samples = [turn for turn in unread if turn.response.strip()][:_SAMPLES]
    for turn in samples:
        where = f"question {turn.question_id}, agent {turn.agent}, round {turn.round}"
        text = shorten(turn.response, _SHOWN, placeholder=" …")
        lines.append(f"  {where} ({turn.finish_reason}): {text!r}")
    return "\n".join(lines)
