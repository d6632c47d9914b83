r"""Sets of real numbers: intervals, inequalities, set-builders and complements in one normal form.

``x \ne 3``, ``\{x \mid x \ne 3\}``, ``\mathbb{R} \setminus \{3\}`` and
``(-\infty,3)\cup(3,\infty)`` are the same set. Reads tidied text (`evals.answers.math.latex`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from evals.answers.math import numeric
from evals.answers.math.latex import split_outside_brackets
from evals.answers.math.shapes import Bracket, Listing, Scalar, Shape, Words

ReadScalar = Callable[[str], Scalar]

_SIGNS = r"\\ne(?![A-Za-z])|\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>"
# Quick test: without one of these signs or words a text describes no set in this way.
_HINT = re.compile(
    rf"{_SIGNS}|\\(?:setminus|backslash|cup|cap|mathbb|Reals)(?![A-Za-z])"
    r"|\b(?:except|excluding)\b|\ball\b.{0,9}\b(?:reals?|numbers)\b",
    re.IGNORECASE,
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_(?:\w|\{\w+\}))?")
_SIGN = re.compile(rf"({_SIGNS})")
_OR = re.compile(
    r",?\s*\\text\s*\{\s*or\s*\}|,?(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:lor|vee|cup)(?![A-Za-z])"
)
_AND = re.compile(
    r",?\s*\\text\s*\{\s*and\s*\}|,?(?<![A-Za-z\\])and(?![A-Za-z])|\\(?:land|wedge|cap)(?![A-Za-z])"
)
_COMMA = re.compile(r"[,;]")
# A set difference, also written with a plain minus before a set in braces.
_MINUS = re.compile(r"\\(?:setminus|backslash)(?![A-Za-z])|(?<=[RZ})\]])\s*-\s*(?=\\\{)")
_EXCEPT = re.compile(r",?\s*\\text\s*\{\s*,?\s*(?:except|excluding|other than)[^{}]*\}")
# "x is a real number, x > 3".
_IS_REAL = re.compile(
    r"(?P<name>[A-Za-z])\s*\\text\s*\{\s*is\s(?:an?\s)?real(?:\snumber)?\s*(?P<more>,|and)?\s*\}"
)
_SUCH_THAT = re.compile(r"\||:(?!=)|\\text\s*\{\s*such that\s*\}")
_MEMBER = re.compile(r"\s*(?P<name>\\?[A-Za-z]+)\s*\\in(?![A-Za-z])(?P<set>.*)", re.DOTALL)
# \mathbb{R}, \mathbb{R}^+, \mathbb{R}_{\ge 0}.
_REALS = re.compile(
    r"\\(?:mathbb\s*\{?\s*R\s*\}?|Reals)\s*(?P<part>[\^_]\s*\{?\s*(?:\+|-|\*|>\s*0|<\s*0"
    r"|\\ge\s*0|\\le\s*0|\\ne\s*0|0\s*\^?\s*\+|\\text\s*\{\s*\+\s*\})\s*\}?)?"
)
# "all real numbers x except 3".
_ALL_REALS = re.compile(
    r"(?:the\s(?:set|domain|range)\s(?:of|is)\s)?all\s(?:reals?\b|real\s(?:numbers?|values?))"
    r"(?:\s(?:of\s)?[a-z])?(?:,?\s(?:except(?:\sfor)?|other\sthan|excluding|but|not\sequal\sto"
    r"|except\swhen|such\sthat|where|with)\s(?P<rest>.+))?",
    re.IGNORECASE,
)
# The name in "except x = 3".
_EXCLUDED = re.compile(r"[A-Za-z]\s*=")
_MOST = 16
# Relative difference below which two ends of intervals are the same.
_EQUAL = 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, with the values to order it by; a point where both are the same."""

    low: Scalar
    high: Scalar
    start: float
    end: float
    holds_low: bool
    holds_high: bool


RealSet = tuple[Interval, ...]
"""Disjoint intervals in order, no two of which touch."""


def read_real_set(text: str, scalar: ReadScalar) -> Shape | None:
    """The set that a text describes, as a structure; None where it describes none in this way."""
    if not _HINT.search(text):
        return None
    text = _IS_REAL.sub(_write_membership, text)
    found = _RealSetReader(scalar).read_described(text.strip(), 0)
    return None if found is None else to_shape(found)


def _write_membership(real: re.Match[str]) -> str:
    return rf"{real['name']} \in \mathbb{{R}} {',' if real['more'] else ''}"


def to_shape(found: RealSet) -> Shape:
    """Brackets and points, in order."""
    shapes: list[Shape] = [
        i.low
        if i.start == i.end
        else Bracket("[" if i.holds_low else "(", "]" if i.holds_high else ")", (i.low, i.high))
        for i in found
    ]
    if not shapes:
        return Words("no solution")
    return shapes[0] if len(shapes) == 1 else Listing(tuple(shapes))


class _RealSetReader:
    """Reads one answer; all its conditions must be about one variable."""

    def __init__(self, scalar: ReadScalar) -> None:
        self.scalar = scalar
        self.name: str | None = None
        self.reals = (self.make_interval(r"-\infty", r"\infty", False, False),)

    def read_described(self, text: str, depth: int) -> RealSet | None:
        """A set, or a condition on one variable."""
        if depth > 6:
            return None
        if len(excluded := split_outside_brackets(text, _EXCEPT)) == 2 and excluded[0].strip():
            held = self.read_described(excluded[0].strip(), depth + 1)
            without = self.read_worded(excluded[1], depth)
            return None if held is None or without is None else intersect(held, without)
        for separator, combine in ((_OR, unite), (_AND, intersect)):
            if len(parts := split_outside_brackets(text, separator)) > 1:
                return self.combine(parts, combine, depth)
        parts = [part.strip() for part in split_outside_brackets(text, _COMMA) if part.strip()]
        if len(parts) > 1:
            return self.read_listed(parts, depth)
        if len(parts := split_outside_brackets(text, _MINUS)) > 1:
            sets = [self.read_described(part.strip(), depth + 1) for part in parts]
            if any(one is None for one in sets):
                return None
            whole, *rest = (one for one in sets if one is not None)
            return reduce(intersect, (self.complement(one) for one in rest), whole)
        return self.read_single(text.strip(), depth)

    def combine(
        self, parts: list[str], combine: Callable[[RealSet, RealSet], RealSet], depth: int
    ) -> RealSet | None:
        sets = [self.read_described(part.strip(), depth + 1) for part in parts if part.strip()]
        known = [one for one in sets if one is not None]
        if not known or len(known) < len(sets) or len(known) > _MOST:
            return None
        return reduce(combine, known)

    def read_listed(self, parts: list[str], depth: int) -> RealSet | None:
        """Conditions with commas between: all of them hold, or any where all cannot."""
        if len(parts) > _MOST or not any(_SIGN.search(p) or _MEMBER.fullmatch(p) for p in parts):
            return None
        sets: list[RealSet] = []
        for place, part in enumerate(parts):
            # x \ne 1, 2: what follows the comma is excluded too.
            excluded = place > 0 and r"\ne" in parts[0] and not _SIGN.search(part)
            one = self.exclude(part) if excluded else self.read_described(part, depth + 1)
            if one is None:
                return None
            sets.append(one)
        # "x < 1, x > 3" cannot both hold, so the comma means "or".
        return reduce(intersect, sets) or reduce(unite, sets)

    def read_single(self, text: str, depth: int) -> RealSet | None:
        if reals := _REALS.fullmatch(text):
            return self.read_reals(reals["part"])
        if worded := _ALL_REALS.fullmatch(" ".join(_TEXT.sub(r" \1 ", text).split())):
            return self.read_worded(worded["rest"], depth)
        if member := _MEMBER.fullmatch(text):
            return (
                self.read_described(member["set"].strip(), depth + 1)
                if self.is_about(member["name"])
                else None
            )
        if text.startswith(r"\{") and text.endswith(r"\}"):
            return self.read_braces(text[2:-2].strip(), depth)
        if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
            return self.read_bracket(text)
        return self.read_order(text)

    def read_worded(self, rest: str | None, depth: int) -> RealSet | None:
        if rest is None:
            return self.reals
        if _SIGN.search(rest) or r"\in" in rest:
            return self.read_described(rest, depth + 1)
        points = [
            self.exclude(_EXCLUDED.sub("", part))
            for part in split_outside_brackets(_AND.sub(",", rest), _COMMA)
        ]
        known = [one for one in points if one is not None]
        return reduce(intersect, known) if len(known) == len(points) else None

    def read_reals(self, part: str | None) -> RealSet | None:
        sign = re.sub(r"[\^_{}\s0]|\\text", "", part or "")
        if sign in ("+", "^+", ">"):
            return (self.make_interval("0", r"\infty", False, False),)
        if sign in ("-", "<"):
            return (self.make_interval(r"-\infty", "0", False, False),)
        if sign in ("*", r"\ne"):
            return self.exclude("0")
        if sign == r"\ge":
            return (self.make_interval("0", r"\infty", True, False),)
        return (self.make_interval(r"-\infty", "0", False, True),) if sign == r"\le" else self.reals

    def read_braces(self, inside: str, depth: int) -> RealSet | None:
        r"""A set-builder, or single points: ``\{1, 2\}``."""
        parts = split_outside_brackets(inside, _SUCH_THAT)
        if len(parts) == 2:
            left, condition = (part.strip() for part in parts)
            member = _MEMBER.fullmatch(left)
            if not self.is_about(member["name"] if member else left):
                return None
            held = self.read_described(condition, depth + 1)
            within = self.read_described(member["set"].strip(), depth + 1) if member else self.reals
            return None if held is None or within is None else intersect(held, within)
        points = [self.read_points(part) for part in split_outside_brackets(inside, _COMMA)]
        known = [one for one in points if one is not None]
        return reduce(unite, known) if known and len(known) == len(points) else None

    def read_bracket(self, text: str) -> RealSet | None:
        parts = [part.strip() for part in split_outside_brackets(text[1:-1], _COMMA)]
        if len(parts) != 2:
            return None
        low, high = map(self.scalar, parts)
        start, end = _to_float(low), _to_float(high)
        if start is None or end is None or not start < end:
            return None
        return (Interval(low, high, start, end, text[0] == "[", text[-1] == "]"),)

    def read_order(self, text: str) -> RealSet | None:
        """A chain of one variable and constants."""
        parts = [part.strip() for part in split_outside_brackets(text, _SIGN)]
        signs = [found[0] for found in _SIGN.finditer(text)]
        if len(signs) != len(parts) - 1 or not 1 <= len(signs) <= 2:
            return None
        if signs == [r"\ne"]:
            side = 0 if self.is_variable(parts[0]) else 1
            return self.exclude(parts[1 - side]) if self.is_about(parts[side]) else None
        if r"\ne" in signs:
            return None
        place = next((n for n, part in enumerate(parts) if self.is_variable(part)), None)
        if place is None or (len(parts) == 3 and place != 1) or not self.is_about(parts[place]):
            return None
        held: RealSet | None = self.reals
        for n, sign in enumerate(signs):
            other, turned = (n, True) if n < place else (n + 1, False)
            one = self.make_ray(sign, parts[other], turned)
            held = intersect(held, one) if held is not None and one is not None else None
        return held

    def make_ray(self, sign: str, bound: str, turned: bool) -> RealSet | None:
        below = (sign in ("<", r"\le")) is not turned
        holds = sign in (r"\le", r"\ge")
        limit = self.scalar(bound)
        if (value := _to_float(limit)) is None:
            return None
        infinite = self.scalar(r"-\infty" if below else r"\infty")
        if below:
            return (Interval(infinite, limit, -_INFINITY, value, False, holds),)
        return (Interval(limit, infinite, value, _INFINITY, holds, False),)

    def is_variable(self, text: str) -> bool:
        return _NAME.fullmatch(text) is not None and _to_float(self.scalar(text)) is None

    def is_about(self, name: str) -> bool:
        """Whether this is the variable all conditions so far are about."""
        if not self.is_variable(name):
            return False
        self.name = self.name or name
        return self.name == name

    def read_points(self, text: str) -> RealSet | None:
        signs = "+-" if r"\pm" in text else "+"
        found: RealSet = ()
        for sign in signs:
            one = self.scalar(text.replace(r"\pm", sign).strip())
            if (value := _to_float(one)) is None:
                return None
            found = unite(found, (Interval(one, one, value, value, True, True),))
        return found

    def exclude(self, text: str) -> RealSet | None:
        points = self.read_points(text.strip())
        return None if points is None else self.complement(points)

    def complement(self, found: RealSet) -> RealSet:
        result: list[Interval] = []
        rest = self.reals[0]
        for one in found:
            # Cut one interval after the other out of what is left of the real line.
            ends = rest.start, one.start
            result.append(Interval(rest.low, one.low, *ends, rest.holds_low, not one.holds_low))
            ends = one.end, rest.end
            rest = Interval(one.high, rest.high, *ends, not one.holds_high, rest.holds_high)
        return tuple(i for i in (*result, rest) if _is_nonempty(i))

    def make_interval(self, low: str, high: str, holds_low: bool, holds_high: bool) -> Interval:
        lower, higher = self.scalar(low), self.scalar(high)
        start, end = _to_float(lower), _to_float(higher)
        assert start is not None
        assert end is not None
        return Interval(lower, higher, start, end, holds_low, holds_high)


_INFINITY = float("inf")


def unite(a: RealSet, b: RealSet) -> RealSet:
    """What is in either."""
    merged: list[Interval] = []
    for one in sorted((*a, *b), key=lambda i: (i.start, not i.holds_low)):
        last = merged[-1] if merged else None
        touches = last is not None and (
            one.start < last.end - _EQUAL * abs(last.end)
            or (_is_close(one.start, last.end) and (one.holds_low or last.holds_high))
        )
        if last is None or not touches:
            merged.append(one)
        elif one.end > last.end or (one.end == last.end and one.holds_high):
            merged[-1] = Interval(
                last.low, one.high, last.start, one.end, last.holds_low, one.holds_high
            )
    return tuple(merged)


def intersect(a: RealSet, b: RealSet) -> RealSet:
    """What is in both."""
    found: list[Interval] = []
    for one in a:
        for other in b:
            lower = max(one, other, key=lambda i: (i.start, not i.holds_low))
            upper = min(one, other, key=lambda i: (i.end, i.holds_high))
            both = Interval(
                lower.low, upper.high, lower.start, upper.end, lower.holds_low, upper.holds_high
            )
            if _is_nonempty(both):
                found.append(both)
    return tuple(sorted(found, key=lambda i: i.start))


def _is_nonempty(interval: Interval) -> bool:
    if _is_close(interval.start, interval.end):
        return interval.holds_low and interval.holds_high
    return interval.start < interval.end


def _is_close(a: float, b: float) -> bool:
    return a == b or (math.isfinite(a - b) and abs(a - b) <= _EQUAL * max(abs(a), abs(b)))


def _to_float(scalar: Scalar) -> float | None:
    """The value to order by; None for what is no real constant."""
    if scalar.latex in (r"\infty", r"-\infty"):
        return -_INFINITY if scalar.latex[0] == "-" else _INFINITY
    try:
        if scalar.exact is not None:
            return float(scalar.exact)
    except OverflowError:
        return None
    if scalar.tree is None or scalar.glimpse is None or numeric.find_variables(scalar.tree):
        return None
    if abs(scalar.glimpse.imag) > _EQUAL:
        return None
    return scalar.glimpse.real
