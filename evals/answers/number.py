r"""Answers that are one number: GSM8K, arithmetic.

`numerals` says what is read as a number. Currency, units and the percent sign carry
no value: ``$50``, ``50 km/h``, ``50%`` and ``50\%`` all are 50. Words that scale do:
``5 dozen`` is 60.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from pydantic import Field

from evals.answers.base import AnswerReading, KindOptions, validate_options
from evals.answers.negation import is_doubted, is_supposed, is_taken_back
from evals.answers.numerals import format_number, normalize_notation, parse_number
from evals.answers.response import RULES, find_answer
from evals.answers.statements import LONGEST, Statement, find_statements, strip_wrapping

# The number of a list item, "3. ", is no answer.
_ITEM = re.compile(r"\s*(?:[0-9]{1,2}[.)]|[-*•>])\s+(?=\S)")
# The characters that a number or a calculation may hold. The "e" of 1e5, the "x" of "3 x 10^4" and
# the apostrophe of 1'000 count only between digits.
_SIGNS = (
    r"[-+*/^=:.,0-9()%<>{} ]|(?<=[0-9])[eE](?=[-+]?[0-9])|(?<=[0-9 ])[xX](?=\s?10\s?\^)"
    r"|(?<=[0-9])['’_](?=[0-9]{3})"
)
_RUN = re.compile(rf"(?:{_SIGNS})*[0-9](?:{_SIGNS})*")
# "=> 18": the arrow is no sign of the number.
_ARROW = re.compile(r"^(?:->|=>|-->|==>)\s*")
_EDGES = " .,:"
# A sum, product, power or comparison that comes first: the number behind it is only a part.
_UNFINISHED = re.compile(r"[*/^<>+%]|- ")
# "12:30" and "2024-05-01" are no single number.
_TIME_OR_DATE = re.compile(
    r"\(?[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?\)?|\(?[0-9]{1,4}([-/.])[0-9]{1,2}\1[0-9]{1,4}\)?"
)
_ORDINAL = re.compile(r"[0-9](?:st|nd|rd|th)\b", re.IGNORECASE)
_MONTH = (
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december)"
)
_AFTER_MONTH = re.compile(rf"\b{_MONTH}$", re.IGNORECASE)
_BEFORE_MONTH = re.compile(rf"[0-9]+\s+{_MONTH}\b", re.IGNORECASE)
# "3 and 4", "5 to 10", "5 feet 4 inches": two numbers that state one answer together. "Rounds to",
# "comes to" and the like join nothing.
_JOINED = re.compile(
    r"\s*(?!(?:round\w*|simplif\w+|reduc\w+|equals?|comes?|amounts?)\sto\b)"
    r"(?:(?:[^\W\d_]+\s)?(?:and|or|to|&)|x"
    r"|hours?|hrs?|minutes?|mins?|feet|foot|ft|pounds?|lbs?|years?|weeks?|days?|dollars?)",
    re.IGNORECASE,
)
# "13, not 12", "13 instead of 12", "13 is more than 12": the last number is not the one.
_RULED_OUT = re.compile(
    r"(?:\b(?:not|never|isn['’]t|wasn['’]t|rather\sthan|instead\sof|than|unlike|without)"
    r"(?:\s(?:just|only|simply|be|equal\sto))?)\s*\$?\s*$",
    re.IGNORECASE,
)
# "Agent 2" and "step 3" are names.
_LABELED = re.compile(
    r"\b(?:(?P<many>agents)\s[0-9]{1,2}(?:(?:,|,?\sand|\s&)\s[0-9]{1,2}\b)*"
    r"|(?P<one>agent|step|problem|question|equation|eq\.?|figure|fig\.?|example|exercise|solver)"
    r"\s[#(]?[0-9]{1,2}\b)(?![.,/%][0-9])\)?",
    re.IGNORECASE,
)
# "-$5" after a word is a loss of 5; between two terms the minus would subtract.
_LOSS = re.compile(r"((?:^|[^\w)\]}%\s]\s?|\b(?:is|be|of|to|at|was)\s))[-−–]\s?\\?[$€£](?=[0-9.])")
# "I change my answer from 12 to 13": no range.
_CHANGED = re.compile(
    r"\b(?:chang|revis|updat|correct|switch|adjust)\w*\s(?:\w+\s){0,3}from\s\D{0,3}$", re.IGNORECASE
)
# "which is 1 more than 12" compares: the number is neither of them.
_COMPARES = re.compile(
    r"\S+ (?:(?!is |was |are |has )\w+ )?(?:more|less|fewer|greater|higher|lower"
    r"|larger|smaller|bigger|older|younger)"
    r" than $",
    re.IGNORECASE,
)
# "±5", "≥ 5", "√5": the sign before the number changes what is stated.
_NO_EQUATION = re.compile(r"(?:[√∛±≥≤≠⩾⩽]|\\(?:pm|mp|geq?|leq?|neq?|sqrt))\s*$")
# "minus 5" and "negative 5" state -5 only where no term stands before the word.
_NEGATIVE = re.compile(
    r"(?:(?:^|(?<=\bis )|(?<=\bbe )|(?<=\bto )|(?<=\bof ))minus|\bnegative) (?=[0-9])", re.I
)
# "12 minus 5" is a calculation.
_MINUS = re.compile(r"\bminus\s*$", re.IGNORECASE)
_LONGEST_ALONE = 100
# A whole line that is only a number, with currency or a sign before it and signs behind it.
_ALONE = re.compile(
    r"(?:minus |negative )?[^\w\s]*\s?[0-9](?:[^A-Za-z]|[eE](?=[-+0-9]))*", re.IGNORECASE
)
# "The answer is not 12 but 13": the value behind the contrast counts.
_CONTRAST = re.compile(
    r"\b(?:but|it['’]s|it\sis|instead|rather)\s(?:(?:actually|rather|instead|just|it['’]s|it\sis)\s){0,2}"
    r"(?=[\s$*\\(+-]{0,4}[0-9])",
    re.IGNORECASE,
)
# "7 out of 10": neither number is the answer for certain.
_OUT_OF = re.compile(r"\bout\sof\s*$", re.IGNORECASE)
# Characters that frame a last line: display mathematics, Markdown, a table's edge.
_FRAME = " \t\r\n\f\v\\]$*`_|}"
_ANSWER = re.compile(r"\banswers?\b", re.IGNORECASE)
_DENIED = re.compile(r"\banswers?\b.{0,40}(?:\bnot\b|n['’]t\b|\bcannot\b)", re.IGNORECASE)
_NUMERIC = re.compile(r"\D{0,3}[0-9]")
# Words that a bare gold answer may have, its number included.
_WORDS_OF_A_NUMBER = 8
# Relative noise of double precision that a tolerance always allows.
_NOISE = Fraction(1, 10**13)


class NumberOptions(KindOptions):
    """`fallback`: where nothing is stated, the last number in the last line that is not empty
    counts. `integers`: answers are whole numbers; what else stands in a box is kept as it is
    written, an answer that equals no whole number. `tolerance`: by how much two numbers may differ
    and still be the same; see `NumberKind.same`."""

    fallback: bool = True
    integers: bool = False
    tolerance: float | None = Field(default=None, gt=0, le=1, strict=False, allow_inf_nan=False)


def create(options: Mapping[str, object]) -> NumberKind:
    """The kind with the user's options. Raises ValueError that names option and value."""
    return NumberKind(validate_options(NumberOptions, "number", options))


@dataclass(frozen=True)
class NumberKind:
    """Implements `AnswerKind`; answers are numbers as `format_number` writes them."""

    options: NumberOptions = field(default_factory=NumberOptions)
    name: str = "number"
    form: str = r"Put the final answer in \boxed{}."

    def read(self, response: str) -> str | None:
        """See `explain`."""
        return self.explain(response).answer

    def explain(self, response: str) -> AnswerReading:
        """The last number stated, else the last one mentioned in the last line (`fallback`)."""
        return find_answer(response, self._find_stated, self._conclude)

    def read_gold(self, text: str) -> str:
        """The last number that a worked solution states ("… #### 18"), or a bare number."""
        candidates = [statement.text for statement in reversed(find_statements(text))]
        # Longer text is a sentence, whose first number need not be its answer.
        if len(text) <= LONGEST and len(text.split()) <= _WORDS_OF_A_NUMBER:
            candidates.append(strip_wrapping(text))
        for candidate in candidates:
            if (value := parse_number(candidate)) is not None:
                return format_number(value)
        raise ValueError(
            f"no gold number in {text[-80:]!r}; give a number or a solution that ends '#### 18'"
        )

    def canonicalize(self, answer: str) -> str:
        """The number as a decimal or a reduced fraction."""
        value = parse_number(answer) if len(answer) <= LONGEST else None
        return answer.strip() if value is None else format_number(value)

    def same(self, a: str, b: str) -> bool:
        """Equal as exact numbers where both are numbers, else equal as text.

        With a tolerance numbers above 1 may differ by that much, as zero and another; smaller ones
        by that share of the larger; and any two by the noise of double precision. That is not
        transitive.
        """
        if a.strip() == b.strip():
            return True
        if len(a) > LONGEST or len(b) > LONGEST:
            return False
        left, right = parse_number(a), parse_number(b)
        # Without a tolerance two exact fractions are compared: no rounding can hide a difference.
        if left is None or right is None or self.options.tolerance is None:
            return left is not None and left == right
        largest = max(abs(left), abs(right))
        allowed = Fraction(self.options.tolerance)
        if left and right:
            allowed *= min(Fraction(1), largest)
        return abs(left - right) <= max(allowed, _NOISE * largest)

    def _find_stated(self, part: str) -> AnswerReading | None:
        for statement in reversed(find_statements(part)):
            if answer := self._read_statement(statement):
                return AnswerReading(answer, RULES[statement.form])
        return None

    def _conclude(self, part: str) -> AnswerReading | None:
        answer = _find_in_last_line(part, find_statements(part)) if self.options.fallback else None
        return AnswerReading(answer, "the last number of the last line") if answer else None

    def _read_statement(self, statement: Statement) -> str | None:
        value = parse_number(statement.text)
        if value is None and statement.form == "tag":
            return _find_in_last_line(statement.text, [])
        whole = value is not None and value.denominator == 1
        if self.options.integers and statement.form == "box" and not whole:
            return statement.text
        return None if value is None else format_number(value)


def _find_in_last_line(response: str, stated: list[Statement]) -> str | None:
    """The last number in the last line, unless that line states something else."""
    trimmed = response.rstrip(_FRAME)
    start = trimmed.rfind("\n") + 1
    line = trimmed[start:]
    if "\\boxed" in line or "\\fbox" in line or line.endswith(("?", ":")):
        return None
    if any(s.end > start and (s.form != "phrase" or _NUMERIC.match(s.text)) for s in stated):
        return None
    if is_doubted(line):
        return None
    if denied := _DENIED.search(line):
        contrast = _CONTRAST.search(line, denied.end())
        if contrast is None:
            return None
        line = line[contrast.end() :]
    if any(is_supposed(line, found.start()) for found in _ANSWER.finditer(line)):
        return None
    if len(line) > LONGEST:
        line = line[-LONGEST:].partition(" ")[2]
    item = _ITEM.match(line)
    # Untrimmed, a formula keeps its closing brace.
    raw = response[start:].partition("\n")[0]
    whole = normalize_notation(strip_wrapping(raw)) if len(raw) <= _LONGEST_ALONE else ""
    if item is None and _ALONE.fullmatch(whole) and (value := parse_number(whole)) is not None:
        return format_number(value)
    line = _LOSS.sub(r"\1-", line)
    return _find_last_number(
        normalize_notation(strip_wrapping(line[item.end() :] if item else line).rstrip("!"))
    )


def _find_last_number(line: str) -> str | None:
    """The last number that stands for itself; None where a list, range or sum comes last."""
    line = _NEGATIVE.sub("-", _LABELED.sub(lambda found: found["many"] or found["one"], line))
    end = len(line)
    compared = False
    runs = list(_RUN.finditer(line))
    # From the end: the last number that stands for itself is the answer.
    for place in reversed(range(len(runs))):
        run = runs[place]
        piece, before = line[run.start() : end].strip(_EDGES), line[: run.start()]
        end = run.start()
        # A digit right behind a letter belongs to a name: "x2", "B12".
        named = before[-1:].isalnum() and run[0][0] not in " =(:," and run[0][:2] != ". "
        if _RULED_OUT.search(before + run[0][: len(run[0]) - len(run[0].lstrip())]):
            compared = True
            continue
        if compared and _COMPARES.fullmatch(
            line[run.start() : runs[place + 1].start()].lstrip(" ,") + " "
        ):
            continue
        if _OUT_OF.search(before) or _NO_EQUATION.search(before) or _MINUS.search(before):
            return None
        if named or _is_no_number(run[0].strip(_EDGES), piece, before):
            continue
        joined = place > 0 and _JOINED.fullmatch(line[runs[place - 1].end() : run.start()])
        if joined and _CHANGED.search(line[: runs[place - 1].start()] + " "):
            joined = None
        if joined or before.endswith(("\\", "{", "_", "^")) or _UNFINISHED.match(piece):
            return None
        value = parse_number(_ARROW.sub("", piece))
        if value is None or is_taken_back(line, run.end()):
            return None
        return format_number(value)
    return None


def _is_no_number(digits: str, piece: str, before: str) -> bool:
    return bool(
        _TIME_OR_DATE.fullmatch(digits)
        or (digits.isdigit() and _ORDINAL.match(piece[len(digits) - 1 :]))
        or _AFTER_MONTH.search(before)
        or _BEFORE_MONTH.match(piece)
    )
