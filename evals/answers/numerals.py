"""Numbers as people write them, read as exact fractions."""

from __future__ import annotations

import re
from fractions import Fraction

from evals.answers.notation import plain

MOST_DIGITS = 400
"""A number whose numerator or denominator has more digits is not read."""


SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
    "dozen": 12,
    "lakh": 10**5,
    "crore": 10**7,
}
"""Words that multiply the number before them; every other word after a number is a unit."""


def _digits(separator: str) -> str:
    return (
        rf"(?:[1-9][0-9]{{0,2}}(?P<{separator}>[, _'’])[0-9]{{3}}(?:(?P={separator})[0-9]{{3}})*"
        r"(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    )


_NUMBER = re.compile(
    rf"""
    [ (\[{{"'“‘`]*
    (?: (?:about|approximately|approx\.?|around|roughly|exactly|only|just|a\ total\ of|=)\ ?){{0,3}}
    (?P<sign>[-+]|minus\b|negative\b)? \ ?
    (?: (?:USD?|EUR|GBP|CAD|AUD|Rs\.?|INR)\ ?(?=[-+0-9.]) )?
    (?P<inner>[-+])? \ ?
    (?: (?P<whole>[0-9]+)(?:\ and)?\ (?=[0-9]+\ ?/) )?
    (?P<number>{_digits("comma")})
    (?: \ ?/\ ?(?P<divisor>{_digits("below")}) )?
    (?: [eE](?P<e>[-+]?[0-9]{{1,4}})(?!\w|\.[0-9])
      | (?P<times>\ ?[*xX]\ ?10)? \ ?\^\ ?[{{(]?(?P<ten>[-+]?[0-9]{{1,4}})(?![0-9]|\.[0-9])[)}}]?
    )?
    (?: (?P<scales>(?:[ -]?(?:{"|".join(SCALES)})s?\b)+) | (?P<kilo>k)(?!\w) )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SCALE = re.compile("|".join(SCALES))
_SEPARATORS = str.maketrans("", "", ", _'’")

_CLOSING = re.compile(r"""(?: ?[)\]}"'”’`%°′″✓✔✅☑🎉\ufe0f])*""")
_CLAUSE_END = re.compile(
    r"""
      \. (?=\ |$) | [;—] | \ \((?=[^\W\d]{2} | [^()]*=) | \ -(?=\ [^\W\d]{2})
    | (?!,\ (?:and|or)\ \S{0,3}[0-9]) (?!.\ \w{1,3}\ ?=) [,:] (?=\ [^\W\d]|$)
    | \ and (?=\ (?:I\b|[^\W\d]{2})) (?!\ (?:half|[a-z]+ty|one|two|three|four|five|six|seven
                                            |eight|nine|ten|eleven|twelve)\b)
    | \ (?:because|since|as|if|when|where|while|so|which|that|but|given)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_UNIT = re.compile(r"(?P<joint>[-/]| ?/ ?| )?(?P<word>[^\W\d_]+)(?P<after>.?)")
_VARIABLE = re.compile(r"[a-zA-Zα-ωΑ-Ω]")
_ONE_LETTER_UNITS = frozenset("mgsdhlLCFJNWVA")
_NO_UNIT = re.compile(
    r"and|or|to|through|plus|minus|times|over|by|x|mod|pi|sqrt|(?:ten|hundred|thousand)ths?", re.I
)
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
_COMPOUND = re.compile(r"[-/ ]*(?P<word>[^\W\d_]+)\.?(?:, and|,| and| &| or)? [0-9]")
_LINK = re.compile(r"for|in|at|on|per|after|from|with|every|each|within|not|than", re.IGNORECASE)
_WORKING = re.compile(r"[-/ ]*[^\W\d_]+(?: [^\W\d_]+){0,3}(?: ?[+*/=]| -) ?[0-9(]")
_SEVERAL = re.compile(r"(?:,| and| or|;) ")


def number(text: str) -> Fraction | None:
    """The one number that `text` gives, alone, with a unit, or at the end of an equation.

    None for text that does not begin so, for several numbers ("1 and 2", "5-10", "12:30", "3,4"),
    for sums not worked out, variables, ordinals, and what is longer than `MOST_DIGITS`.
    """
    text = plain(text)
    if (found := _leading(text)) is not None:
        return found
    digit = re.search("[0-9]", text)
    if digit is None:
        return None
    end = _CLAUSE_END.search(text, digit.end())
    left, equals, right = text[: end.start() if end else None].rpartition("=")
    if left.endswith(("<", ">", "!")) or _SEVERAL.search(left.partition("=")[2]):
        return None
    return _leading(right.strip()) if equals else None


def canonical(value: Fraction) -> str:
    """One text per number: a whole number, else a decimal where it ends, else a reduced n/d."""
    below, places = value.denominator, 0
    while places < MOST_DIGITS and below != 1 and 10**places % below:
        places += 1
    if 10**places % below:
        return f"{value.numerator}/{below}"
    whole, rest = divmod(abs(value.numerator) * 10**places // below, 10**places)
    decimals = f".{rest:0{places}d}" if places else ""
    return f"{'-' if value < 0 else ''}{whole}{decimals}"


def _leading(text: str) -> Fraction | None:
    found = _NUMBER.match(text)
    if found is None or not _ends(text[found.end() :]):
        return None
    return _value(found)


def _value(found: re.Match[str]) -> Fraction | None:
    number, divisor = found["number"], found["divisor"]
    if found["sign"] and found["inner"]:
        return None
    exponent = int(found["e"] or found["ten"] or 0)
    if abs(exponent) > MOST_DIGITS:
        return None
    value = Fraction(number.translate(_SEPARATORS))
    if found["ten"] and not found["times"]:
        if number != "10" or divisor:
            return None
        value = Fraction(1)
    if divisor:
        below = Fraction(divisor.translate(_SEPARATORS))
        if not below:
            return None
        value /= below
    if found["whole"]:
        if value >= 1 or "." in number:
            return None
        value += int(found["whole"])
    value *= Fraction(10) ** exponent * (1000 if found["kilo"] else 1)
    for word in _SCALE.findall((found["scales"] or "").lower()):
        value *= SCALES[word]
    if max(value.numerator, value.denominator) >= 10**MOST_DIGITS:
        return None
    negative = (found["sign"] or found["inner"] or "+").lower() in ("-", "minus", "negative")
    return -value if negative else value


def _ends(rest: str) -> bool:
    """Whether what follows a number leaves it the only one: nothing, a unit, another clause."""
    closing = _CLOSING.match(rest)
    rest = rest[closing.end() :] if closing else rest
    end = _CLAUSE_END.search(rest)
    clause = (rest[: end.start()] if end else rest).rstrip()
    if not clause:
        return True
    unit = _UNIT.match(clause)
    if unit is None or not _is_unit(unit) or _WORKING.match(clause):
        return False
    compound = _COMPOUND.match(clause)
    return compound is None or _LINK.fullmatch(compound["word"]) is not None


def _is_unit(unit: re.Match[str]) -> bool:
    word, after = unit["word"], unit["after"]
    if _NO_UNIT.fullmatch(word) or (not unit["joint"] and _ORDINAL.match(word)):
        return False
    if word.lower() == "out" and unit.string.startswith(" of", unit.end("word")):
        return False
    if _VARIABLE.fullmatch(word) and word not in _ONE_LETTER_UNITS:
        return unit["joint"] == " " and after == " "
    if after.isdigit():
        return after in "23" and not unit.string[unit.end() :][:1].isdigit()
    return after not in {"(", "_", "\\"} and not (
        after == "^" and len(word) == 1 and word not in "ms"
    )
