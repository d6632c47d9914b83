r"""Numeric values of expressions, and whether two expressions have equal values.

Two expressions without variables are equal where their values agree to 35 of 60 digits (relative,
so that 1/2004! and 1/2006! differ). Expressions with variables are equal where they agree at
several points with unrelated digits: the probabilistic identity test of Schwartz (1980, J. ACM
27:701).
Points where neither side is real are outside of the domain and count for nothing. All work is
bounded before it begins: a value that would be too large gives no verdict.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from evals.answers.math.parsing import Apply, Expression, NoValue, Number, Symbol, Undefined

# Binary digits before the point that an intermediate value may have: it bounds the work.
_LARGEST_MAGNITUDE = 100_000


@dataclass(frozen=True, slots=True)
class NumberField:
    """Numbers of one precision, and the functions on them."""

    number: Callable[[Fraction], Any]
    constants: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    magnitude: Callable[[Any], float]
    """The binary logarithm of an absolute value; minus infinity for zero."""
    most: float
    """The largest magnitude that any intermediate value may have."""


def evaluate(tree: Expression, field: NumberField, point: Mapping[str, Fraction]) -> Any:
    match tree:
        case Number(value):
            result = field.number(value)
        case Symbol(name):
            known = field.constants.get(name)
            result = field.number(point[name]) if known is None else known
        case Apply(operation, arguments):
            values = [evaluate(argument, field, point) for argument in arguments]
            result = _apply_operation(operation, values, field)
    if result != 0 and not field.magnitude(result) < field.most:
        raise NoValue("a value that is too large")
    return result


def _apply_operation(operation: str, values: list[Any], field: NumberField) -> Any:
    first, last = values[0], values[-1]
    match operation:
        case "+":
            return sum(values[1:], first)
        case "*":
            return math.prod(values[1:], start=first)
        case "/":
            return first / last
        case "neg":
            return -first
        case "^":
            return _raise_to_power(first, last, field)
        case "root":
            # The real root of a negative number, not the principal complex one: the cube root of -8
            # is -2.
            odd = not getattr(first, "imag", 0) and getattr(first, "real", first) < 0
            if odd and not getattr(last, "imag", 0) and getattr(last, "real", last) % 2 == 1:
                return -_raise_to_power(-first, 1 / last, field)
            return _raise_to_power(first, 1 / last, field)
        case "degrees":
            return first * field.constants[r"\pi"] / 180
        case "floor" | "ceil" if getattr(first, "imag", 0):
            raise NoValue(f"the {operation} of a complex number")
        case "!" if field.magnitude(first) > 20:
            raise NoValue("a factorial that is too large")
    if operation not in field.functions:
        raise NoValue(f"{operation} has no value here")
    if first != 0 and field.magnitude(first) > 60:
        raise NoValue(f"{operation} of a number that is too large")
    return field.functions[operation](*values)


def _raise_to_power(base: Any, exponent: Any, field: NumberField) -> Any:
    if base == 0:
        if getattr(exponent, "real", exponent) > 0:
            return base
        raise Undefined("zero to a power that is not positive")
    if exponent != 0 and field.magnitude(exponent) > 40:
        raise NoValue("an exponent that is too large")
    if abs(exponent) * abs(field.magnitude(base)) > field.most:
        raise NoValue("a power that is too large")
    return base**exponent


def _double_magnitude(value: complex) -> float:
    return math.log2(abs(value)) if value else -math.inf


# Beyond 2^30 the rounding of an intermediate value could hide a difference in the result.
DOUBLE = NumberField(
    number=lambda value: complex(float(value)),
    constants={"e": complex(math.e), "i": 1j, r"\pi": complex(math.pi)},
    functions={
        "sqrt": cmath.sqrt,
        "abs": abs,
        "exp": cmath.exp,
        "ln": cmath.log,
        "log": lambda value, base=10: cmath.log(value) / cmath.log(base),
        "sin": cmath.sin,
        "cos": cmath.cos,
        "tan": cmath.tan,
        "cot": lambda angle: 1 / cmath.tan(angle),
        "sec": lambda angle: 1 / cmath.cos(angle),
        "csc": lambda angle: 1 / cmath.sin(angle),
        "arcsin": cmath.asin,
        "arccos": cmath.acos,
        "arctan": cmath.atan,
        "sinh": cmath.sinh,
        "cosh": cmath.cosh,
        "tanh": cmath.tanh,
    },
    magnitude=_double_magnitude,
    most=30,
)


@lru_cache(maxsize=4)
def make_precise_field(digits: int) -> NumberField:
    from mpmath import MPContext

    context = MPContext()  # our own: the precision of the shared one belongs to its users
    context.dps = digits
    functions = {
        name: getattr(context, name)
        for name in "sqrt exp ln sin cos tan cot sec csc sinh cosh tanh floor ceil".split()  # noqa: SIM905
    }
    functions |= {
        "abs": context.fabs,
        "log": lambda value, base=10: context.ln(value) / context.ln(base),
        "arcsin": context.asin,
        "arccos": context.acos,
        "arctan": context.atan,
        "!": context.factorial,
        "binom": context.binomial,
    }
    return NumberField(
        number=lambda value: context.mpf(value.numerator) / value.denominator,
        constants={"e": +context.e, "i": context.j, r"\pi": +context.pi},
        functions=functions,
        magnitude=lambda value: float(context.mag(value)),
        most=_LARGEST_MAGNITUDE,
    )


# Values are computed to 60 digits and must agree to 35: the rest is left to cancellation.
_DIGITS = 60
_AGREED = 1e-35
_NOISE = 1e-25
# Where the points lie: near 1, far out, below 1; `_make_point` turns some of them negative.
_SHIFTS = tuple(Fraction(shift, 7) for shift in (9, 281, 9, 9, 1, 9))
_CONSTANTS = frozenset(("e", "i", r"\pi"))


def find_variables(tree: Expression) -> frozenset[str]:
    """The variables of an expression, constants not counted; infinity passes for a variable."""
    match tree:
        case Number():
            return frozenset()
        case Symbol(name):
            return frozenset() if name in _CONSTANTS else frozenset((name,))
        case Apply(_, arguments):
            return frozenset().union(*(find_variables(argument) for argument in arguments))


def estimate_value(tree: Expression) -> complex | None:
    """The value at one fixed point in double precision, or None where that is not reliable."""
    try:
        value = complex(evaluate(tree, DOUBLE, _make_point(find_variables(tree), 0)))
    except (ArithmeticError, ValueError, TypeError):
        return None
    usable = cmath.isfinite(value) and (_is_complex(tree) or abs(value.imag) < 1e-9)
    return value if usable else None


def rule_out_equality(a: complex | None, b: complex | None) -> bool:
    """Whether two glimpses are far enough apart to rule equality out."""
    if a is None or b is None:
        return False
    largest = max(abs(a), abs(b))
    return largest > 1e-4 and abs(a - b) > 1e-4 * largest


def compare_values(a: Expression, b: Expression) -> bool | None:
    """Whether two expressions are equal; None where their values cannot decide it."""
    variables = find_variables(a) | find_variables(b)
    # One side may be real by cancelling, as in (i)(-i), so both are judged as complex together.
    over_complex = _is_complex(a) or _is_complex(b)
    agreed = apart = False
    for turn in range(6 if variables else 1):
        try:
            left = _evaluate_at(a, variables, turn, over_complex)
            right = _evaluate_at(b, variables, turn, over_complex)
        except Undefined:
            return False
        except NoValue:
            return None
        if left is None or right is None:
            apart |= left is not right
        elif _is_close(left, right):
            agreed = True
        else:
            return False
    if apart:
        return False
    return True if agreed else None


def are_proportional(a: Expression, b: Expression) -> bool:
    """Whether a is a constant, other than zero, times b: the equations a = 0 and b = 0 agree."""
    variables = find_variables(a) | find_variables(b)
    if not variables:
        return False
    ratios = []
    for turn in range(5):
        try:
            left, right = (
                _evaluate_at(a, variables, turn, True),
                _evaluate_at(b, variables, turn, True),
            )
        except NoValue:
            return False
        # A zero has no ratio.
        if left == 0 or right == 0:
            return False
        ratios.append(left / right)
    return all(_is_close(ratios[0], ratio) for ratio in ratios)


def _evaluate_at(tree: Expression, variables: frozenset[str], turn: int, over_complex: bool) -> Any:
    """The value at one of the fixed points, or None where it is not real. Raises NoValue."""
    point = _make_point(variables, turn)
    try:
        value = evaluate(tree, make_precise_field(_DIGITS), point)
        if value != 0 and abs(value) < _NOISE:
            # Cancelling leaves noise that changes with the precision; a small value does not.
            finer = evaluate(tree, make_precise_field(2 * _DIGITS), point)
            value = 0 if not _is_close(value, finer, 1e-10) else value
    except (Undefined, ZeroDivisionError) as error:
        raise Undefined(str(error)) from error
    except (ArithmeticError, ValueError, TypeError) as error:
        raise NoValue(str(error)) from error
    if over_complex:
        return value
    real, imaginary = getattr(value, "real", value), getattr(value, "imag", 0)
    return real if abs(imaginary) <= _AGREED * abs(value) else None


def _is_close(a: Any, b: Any, tolerance: float = _AGREED) -> bool:
    return bool(abs(a - b) <= tolerance * max(abs(a), abs(b)))


def _is_complex(tree: Expression) -> bool:
    match tree:
        case Number():
            return False
        case Symbol(name):
            return name == "i"
        case Apply(_, arguments):
            return any(_is_complex(argument) for argument in arguments)


def _make_point(variables: frozenset[str], turn: int) -> dict[str, Fraction]:
    """A value for every variable: small, large, negative, of either sign, below one."""
    point = {}
    for name in variables:
        seed = int.from_bytes(name.encode("utf-8", "replace"), "big") % 1_000_003
        digits = (seed * 7919 + turn * 104_729 + 51_151) % 99_991
        value = Fraction(digits, 99_991) + _SHIFTS[turn]
        flipped = turn in (2, 3, 5) and (turn == 2 or seed % 2 == turn % 2)
        point[name] = -value if flipped else value
    return point
