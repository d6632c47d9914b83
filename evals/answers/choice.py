r"""Answers that are the letter of one of several choices: MMLU and other multiple choice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from evals.answers import choice_patterns as patterns
from evals.answers.base import AnswerReading, KindOptions, validate_options
from evals.answers.choice_claims import ChoiceClaims, find_claims
from evals.answers.negation import is_supposed, is_taken_back
from evals.answers.response import CONTRADICTION, RULES, find_answer
from evals.answers.statements import LONGEST, Statement, find_statements, strip_wrapping

# Lines of a list, or after an answer, that are read; it bounds the work.
_MOST_LINES = 60


class ChoiceOptions(KindOptions):
    """How many choices a question has: the letters are A and the following."""

    choices: int = Field(default=4, ge=2, le=26)


def create(options: Mapping[str, object]) -> ChoiceKind:
    """The kind with the user's options. Raises ValueError that names option and value."""
    return ChoiceKind(validate_options(ChoiceOptions, "choice", options))


@dataclass(frozen=True)
class ChoiceKind:
    """Implements `AnswerKind`; answers are capital letters."""

    options: ChoiceOptions = field(default_factory=ChoiceOptions)
    name: str = "choice"
    form: str = r"Put the letter of the right choice in \boxed{}."

    def read(self, response: str) -> str | None:
        """See `explain`."""
        return self.explain(response).answer

    def explain(self, response: str) -> AnswerReading:
        """The last letter stated, else the one that the last line chooses, else the only one of a
        list of choices that is judged right where all others are judged wrong.

        "The answer is A good idea", "A and B", "B is incorrect" and letters beyond the choices
        state none; nor does a letter that is ruled out after it was stated.
        """
        return find_answer(response, self._find_stated, self._conclude)

    def read_gold(self, text: str) -> str:
        """A letter, bare or in parentheses, or the last one that a worked solution states."""
        letter = self._accept_letter(_read_bare_letter(text)) if len(text) <= LONGEST else None
        letter = letter or self.read(text)
        if letter is None:
            raise ValueError(
                f"no gold choice in {text[:80]!r}; give a letter from A to {self._last}"
            )
        return letter

    def canonicalize(self, answer: str) -> str:
        """The capital letter."""
        return _read_bare_letter(answer) or answer.strip()

    def same(self, a: str, b: str) -> bool:
        """The same letter; case and parentheses do not count."""
        return self.canonicalize(a) == self.canonicalize(b)

    def _find_stated(self, part: str) -> AnswerReading | None:
        for statement in reversed(find_statements(part)):
            letter = self._accept_letter(_read_statement(statement))
            if letter is None:
                continue
            end = _find_letter_end(part, statement)
            if is_taken_back(part, end):
                continue
            later = _find_later_claims(part, end)
            other = self._accept_letter(later.letter)
            if other is not None and other != letter:
                corrects = patterns.CORRECTION.search(part, end) is not None
                return AnswerReading(other, "a correction") if corrects else CONTRADICTION
            if letter in later.ruled_out:
                return None
            return AnswerReading(letter, RULES[statement.form])
        return None

    def _conclude(self, part: str) -> AnswerReading | None:
        if letter := self._accept_letter(_read_last_line(part)):
            return AnswerReading(letter, "the last line")
        if letter := self._accept_letter(_read_judged_list(part)):
            return AnswerReading(letter, "the only choice of a list that is judged right")
        if letter := self._accept_letter(_read_first_line(part)):
            return AnswerReading(letter, "the first line, which the rest explains")
        return None

    @property
    def _last(self) -> str:
        return chr(ord("A") + self.options.choices - 1)

    def _accept_letter(self, letter: str | None) -> str | None:
        return letter if letter is not None and "A" <= letter <= self._last else None


def _strip_typesetting(text: str) -> str:
    text = patterns.TYPESET_CHOICE_TEXT.sub(r"\1: \2", text)
    text = " ".join(patterns.TYPESETTING.sub(" ", text).split())
    return text.replace("( ", "(").replace(" )", ")")


def _read_bare_letter(text: str) -> str | None:
    found = (
        patterns.BARE_LETTER.fullmatch(_strip_typesetting(text)) if len(text) <= LONGEST else None
    )
    return found["letter"].upper() if found else None


def _read_statement(statement: Statement) -> str | None:
    if len(set(statement.parts)) > 1:
        return None
    letter = _read_payload(statement.text)
    return letter or (_read_last_line(statement.text) if statement.form == "tag" else None)


def _read_payload(text: str) -> str | None:
    """The letter that a stated answer begins with, unless the letter is a word of it or denied."""
    if letter := _read_bare_letter(text):
        return letter
    text = _strip_typesetting(text)
    label = patterns.LABEL.match(text)
    found = label or patterns.LETTER_CLAUSE.match(text)
    if found is None or patterns.ANOTHER_LETTER.match(found["rest"]):
        return find_claims(text).letter
    if (patterns.SAYS_SOMETHING if label else patterns.IS_JUDGED).match(found["rest"]):
        return find_claims(text).letter
    letters = found.groupdict()
    letter = next(letters[k] for k in ("closed", "upper", "lower", "letter") if letters.get(k))
    return letter.upper()


def _find_letter_end(part: str, statement: Statement) -> int:
    """Where the letter of a phrase ends: "B. Wait, no" is a letter and what comes after it."""
    if statement.form != "phrase":
        return statement.end
    start = part.find(statement.text, statement.start)
    letter = patterns.STATED_LETTER.match(part, start) if start >= 0 else None
    return letter.end() if letter else statement.end


def _find_later_claims(part: str, end: int) -> ChoiceClaims:
    """What the sentences after a stated answer choose and rule out by their words."""
    lines = part[end : end + 4 * LONGEST].split("\n")[:_MOST_LINES]
    plain = [_strip_typesetting(strip_wrapping(line)) for line in lines if line.strip()]
    found = [find_claims(line) for line in plain]
    # "B does not need energy" explains B, "B is not correct" rules it out.
    wrong = [
        one for line, one in zip(plain, found, strict=True) if patterns.WRONG_WORD.search(line)
    ]
    return ChoiceClaims(
        tuple(letter for one in found for letter in one.chosen if one.asserts),
        frozenset().union(*(one.ruled_out for one in wrong)),
        frozenset().union(*(one.named for one in found)),
    )


def _read_last_line(response: str) -> str | None:
    """The letter of the last line: alone, before its text, or the only one said to be chosen."""
    trimmed = response.rstrip()
    before, _, line = trimmed.rpartition("\n")
    if len(line) > LONGEST or "\\boxed" in line or "\\fbox" in line or line.endswith("?"):
        return None
    line = _strip_bullet(line)
    item = patterns.LIST_ITEM.match(line)
    if item is not None:
        if _ends_list(before, item["letter"]):
            return None
        verdict = patterns.VERDICT.match(line, item.end())
        # "(B) No" is a choice with its text, "Option B: no" says what is thought of it.
        text = line[item.end() :].strip(" .")
        if verdict is not None and (
            len(item[0]) > 3 or ".." in line or not patterns.TRUTH_WORD.fullmatch(text)
        ):
            judged = item["letter"].upper()
            other = find_claims(line).letter
            return judged if verdict["yes"] else other if other != judged else None
        return _read_payload(line)
    if len(line) == 1:
        return line
    return find_claims(_mark_suppositions(line)).letter


def _mark_suppositions(line: str) -> str:
    """The line with "might be" where it only supposes or reports an answer."""
    return patterns.ANSWER_IS.sub(
        lambda found: f"{found[1]} might be " if is_supposed(line, found.start()) else found[0],
        line,
    )


def _read_first_line(part: str) -> str | None:
    """The letter that stands alone in the first line, where what follows only explains it."""
    first, _, rest = part.strip().partition("\n")
    letter = (
        _read_bare_letter(strip_wrapping(first)) if len(first) <= 2 * len("the answer is") else None
    )
    if letter is None or letter == "I" or not patterns.EXPLANATION.match(rest):
        return None
    later = _find_later_claims(rest, 0)
    other = set("".join(later.chosen)) - {letter}
    return None if other or letter in later.ruled_out or patterns.REGRET.search(rest) else letter


def _strip_bullet(line: str) -> str:
    line = _strip_typesetting(strip_wrapping(line))
    bullet = patterns.BULLET.match(line)
    return line[bullet.end() :] if bullet else line


def _ends_list(before: str, letter: str) -> bool:
    """Whether a line ends a list of choices, which chooses none: the item above has the letter
    before it."""
    adjacent = True
    for line in reversed(before[-8 * LONGEST :].split("\n")[-_MOST_LINES:]):
        if item := patterns.LIST_ITEM.match(_strip_bullet(line[:LONGEST])):
            above, below = ord(item["letter"].upper()), ord(letter.upper())
            return above == below - 1 or (adjacent and above < below)
        adjacent = False
    return False


def _read_judged_list(part: str) -> str | None:
    """The only choice that a list of judged choices finds right.

    "True" and "false" say which choice is right only where one of at least three is true: the
    question may ask for the false one.
    """
    right: list[str] = []
    wrong: list[str] = []
    truths = False
    for line in part.rstrip()[-8 * LONGEST :].split("\n")[-_MOST_LINES:]:
        line = _strip_bullet(line[:LONGEST])
        item = patterns.LIST_ITEM.match(line)
        if item is None:
            continue
        judged = _read_judgment(line, item)
        if judged is None:
            return None
        (right if judged else wrong).append(item["letter"].upper())
        truths = truths or patterns.TRUTH_WORD.search(line) is not None
    if len(right) != 1 or right[0] in wrong or len(set(wrong)) < (2 if truths else 1):
        return None
    return right[0]


def _read_judgment(line: str, item: re.Match[str]) -> bool | None:
    """What a line of a list says of its choice; None where that is unclear."""
    if verdict := patterns.VERDICT.match(line, item.end()):
        return verdict["yes"] is not None
    kinds = {m["yes"] is not None for m in patterns.VERDICT_ANYWHERE.finditer(line, item.end())}
    return kinds.pop() if len(kinds) == 1 else None
