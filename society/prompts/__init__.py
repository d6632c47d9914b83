"""The debate's prompts, in one place.

`debate_quoted.txt` and `debate_summarized.txt` open every round after the first (Du et al. 2023,
arXiv 2305.14325, section 2; Subramaniam et al. 2025, arXiv 2501.05707, section 3.1 and appendix),
`summarize.txt` asks the untuned base for the summary. Round 1 sends the task's own prompt. The
built-in base model was trained on exactly these words: changing one means training it again.

Debates and the importer build their conversations with the same functions, so that an imported
debate gets the prompts that a run of this project would have sent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from providers.types import Message
from store.records import Turn

NO_RESPONSE = "(no response)"
"""Stands in a conversation for an answer without text, since several servers refuse empty ones."""


def build_summary_messages(others: Sequence[Turn]) -> tuple[Message, ...]:
    """What the summarizer is sent: the other agents' answers of the round before."""
    return (Message("user", build_summary_request([fill_empty(t.response) for t in others])),)


def build_critic_messages(
    own: Turn, others: Sequence[Turn], summary: str | None, answer_form: str
) -> tuple[Message, ...]:
    """What a critic is sent: its agent's own conversation, and the other agents' answers.

    `own` and `others` are the answers of the round before. `summary` is what the summarizer wrote
    about the others; None quotes them word for word. `answer_form` says how to state an answer.
    """
    if summary is None:
        quoted = [fill_empty(turn.response) for turn in others]
        update = build_quoted_turn(quoted, answer_form)
    else:
        update = build_summary_turn(fill_empty(summary), answer_form)
    return (
        *(Message(**message) for message in json.loads(own.messages)),
        Message("assistant", fill_empty(own.response)),
        Message("user", update),
    )


def fill_empty(response: str) -> str:
    """A response as later prompts show it, to the other agents and to its own agent."""
    return response if response.strip() else NO_RESPONSE


def build_quoted_turn(solutions: Sequence[str], answer_form: str) -> str:
    """The user turn that shows the other agents' responses word for word."""
    solutions_text = _number_solutions(solutions)
    return _fill_template("debate_quoted", solutions=solutions_text, answer_form=answer_form)


def build_summary_turn(summary: str, answer_form: str) -> str:
    """The user turn that shows a summary of the other agents' responses."""
    return _fill_template("debate_summarized", summary=summary, answer_form=answer_form)


def build_summary_request(solutions: Sequence[str]) -> str:
    """The user turn that asks the summarizer for a summary."""
    return _fill_template("summarize", solutions=_number_solutions(solutions))


def _number_solutions(solutions: Sequence[str]) -> str:
    return "\n\n".join(f"Solution {i}:\n{text}" for i, text in enumerate(solutions, start=1))


def _fill_template(name: str, **values: str) -> str:
    # One pass over the template, not str.format or repeated str.replace: model text that happens
    # to contain a placeholder must stay as it is.
    head, *rest = _read_template(name).split("{")
    parts = [head]
    for piece in rest:
        key, _, tail = piece.partition("}")
        parts += [values[key], tail]
    return "".join(parts)


@cache
def _read_template(name: str) -> str:
    return files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")
