r"""How a row becomes the text of a question: templates, and lettered choices.

In a template such as ``{passage}\n\nQuestion: {q}`` the place ``{name}`` takes the field `name`,
``{{name}}`` stands for the literal ``{name}``, and empty braces stay as they are, so that
``\boxed{}`` needs no escaping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from string import ascii_uppercase
from typing import Literal

from evals.tasks.sources import DataRow

LETTERS = ascii_uppercase
# The first alternative takes a literal, so that the second sees only places for fields.
_PLACE = re.compile(r"\{\{([^{}]*)\}\}|\{([^{}]+)\}")


def is_template(text: str) -> bool:
    """Whether the text has braces, so that it is no bare field name."""
    return "{" in text


def list_fields(template: str) -> tuple[str, ...]:
    """The fields a template needs, each once, in order."""
    named = (place[2] for place in _PLACE.finditer(template))
    return tuple(dict.fromkeys(name for name in named if name))


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """The template with its fields' values. Raises KeyError for a field without one."""
    return _PLACE.sub(lambda place: _fill_place(place, values), template)


def _fill_place(place: re.Match[str], values: Mapping[str, str]) -> str:
    return f"{{{place[1]}}}" if place[2] is None else values[place[2]]


def format_choices(question: str, choices: Sequence[str]) -> str:
    """The question, an empty line, and a line "(A) ..." for each choice."""
    lines = (f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return "\n".join((question, "", *lines))


def shuffle_order(count: int, key: str) -> list[int]:
    """The numbers 0..count-1 in an order that follows from `key` alone."""
    return sorted(
        range(count), key=lambda n: blake2b(f"{key} {n}".encode(), digest_size=16).digest()
    )


def check_choices(row: DataRow, choices: list[str], field: str, most: int) -> list[str]:
    """`choices`, where they can be asked: 2..`most` of them, none empty. Raises ValueError."""
    if not 2 <= len(choices) <= most:
        raise row.make_error(f"{field} gives {len(choices)} choices; 2 to {most} can be asked")
    if "" in choices:
        letter = LETTERS[choices.index("")]
        raise row.make_error(f"{field}: the choice {letter} is empty; fill it in or remove the row")
    return choices


def find_choice(
    row: DataRow, field: str, choices: Sequence[str], first: Literal[0, 1] | None
) -> int:
    """Which choice (from 0) the gold answer names: by letter, by its text, or by number.

    `first` is the number of the first choice; None: numbers are taken as a choice's text only.
    Raises ValueError for a gold answer that names none, or one by letter and another by text.
    """
    gold = row.text(field)
    if first is not None and gold.isdecimal():
        number = int(gold) - first
        if not 0 <= number < len(choices):
            raise row.make_error(
                f"{field} = {gold} is outside {first}..{len(choices) - 1 + first}; correct it"
            )
        return number
    by_text = {n for n, choice in enumerate(choices) if choice == gold}
    letter = gold.strip("(). ").upper()
    by_letter = {n for n in range(len(choices)) if LETTERS[n] == letter}
    if len(by_text) > 1 or (by_text and by_letter and by_text != by_letter):
        raise row.make_error(f"{field} = {gold!r} fits more than one choice; give a letter")
    if not (by_text or by_letter):
        numbers = ", or set task.first_choice = 0 or 1 if it is a number" * gold.isdecimal()
        raise row.make_error(
            f"{field} = {gold!r} is no choice; give a letter up to {LETTERS[len(choices) - 1]} "
            f"or the choice's text{numbers}"
        )
    return (by_text or by_letter).pop()
