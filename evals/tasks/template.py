r"""Text with places for a row's fields: ``{passage}\n\nQuestion: {q}``.

``{name}`` is the field `name`, ``{{name}}`` stands for the literal ``{name}``, and empty braces
stay as they are, so that ``\boxed{}`` needs no escaping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLACE = re.compile(r"\{\{([^{}]*)\}\}|\{([^{}]+)\}")


def is_template(text: str) -> bool:
    """Whether the text has braces, so that it is no bare field name."""
    return "{" in text


def fields(template: str) -> tuple[str, ...]:
    """The fields a template needs, each once, in order."""
    named = (place[2] for place in _PLACE.finditer(template))
    return tuple(dict.fromkeys(name for name in named if name))


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its fields' values. Raises KeyError for a field without one."""
    return _PLACE.sub(lambda place: _one(place, values), template)


def _one(place: re.Match[str], values: Mapping[str, str]) -> str:
    return f"{{{place[1]}}}" if place[2] is None else values[place[2]]
