"""Exact values: what of an expression is a rational number, in work bounded before it begins."""

from __future__ import annotations

import math
from fractions import Fraction

from evals.answers.math.parsing import Expression, NoValue, Number, Symbol, Undefined

# Some 12,000 digits: beyond them a number is compared by value or as text.
_LARGEST_BITS = 40_000
# 3000! has about 30,000 bits.
_LARGEST_FACTORIAL = 3_000


def evaluate_exactly(tree: Expression) -> Fraction | None:
    """The value as a rational number, or None where it is none or is too large to write out."""
    try:
        return _evaluate(tree)
    except ArithmeticError:
        return None


def _evaluate(tree: Expression) -> Fraction | None:
    if isinstance(tree, Number):
        return tree.value
    if isinstance(tree, Symbol):
        return None
    values: list[Fraction] = []
    for argument in tree.arguments:
        value = _evaluate(argument)
        if value is None:
            return None
        values.append(value)
    result = _apply_operation(tree.operation, values)
    if result is not None and _count_bits(result) > _LARGEST_BITS:
        raise NoValue(f"a number of {_count_bits(result)} bits")
    return result


def _apply_operation(operation: str, values: list[Fraction]) -> Fraction | None:
    first, last = values[0], values[-1]
    match operation:
        case "+":
            return sum(values, Fraction())
        case "*":
            product = Fraction(1)
            for value in values:
                product *= value
                if _count_bits(product) > _LARGEST_BITS:
                    raise NoValue("a product that is too large")
            return product
        case "/":
            return first / last
        case "neg":
            return -first
        case "degrees":
            return None
        case "abs":
            return abs(first)
        case "floor" | "ceil":
            return Fraction(math.floor(first) if operation == "floor" else math.ceil(first))
        case "^":
            return _raise_to_power(first, last)
        case "sqrt":
            return _raise_to_power(first, Fraction(1, 2))
        case "root":
            odd = first < 0 and last.denominator == 1 and last % 2 == 1
            root = _raise_to_power(abs(first) if odd else first, 1 / last)
            return -root if odd and root is not None else root
        case "!":
            whole = _as_whole_number(first, _LARGEST_FACTORIAL)
            return None if whole is None else Fraction(math.factorial(whole))
        case "binom":
            top, bottom = (_as_whole_number(value, _LARGEST_FACTORIAL) for value in (first, last))
            return None if top is None or bottom is None else Fraction(math.comb(top, bottom))
    return None


def _raise_to_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        if base < 0 or exponent.denominator > 64:
            return None
        top = _find_whole_root(base.numerator, exponent.denominator)
        bottom = _find_whole_root(base.denominator, exponent.denominator)
        if top is None or bottom is None:
            return None
        base, exponent = Fraction(top, bottom), Fraction(exponent.numerator)
    if base == 0 and exponent <= 0:
        raise Undefined("zero to a power that is not positive")
    if abs(exponent) * _count_bits(base) > _LARGEST_BITS and abs(base) != 1:
        raise NoValue("a power that is too large")
    return base ** int(exponent) if abs(base) != 1 else base ** (int(exponent) % 2)


def _find_whole_root(value: int, degree: int) -> int | None:
    """The whole `degree`-th root of a whole number, or None."""
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    # By bisection in whole numbers: a float would round a large root.
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**degree < value else (low, middle)
    return low if low**degree == value else None


def _as_whole_number(value: Fraction, most: int) -> int | None:
    if value.denominator != 1 or value < 0:
        return None
    if value > most:
        raise NoValue(f"{most} is the largest argument here")
    return int(value)


def _count_bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())
