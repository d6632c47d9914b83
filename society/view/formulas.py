r"""Formulas in a text: where they are, and the text as markup with each shown as a formula.

A `Typesetter` serves one page and has a budget, so that no transcript makes a page slow. The source
of a formula stands beside it, hidden by the style sheet until raw text is asked for.

    Typesetter().typeset_text(r"So \(x = \frac{1}{2}\).")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from markupsafe import Markup

from society.view.hidden_marks import mark_invisible
from society.view.mathml import LONGEST_FORMULA, Display, write_mathml

# Characters of formulas that one page turns into MathML at most: about half a second of work.
PAGE_BUDGET = 30_000
# After so many openings without an end, the rest of a text is taken as it is: each of them costs a
# search, and a text may consist of nothing else.
_MISSES = 200
# Dollars as Pandoc reads them, so that "$5 and $6" stays money: no blank inside either one, no
# digit after the last (https://pandoc.org/MANUAL.html#extension-tex_math_dollars).
_OPENINGS = re.compile(
    r"\\\[|\\\(|(?<![\\$])\$\$|(?<![\\$])\$(?![\s$])|\\boxed\s*\{|\\begin\s*\{([a-zA-Z]{1,20}\*?)\}"
)
_CLOSINGS: dict[str, re.Pattern[str]] = {
    "\\[": re.compile(r"\\\]"),
    "\\(": re.compile(r"\\\)"),
    "$$": re.compile(r"\$\$"),
    "$": re.compile(r"(?<![\s\\])\$(?!\d)"),
}
# Only these environments stand in a text without delimiters.
_ENVIRONMENTS = frozenset(
    ("align", "aligned", "equation", "gather", "gathered", "multline", "cases", "split")
)
# "$6 or US$" lies between two prices; words in a formula are written as \\text{or}.
_PROSE = re.compile(r"(?![^\\^_={}]*[\\^_={}])(?=.*\b[A-Za-z]{2,}\b)", re.S)
_LOOKS_LIKE_LATEX = re.compile(r"\\[a-zA-Z]|[\^_]")


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula in a text: `source` has its delimiters, `body` has not."""

    source: str
    body: str
    display: Display


def split_formulas(text: str) -> Iterator[str | Formula]:
    """The text in pieces, in order; the pieces' sources join to the exact text."""
    end = at = missed = 0
    while missed < _MISSES and (found := _OPENINGS.search(text, at)):
        formula = _read_formula(text, found)
        if formula is None:
            at = found.end()
            missed += 1
            continue
        if found.start() > end:
            yield text[end : found.start()]
        yield formula
        end = at = found.start() + len(formula.source)
    if end < len(text):
        yield text[end:]


class Typesetter:
    """Shows formulas until the page's budget is spent, and their sources from there on."""

    def __init__(self, budget: int = PAGE_BUDGET) -> None:
        self._left = budget

    def typeset_text(self, text: str) -> Markup:
        """A text as markup, with its formulas shown."""
        return Markup("").join(
            mark_invisible(piece) if isinstance(piece, str) else self._typeset(piece)
            for piece in split_formulas(text)
        )

    def typeset_answer(self, text: str) -> Markup:
        """An answer, which may be LaTeX without delimiters such as x^2; else like a text."""
        if _LOOKS_LIKE_LATEX.search(text) and "$" not in text and "\\(" not in text:
            return self._typeset(Formula(text, text, "inline"))
        return self.typeset_text(text)

    def typeset_line(self, text: str, at_most: int) -> Markup:
        """A short text within a line, cut after `at_most` characters, never within a formula."""
        parts: list[Markup] = []
        left = at_most
        # Cut before the split: a response may be megabytes of white space.
        line = " ".join(text[: 4 * at_most].split())
        for piece in split_formulas(line):
            source = piece if isinstance(piece, str) else piece.source
            if len(source) > left:
                cut = source[:left].rstrip() if isinstance(piece, str) else ""
                parts.append(mark_invisible(cut + "…"))
                break
            left -= len(source)
            inline = piece if isinstance(piece, str) else replace(piece, display="inline")
            parts.append(
                mark_invisible(inline) if isinstance(inline, str) else self._typeset(inline)
            )
        return Markup("").join(parts)

    def _typeset(self, formula: Formula) -> Markup:
        source = mark_invisible(formula.source)
        if len(formula.body) > self._left:
            return source
        self._left -= len(formula.body)
        shown = write_mathml(formula.body, formula.display)
        if shown is None:
            return source
        return Markup('<span class="formula {}">{}</span><span class="source">{}</span>').format(
            formula.display, shown, source
        )


def _read_formula(text: str, opening: re.Match[str]) -> Formula | None:
    sign = opening[0]
    if sign in _CLOSINGS:
        # A formula that is not closed soon is none, and the rest of the text is searched anew.
        closing = _CLOSINGS[sign].search(text, opening.end(), opening.end() + LONGEST_FORMULA + 2)
        if closing is None:
            return None
        body = text[opening.end() : closing.start()]
        if not body.strip() or "\n\n" in body or (sign == "$" and _PROSE.match(body)):
            return None
        display: Display = "block" if sign in ("\\[", "$$") else "inline"
        return Formula(text[opening.start() : closing.end()], body, display)
    if opening[1] is not None:
        return _read_environment(text, opening)
    end = _find_brace(text, opening.end())
    if end is None:
        return None
    source = text[opening.start() : end]
    return Formula(source, source, "inline")


def _read_environment(text: str, opening: re.Match[str]) -> Formula | None:
    name = opening[1]
    if name.rstrip("*") not in _ENVIRONMENTS:
        return None
    end = f"\\end{{{name}}}"
    at = text.find(end, opening.end(), opening.end() + LONGEST_FORMULA)
    if at < 0:
        return None
    source = text[opening.start() : at + len(end)]
    return Formula(source, source, "block")


def _find_brace(text: str, start: int) -> int | None:
    """The end of a group whose opening brace ends at `start`."""
    depth = 1
    for found in re.compile(r"\\.|[{}]").finditer(text, start, start + LONGEST_FORMULA):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return None
