"""Numeric values of expressions, in double precision and in as many digits as are asked for."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from evals.answers.expression import Apply, Expression, NoValue, Number, Symbol, Undefined

_LARGEST_MAGNITUDE = 100_000


@dataclass(frozen=True, slots=True)
class Field:
    """Numbers of one precision, and the functions on them."""

    number: Callable[[Fraction], Any]
    constants: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    magnitude: Callable[[Any], float]
    """The binary logarithm of an absolute value; minus infinity for zero."""
    most: float
    """The largest magnitude that any intermediate value may have."""


def value_of(tree: Expression, field: Field, point: Mapping[str, Fraction]) -> Any:
    match tree:
        case Number(value):
            result = field.number(value)
        case Symbol(name):
            known = field.constants.get(name)
            result = field.number(point[name]) if known is None else known
        case Apply(operation, arguments):
            values = [value_of(argument, field, point) for argument in arguments]
            result = _apply(operation, values, field)
    if result != 0 and not field.magnitude(result) < field.most:
        raise NoValue("a value that is too large")
    return result


def _apply(operation: str, values: list[Any], field: Field) -> Any:
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
            return _raised(first, last, field)
        case "root":
            odd = not getattr(first, "imag", 0) and getattr(first, "real", first) < 0
            if odd and not getattr(last, "imag", 0) and getattr(last, "real", last) % 2 == 1:
                return -_raised(-first, 1 / last, field)
            return _raised(first, 1 / last, field)
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


def _raised(base: Any, exponent: Any, field: Field) -> Any:
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
DOUBLE = Field(
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
def precise(digits: int) -> Field:
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
    return Field(
        number=lambda value: context.mpf(value.numerator) / value.denominator,
        constants={"e": +context.e, "i": context.j, r"\pi": +context.pi},
        functions=functions,
        magnitude=lambda value: float(context.mag(value)),
        most=_LARGEST_MAGNITUDE,
    )
