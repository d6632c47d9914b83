r"""Expressions as trees, and the parser that reads them from normalized LaTeX.

The parser refuses text that has more than one customary meaning (``x/2y``, ``2^3^2``, ``f(x)``, a
number after a letter). The judge decides those with a computer algebra system. What the parser does
read means what a mathematician would mean by it.

    half_x = Apply("*", (Apply("/", (Number(1), Number(2))), Symbol("x")))
    parse_expression(r"\frac{1}{2}x") == half_x
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from evals.answers.math.latex import FUNCTIONS


class Unclear(ValueError):
    """The text is no expression, or one with more than one customary meaning."""


class NoValue(ArithmeticError):
    """The expression has no value: it is undefined, too large or not numeric."""


class Undefined(NoValue):
    """The expression has no value whatever the precision: 1/0."""


@dataclass(frozen=True, slots=True)
class Number:
    """An exact rational number."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Symbol:
    r"""A variable with its subscript, or a constant: ``e``, ``i``, ``\pi``, ``\infty``."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation (``+ * / ^ ! neg abs sqrt binom log …``) on its arguments."""

    operation: str
    arguments: tuple[Expression, ...]


Expression = Number | Symbol | Apply


# Numbers, commands, single letters and marks; any other character makes a text unclear.
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<command>\\[A-Za-z]+)|(?P<letter>[A-Za-z])"
    r"|(?P<mark>[-+*/^_!|(){}\[\]°]))"
)
# "0.1\overline{6}" is exactly 1/6.
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{\s*(\d+)\s*\}")
_GREEK = frozenset(
    (
        *(r"\alpha", r"\beta", r"\gamma", r"\delta", r"\varepsilon", r"\zeta", r"\eta", r"\theta"),
        *(r"\iota", r"\kappa", r"\lambda", r"\mu", r"\nu", r"\xi", r"\rho", r"\sigma", r"\tau"),
        *(r"\upsilon", r"\phi", r"\chi", r"\psi", r"\omega", r"\Gamma", r"\Delta", r"\Theta"),
        *(r"\Lambda", r"\Sigma", r"\Phi", r"\Psi", r"\Omega", r"\infty"),
    )
)
_FUNCTIONS = frozenset(f"\\{name}" for name in FUNCTIONS)
_TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
# Letters that name functions as often as factors: "f(x)".
_CALLED = frozenset("fghFGHPQ")
_OPENING = {"(": ")", "[": "]", "{": "}"}
# Commands that close what they opened; they begin no factor.
_CLOSING = frozenset((r"\rfloor", r"\rceil"))
# Below Python's own limit of recursion, which a hostile answer would reach.
_DEEPEST = 40
_LONGEST = 2000


def parse_expression(text: str) -> Expression:
    """The tree of a tidied expression, in linear time. Raises `Unclear`."""
    if len(text) > _LONGEST:
        raise Unclear(f"an expression of {len(text)} characters; at most {_LONGEST} are read")
    parser = _Parser(_tokenize(_REPEATING.sub(_expand_repeating_decimal, text)))
    tree = parser.read_sum()
    if parser.token:
        raise Unclear(f"{parser.token!r} stands where the expression could end")
    return tree


def _tokenize(text: str) -> list[str]:
    tokens: list[str] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise Unclear(f"{text[position : position + 10]!r} is no part of an expression")
        tokens.append(found[0].strip())
        position = found.end()
    return tokens


def _expand_repeating_decimal(decimal: re.Match[str]) -> str:
    whole, fixed, period = decimal[1] or "0", decimal[2], decimal[3]
    if len(whole) + len(fixed) + len(period) > 30:
        raise Unclear("a repeating decimal of more than 30 digits")
    shift = 10 ** len(fixed)
    value = Fraction(int(whole + fixed), shift)
    value += Fraction(int(period), (10 ** len(period) - 1) * shift)
    return f"({value.numerator}/{value.denominator})"


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, ""]
        self.place = 0
        self.depth = 0
        self.angle = False
        self.bars = 0

    @property
    def token(self) -> str:
        return self.tokens[self.place]

    def take(self, expected: str | None = None) -> str:
        token = self.token
        if expected is not None and token != expected:
            raise Unclear(f"{expected!r} is missing before {token!r}")
        self.place += 1
        return token

    def read_sum(self) -> Expression:
        terms = [self.read_term()]
        while self.token in ("+", "-"):
            terms.append(self.read_term())
        return terms[0] if len(terms) == 1 else Apply("+", tuple(terms))

    def read_term(self) -> Expression:
        negative = False
        # At most two signs: more of them are a typing error.
        for _ in range(2):
            if self.token in ("+", "-"):
                negative ^= self.take() == "-"
        factors = [self.read_factor()]
        while True:
            if self.token == "*":
                self.take()
                factors.append(self.read_signed())
            elif self.token == "/":
                self.take()
                quotient = Apply("/", (_make_product(factors), self.read_signed()))
                factors = [quotient]
                # 1/2x is half of x, but people differ on what x/2y means.
                if self.begins_factor() and not _is_fraction(quotient):
                    raise Unclear("a product right after a slash, as in x/2y")
            elif self.begins_factor():
                # "x 2" may be a product, a power or an index.
                if _is_number(self.token):
                    raise Unclear(f"the number {self.token} right after a factor")
                factors.append(self.read_factor())
            else:
                break
        product = _make_product(factors)
        return Apply("neg", (product,)) if negative else product

    def read_signed(self) -> Expression:
        if self.token == "-":
            self.take()
            return Apply("neg", (self.read_factor(),))
        return self.read_factor()

    def begins_factor(self) -> bool:
        """Whether the next token can begin a factor."""
        token = self.token
        if token == "|" or token in _CLOSING:
            return token == "|" and not self.bars
        return bool(token) and (token in _OPENING or token[0] == "\\" or token[0].isalnum())

    def read_factor(self) -> Expression:
        base = self.read_mixed_number() or self.read_atom()
        while self.token in ("!", "°", "^"):
            mark = self.take()
            if mark == "!":
                if self.token == "!":
                    raise Unclear("a double factorial")
                base = Apply("!", (base,))
            elif mark == "°":
                base = Apply("degrees", (base,)) if self.angle else base
            else:
                base = Apply("^", (base, self.read_exponent()))
                if self.token == "^":
                    raise Unclear("a power of a power without brackets")
        return base

    def read_mixed_number(self) -> Expression | None:
        r"""A mixed number, 2\frac{1}{2} or 2 1/2, where one stands here."""
        here = self.place
        if not (self.token.isdigit() and _is_start(self.tokens[here + 1])):
            return None
        whole = int(self.take())
        if self.token == r"\frac":
            part = self.read_atom()
        elif self.tokens[self.place + 1] == "/" and self.tokens[self.place + 2].isdigit():
            top = self.read_atom()
            self.take("/")
            part = Apply("/", (top, self.read_atom()))
        else:
            raise Unclear("two numbers in a row")
        match part:
            case Apply("/", (Number(top_value), Number(bottom_value))):
                if 0 < top_value < bottom_value:
                    return Number(whole + top_value / bottom_value)
                raise Unclear("a number before a fraction that is not a proper one")
        self.place = here
        return None

    def read_exponent(self) -> Expression:
        if self.token == "-":
            self.take()
            return Apply("neg", (self.read_atom(),))
        return self.read_atom()

    def read_atom(self) -> Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unclear(f"an expression nested deeper than {_DEEPEST}")
        tree = self.read_nested()
        self.depth -= 1
        return tree

    def read_nested(self) -> Expression:
        token = self.take()
        if _is_number(token):
            return Number(Fraction(token))
        if token in _OPENING:
            # Within brackets a bar opens again, even inside an absolute value.
            bars, self.bars = self.bars, 0
            inside = self.read_sum()
            self.bars = bars
            self.take(_OPENING[token])
            return inside
        if token == "|":
            self.bars += 1
            inside = self.read_sum()
            self.bars -= 1
            self.take("|")
            return Apply("abs", (inside,))
        if token.isalpha():
            if token in _CALLED and self.token == "(":
                raise Unclear(f"{token}( may be a function or a product")
            return Symbol(token + self.read_subscript())
        return self.read_command(token)

    def read_command(self, token: str) -> Expression:
        if token == r"\frac":
            return Apply("/", (self.read_argument(), self.read_argument()))
        if token == r"\binom":
            return Apply("binom", (self.read_argument(), self.read_argument()))
        if token == r"\sqrt":
            return self.read_root()
        if token in (r"\lfloor", r"\lceil"):
            inside = self.read_sum()
            self.take("\\r" + token[2:])
            return Apply(token[2:], (inside,))
        if token == r"\pi":
            return Symbol(token)
        if token in _GREEK:
            return Symbol(token + self.read_subscript())
        if token in _FUNCTIONS:
            return self.read_function(token[1:])
        raise Unclear(f"{token!r} is not read here")

    def read_root(self) -> Expression:
        if self.token == "[":
            self.take()
            degree = self.read_sum()
            self.take("]")
            return Apply("root", (self.read_argument(), degree))
        if self.token == "(":
            return Apply("sqrt", (self.read_atom(),))
        return Apply("sqrt", (self.read_argument(),))

    def read_argument(self) -> Expression:
        r"""A braced argument or, as in \frac12, the next single character."""
        token = self.token
        # \frac12 takes one digit at a time; the rest of the token stays.
        if token.isdigit() and len(token) > 1:
            self.tokens[self.place : self.place + 1] = [token[0], token[1:]]
            return self.read_atom()
        if token.isdigit() or token.isalpha() or token == "{" or token in (r"\pi", r"\sqrt"):
            return self.read_atom()
        raise Unclear(f"{token!r} cannot be the argument of a command")

    def read_subscript(self) -> str:
        if self.token != "_":
            return ""
        self.take()
        if self.token.isalnum():
            return f"_{self.take()}"
        self.take("{")
        inside: list[str] = []
        while self.token.isalnum() or self.token in ("-", "+"):
            inside.append(self.take())
        self.take("}")
        return f"_{''.join(inside)}"

    def read_function(self, name: str) -> Expression:
        base: Expression | None = None
        power: Expression | None = None
        # Only the logarithm has a base.
        if name == "log" and self.token == "_":
            self.take()
            base = self.read_argument()
        if self.token == "^":
            self.take()
            power = self.read_exponent()
        if power == Apply("neg", (Number(Fraction(1)),)) and name in _INVERSE:
            name, power = _INVERSE[name], None
        # Degrees are a unit that vanishes, except in the argument of a trigonometric function.
        angle, self.angle = self.angle, name in _TRIGONOMETRIC
        inside = self.read_operand()
        self.angle = angle
        value = Apply(name, (inside,) if base is None else (inside, base))
        return value if power is None else Apply("^", (value, power))

    def read_operand(self) -> Expression:
        """What a function without brackets applies to: a product without signs."""
        if self.token in _OPENING:
            inside = self.read_factor_without_power()
            return Apply("degrees", (inside,)) if self.take_degrees() else inside
        factors = [self.read_factor()]
        while self.begins_factor() and self.token not in _FUNCTIONS:
            if self.token in _OPENING or _is_number(self.token):
                raise Unclear("a bracket or number right after a function's argument")
            factors.append(self.read_factor())
        if self.token == "/":
            raise Unclear("a slash right after a function's argument")
        return _make_product(factors)

    def read_factor_without_power(self) -> Expression:
        inside = self.read_atom()
        if self.token in ("^", "!"):
            raise Unclear("a power right after a function's argument")
        return inside

    def take_degrees(self) -> bool:
        if self.token == "°" and self.angle:
            self.take()
            return True
        return False


def _make_product(factors: list[Expression]) -> Expression:
    return factors[0] if len(factors) == 1 else Apply("*", tuple(factors))


def _is_fraction(quotient: Apply) -> bool:
    """Whether it is one of two plain numbers, which makes 1/2x half of x."""
    return all(isinstance(argument, Number) for argument in quotient.arguments)


def _is_number(token: str) -> bool:
    return bool(token) and (token[0].isdigit() or token[0] == ".")


def _is_start(token: str) -> bool:
    return token == r"\frac" or token.isdigit()
