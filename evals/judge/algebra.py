r"""Decides by a computer algebra system whether two LaTeX expressions are equal.

Runs in the judge's workers only: it may take any time, exhaust the memory or crash. math-verify's
parser (latex2sympy2_extended) reads the LaTeX and math-verify compares; since its numeric
comparison takes 1/2004! for 1/2006! (its issue 14) and is not symmetric, a yes counts in either
direction, and only where evaluating both sides at a few points does not refute it.
"""

from __future__ import annotations

import logging
import random
import re
from functools import lru_cache
from typing import Any

# Decimals become exact fractions: 0.1 as a float would equal nothing.
_DECIMAL = re.compile(r"(?<![\d.])(\d{0,30})\.(\d{1,30})(?![\d.])")
_DIGITS = 30
_TOLERANCE = 1e-12
# Few points suffice: they only have to catch what the comparison got wrong.
_POINTS = 3


def load_parser() -> None:
    """Import what comparing needs and warm the parser up; takes a second or two.

    Raises ImportError where math-verify is not installed.
    """
    import latex2sympy2_extended  # noqa: F401
    import math_verify  # noqa: F401

    logging.disable(logging.CRITICAL)
    are_equal(
        r"\frac{x^2+1}{\sqrt{2}}-\sin(2x)", r"\frac{1}{\sqrt{2}}-\sin(2x)+\frac{x^2}{\sqrt{2}}"
    )
    are_equal(r"f(x)+\log_{2}(3)\cdot|x|!", r"\sum_{n=1}^{10} n")


def are_equal(a: str, b: str) -> bool:
    """Whether both can be read and are equal. Never raises an ordinary exception."""
    from sympy.core.random import seed

    # SymPy tries random points: a fixed seed gives the same verdict every time.
    random.seed(0)
    seed(0)
    try:
        left, right = _parse_latex(a), _parse_latex(b)
        if left is None or right is None:
            return False
        return _verify_either_way(left, right) and not _is_refuted(left, right)
    except (Exception, RecursionError, MemoryError):
        # The readers raise errors of every kind on what they cannot read.
        return False


@lru_cache(maxsize=1024)
def _parse_latex(latex: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig, latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    # Its rules for units take the t of 4t for tons; units are gone by now.
    normal = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none"
    )
    text = _DECIMAL.sub(_write_fraction, latex).replace("*", r"\cdot ").replace("°", "")
    return latex2sympy(
        text,
        is_real=not re.search(r"(?<![A-Za-z\\])i(?![A-Za-z])", text),
        normalization_config=normal,
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )


def _write_fraction(decimal: re.Match[str]) -> str:
    whole, part = decimal[1], decimal[2]
    return rf"\frac{{{int(whole + part)}}}{{{10 ** len(part)}}}"


def _verify_either_way(left: Any, right: Any) -> bool:
    from math_verify.grader import verify

    return any(
        verify(gold, answer, timeout_seconds=None)
        for gold, answer in ((left, right), (right, left))
    )


def _is_refuted(left: Any, right: Any) -> bool:
    """Whether the two sides have values that differ at one of a few points."""
    from sympy import Expr, Rational

    if not (isinstance(left, Expr) and isinstance(right, Expr)):
        return False
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    for turn in range(_POINTS if symbols else 1):
        point = {s: Rational(10 + 3 * turn + 7 * n, 9) for n, s in enumerate(symbols)}
        values = [side.subs(point).doit().evalf(_DIGITS) for side in (left, right)]
        if not all(value.is_number and value.is_finite for value in values):
            continue
        largest = max(abs(value) for value in values)
        if abs(values[0] - values[1]) > _TOLERANCE * largest:
            return True
    return False
