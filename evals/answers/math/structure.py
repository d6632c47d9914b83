r"""From the text of an answer to its structure (`evals.answers.math.shapes`).

Docs/answers.md lists the decisions with examples: what is a list, what is a number with commas,
which left-hand side is only a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from evals.answers.math import numeric, phrases, rational, realset
from evals.answers.math.latex import is_balanced, split_outside_brackets, tidy_latex
from evals.answers.math.parsing import Apply, Expression, Symbol, Unclear, parse_expression
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

LONGEST = 4000
"""Characters; a longer answer is compared as text only."""

# Lists are compared all with all, so their length and depth are bounded.
_MOST_ITEMS = 32
_DEEPEST = 8
# Words and signs between the items of a list.
_AND = re.compile(
    r",?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}|,?(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
    r"|\\(?:lor|vee|land|wedge)(?![A-Za-z])"
)
# Only "or" can stand between two wordings of one value.
_OR = re.compile(r",?\s*\\text\s*\{\s*,?\s*or\s*\}|,?(?<![A-Za-z\\])or(?![A-Za-z])")
# Between two equations a wide space is a comma.
_WIDE = re.compile(
    r"(?<=[\w)}])\s*(?:\\q?quad(?![A-Za-z])\s*)+(?=[A-Za-z](?:_\s*(?:\w|\{\w{1,4}\}))?\s*=)"
)
_TEXT_COMMA = re.compile(r"\\text\s*\{\s*([,;])\s*\}")
_COMMA = re.compile(r"[,;]|\\cup(?![A-Za-z])")
_EQUALS = re.compile(r"=|\\equiv(?![A-Za-z])")
_APPROX = re.compile(r"\\approx(?![A-Za-z])")
# Equations or pieces in rows: cases, aligned, array, …, with or without a brace.
_SYSTEM = re.compile(
    r"(?P<brace>\\\{)?\s*\\begin\{(?P<kind>[dr]?cases|aligned|align\*?|array|gathered|gather\*?|split)\}"
    r"(?:\{[clr|\s]*\})?(?P<body>.*)\\end\{(?P=kind)\}[\s.]*(?:\\\})?",
    re.DOTALL,
)
# A row or cell that begins with a relation continues the cell before it.
_RELATION = re.compile(r"\s*(?:[=<>]|\\(?:le|ge|ne|in|approx)(?![A-Za-z]))")
# Words of conditions in the pieces of a function.
_WHEN = re.compile(
    r"\\text\s*\{\s*(?:if|when|for|where|,)?\s*\}|(?<![A-Za-z\\])(?:if|when|for)(?![A-Za-z])",
    re.IGNORECASE,
)
_SUCH_THAT = re.compile(r"\||:(?!=)")
_DECIMAL = re.compile(r"-?\d*\.(\d+)")
# "= 0.333\dots" behind a value: the dots only say that more decimals follow.
_DOTTED = re.compile(r"(=\s*-?\d*\.\d+)\s*\\dots\s*$")
_TRAILING_DOTS = re.compile(r"\s*(?:\\dots|\.{3})\s*$")
# "x \in …" only names the variable.
_MEMBER = re.compile(r"\s*[A-Za-z]\s*\\in(?![A-Za-z])(.*)", re.DOTALL)
_SIGN = re.compile(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z]))")
_ROW = re.compile(r"\\\\")
_CELL = re.compile(r"&")
_REALS = re.compile(r"\\(?:mathbb\s*\{?\s*R\s*\}?|Reals)")
# "2:3", but not ":=".
_RATIO = re.compile(r":(?!=)")
_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\{(?P<kind>[pbvBV]?matrix|array)\}(?:\{[clr|\s]*\})?(?P<body>.*)"
    r"\\end\{(?P=kind)\}\s*[)\]]?",
    re.DOTALL,
)
# "1,234,567" outside of any bracket is one number: in "(1,234)" the comma separates.
_COMMAS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\S)")
# "1 234 567".
_SPACES = re.compile(r"(?<![\d.,^_])(?<![\d.,] )\d{1,3}(?: \d{3})+(?![\d ]|/)")
# Spaces that part neither two words nor two numbers.
_NEEDLESS = re.compile(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])|(?<=[A-Za-z])\s+(?=\d)")
# A chain is written upwards, so that "3 > x" and "x < 3" are the same.
_UPWARDS = {">": "<", r"\ge": r"\le"}


@lru_cache(maxsize=16_384)
def read_structure(text: str) -> Shape:
    """The structure of an answer as it was written. Never raises; the work is bounded."""
    if len(text) > LONGEST:
        return Words(text)
    if "=" in text:
        text = _WIDE.sub(", ", text)
    return _read_answer(
        phrases.with_approximation_signs(tidy_latex(_TEXT_COMMA.sub(r"\1 ", text))), 0
    )


def _read_answer(text: str, depth: int) -> Shape:
    """One answer or several."""
    text = phrases.unwrap_text_command(text)
    while text.startswith("{") and text.endswith("}") and is_balanced(text[1:-1]):
        text = text[1:-1].strip()
    if not text or depth > _DEEPEST:
        return Words(text)
    # Sets come before lists: a union of intervals has commas of its own.
    if (reals := realset.read_real_set(text, _read_scalar)) is not None:
        return reals
    if (shorter := phrases.drop_conditions(text)) != text:
        return _read_answer(shorter, depth + 1)
    system = _SYSTEM.fullmatch(text)
    if system and (system["brace"] or system["kind"] != "array" or _are_equations(system["body"])):
        return _read_system(system["body"], depth)
    if r"\\" in text and _are_equations(text):
        return _read_system(text, depth)
    if (one := _read_same_value_twice(text, depth)) is not None:
        return one
    text = _AND.sub(",", text)
    if not any(bracket in text for bracket in "([{"):
        text = _COMMAS.sub(_join_digit_groups, text)
    if matrix := _MATRIX.fullmatch(text):
        return _read_matrix(matrix["kind"], matrix["body"], depth)
    # Only commas outside of all brackets separate items.
    items = [item.strip() for item in split_outside_brackets(text, _COMMA) if item.strip()]
    if 1 < len(items) <= _MOST_ITEMS:
        return _make_listing(_read_item(item, depth) for item in items)
    return _read_item(items[0] if len(items) == 1 else text, depth)


def _read_same_value_twice(text: str, depth: int) -> Shape | None:
    r"""The value that an answer gives in two ways: ``\frac12 \text{ or } 0.5``."""
    parts = split_outside_brackets(text, _OR)
    if len(parts) != 2:
        return None
    one, other = (_read_item(part.strip(), depth + 1) for part in parts)
    if not (isinstance(one, Scalar) and isinstance(other, Scalar)) or one.latex == other.latex:
        return None
    if one.exact is not None and one.exact == other.exact:
        return one
    return None if _DECIMAL.fullmatch(one.latex) else _match_rounding(one, other)


def _read_item(text: str, depth: int) -> Shape:
    """One item of a list, or the only one."""
    bare = phrases.without_unit(phrases.multiply_scale_words(_SPACES.sub(_join_digit_groups, text)))
    # A time of day would lose its half, so words come first.
    for worded in (phrases.read_words(text), phrases.read_words(bare)):
        if worded is not None:
            return Words(worded)
    text = bare
    if bracket := _read_bracket(text, depth):
        return bracket
    if member := _MEMBER.fullmatch(text):
        return _read_answer(member[1].strip(), depth + 1)
    if (reals := realset.read_real_set(text, _read_scalar)) is not None:
        return reals
    exact, *rounded = (side.strip() for side in split_outside_brackets(text, _APPROX))
    if rounded and rounded[-1]:
        return _read_approximation(exact, rounded[-1], depth)
    sides = split_outside_brackets(_DOTTED.sub(r"\1", text), _EQUALS)
    if len(sides) > 1 and all(side.strip() for side in sides):
        return _make_equation([side.strip() for side in sides], depth)
    if _REALS.fullmatch(text):
        return Bracket("(", ")", (_read_scalar(r"-\infty"), _read_scalar(r"\infty")))
    if len(ratio := split_outside_brackets(text, _RATIO)) > 2:
        return Bracket(":", ":", tuple(_read_scalar(part) for part in ratio[:_MOST_ITEMS]))
    if r"\pm" in text:
        return _make_listing(_read_scalar(_resolve_plus_minus(text, sign)) for sign in "+-")
    if _SIGN.search(text):
        return _read_order(text) or _read_scalar(text)
    return _read_scalar(text)


def _join_digit_groups(number: re.Match[str]) -> str:
    return number[0].replace(",", "").replace(" ", "")


def _read_bracket(text: str, depth: int) -> Shape | None:
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    closing = r"\}" if text.endswith(r"\}") else text[-1:]
    inside = text[len(opening) : len(text) - len(closing)].strip()
    if opening not in ("(", "[", r"\{") or closing not in (")", "]", r"\}"):
        return None
    if not inside or not is_balanced(inside):
        return None
    parts = [part.strip() for part in split_outside_brackets(inside, _COMMA)]
    if len(parts) > _MOST_ITEMS:
        return None
    if (
        opening + closing == r"\{\}"
        and len(held := split_outside_brackets(inside, _SUCH_THAT)) == 2
    ):
        return _read_set_builder(held[0].strip(), held[1].strip(), depth)
    if opening + closing == r"\{\}":
        return _make_listing(_read_item(part, depth + 1) for part in parts if part)
    if len(parts) > 1:
        return Bracket(opening, closing, tuple(_read_answer(part, depth + 1) for part in parts))
    return _read_answer(inside, depth + 1) if opening + closing == "()" else None


def _read_set_builder(element: str, condition: str, depth: int) -> Shape:
    r"""A set-builder: of ``\{x \mid x^2 = 4\}`` the condition, of ``\{2k \mid k \in \mathbb{Z}\}``
    the element, else both."""
    member = _MEMBER.fullmatch(element)
    if member or phrases.is_name(element):
        return _read_answer(condition, depth + 1)
    if phrases.drop_conditions(f"{element}, {condition}") == element:
        return _read_answer(element, depth + 1)
    return Bracket(
        r"\{", r"\}", (_read_answer(element, depth + 1), _read_answer(condition, depth + 1))
    )


def _read_matrix(kind: str, body: str, depth: int) -> Shape:
    rows = [
        split_outside_brackets(row, _CELL)
        for row in split_outside_brackets(body, _ROW)
        if row.strip()
    ]
    if sum(map(len, rows)) > _MOST_ITEMS:
        return Words(body)
    cells = tuple(tuple(_read_answer(cell.strip(), depth + 1) for cell in row) for row in rows)
    return Matrix(kind if kind in ("vmatrix", "Vmatrix") else "", cells)


def _are_equations(body: str) -> bool:
    rows = [row for row in split_outside_brackets(body, _ROW) if row.strip()]
    return len(rows) > 1 and all(len(split_outside_brackets(row, _EQUALS)) == 2 for row in rows)


def _read_system(body: str, depth: int) -> Shape:
    """Several equations or conditions that hold together, or the pieces of a function."""
    rows: list[list[str]] = []
    for row in split_outside_brackets(body, _ROW):
        cells = [cell.strip(" ,;.") for cell in split_outside_brackets(row, _CELL)]
        if not any(cells):
            continue
        aligned = any(_RELATION.match(cell) for cell in cells[1:])
        if (rows and not cells[0] and aligned) or _RELATION.match(cells[0]):
            rows[-1:] = [[" ".join([*(rows[-1] if rows else []), *cells])]]  # continues with "= …"
        elif aligned:
            rows.append([" ".join(cells)])
        elif len(split_outside_brackets(cells[0], _EQUALS)) > 1:
            rows.extend([cell] for cell in cells if cell)
        else:
            rows.append([cell for cell in cells if cell])
    if sum(map(len, rows)) > _MOST_ITEMS or not rows:
        return Words(body)
    if all(len(row) == 1 for row in rows):
        return _read_answer(r" \text{and} ".join(row[0] for row in rows), depth + 1)
    pieces = [Bracket("|", "|", tuple(_read_piece(cell, depth) for cell in row)) for row in rows]
    return _make_listing(pieces)


def _read_piece(cell: str, depth: int) -> Shape:
    return _read_answer(_WHEN.sub(" ", cell).strip() or "otherwise", depth + 1)


def _make_listing(items: Iterable[Shape]) -> Shape:
    """The list of the items, lists among them spread; x = 1, x = 2 is the list of the values."""
    spread: list[Shape] = []
    for item in items:
        spread.extend(item.items if isinstance(item, Listing) else (item,))
    named = {item.left.latex for item in spread if isinstance(item, Equation) and item.names}
    # x = 1, y = 2 states two things; x = 1, x = 2 gives two values of one.
    if len(named) > 1:
        spread = [replace(i, names=False) if isinstance(i, Equation) else i for i in spread]
    elif named:
        spread = [i.right if isinstance(i, Equation) and i.names else i for i in spread]
        return _make_listing(spread)
    return spread[0] if len(spread) == 1 else Listing(tuple(spread))


def _make_equation(sides: list[str], depth: int) -> Shape:
    left, right = _read_scalar(sides[0]), _read_answer(sides[-1], depth + 1)
    if phrases.is_name(sides[0]):
        worked = _read_scalar(sides[-2]) if len(sides) > 2 else right
        return Equation(left, _match_rounding(worked, right) or right, names=True)
    if _is_constant(left) and (_is_constant(right) or not isinstance(right, Scalar)):
        return _match_rounding(left, right) or right  # working such as 3+4 = 7 ends in its result
    if phrases.is_name(sides[-1]) and isinstance(right, Scalar):
        return Equation(right, _read_answer(sides[0], depth + 1), names=True)
    return Equation(left, right, names=False)


def _read_approximation(exact: str, rounded: str, depth: int) -> Shape:
    """An exact value with its approximation; what has no value before the sign only names it."""
    rounded = _TRAILING_DOTS.sub("", rounded)
    right = _read_answer(rounded, depth + 1)
    if not exact:
        return right
    if phrases.is_name(exact) and not _is_constant(_read_scalar(exact)):
        return Equation(_read_scalar(exact), right, names=True)
    left = _read_answer(exact, depth + 1)
    named = left if isinstance(left, Equation) and left.names else None
    value = named.right if named else left
    if isinstance(value, Scalar) and not _is_constant(value):
        return replace(named, right=right) if named else right
    held = _match_rounding(value, right) or value
    return replace(named, right=held) if named else held


def _match_rounding(exact: Shape, rounded: Shape) -> Rounded | None:
    """The two as one answer where one is a decimal that the other rounds or cuts off to."""
    if not (isinstance(exact, Scalar) and isinstance(rounded, Scalar)):
        return None
    decimal = _DECIMAL.fullmatch(rounded.latex)
    if (
        not _is_constant(exact)
        or decimal is None
        or rounded.exact is None
        or exact.exact == rounded.exact
    ):
        return None
    try:
        shortened = float(rounded.exact)
        value = complex(exact.exact) if exact.exact is not None else exact.glimpse
    except OverflowError:
        return None
    if value is None or abs(value.imag) > 1e-12:
        return None
    # The decimal may be rounded or cut off at its last place.
    place = 10.0 ** -len(decimal[1])
    cut_off = value.real * shortened >= 0 and 0 <= abs(value.real) - abs(shortened) < place
    if not cut_off and abs(value.real - shortened) > place * 0.5000001:
        return None
    return Rounded(exact, rounded)


def _is_constant(shape: Shape) -> bool:
    return (
        isinstance(shape, Scalar)
        and shape.tree is not None
        and numeric.find_variables(shape.tree) <= {r"\infty"}
    )


def _read_order(text: str) -> Shape | None:
    """An interval where one variable lies between constants, else the chain itself."""
    parts = _SIGN.split(text)
    sides, signs = [_read_scalar(part) for part in parts[0::2]], parts[1::2]
    if all(sign in _UPWARDS for sign in signs):
        sides, signs = sides[::-1], [_UPWARDS[sign] for sign in reversed(signs)]
    if signs == [r"\ne"]:
        return OrderChain((r"\ne",), tuple(sides))
    if not set(signs) <= set(_UPWARDS.values()):
        return None
    place = next((n for n, s in enumerate(sides[:2]) if isinstance(s.tree, Symbol)), None)
    bounds = [side for number, side in enumerate(sides) if number != place]
    if place is None or len(sides) - place > 2 or not all(map(_is_constant, bounds)):
        return OrderChain(tuple(signs), tuple(sides))
    if place == 0:
        sides, signs = [_read_scalar(r"-\infty"), *sides], ["<", *signs]
    if len(sides) == 2:
        sides, signs = [*sides, _read_scalar(r"\infty")], [*signs, "<"]
    opening = "(" if signs[0] == "<" else "["
    return Bracket(opening, ")" if signs[1] == "<" else "]", (sides[0], sides[2]))


def _resolve_plus_minus(text: str, sign: str) -> str:
    r"""The text with its \pm read as one sign; \mp takes the other one."""
    other = "-" if sign == "+" else "+"
    text = re.sub(r"\\pm(?![A-Za-z])", f" {sign} ", text)
    return re.sub(r"\\mp(?![A-Za-z])", f" {other} ", text).strip()


def _read_scalar(text: str) -> Scalar:
    latex = _NEEDLESS.sub("", text.strip()).removeprefix("+")
    try:
        tree = _parse_ratio(text)
    except Unclear:
        return Scalar(latex, None, None, None)
    exact = rational.evaluate_exactly(tree)
    return Scalar(latex, tree, exact, None if exact is not None else numeric.estimate_value(tree))


def _parse_ratio(text: str) -> Expression:
    """The tree of an expression or of a ratio a:b, which is the quotient."""
    parts = split_outside_brackets(text, _RATIO)
    if len(parts) == 2:
        return Apply("/", (parse_expression(parts[0]), parse_expression(parts[1])))
    return parse_expression(text)
