"""The kinds of answers by name: how each is asked for, read and compared."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, cast

# The command line takes the names from here at its start, which must not cost it pydantic.
if TYPE_CHECKING:
    from evals.answers.base import AnswerKind

OptionFreeAnswerName = Literal["number", "math", "choice", "text"]
"""The kinds of answers that need no option."""

AnswerName = Literal[OptionFreeAnswerName, "regex"]
"""All kinds of answers. To add one, add its name here and its module to `_KINDS`."""

_KINDS: Mapping[str, str] = {
    "number": "evals.answers.number",
    "math": "evals.answers.math.kind",
    "choice": "evals.answers.choice",
    "text": "evals.answers.text",
    "regex": "evals.answers.regex",
}


def load_kind(name: str, options: Mapping[str, object]) -> AnswerKind:
    """The kind of answer `name`, set up with its own options.

    Raises ValueError for an unknown name and for what is wrong with an option.
    """
    if name not in _KINDS:
        raise ValueError(f"unknown kind of answer {name!r}; known kinds: {', '.join(_KINDS)}")
    module = importlib.import_module(_KINDS[name])
    return cast("Callable[[Mapping[str, object]], AnswerKind]", module.create)(options)
