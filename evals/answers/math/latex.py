r"""One spelling for the many ways in which LaTeX and plain text write the same mathematics.

Nothing is parsed here: `tidy_latex` only renames and drops what never carries a value (spacing,
sizes, dollar signs, per cent signs) so that the reading of the structure has few cases. The
spellings are those of the MATH dataset (Hendrycks et al. 2021, arXiv 2103.03874) and of what models
write.
"""

from __future__ import annotations

import re

FUNCTIONS = (
    *("arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec"),
    *("csc", "ln", "log", "exp"),
)
"""The functions by their LaTeX names, also where they stand without a backslash."""

# Characters that stand for LaTeX commands of these names, in the order of `_CHARACTERS`.
_SYMBOLS = ("infty", "emptyset", "pi", "sqrt", "dots", "angle")
_GREEK = ("alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "phi", "omega")
_VULGAR = (
    {"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5)}
    | {"⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8)}
    | {"⅝": (5, 8), "⅞": (7, 8)}
)
# One character, one spelling: every minus, product, space, superscript, fraction and symbol.
_CHARACTERS = str.maketrans(
    dict.fromkeys("−–—‐‑‒﹣-", "-")
    | dict.fromkeys("×∗∙·⋅", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f\u3000", " ")
    | dict.fromkeys("\u200b\u2060\ufeff\u2061\u2062€£¥₹", "")
    | dict.fromkeys((*map(chr, range(32)), "\x7f"), " ")
    | {digit: f"^{{{value}}}" for value, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
    | {digit: f"_{{{value}}}" for value, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")}
    | {sign: rf"\frac{{{top}}}{{{bottom}}}" for sign, (top, bottom) in _VULGAR.items()}
    | dict(zip("º％，；′", "°%,;'", strict=True))
    | dict(zip("≤≥≠∪∈±", (r"\le ", r"\ge ", r"\ne ", r"\cup ", r"\in ", r"\pm "), strict=True))
    | dict(zip("∩∖∨∧", (r"\cap ", r"\setminus ", r"\lor ", r"\land "), strict=True))
    | dict.fromkeys("≈≃≅≐", r"\approx ")
    | {"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}"}
    | dict(zip("∞∅π√…∠", (rf"\{n} " for n in _SYMBOLS), strict=True))
    | dict(zip("αβγδθλμφω", (rf"\{n} " for n in _GREEK), strict=True))
)

# LaTeX commands by their one spelling. Sizes, fonts of letters and spacing vanish; fonts of words
# become \text, because a word in a font is a word.
_NAMES = (
    dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac ")
    | dict.fromkeys(("dbinom", "tbinom"), r"\binom ")
    | dict.fromkeys(("left", "right", "middle", "big", "Big", "bigg", "Bigg"), "")
    | dict.fromkeys(("bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "Biggl", "Biggr"), "")
    | dict.fromkeys(("displaystyle", "textstyle", "limits", "rm", "bf", "it", "nonumber"), " ")
    | dict.fromkeys(("quad", "qquad", "hfill", "thinspace", "enspace"), " ")
    | dict.fromkeys(("mathbf", "boldsymbol", "bm", "mathit", "hat", "mathnormal"), "")
    | dict.fromkeys(("textrm", "textbf", "textit", "textnormal", "texttt", "textsf"), r"\text")
    | dict.fromkeys(("mathrm", "mathsf", "mathtt", "mbox", "hbox", "emph"), r"\text")
    | dict.fromkeys(("operatorname",), r"\text")
    | dict.fromkeys(("cdot", "times", "ast"), "*")
    | dict.fromkeys(("leq", "leqslant", "le"), r"\le ")
    | dict.fromkeys(("geq", "geqslant", "ge"), r"\ge ")
    | dict.fromkeys(("ne", "neq"), r"\ne ")
    | dict.fromkeys(("ldots", "cdots", "dots", "dotsc", "dotsb"), r"\dots ")
    | dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|")
    | dict.fromkeys(("degree", "degrees"), "°")
    | dict.fromkeys(("simeq", "cong", "doteq", "thickapprox"), r"\approx ")
    | dict.fromkeys(("lVert", "rVert", "Vert"), r"\|")
    | dict.fromkeys(("langle", "lgroup"), "(")
    | dict.fromkeys(("rangle", "rgroup"), ")")
    | {
        "colon": ":",
        "lt": "<",
        "gt": ">",
        "div": "/",
        "lbrace": r"\{",
        "rbrace": r"\}",
        "lbrack": "[",
    }
    | {"rbrack": "]", "varphi": r"\phi ", "epsilon": r"\varepsilon ", "varnothing": r"\emptyset "}
)

# "1{,}234", "1,\!234", "1\,234": separators between groups of three digits.
_THOUSANDS = re.compile(r"(?<=\d)\s*(?:\{\s*,\s*\}|,\s*\\!|\\[,;:!])\s*(?=\d{3}(?!\d))")
# The end of a row, with its optional distance: "\\[4pt]".
_BREAK = re.compile(r"\\\\(?:\s*\[[^\[\]]{0,12}\])?")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
# Spacing carries no value, unlike the row end that `_BREAK` has taken out before.
_SPACING = re.compile(r"\\[,;:! ]|~|\\[hv]space\*?\{[^{}]{0,20}\}")
_DELIMITERS = re.compile(r"\\[()\[\]]|\\?\$")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\text\s*\{\s*degrees?\s*\}")
# "f^{\prime\prime}" is "f''".
_PRIMES = re.compile(r"\^\s*\{?\s*((?:\\prime(?![A-Za-z])\s*)+)\}?|\\prime(?![A-Za-z])")
# An upright e or i is still the constant.
_UPRIGHT = re.compile(r"\\(?:text|mathrm|textrm|operatorname)\{([ei])\}")
_PERCENT = re.compile(r"\\?%|\\text\s*\{\s*(?:percent|per cent|pct)\s*\}|\b(?:percent|per cent)\b")
# Functions and infinity without their backslash. "sec" needs an argument, or it is seconds.
_BARE = re.compile(
    rf"(?<![\\A-Za-z])(?P<name>sqrt|pi|sec(?=\s*[(A-Za-z\\])"
    rf"|{'|'.join(name for name in FUNCTIONS if name != 'sec')})(?![A-Za-z])"
    r"|(?<![\\A-Za-z])(?P<endless>infinity|inf|oo)(?![A-Za-z])"
)
# "\sqrt 12" is the root of 12; LaTeX itself would take only the 1.
_ROOT = re.compile(r"\\sqrt\s*(\d+)")
# "1.5e3", "2E-4". A small e before a minus is Euler's number: 2e-3 is a difference.
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?:e\+?|E(?P<sign>[-+]?))(\d{1,3})(?![\w.])")
# Markdown around all of it.
_STARS = re.compile(r"^[*_`\s]+|[*_`\s]+$")


def tidy_latex(text: str) -> str:
    r"""The answer in the few spellings that the rest reads; takes linear time, never raises.

    Row ends of matrices become ``\\``, products ``*``, degrees ``°``, every font command
    ``\text``; dollar signs, per cent signs, sizes and spacing are gone.
    """
    text = _THOUSANDS.sub("", text.translate(_CHARACTERS))
    # A row end hides its second backslash from the rules for \[ and \( below.
    rows = [_tidy_row(row) for row in _BREAK.split(text)]
    text = " ".join(r"\\ ".join(rows).split())
    return _STARS.sub("", text).replace("**", "^").rstrip(" .,;:")


def _tidy_row(row: str) -> str:
    row = _DELIMITERS.sub(" ", _SPACING.sub(" ", row))
    row = _UPRIGHT.sub(r" \1 ", row)
    if r"\prime" in row:
        row = _PRIMES.sub(lambda primes: "'" * primes[0].count("prime"), row)
    row = _COMMAND.sub(_rename_command, _DEGREES.sub("°", row))
    row = _BARE.sub(_add_backslash, _PERCENT.sub("", row))
    row = row.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    row = _SCIENTIFIC.sub(r"\1*10^{\2\3}", row)
    return _ROOT.sub(r"\\sqrt{\1}", row)


def _rename_command(command: re.Match[str]) -> str:
    return _NAMES.get(command[1], command[0])


def _add_backslash(word: re.Match[str]) -> str:
    return rf"\{word['name']} " if word["name"] else r"\infty "


def split_outside_brackets(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts between the separators that stand outside of all brackets."""
    parts: list[str] = []
    depth = start = position = 0
    # An environment counts as a bracket: the commas and & in a matrix are its own.
    while position < len(text):
        if text.startswith("\\begin", position):
            depth += 1
        elif text.startswith("\\end", position):
            depth -= 1
        elif text[position] in "([{":
            depth += 1
        elif text[position] in ")]}":
            depth -= 1
        found = separator.match(text, position) if depth == 0 else None
        if found and found.end() > position:
            parts.append(text[start:position])
            start = position = found.end()
        else:
            position += 1
    parts.append(text[start:])
    return parts


def is_balanced(inside: str) -> bool:
    """Whether no bracket closes before it opens, and none stays open."""
    depth = 0
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0
