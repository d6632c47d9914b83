r"""Whether expressions are equal, by their values.

Two expressions without variables are equal where their values agree to 35 of 60 digits (relative,
so that 1/2004! and 1/2006! differ); with variables they are equal where they agree at several
points with unrelated digits, the probabilistic identity test of Schwartz (1980, J. ACM 27:701).
Points where neither side is real are outside of the domain and say nothing. All work is bounded
before it begins: what is too large gives no verdict.
"""

from __future__ import annotations

import cmath
from fractions import Fraction
from typing import Any

from evals.answers.expression import Apply, Expression, NoValue, Number, Symbol, Undefined
from evals.answers.numeric import DOUBLE, precise, value_of

_DIGITS = 60
_AGREED = 1e-35
_NOISE = 1e-25
_SHIFTS = tuple(Fraction(shift, 7) for shift in (9, 281, 9, 9, 1, 9))
_CONSTANTS = frozenset(("e", "i", r"\pi"))


def names(tree: Expression) -> frozenset[str]:
    """The variables of an expression, constants not counted; infinity passes for a variable."""
    match tree:
        case Number():
            return frozenset()
        case Symbol(name):
            return frozenset() if name in _CONSTANTS else frozenset((name,))
        case Apply(_, arguments):
            return frozenset().union(*(names(argument) for argument in arguments))


def glimpse(tree: Expression) -> complex | None:
    """The value at one fixed point in double precision, or None where that is not reliable."""
    try:
        value = complex(value_of(tree, DOUBLE, _point(names(tree), 0)))
    except (ArithmeticError, ValueError, TypeError):
        return None
    usable = cmath.isfinite(value) and (_is_complex(tree) or abs(value.imag) < 1e-9)
    return value if usable else None


def differ(a: complex | None, b: complex | None) -> bool:
    """Whether two glimpses are far enough apart to rule equality out."""
    if a is None or b is None:
        return False
    largest = max(abs(a), abs(b))
    return largest > 1e-4 and abs(a - b) > 1e-4 * largest


def equal(a: Expression, b: Expression) -> bool | None:
    """Whether two expressions are equal; None where that cannot be told here."""
    variables = names(a) | names(b)
    # One side may be real by cancelling, as in (i)(-i), so both are judged as complex together.
    over_complex = _is_complex(a) or _is_complex(b)
    agreed = apart = False
    for turn in range(6 if variables else 1):
        try:
            left = _at(a, variables, turn, over_complex)
            right = _at(b, variables, turn, over_complex)
        except Undefined:
            return False
        except NoValue:
            return None
        if left is None or right is None:
            apart |= left is not right
        elif _close(left, right):
            agreed = True
        else:
            return False
    if apart:
        return False
    return True if agreed else None


def proportional(a: Expression, b: Expression) -> bool:
    """Whether a is a constant, other than zero, times b: the equations a = 0 and b = 0 agree."""
    variables = names(a) | names(b)
    if not variables:
        return False
    ratios = []
    for turn in range(5):
        try:
            left, right = _at(a, variables, turn, True), _at(b, variables, turn, True)
        except NoValue:
            return False
        if left == 0 or right == 0:
            return False
        ratios.append(left / right)
    return all(_close(ratios[0], ratio) for ratio in ratios)


def _at(tree: Expression, variables: frozenset[str], turn: int, over_complex: bool) -> Any:
    """The value at one of the fixed points, or None where it is not real. Raises NoValue."""
    point = _point(variables, turn)
    try:
        value = value_of(tree, precise(_DIGITS), point)
        if value != 0 and abs(value) < _NOISE:
            # Cancelling leaves noise that changes with the precision; a small value does not.
            finer = value_of(tree, precise(2 * _DIGITS), point)
            value = 0 if not _close(value, finer, 1e-10) else value
    except (Undefined, ZeroDivisionError) as error:
        raise Undefined(str(error)) from error
    except (ArithmeticError, ValueError, TypeError) as error:
        raise NoValue(str(error)) from error
    if over_complex:
        return value
    real, imaginary = getattr(value, "real", value), getattr(value, "imag", 0)
    return real if abs(imaginary) <= _AGREED * abs(value) else None


def _close(a: Any, b: Any, tolerance: float = _AGREED) -> bool:
    return bool(abs(a - b) <= tolerance * max(abs(a), abs(b)))


def _is_complex(tree: Expression) -> bool:
    match tree:
        case Number():
            return False
        case Symbol(name):
            return name == "i"
        case Apply(_, arguments):
            return any(_is_complex(argument) for argument in arguments)


def _point(variables: frozenset[str], turn: int) -> dict[str, Fraction]:
    """A value for every variable: small, large, negative, of either sign, below one."""
    point = {}
    for name in variables:
        seed = int.from_bytes(name.encode("utf-8", "replace"), "big") % 1_000_003
        digits = (seed * 7919 + turn * 104_729 + 51_151) % 99_991
        value = Fraction(digits, 99_991) + _SHIFTS[turn]
        flipped = turn in (2, 3, 5) and (turn == 2 or seed % 2 == turn % 2)
        point[name] = -value if flipped else value
    return point
