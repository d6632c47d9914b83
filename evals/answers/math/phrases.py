r"""Words in and around mathematical answers.

Answers in words, units after a value, names of what is asked for, words that scale a number, and
conditions or approximations around an answer: ``k \in \mathbb{Z}``, "about 4.2". All functions take
and return normalized text (`evals.answers.math.latex`).
"""

from __future__ import annotations

import re

from evals.answers.math.latex import FUNCTIONS, is_balanced
from evals.answers.numerals import SCALES

# Units that are shorter than a word; longer ones are any word of four letters or more.
_SHORT_UNITS = (
    *("cm", "mm", "km", "nm", "ft", "in", "yd", "mi", "kg", "mg", "gm", "lb", "lbs", "oz", "ml"),
    *("hr", "hrs", "min", "mins", "sec", "secs", "ms", "mph", "kph", "rpm", "sq", "cu", "gal"),
    *("deg", "rad", "day", "way", "men", "USD", "per"),
)
# "\frac{\text{km}}{\text{h}}" behind a value.
_QUOTIENT_UNIT = re.compile(
    r"(?<=[\w)}\]])\s*\\frac\s*\{\s*\\text\s*\{[^{}]*\}[^{}]{0,8}\}\s*\{\s*\\text\s*\{[^{}]*\}"
    r"[^{}]{0,8}\}$"
)
# "cm^2": a unit's power belongs to the unit.
_POWER = r"(?:\s*\^\s*(?:\d|\{\s*\d\s*\}))?"
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
# A \text{…} right behind a value is its unit, whatever it says.
_TEXT_UNIT = re.compile(rf"(?<=[\w)}}\]°!])\s*/?\s*\\text\s*\{{[^{{}}]*\}}{_POWER}$")
_BARE_UNIT = re.compile(
    rf"(?<![A-Za-z\\])(?:{'|'.join(_SHORT_UNITS)}|[A-Za-z]{{4,}}){_POWER}[\s.,/]*$"
)
# Before a bare unit a value must end, or "area" would be the unit of nothing.
_VALUE_END = re.compile(r"(?:[0-9)}\]°]|\\pi)\s*(?:/|an?)?\s*$")
# "3:30 pm", "3 p.m.", "15:30".
_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*([ap])\.?\s*m|(\d{1,2}:\d{2})", re.IGNORECASE)
# "221_3" and "101_{2}": a numeral in another base equals only itself.
_NUMERAL = re.compile(r"(-?[0-9][0-9A-Za-z.]*)\s*_\s*(?:\{\s*(\d+)\s*\}|(\d+))")
_BASE_WORD = re.compile(r"(?<=_)\s*\{?\s*\\text\s*\{\s*(?:base)?\s*(\d+)\s*\}\s*\}?")
# "\overline{AB}", "\angle ABC": marks over letters say what kind of thing they name.
_MARKED = re.compile(r"\\(?:over(?:line|rightarrow|leftrightarrow)|vec|angle|triangle|widehat)\s*")
# Capital letters in a row are points or choices, not a product.
_LETTERS = re.compile(r"(?:\{\s*)?([A-Z]{2,6})(?:\s*\})?")
# Three letters in a row are a word, not a product of variables.
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_FIRST_WORD = re.compile(r"[A-Za-z]{2,}(?![A-Za-z])")
# "20°C".
_SCALE = re.compile(r"(?<=°)\s*[CF]$")
_PART = re.compile(r"[^\W_]+")
_D = r"(?:d|\\partial|\\text\s*\{\s*d\s*\})\s*(?:\^\s*\{?\s*\d\s*\}?)?\s*"
# What may stand to the left of "=" and only name the answer: x, AB, \angle ABC, x_1, f(x),
# f^{-1}(x), \sin\theta, y', \vec{v}, dy/dx, A^T, an integral, "the area". An expression such as 2x
# names nothing: there "=" states an equation.
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
# "3 million", "5\text{ dozen eggs}": the word multiplies, what follows it is the unit.
_SCALED = re.compile(
    rf"(?<=[0-9)}}])\s*(?:\\text\s*\{{\s*(?P<text>{'|'.join(SCALES)})s?\b(?P<rest>[^{{}}]*)\}}"
    rf"|(?<![A-Za-z\\])(?P<plain>{'|'.join(SCALES)})s?(?![A-Za-z]))",
    re.IGNORECASE,
)
# Answers in words that say the same.
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
# Two or three small letters are a product: "ab = 12" is an equation.
_LOWER_PRODUCT = re.compile(r"[a-z]{2,3}")


def read_words(text: str) -> str | None:
    r"""The answer in words, in one spelling, or None if it holds mathematics.

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
        worded = " ".join(_PART.findall(plain.casefold()))
        return _SPELLINGS.get(worded, worded)
    return None


def unwrap_text_command(text: str) -> str:
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


def is_name(text: str) -> bool:
    r"""Whether the left side of an equation only names what the right side is: x, f(x), AB, y',
    P(X = 3), an integral or a limit."""
    text = text.strip()
    if called := _CALLED.fullmatch(text):
        return is_balanced(called["round"] or called["square"])
    return _LABEL.fullmatch(text) is not None and not _LOWER_PRODUCT.fullmatch(text)


def multiply_scale_words(text: str) -> str:
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


# Number sets that a letter may be a member of: \mathbb{Z}, "integers", R^+.
_SET = (
    r"\\(?:mathbb|mathbf|text)?\s*\{?\s*(?:[ZNQRC]|integers?|reals?)\s*\}?"
    r"(?:\s*[\^_]\s*\{?[+*0-9\\gen> -]{1,8}\}?)?|[ZNQRC]|\{\s*[ZNQRC]\s*\}"
)
_NAME = r"(?:(?<![A-Za-z\\])[A-Za-z]|\\(?!pi)[a-z]{2,7}(?![A-Za-z]))(?:_\w)?"
_NAMES = rf"{_NAME}(?:\s*,\s*{_NAME}){{0,4}}"
_FOR_WORDS = (
    r"(?:where|for|with|and|over|given|such\sthat|provided|assuming|,|\s|\(|any|all|every|each|some"
    r"|arbitrary|integers?|natural|real|numbers?|constants?|values?\sof|is|are|an?|in|of|that|the)+"
)
_KIND = (
    r"(?:(?:is|are)\s)?(?:(?:an?|any|some)\s)?"
    r"(?:(?:arbitrary|positive|non-?negative|non-?zero|real)\s)?"
    r"(?:integers?|(?:real|natural|whole)\snumbers?|constants?|real)"
)
_PREFIX = rf"(?:\\forall\s*|\\text\s*\{{{_FOR_WORDS}\}}|(?<![A-Za-z\\]){_FOR_WORDS}(?![A-Za-z]))"
# "…, where k \in \mathbb{Z}" behind an answer that holds k.
_MEMBERSHIPS = tuple(
    re.compile(
        rf"{before}\s*(?P<names>{names})\s*(?:\\in(?![A-Za-z])\s*(?:{_SET})"
        rf"|\\text\s*\{{\s*{_KIND}\s*\}})\s*\)?\s*$",
        re.IGNORECASE,
    )
    for before, names in (
        # The last letter of the answer is none of several names.
        (rf"\s*(?:[,;|(][\s(]*{_PREFIX}?|{_PREFIX})", _NAMES),
        (rf"[\s,;|]*\(?\s*{_PREFIX}?", _NAME),
    )
)
# "…, n \ge 1".
_BOUNDED = re.compile(
    rf"[,;]\s*\(?(?P<names>{_NAME})\s*(?:\\[gl]e(?![A-Za-z])|[<>])\s*-?\d{{1,3}}\s*\)?$"
)
# "…, x \ne 3".
_UNEQUAL = re.compile(
    rf"(?:[,;]|[\s,;]*\(?\s*\\text\s*\{{{_FOR_WORDS}(?:if|when)?\s*\}}|\s*\()\s*"
    rf"(?P<names>{_NAMES})\s*\\ne\s*[^,;()=<>]{{1,20}}\)?\s*$",
    re.IGNORECASE,
)
# "… where c is a constant".
_WORDED = re.compile(
    r"[\s,;]*\(?\s*(?:\\text\s*\{[\s,(]*(?:where|for|with)\b(?P<text>[^{}]*)\}"
    r"|(?<![A-Za-z\\])(?:where|for|with)\s(?P<plain>))(?P<rest>[^{}=]{0,60}(?:\{[^{}]*\}[^{}=]{0,40})?)$",
    re.IGNORECASE,
)
_CONDITIONS = re.compile(
    r"\\(?:ne|le|ge|in)(?![A-Za-z])|[<>]|\\text|integer|real|natural|constant|any|all"
)
# Words that part the pieces of a function; with several of them the conditions are the answer.
_PIECES = re.compile(r"(?<![A-Za-z])(?:for|if|when|otherwise)(?![A-Za-z])", re.IGNORECASE)
_CONDITION = re.compile(r"\\(?:ne|le|ge|in)(?![A-Za-z])|[<>]")
_ABOUT = r"(?:or|which\sis|that\sis|i\.e\.)?[\s,]*(?:about|approximately|approx\.?|roughly|around)"
# "or about 4.2", "(approximately 4.2)".
_ROUGHLY = re.compile(
    rf"\s*,?\s*\(?\s*\\text\s*\{{[\s(,]*{_ABOUT}\s*(?P<number>[0-9.]*)\s*\)?\s*\}}"
    rf"|(?<=[\w)}}])\s*,?\s*\(?(?<![A-Za-z\\]){_ABOUT}\s+(?=[0-9.])",
    re.IGNORECASE,
)
_IN_BRACKETS = re.compile(r"\(\s*(?:\\text\s*\{\s*or\s*\}|or)?\s*\\approx([^()]*)\)\s*$")
_OR_ABOUT = re.compile(r",?\s*(?:\\text\s*\{\s*or\s*\}|(?<![A-Za-z\\])or)\s*\\approx\s*")
# "\text{Domain: }" before the answer.
_TITLE = re.compile(
    r"\\text\s*\{\s*[A-Za-z][^{}\\]{1,40}:\s*\}\s*|(?=[A-Za-z]{3})[A-Za-z][A-Za-z ]{2,24}:\s+(?=\S)"
)


def drop_conditions(text: str) -> str:
    r"""The answer without a condition behind it that only says what its letters may be.

    A condition that is an answer itself stays, as do the pieces of a function: "x for x > 0".
    """
    title = _TITLE.match(text)
    text = text[title.end() :] if title else text
    worded = r"\text" in text or _WORDED.search(text)
    bounded = _BOUNDED.search(text)
    if r"\in" not in text and r"\ne" not in text and not worded and not bounded:
        return text
    for pattern in (*_MEMBERSHIPS, _UNEQUAL):
        found = pattern.search(text)
        if found is not None and _is_about(text[: found.start()], found["names"]):
            return text[: found.start()].rstrip(" ,;")
    # "x = 1, x > 3" states two things about x.
    if (
        bounded
        and _is_about(text[: bounded.start()], bounded["names"])
        and not re.match(rf"\s*{re.escape(bounded['names'])}\s*=", text)
    ):
        return text[: bounded.start()].rstrip(" ,;")
    found = _WORDED.search(text)
    if found is None or len(_PIECES.findall(text)) > 1:
        return text
    condition = (found["text"] or "") + found["rest"]
    before = text[: found.start()].rstrip(" ,;")
    plain = re.sub(r"\\[A-Za-z]+", " ", condition)
    names = re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", plain)
    names = [name for name in names if name != "a"]
    if _CONDITIONS.search(condition) and names and _is_about(before, ",".join(names)):
        return before
    return text


def _is_about(before: str, names: str) -> bool:
    """Whether the names occur in an answer before, which is no condition itself."""
    if not re.search(r"[0-9A-Za-z]", before) or _CONDITION.search(before):
        return False
    letters = re.sub(r"\\text\s*\{[^{}]*\}", " ", before)
    return all(
        re.search(rf"(?<![A-Za-z\\]){re.escape(name)}|(?<=[A-Za-z]){re.escape(name)}", letters)
        for name in re.findall(r"\\?[A-Za-z]+", names)[:1]
    )


def with_approximation_signs(text: str) -> str:
    r"""The words for an approximation as ``\approx``."""
    if r"\text" in text or "r" in text or "a" in text:
        text = _ROUGHLY.sub(lambda found: rf" \approx {found['number'] or ''}", text)
    text = _OR_ABOUT.sub(r" \\approx ", text)
    return _IN_BRACKETS.sub(r" \\approx\1", text)
