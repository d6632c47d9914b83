"""Numbers as people write them, read as exact fractions."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

# Every typographic minus, product and division as one character; currency signs carry no value.
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–‐‑‒﹣－", "-"),
        **dict.fromkeys("×·⋅∙∗", "*"),
        **dict.fromkeys("÷⁄∕", "/"),
        **dict.fromkeys("≈≃≅", "="),
        **dict.fromkeys("$€£¥₹¢", " "),
    }
)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_RAISED = re.compile(f"[{_SUPERSCRIPTS}]+")
_LOWERED = str.maketrans(_SUPERSCRIPTS, "0123456789+-")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
# GSM8K's calculator annotations: "<<48/2=24>>".
_CALCULATION = re.compile(r"<<[^<>]{0,200}>>")
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf|tt)|bf|rm|mbox|operatorname)\s*"
    r"\{([^{}]*)\}"
)
_NOTHING = re.compile(r"\\(?:left|right|displaystyle|[bB]igg?[lr]?|!)(?![A-Za-z])|\\[()\[\]]")
_SPACE = re.compile(r"\\(?:[,;: \\]|q?quad(?![A-Za-z]))|~")
_CURRENCY = re.compile(r"\\(?:\$|(?:pounds|euro|yen|cents?|textdollar)(?![A-Za-z]))")
_TIMES = re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])")
_ABOUT = re.compile(r"\\(?:approx|simeq|sim|cong)(?![A-Za-z])")
_DEGREES = re.compile(r"\^?\s*\{?\s*(?:\\(?:circ|degree)(?![A-Za-z])|°)\s*\}?")
_TERM = r"\s*(?:\{\s*([-+]?[0-9][0-9,.]*)\s*\}|([0-9]))"
_FRACTION = re.compile(rf"\\[dtc]?frac{_TERM}{_TERM}")


def normalize_notation(text: str) -> str:
    """The text in plain characters; what is no number notation stays as it is."""
    text = _CALCULATION.sub("", text)
    text = _RAISED.sub(lambda found: f"^{{{found[0].translate(_LOWERED)}}}", text)
    text = _VULGAR.sub(lambda found: f" {unicodedata.normalize('NFKC', found[0])} ", text)
    text = unicodedata.normalize("NFKC", text)
    text = _CURRENCY.sub(" ", text.replace("{,}", ",").replace("\\%", "%"))
    text = _SPACE.sub(" ", _NOTHING.sub("", text))
    for _ in range(4):
        text = _FONT.sub(r" \1 ", text)
    text = _ABOUT.sub("=", _TIMES.sub("*", text.replace("\\div", "/")))
    text = _FRACTION.sub(_write_quotient, _DEGREES.sub("° ", text))
    return " ".join(text.translate(_SIGNS).replace("**", "^").split())


def _write_quotient(found: re.Match[str]) -> str:
    above, below = found[1] or found[2], found[3] or found[4]
    return f" {above}/{below} "


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


def _digits_pattern(separator: str) -> str:
    return (
        rf"(?:[1-9][0-9]{{0,2}}(?P<{separator}>[, _'’])[0-9]{{3}}(?:(?P={separator})[0-9]{{3}})*"
        r"(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    )


# One number at the start of a text: words that hedge, sign, currency, whole part of a mixed number,
# the digits, a divisor, an exponent in one of its spellings, words that scale. Separators of
# thousands must be all alike and stand before groups of three.
_NUMBER = re.compile(
    rf"""
    [ (\[{{"'“‘`]*
    (?: (?:about|approximately|approx\.?|around|roughly|exactly|only|just|a\ total\ of|=)\ ?){{0,3}}
    (?P<sign>[-+]|minus\b|negative\b)? \ ?
    (?: (?:USD?|EUR|GBP|CAD|AUD|Rs\.?|INR)\ ?(?=[-+0-9.]) )?
    (?P<inner>[-+])? \ ?
    (?: (?P<whole>[0-9]+)(?:\ and)?\ (?=[0-9]+\ ?/) )?
    (?P<number>{_digits_pattern("comma")})
    (?: \ ?/\ ?(?P<divisor>{_digits_pattern("below")}) )?
    (?: [eE](?P<e>[-+]?[0-9]{{1,4}})(?!\w|\.[0-9])
      | (?P<times>\ ?[*xX]\ ?10)? \ ?\^\ ?[{{(]?(?P<ten>[-+]?[0-9]{{1,4}})(?![0-9]|\.[0-9])[)}}]?
    )?
    (?: (?P<scales>(?:[ -]?(?:{"|".join(SCALES)})s?\b)+) | (?P<kilo>k)(?!\w) )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SCALE = re.compile("|".join(SCALES))
_SEPARATORS = str.maketrans("", "", ", _'’")

# Signs behind a number that carry no value: brackets, quotes, per cent, degrees, a check mark.
_CLOSING = re.compile(r"""(?: ?[)\]}"'”’`%°′″✓✔✅☑🎉\ufe0f])*""")
# Where a new clause begins, which may hold numbers of its own: "18, because she sells 9". A comma
# before "and 3" or "x = 2" continues the answer instead.
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
# The word after a number, how it is joined to it and what follows it.
_UNIT = re.compile(r"(?P<joint>[-/]| ?/ ?| )?(?P<word>[^\W\d_]+)(?P<after>.?)")
_VARIABLE = re.compile(r"[a-zA-Zα-ωΑ-Ω]")
# Metres, grams, seconds, days, hours, litres, degrees, …: any other single letter is a variable.
_ONE_LETTER_UNITS = frozenset("mgsdhlLCFJNWVA")
# Words after a number that continue it or calculate: "3 and", "3 times", "3 pi".
_NO_UNIT = re.compile(
    r"and|or|to|through|plus|minus|times|over|by|x|mod|pi|sqrt|(?:ten|hundred|thousand)ths?", re.I
)
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
# "5 feet 4": a unit and another number. Words such as "per 2" or "in 3" only relate the two.
_COMPOUND = re.compile(r"[-/ ]*(?P<word>[^\W\d_]+)\.?(?:, and|,| and| &| or)? [0-9]")
_LINK = re.compile(r"for|in|at|on|per|after|from|with|every|each|within|not|than", re.IGNORECASE)
# "3 eggs * 2": the working continues behind the unit.
_WORKING = re.compile(r"[-/ ]*[^\W\d_]+(?: [^\W\d_]+){0,3}(?: ?[+*/=]| -) ?[0-9(]")
# "x = 1, y = 2": several equations give no single number.
_SEVERAL = re.compile(r"(?:,| and| or|;) ")


def parse_number(text: str) -> Fraction | None:
    """The one number that `text` gives, alone, with a unit, or at the end of an equation.

    None for text that does not begin so, for several numbers ("1 and 2", "5-10", "12:30", "3,4"),
    for sums not worked out, variables, ordinals, and what is longer than `MOST_DIGITS`.
    """
    text = normalize_notation(text)
    if (found := _parse_leading_number(text)) is not None:
        return found
    digit = re.search("[0-9]", text)
    if digit is None:
        return None
    end = _CLAUSE_END.search(text, digit.end())
    left, equals, right = text[: end.start() if end else None].rpartition("=")
    if left.endswith(("<", ">", "!")) or _SEVERAL.search(left.partition("=")[2]):
        return None
    return _parse_leading_number(right.strip()) if equals else None


def format_number(value: Fraction) -> str:
    """One text per number: a whole number, else a decimal where it ends, else a reduced n/d."""
    # A fraction ends as a decimal where its denominator divides a power of ten.
    below, places = value.denominator, 0
    while places < MOST_DIGITS and below != 1 and 10**places % below:
        places += 1
    if 10**places % below:
        return f"{value.numerator}/{below}"
    whole, rest = divmod(abs(value.numerator) * 10**places // below, 10**places)
    decimals = f".{rest:0{places}d}" if places else ""
    return f"{'-' if value < 0 else ''}{whole}{decimals}"


def _parse_leading_number(text: str) -> Fraction | None:
    found = _NUMBER.match(text)
    if found is None or not _is_only_number(text[found.end() :]):
        return None
    return _compute_value(found)


def _compute_value(found: re.Match[str]) -> Fraction | None:
    number, divisor = found["number"], found["divisor"]
    if found["sign"] and found["inner"]:
        return None
    exponent = int(found["e"] or found["ten"] or 0)
    if abs(exponent) > MOST_DIGITS:
        return None
    value = Fraction(number.translate(_SEPARATORS))
    # "10^3" is a power of ten; "5^3" is a calculation, which is not read.
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
        # "2 3/4" is a mixed number, "2 5/4" is not.
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


def _is_only_number(rest: str) -> bool:
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
