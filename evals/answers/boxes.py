r"""The LaTeX boxes of a text: ``\boxed{…}``, ``\fbox{…}``, ``\boxed 5``, boxes within boxes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    \\?\\(?:boxed|fbox)(?![A-Za-z])\s*          # two backslashes: escaped once too often
      (?: (?P<open>\{)
        | (?P<bare> [-+−]?\.?[0-9][^\s${}\\]* | [A-Z](?!\w)
                  | \\[dt]?frac\{[^{}]{1,100}\}\{[^{}]{1,100}\} )
      )?
    | \\.
    | [{}]
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Box:
    """`text[start:end]` is the whole box, `text[inside:close]` what stands in it."""

    start: int
    inside: int
    close: int
    end: int


@dataclass(frozen=True, slots=True)
class Boxes:
    """`innermost` holds the closed boxes that are not empty and hold no other such box;
    `outermost` the closed boxes that stand in no other. Both are in order of position."""

    innermost: tuple[Box, ...]
    outermost: tuple[Box, ...]


def boxes(text: str) -> Boxes:
    r"""Every closed box. Escaped braces (``\{``) are text; an unclosed box is none. Linear time."""
    innermost: list[Box] = []
    outermost: list[Box] = []
    # Per open brace: where its box starts and its inside, and how many innermost boxes precede it.
    pending: list[tuple[int, int, int] | None] = []
    for token in _TOKEN.finditer(text):
        if token["open"]:
            pending.append((token.start(), token.end(), len(innermost)))
            continue
        if token["bare"]:
            inside = token.start("bare")
            close = inside + len(token["bare"].rstrip(".,;:!?)*"))
            box = Box(token.start(), inside, close, close)
            innermost.append(box)
        elif token[0] == "{":
            pending.append(None)
            continue
        elif token[0] == "}" and pending and (opened := pending.pop()) is not None:
            start, inside, preceding = opened
            box = Box(start, inside, token.start(), token.end())
            if len(innermost) == preceding and text[inside : box.close].strip():
                innermost.append(box)
        else:
            continue
        while outermost and outermost[-1].start > box.start:
            outermost.pop()
        outermost.append(box)
    return Boxes(tuple(innermost), tuple(outermost))
