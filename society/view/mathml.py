r"""One formula, written in LaTeX by a model, as MathML that a page may hold.

`latex2mathml` makes a tree of elements of it (its own text output undoes the escaping of what a
model wrote, so that is not used). From the tree only known elements and attributes are kept, all
texts are escaped, and a formula that hides something, draws outside its place, defines macros or
is not understood is refused: its source is shown in its place.

    write_mathml(r"\frac{1}{2}")   # <math display="inline"><mrow><mfrac>…
    write_mathml(r"\href{javascript:x}{y}")   # None

MathML Core, which browsers draw: https://www.w3.org/TR/mathml-core/
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal
from xml.etree.ElementTree import Element

from markupsafe import Markup, escape

from evals.invisible import HIDDEN

Display = Literal["inline", "block"]
LONGEST_FORMULA = 1_500
# The parser takes some frames of the stack for each level.
_DEEPEST = 30
# What defines macros, names addresses or styles, hides its argument, draws outside its place, or
# writes characters by number. "%" begins a comment, which would not be shown.
_REFUSED = re.compile(
    r"(?<!\\)%|\\(?:newcommand|renewcommand|providecommand|newenvironment|def|gdef|edef|let"
    r"|DeclareMathOperator|require|input|include|write|href|url|class|cssId|style|id|data|html"
    r"|includegraphics|unicode|char|symbol|verb|[hv]?phantom|smash|[rlc]lap|math[rlc]lap|rule|strut"
    r"|raisebox|[hv]space|m?kern|m?skip|tag|label|ref|eqref|color|textcolor|colorbox|fcolorbox)"
    r"(?![a-zA-Z])"
)
# \sqrt\sqrt\sqrt… is nested without a brace.
_CHAIN = re.compile(r"(?:\\[a-zA-Z]+\s*){40}")
# The parser knows one environment of aligned lines, and numbers those of `align`.
_LINES = re.compile(r"\\(begin|end)\s*\{(?:align|aligned|equation|gather|gathered|multline)\*?\}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{([^}]*)\}")
_ENVIRONMENTS = re.compile(r"align\*|split|cases|array|smallmatrix|[pbBvV]?matrix\*?")
# MathML Core's elements that draw; `menclose` is not one of them and becomes a box of our own.
_ELEMENTS = frozenset(
    re.findall(
        r"\w+",
        """math mrow mi mn mo mtext mspace ms mfrac msqrt mroot msub msup msubsup munder mover
        munderover mmultiscripts mprescripts mtable mtr mtd mstyle mpadded menclose""",
    )
)
_WORDS = re.compile(r"[a-z]{1,12}")
_LENGTH = re.compile(r"[0-3]?(?:\.[0-9]{1,4})?em|0|[0-9]pt")
# An attribute is kept where its value fits; what is left out changes looks, not what is read.
_ATTRIBUTES = {
    "display": _WORDS,
    "displaystyle": _WORDS,
    "scriptlevel": re.compile(r"[0-2]"),
    "mathvariant": re.compile("normal"),
    "stretchy": _WORDS,
    "fence": _WORDS,
    "form": _WORDS,
    "separator": _WORDS,
    "accent": _WORDS,
    "accentunder": _WORDS,
    "movablelimits": _WORDS,
    "linethickness": _LENGTH,
    "width": _LENGTH,
    "minsize": _LENGTH,
    "maxsize": _LENGTH,
}
# An element with another number of parts is drawn as an error; the parser lets it pass.
_PARTS = dict.fromkeys(("mfrac", "mroot", "msub", "msup", "munder", "mover"), 2) | dict.fromkeys(
    ("msubsup", "munderover"), 3
)
_ALIGNED = re.compile("left|right|center")
_REFERENCE = re.compile("&#x([0-9A-Fa-f]{1,6});")
# Operators without a sign, which the parser writes between a function and its argument.
_WITHOUT_SIGN = re.compile("[\u2061-\u2064]")


class _Refused(Exception):
    """The formula cannot be shown as one."""


@lru_cache(maxsize=8_192)
def write_mathml(formula: str, display: Display = "inline") -> Markup | None:
    """MathML of a formula without its delimiters; None where its source is to be shown instead."""
    if len(formula) > LONGEST_FORMULA or not formula.strip():
        return None
    if any(found.search(formula) for found in (_REFUSED, HIDDEN, _CHAIN)):
        return None
    if _measure_depth(formula) > _DEEPEST:
        return None
    plain = _LINES.sub(r"\\\1{align*}", formula)
    if not all(_ENVIRONMENTS.fullmatch(name) for name in _ENVIRONMENT.findall(plain)):
        return None
    # Late, since it reads a table of symbols, which most pages need not.
    from latex2mathml.converter import Converter

    try:
        return _write_element(Converter(display=display).convert_to_element(plain), 0)
    except _Refused:
        return None
    # The parser raises what its mistakes happen to raise: IndexError, StopIteration, TypeError, …
    # A page must not fail because of what a model has written.
    except (Exception, RecursionError):
        return None


def _measure_depth(formula: str) -> int:
    """How deep a formula is nested, counted roughly: no formula is deeper than this says."""
    deepest = depth = 0
    for sign in re.findall(r"\\(?:left|begin)(?![a-z])|\\(?:right|end)(?![a-z])|\\.|[{}]", formula):
        if sign in ("{", "\\left", "\\begin"):
            depth += 1
        elif sign in ("}", "\\right", "\\end"):
            depth -= 1
        deepest = max(deepest, depth)
    return deepest


def _write_element(element: Element, depth: int) -> Markup:
    if element.tag not in _ELEMENTS or depth > 3 * _DEEPEST:
        raise _Refused(element.tag)
    if len(element) != _PARTS.get(element.tag, len(element)):
        raise _Refused(element.tag)
    inside = Markup("").join(
        [
            _write_text(element.text),
            *(part for child in element for part in _write_child(child, depth)),
        ]
    )
    if element.tag == "menclose":
        # A box is drawn by the style sheet; a strike would have to be, and means something.
        if element.get("notation") != "box":
            raise _Refused("menclose")
        return Markup('<mrow class="boxed">{}</mrow>').format(inside)
    attributes = Markup("").join(
        Markup(' {}="{}"').format(name, value)
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and _ATTRIBUTES[name].fullmatch(value)
    )
    # MathML Core has no `columnalign`; the style sheet aligns by class.
    if _ALIGNED.fullmatch(aligned := element.get("columnalign", "")):
        attributes += Markup(' class="to-{}"').format(aligned)
    tag = Markup(element.tag)
    return Markup("<{}{}>{}</{}>").format(tag, attributes, inside, tag)


def _write_child(child: Element, depth: int) -> tuple[Markup, Markup]:
    return _write_element(child, depth + 1), _write_text(child.tail)


def _write_text(text: str | None) -> Markup:
    if not text:
        return Markup("")
    # The parser writes signs as references; a reference that a model wrote becomes text like them.
    plain = _REFERENCE.sub(lambda found: _to_sign(found[1]), text)
    plain = re.sub(r"\\([&%$#_{}])", r"\1", _WITHOUT_SIGN.sub("", plain))
    # A command that the parser does not know comes out as it went in.
    if HIDDEN.search(plain) or re.search(r"\\[a-zA-Z]", plain):
        raise _Refused(plain)
    return escape(plain)


def _to_sign(digits: str) -> str:
    number = int(digits, 16)
    if number > 0x10FFFF:
        raise _Refused(digits)
    return chr(number)
