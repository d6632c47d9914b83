r"""The structures of answers: words, a scalar, a list, a bracket, a matrix, an equation, an order.

Structure decides most comparisons before any algebra: an interval is no number, and a word is no
product of its letters. docs/answers.md lists, with examples, what counts as the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from evals.answers.math.parsing import Expression


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
class OrderChain:
    """A chain of ``<`` and ``≤`` (written upwards) or ``≠``."""

    signs: tuple[str, ...]
    sides: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Rounded:
    """An exact value with its approximation, ``3\\sqrt2 \\approx 4.24``: the same as either."""

    exact: Shape
    rounded: Shape


Shape = Words | Scalar | Listing | Bracket | Matrix | Equation | OrderChain | Rounded


# Digits; a longer number is shown as it was written.
_LONGEST = 60


def describe_shape(shape: Shape) -> str:
    """The structure in a line, such as "a list of: the number 4 | the number -9"."""
    match shape:
        case Words(text):
            return f'the words "{text}"'
        case Scalar():
            return _describe_scalar(shape)
        case Listing(items):
            return f"in any order: {' | '.join(map(describe_shape, items))}"
        case Bracket(opening, closing, items):
            return f"{opening} {' , '.join(map(_shorten_shape, items))} {closing}"
        case Matrix(kind, rows):
            lines = " ; ".join(" , ".join(map(_shorten_shape, row)) for row in rows)
            return f"a {'determinant' if kind else 'matrix'}: {lines}"
        case Equation(left, right, names):
            if names:
                return f"{describe_shape(right)}, named {left.latex}"
            return f"the equation {left.latex} = {_shorten_shape(right)}"
        case OrderChain(signs, sides):
            words = [sides[0].latex]
            for sign, side in zip(signs, sides[1:], strict=True):
                words += [sign, side.latex]
            return f"the order {' '.join(words)}"
        case Rounded(exact, rounded):
            return f"{describe_shape(exact)}, or {describe_shape(rounded)} as its approximation"


def _describe_scalar(scalar: Scalar) -> str:
    if scalar.exact is not None:
        return f"the number {_format_number(scalar.exact) or scalar.latex}"
    return f"the expression {scalar.latex}"


def _shorten_shape(shape: Shape) -> str:
    if isinstance(shape, Scalar):
        return (_format_number(shape.exact) if shape.exact is not None else None) or shape.latex
    return describe_shape(shape)


def _format_number(value: Fraction) -> str | None:
    """The number where it is short enough to be read."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 3 * _LONGEST:
        return None
    return str(value)
