"""The texts of the prompts: the packaged ones, and the user's own in their place.

A text has one place for everything that a prompt shows, written ``{name}``; ``{{name}}`` stands for
the literal ``{name}``, and empty braces stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

from evals.tasks import question_text

PromptName = Literal["task", "quoted", "summarized", "summarize"]

PLACES: Mapping[PromptName, tuple[str, ...]] = MappingProxyType(
    {
        "task": ("question", "answer_form"),
        "quoted": ("solutions", "answer_form"),
        "summarized": ("summary", "answer_form"),
        "summarize": ("solutions",),
    }
)
"""What each prompt shows; every text has all of these places and no other."""

_PACKAGED = {"quoted": "debate_quoted", "summarized": "debate_summarized", "summarize": "summarize"}


def check_prompt(name: PromptName, text: str) -> None:
    """Raise ValueError for a text that lacks a place of the prompt `name`, or has an unknown one.

    >>> check_prompt("summarize", "In short: {solutions}")
    """
    places, there = PLACES[name], question_text.list_fields(text)
    known = ", ".join(f"{{{place}}}" for place in places)
    if missing := [place for place in places if place not in there]:
        raise ValueError(
            f"the text has no {{{missing[0]}}}, so the prompt would not show it; it needs {known}"
        )
    if unknown := [place for place in there if place not in places]:
        raise ValueError(
            f"the text has the place {{{unknown[0]}}}, which nothing fills; there are {known} "
            f"(write {{{{{unknown[0]}}}}} for a literal {{{unknown[0]}}})"
        )


def fill_prompt(name: PromptName, own: str | None, values: Mapping[str, str]) -> str:
    """The prompt `name` with its values, in the packaged words unless `own` has others."""
    # One pass over the text: model text that happens to contain a place must stay as it is.
    return question_text.fill_template(own or _read_packaged(name), values)


@cache
def _read_packaged(name: PromptName) -> str:
    text = files(__package__).joinpath(f"{_PACKAGED[name]}.txt").read_text(encoding="utf-8")
    return text.rstrip("\n")
