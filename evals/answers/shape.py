r"""The structures of answers: words, a scalar, a list, a bracket, a matrix, an equation, an order.

Structure decides most comparisons before any algebra: an interval is no number, a text is no
product of its letters. What counts as the same is documented, with examples, in docs/answers.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from evals.answers.expression import Expression


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words, a time or a numeral in another base: compared as text."""

    text: str


@dataclass(frozen=True, slots=True)
class Scalar:
    """One expression; `tree` is None where only the judge can read it."""

    latex: str
    tree: Expression | None = field(compare=False)
    exact: Fraction | None = field(compare=False)
    glimpse: complex | None = field(compare=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """Several answers whose order does not matter: ``1, -2``, ``{1, 2}``, a union."""

    items: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Bracket:
    """A point, vector, tuple or interval; brackets and order matter."""

    opening: str
    closing: str
    items: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """`kind` is empty for a matrix, ``vmatrix`` for a determinant."""

    kind: str
    rows: tuple[tuple[Shape, ...], ...]


@dataclass(frozen=True, slots=True)
class Equation:
    """``left = right``; `names` says that the left side only names what the right side is."""

    left: Scalar
    right: Shape
    names: bool


@dataclass(frozen=True, slots=True)
class Order:
    """A chain of ``<`` and ``≤`` (written upwards) or ``≠``."""

    signs: tuple[str, ...]
    sides: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Rounded:
    """An exact value with its approximation, ``3\\sqrt2 \\approx 4.24``: the same as either."""

    exact: Shape
    rounded: Shape


Shape = Words | Scalar | Listing | Bracket | Matrix | Equation | Order | Rounded
