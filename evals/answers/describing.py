"""What a structure is, in words: for people who ask how an answer was understood."""

from __future__ import annotations

from fractions import Fraction

from evals.answers.shape import (
    Bracket,
    Equation,
    Listing,
    Matrix,
    Order,
    Rounded,
    Scalar,
    Shape,
    Words,
)

_LONGEST = 60


def describe(shape: Shape) -> str:
    """The structure in a line, such as "a list of: the number 4 | the number -9"."""
    match shape:
        case Words(text):
            return f'the words "{text}"'
        case Scalar():
            return _scalar(shape)
        case Listing(items):
            return f"in any order: {' | '.join(map(describe, items))}"
        case Bracket(opening, closing, items):
            return f"{opening} {' , '.join(map(_short, items))} {closing}"
        case Matrix(kind, rows):
            lines = " ; ".join(" , ".join(map(_short, row)) for row in rows)
            return f"a {'determinant' if kind else 'matrix'}: {lines}"
        case Equation(left, right, names):
            if names:
                return f"{describe(right)}, named {left.latex}"
            return f"the equation {left.latex} = {_short(right)}"
        case Order(signs, sides):
            words = [sides[0].latex]
            for sign, side in zip(signs, sides[1:], strict=True):
                words += [sign, side.latex]
            return f"the order {' '.join(words)}"
        case Rounded(exact, rounded):
            return f"{describe(exact)}, or {describe(rounded)} as its approximation"


def _scalar(scalar: Scalar) -> str:
    if scalar.exact is not None:
        return f"the number {_number(scalar.exact) or scalar.latex}"
    return f"the expression {scalar.latex}"


def _short(shape: Shape) -> str:
    if isinstance(shape, Scalar):
        return (_number(shape.exact) if shape.exact is not None else None) or shape.latex
    return describe(shape)


def _number(value: Fraction) -> str | None:
    """The number where it is short enough to be read."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 3 * _LONGEST:
        return None
    return str(value)
