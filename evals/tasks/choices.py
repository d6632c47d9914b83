"""Multiple choice: how a question and its choices become one text, and gold becomes a letter."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from string import ascii_uppercase
from typing import Literal

from evals.tasks.sources import Row

LETTERS = ascii_uppercase


def lettered(question: str, choices: Sequence[str]) -> str:
    """The question, an empty line, and a line "(A) ..." for each choice."""
    lines = (f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return "\n".join((question, "", *lines))


def shuffled(count: int, key: str) -> list[int]:
    """The numbers 0..count-1 in an order that follows from `key` alone."""
    return sorted(
        range(count), key=lambda n: blake2b(f"{key} {n}".encode(), digest_size=16).digest()
    )


def askable(row: Row, choices: list[str], field: str, most: int) -> list[str]:
    """`choices`, where they can be asked: 2..`most` of them, none empty. Raises ValueError."""
    if not 2 <= len(choices) <= most:
        raise row.refused(f"{field} gives {len(choices)} choices; 2 to {most} can be asked")
    if "" in choices:
        letter = LETTERS[choices.index("")]
        raise row.refused(f"{field}: the choice {letter} is empty; fill it in or remove the row")
    return choices


def position(row: Row, field: str, choices: Sequence[str], first: Literal[0, 1] | None) -> int:
    """Which choice (from 0) the gold answer names: by letter, by its text, or by number.

    `first` is the number of the first choice; None: numbers are taken as a choice's text only.
    Raises ValueError for a gold answer that names none, or one by letter and another by text.
    """
    gold = row.text(field)
    if first is not None and gold.isdecimal():
        number = int(gold) - first
        if not 0 <= number < len(choices):
            raise row.refused(
                f"{field} = {gold} is outside {first}..{len(choices) - 1 + first}; correct it"
            )
        return number
    by_text = {n for n, choice in enumerate(choices) if choice == gold}
    letter = gold.strip("(). ").upper()
    by_letter = {n for n in range(len(choices)) if LETTERS[n] == letter}
    if len(by_text) > 1 or (by_text and by_letter and by_text != by_letter):
        raise row.refused(f"{field} = {gold!r} fits more than one choice; give a letter")
    if not (by_text or by_letter):
        numbers = ", or set task.first_choice = 0 or 1 if it is a number" * gold.isdecimal()
        raise row.refused(
            f"{field} = {gold!r} is no choice; give a letter up to {LETTERS[len(choices) - 1]} "
            f"or the choice's text{numbers}"
        )
    return (by_text or by_letter).pop()
