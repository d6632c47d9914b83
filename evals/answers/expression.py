"""Mathematical expressions as trees."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


class Unclear(ValueError):
    """The text is no expression, or one with more than one customary meaning."""


class NoValue(ArithmeticError):
    """The expression has no value: it is undefined, too large or not numeric."""


class Undefined(NoValue):
    """The expression has no value whatever the precision: 1/0."""


@dataclass(frozen=True, slots=True)
class Number:
    """An exact rational number."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Symbol:
    r"""A variable with its subscript, or a constant: ``e``, ``i``, ``\pi``, ``\infty``."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation (``+ * / ^ ! neg abs sqrt binom log …``) on its arguments."""

    operation: str
    arguments: tuple[Expression, ...]


Expression = Number | Symbol | Apply
