"""Messages about settings that pydantic refuses: the key, what is wrong, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from pydantic import ValidationError

MESSAGES: Mapping[str, str] = {
    "extra_forbidden": "{key}: unknown key; remove it or correct its spelling",
    "missing": "{key}: missing; add it",
    "other": "{key}: {problem}, got {value}",
}
"""By pydantic's type of error; "other" is for all other types."""


def format_errors(
    error: ValidationError,
    messages: Mapping[str, str] | None = None,
    prefix: str = "",
    known: Iterable[str] = (),
) -> list[str]:
    """One line for every problem, in pydantic's order.

    `messages` replaces some of `MESSAGES`; {key} is the path of the value after `prefix`, {problem}
    pydantic's own words, {value} the wrong value and {nearest} the question whether one of the
    `known` keys was meant. A ValueError that a validator of ours raised
    has its own message, which follows the key unless it begins with the prefix.

    >>> format_errors(error, {"missing": "{key} is needed"}, prefix="task.")
    ['task.path is needed']
    """
    texts = {**MESSAGES, **(messages or {})}
    lines = []
    for problem in error.errors(include_url=False):
        key = prefix + ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "value_error" and "ctx" in problem:
            message = str(problem["ctx"]["error"])
            complete = not key or key == prefix or (prefix and message.startswith(prefix))
            lines.append(message if complete else f"{key}: {message}")
            continue
        text = texts.get(problem["type"], texts["other"])
        value = repr(problem["input"])
        nearest = suggest_name(str(problem["loc"][-1]), known) if problem["loc"] else ""
        lines.append(text.format(key=key, problem=problem["msg"], value=value, nearest=nearest))
    return lines


def suggest_name(name: str, known: Iterable[str]) -> str:
    """What a message about an unknown name says of the nearest known one; "" if none is near.

    >>> suggest_name("devise", ["device", "dtype"])
    "did you mean 'device'? "
    """
    names = list(known)
    # A name without its unit or kind, as in "timeout", is nearer than its spelling says.
    close = [each for each in names if each.startswith(f"{name}_")]
    close += difflib.get_close_matches(name, names, 1, 0.7)
    return f"did you mean {close[0]!r}? " if close else ""
