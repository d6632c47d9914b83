r"""Words in and around answers: answers in words, units after a value, names of what is asked for.

All functions take tidied text (`evals.answers.latex`).
"""

from __future__ import annotations

import re

from evals.answers.latex import FUNCTIONS

_SHORT_UNITS = (
    *("cm", "mm", "km", "nm", "ft", "in", "yd", "mi", "kg", "mg", "gm", "lb", "lbs", "oz", "ml"),
    *("hr", "hrs", "min", "mins", "sec", "secs", "ms", "mph", "kph", "rpm", "sq", "cu", "gal"),
    *("deg", "rad", "day", "way", "men", "USD", "per"),
)
_POWER = r"(?:\s*\^\s*(?:\d|\{\s*\d\s*\}))?"
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_TEXT_UNIT = re.compile(rf"(?<=[\w)}}\]°!])\s*/?\s*\\text\s*\{{[^{{}}]*\}}{_POWER}$")
_BARE_UNIT = re.compile(
    rf"(?<![A-Za-z\\])(?:{'|'.join(_SHORT_UNITS)}|[A-Za-z]{{4,}}){_POWER}[\s.,/]*$"
)
_VALUE_END = re.compile(r"(?:[0-9)}\]°]|\\pi)\s*(?:/|an?)?\s*$")
_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*([ap])\.?\s*m|(\d{1,2}:\d{2})", re.IGNORECASE)
_NUMERAL = re.compile(r"(-?[0-9][0-9A-Za-z.]*)\s*_\s*(?:\{\s*(\d+)\s*\}|(\d+))")
_BASE_WORD = re.compile(r"(?<=_)\s*\{?\s*\\text\s*\{\s*(?:base)?\s*(\d+)\s*\}\s*\}?")
_MARKED = re.compile(r"\\(?:over(?:line|rightarrow|leftrightarrow)|vec|angle|triangle|widehat)\s*")
_LETTERS = re.compile(r"(?:\{\s*)?([A-Z]{2,6})(?:\s*\})?")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_FIRST_WORD = re.compile(r"[A-Za-z]{2,}(?![A-Za-z])")
_SCALE = re.compile(r"(?<=°)\s*[CF]$")
_PART = re.compile(r"[^\W_]+")
_LABEL = re.compile(
    r"(?:m?\s*\\angle\s*)?[A-Z]{1,4}|\\?[A-Za-z]\w*|[A-Za-z]+_\s*(?:\w|\{\w{1,4}\})"
    r"|\|\s*[A-Z]{1,4}\s*\||[A-Zf-hp-w]'*\s*\([\w\s,+-]{1,12}\)|\\(?:text|over[a-z]+)\s*\{[^{}]*\}"
    r"|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)|\\text\s*\{[^{}]*\}\s*\([\w\s,]{1,12}\)"
    r"|[fghFGH]\s*\^\s*\{\s*-\s*1\s*\}\s*\([\w\s,]{1,12}\)"
    rf"|\\(?:{'|'.join(FUNCTIONS)})\s*(?:\\angle\s*)?\(?(?:\\[a-z]+|[A-Za-z]{{1,3}})\s*\)?"
)
_LOWER_PRODUCT = re.compile(r"[a-z]{2,3}")


def words(text: str) -> str | None:
    r"""The answer in words, in one spelling, or None where there is mathematics in it.

    Times of day, numerals in another base (``221_3``) and capital letters in a row (``ACF``, a
    line ``CD``) are words: they equal only themselves.
    """
    if time := _TIME.fullmatch(_TEXT.sub(r"\1", text).strip(" .")):
        hour, minutes, half, clock = time.groups()
        return (
            clock or f"{hour}{f':{minutes}' if minutes not in (None, '00') else ''}{half}m".lower()
        )
    if numeral := _NUMERAL.fullmatch(_BASE_WORD.sub(r"\1", text)):
        return f"{numeral[1].lower()}_{numeral[2] or numeral[3]}"
    if letters := _LETTERS.fullmatch(_MARKED.sub("", text)):
        return letters[1].lower()
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return "empty set"
    plain = _TEXT.sub(r" \1 ", text).strip(" (\"'-")
    if "\\" in plain or any(sign in plain for sign in "=<>^_{}[]|+*/°"):
        return None
    if _FIRST_WORD.match(plain) and (_WORD.search(plain) or plain.casefold() == "no"):
        return " ".join(_PART.findall(plain.casefold()))
    return None


def bare(text: str) -> str:
    r"""The text out of a \text{…} around all of it."""
    while whole := _TEXT.fullmatch(text):
        text = whole[1].strip(" .,;:")
    return text


def has_words(text: str) -> bool:
    """Whether a word stands in it, which is no product of variables."""
    return _WORD.search(text) is not None or r"\text" in text


def without_unit(text: str) -> str:
    r"""The value before its unit: of ``5\text{ cm}^2``, ``12 square inches``, ``30°``."""
    for _ in range(4):
        shorter = _TEXT_UNIT.sub("", text.rstrip(" .,"))
        if found := _BARE_UNIT.search(shorter[-60:]):
            before = shorter[: max(0, len(shorter) - 60) + found.start()]
            shorter = (
                before
                if _VALUE_END.search(before[-20:]) or _BARE_UNIT.search(before[-60:])
                else shorter
            )
        if shorter == text:
            break
        text = shorter
    return _SCALE.sub("", text).rstrip("' ") or text


def names_only(text: str) -> bool:
    r"""Whether the left side of an equation only names what the right side is: x, f(x), AB."""
    text = text.strip()
    return _LABEL.fullmatch(text) is not None and not _LOWER_PRODUCT.fullmatch(text)
