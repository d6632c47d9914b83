"""Whether two structures are the same answer; what only algebra can tell is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations

from evals.answers.math import numeric
from evals.answers.math.parsing import Apply
from evals.answers.math.phrases import has_words
from evals.answers.math.shapes import (
    Bracket,
    Equation,
    Listing,
    Matrix,
    OrderChain,
    Rounded,
    Scalar,
    Shape,
    Words,
)

Ask = Callable[[str, str], bool]
"""Asks the judge whether two LaTeX expressions are equal; symmetric."""

# What is longer or nested deeper would only run into the judge's time limit.
_LONGEST_ASKED = 400
_DEEPEST_ASKED = 25
# Names of unknown functions that a text calls.
_CALL = re.compile(r"(?<![A-Za-z\\])([fghFGHPQ])\(")


def same(a: Shape, b: Shape, ask: Ask) -> bool:
    """Whether two structures are the same answer. Symmetric where `ask` is.

    Never stops at the first difference, so that one pass meets every pair it has to ask about.
    """
    match a, b:
        case Rounded(), Rounded():
            return same(a.exact, b.exact, ask)
        case Rounded(), _:
            return any([same(a.exact, b, ask), same(a.rounded, b, ask)])
        case _, Rounded():
            return any([same(a, b.exact, ask), same(a, b.rounded, ask)])
        case Words(), Words():
            return a.text == b.text
        case Scalar(), Scalar():
            return _same_scalars(a, b, ask)
        case Listing(), Listing():
            return _same_listings(a.items, b.items, ask)
        case Bracket(), Bracket():
            brackets = (a.opening, a.closing) == (b.opening, b.closing)
            return brackets and _same_rows(a.items, b.items, ask)
        case Matrix(), Matrix():
            if a.kind != b.kind or [*map(len, a.rows)] != [*map(len, b.rows)]:
                return False
            alike = [_same_rows(x, y, ask) for x, y in zip(a.rows, b.rows, strict=True)]
            return all(alike)
        case OrderChain(), OrderChain():
            return a.signs == b.signs and _same_rows(a.sides, b.sides, ask)
        case Equation(), Equation():
            return _same_equations(a, b, ask)
        case Equation(names=True), _:
            return same(a.right, b, ask)
        case _, Equation(names=True):
            return same(a, b.right, ask)
    return False


def _same_rows(a: Sequence[Shape], b: Sequence[Shape], ask: Ask) -> bool:
    alike = [same(x, y, ask) for x, y in zip(a, b, strict=False)]
    return len(a) == len(b) and all(alike)


def _same_listings(a: Sequence[Shape], b: Sequence[Shape], ask: Ask) -> bool:
    """Every item stands equally often in both: no order, and no choice of partners to make."""
    if len(a) != len(b):
        return False
    if _same_rows(a, b, ask):
        return True
    everything = [*a, *b]
    # Equal items cancel between the lists; what remains is in one of them only.
    balance = [1 if place < len(a) else -1 for place in range(len(everything))]
    surplus = balance.copy()
    for (one, x), (other, y) in combinations(enumerate(everything), 2):
        if same(x, y, ask):
            surplus[one] += balance[other]
            surplus[other] += balance[one]
    return not any(surplus)


def _same_scalars(a: Scalar, b: Scalar, ask: Ask) -> bool:
    if a.latex == b.latex:
        return True
    if a.exact is not None and b.exact is not None:
        return a.exact == b.exact
    if a.tree is not None and b.tree is not None:
        if numeric.rule_out_equality(_estimate_scalar(a), _estimate_scalar(b)):
            return False
        verdict = numeric.compare_values(a.tree, b.tree)
        if verdict is not None:
            return verdict
    if not (_is_asked(a.latex) and _is_asked(b.latex)):
        return False
    # What names an unknown function equals nothing that does not.
    if set(_CALL.findall(a.latex)) != set(_CALL.findall(b.latex)):
        return False
    # In one order, so that the judge's answer is symmetric and remembered once.
    return ask(*sorted((a.latex, b.latex)))


def _is_asked(latex: str) -> bool:
    """Words are not: to an algebra system they are products, and "even" is "neve"."""
    if not 0 < len(latex) <= _LONGEST_ASKED or has_words(latex):
        return False
    depth = deepest = 0
    for character in latex:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return depth == 0 and deepest <= _DEEPEST_ASKED


def _estimate_scalar(scalar: Scalar) -> complex | None:
    if scalar.exact is None:
        return scalar.glimpse
    try:
        return complex(float(scalar.exact))
    except OverflowError:
        return None


def _same_equations(a: Equation, b: Equation, ask: Ask) -> bool:
    if a.names and b.names and same(a.right, b.right, ask):
        return True
    if same(a.left, b.left, ask) and same(a.right, b.right, ask):
        return True
    one, other = _subtract_sides(a), _subtract_sides(b)
    return one is not None and other is not None and numeric.are_proportional(one, other)


def _subtract_sides(equation: Equation) -> Apply | None:
    """Left minus right, where both are understood."""
    left, right = equation.left.tree, equation.right
    if left is None or not isinstance(right, Scalar) or right.tree is None:
        return None
    return Apply("+", (left, Apply("neg", (right.tree,))))
