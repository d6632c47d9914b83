r"""Words in and around answers: answers in words, units after a value, names of what is asked for.

All functions take tidied text (`evals.answers.latex`).
"""

from __future__ import annotations

import re

from evals.answers.latex import FUNCTIONS
from evals.answers.numerals import SCALES

_SHORT_UNITS = (
    *("cm", "mm", "km", "nm", "ft", "in", "yd", "mi", "kg", "mg", "gm", "lb", "lbs", "oz", "ml"),
    *("hr", "hrs", "min", "mins", "sec", "secs", "ms", "mph", "kph", "rpm", "sq", "cu", "gal"),
    *("deg", "rad", "day", "way", "men", "USD", "per"),
)
_QUOTIENT_UNIT = re.compile(
    r"(?<=[\w)}\]])\s*\\frac\s*\{\s*\\text\s*\{[^{}]*\}[^{}]{0,8}\}\s*\{\s*\\text\s*\{[^{}]*\}"
    r"[^{}]{0,8}\}$"
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
_D = r"(?:d|\\partial|\\text\s*\{\s*d\s*\})\s*(?:\^\s*\{?\s*\d\s*\}?)?\s*"
_LABEL = re.compile(
    r"(?:m?\s*\\angle\s*)?[A-Z]{1,4}|\\?[A-Za-z]\w*|[A-Za-z]+_\s*(?:\w|\{[\w+-]{1,6}\})"
    r"|\|\s*[A-Z]{1,4}\s*\||[A-Zf-hp-w]'*\s*\([\w\s,+-]{1,12}\)|\\(?:text|over[a-z]+)\s*\{[^{}]*\}"
    r"|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)|\\text\s*\{[^{}]*\}\s*\([\w\s,]{1,12}\)"
    r"|[fghFGH]\s*\^\s*\{\s*-\s*1\s*\}\s*\([\w\s,]{1,12}\)"
    rf"|\\(?:{'|'.join(FUNCTIONS)})\s*(?:\\angle\s*)?\(?(?:\\[a-z]+|[A-Za-z]{{1,3}})\s*\)?"
    r"|\\?[A-Za-z]+\s*(?:_\s*(?:\w|\{[\w+-]{1,6}\}))?\s*(?:'{1,3}|\^\s*\{?\s*\*\s*\}?)"
    r"|[A-Za-z]\s*_\s*(?:\{\s*)?\\(?:text\s*\{[^{}]*\}|[a-z]{3,6})\s*\}?"
    r"|\{\s*[A-Za-z]\s*\}(?:_\s*\w)?|\\(?:bar|tilde|dot|ddot|vec|overline|Delta)\s*\{?\s*[A-Za-z]\s*\}?"
    r"|\|\s*\\(?:vec|overline|text)\s*\{?[^{}|]{1,12}\}?\s*\||\\\|.{1,20}\\\||\[\s*[A-Z]{2,6}\s*\]"
    rf"|\\frac\s*\{{\s*{_D}[A-Za-z]?\s*(?:\([a-z]\))?\s*\}}\s*\{{\s*{_D}[A-Za-z]\s*(?:\^\s*\{{?\s*\d\s*\}}?)?\s*\}}"
    rf"(?:\s*\(.{{1,40}}\)|\s*[A-Za-z])?|{_D}[a-z]\s*/\s*{_D}[a-z](?:\s*\^\s*\d)?"
    r"|\\sigma\s*\^\s*\{?\s*2\s*\}?|[xyz]\s*\(\s*t\s*\)|[xyz]'{1,3}\s*\(\s*(?:[tx]|\d+)\s*\)|\([^()]{1,40}\)\s*'{1,3}|y\s*\(\s*(?:x|\d+)\s*\)"
    r"|[a-z]\s*\([^()]{1,20},[^()]{1,20}\)|[A-Z]\s*\^\s*\{?\s*(?:-\s*1|T|\\top)\s*\}?"
    r"|\\(?:gcd|lim|iint|int|oint|sum|prod|det|max|min|dim|deg|sup)(?![A-Za-z]).*"
    r"|\\text\s*\{[^{}]*\}\s*[A-Z]{1,5}|(?=.*[A-Za-z]{3})[A-Za-z]+(?:\s[A-Za-z]+){1,6}",
    re.DOTALL,
)
# A function's value, with whatever stands in its brackets: P(X = 3), f(1/2), E[X].
_CALLED = re.compile(
    r"(?:[fghFGHPQEV]\s*'{0,3}|Pr|Var|Cov|n(?=\s*\([^()]*\\ca?u?p)|\\(?:Pr|sigma|mu)|[fghy]\s*\^\s*\{\s*\(\s*\w\s*\)\s*\}"
    r"|\\text\s*\{[^{}]{1,30}\}|\\mathbb\s*\{?\s*[PE]\s*\}?"
    r"|\(\s*[a-z]\s*(?:\\circ|[-+*])\s*[a-z]\s*\))"
    r"(?:_\s*(?:\w|\{\w{1,4}\}))?\s*(?:\((?P<round>.{1,80})\)|\[(?P<square>.{1,60})\])",
    re.DOTALL,
)
_SCALED = re.compile(
    rf"(?<=[0-9)}}])\s*(?:\\text\s*\{{\s*(?P<text>{'|'.join(SCALES)})s?\b(?P<rest>[^{{}}]*)\}}"
    rf"|(?<![A-Za-z\\])(?P<plain>{'|'.join(SCALES)})s?(?![A-Za-z]))",
    re.IGNORECASE,
)
_SPELLINGS = {
    **dict.fromkeys(
        (
            *("no solutions", "empty set", "the empty set", "null set", "has no solution"),
            *("there is no solution", "there are no solutions", "the equation has no solution"),
            *("the equation has no solutions", "the system has no solution"),
            *("the system has no solutions", "no such solution exists"),
            *("no solutions exist", "no solution exists"),
        ),
        "no solution",
    ),
    "no real solutions": "no real solution",
    **dict.fromkeys(("dne", "limit does not exist", "the limit does not exist"), "does not exist"),
    **dict.fromkeys(("infinitely many solutions", "infinite solutions"), "infinitely many"),
}
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
        return _SPELLINGS.get(letters[1].lower(), letters[1].lower())
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return "no solution"
    plain = _TEXT.sub(r" \1 ", text).strip(" (\"'-")
    if "\\" in plain or any(sign in plain for sign in "=<>^_{}[]|+*/°"):
        return None
    if _FIRST_WORD.match(plain) and (_WORD.search(plain) or plain.casefold() == "no"):
        spoken = " ".join(_PART.findall(plain.casefold()))
        return _SPELLINGS.get(spoken, spoken)
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
        shorter = _QUOTIENT_UNIT.sub("", _TEXT_UNIT.sub("", text.rstrip(" .,")))
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
    r"""Whether the left side of an equation only names what the right side is: x, f(x), AB, y',
    P(X = 3), an integral or a limit."""
    text = text.strip()
    if called := _CALLED.fullmatch(text):
        return _is_closed(called["round"] or called["square"])
    return _LABEL.fullmatch(text) is not None and not _LOWER_PRODUCT.fullmatch(text)


def _is_closed(inside: str) -> bool:
    depth = 0
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def scaled(text: str) -> str:
    r"""The text with words that multiply the number before them as factors: ``3\text{ million}``,
    "5 dozen eggs"."""
    for _ in range(3):
        found = _SCALED.search(text)
        if found is None:
            break
        word = (found["text"] or found["plain"]).lower()
        rest = f"\\text{{{found['rest']}}}" if (found["rest"] or "").strip() else ""
        factor = f"*{SCALES[word]}"
        # A mixed number is one factor.
        text = f"{text[: found.start()]}{factor} {rest}{text[found.end() :]}"
    return text
