r"""Answers that are the letter of one of several choices: MMLU and other multiple choice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from evals.answers.options import Options, checked
from evals.answers.stated import LONGEST, bare, statements

_TYPESET = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox|bf|rm)\b|[{}$*`]|\\[()\[\], ]")
_NAMED = r"(?:(?:the\s)?(?:answer|option|choice|letter)\s*[:=]?\s*)?"
_ALONE = re.compile(rf"{_NAMED}[(\[\"'“]?(?P<letter>[A-Z])[)\]\"'”]?[.,:;!]?", re.IGNORECASE)
_LABEL = re.compile(
    rf"(?i:{_NAMED})(?:[(\[](?P<closed>[A-Za-z])[)\]]|(?P<upper>[A-Z])(?:[).:]|\s[-–—](?=\s))"
    r"|(?P<lower>[a-z])\))(?=\s|$|[^\w\s])(?P<rest>.*)",
    re.DOTALL,
)
_CLAUSE = re.compile(
    rf"(?i:{_NAMED})(?P<letter>[A-Z])"
    r"(?=\s*[,;(]|\s(?:because|since|as|is|due|which|for|based|given|not)\b)(?P<rest>.*)",
    re.DOTALL,
)
_ANOTHER = re.compile(r"\s*(?:,|/|&|\band\b|\bor\b|\bnor\b)\s*(?:[(\[][A-Za-z][)\]]|[A-Z](?!\w))")
_CHOSEN = re.compile(
    r"\b(?i:option|choice|choose|select|pick|go\swith)\s[(\[]?(?P<named>[A-Z])(?![\w'’])"
    r"|(?<!\w)[(\[](?P<closed>[A-Z])[)\]]"
    r"|(?<![\w'’])(?P<judged>[A-Z])\s(?i:is\s(?:the\s)?(?:only\s)?(?:correct|right|best|true))\b"
)
_ITEM = re.compile(r"[(\[]?(?P<letter>[A-Z])[).:\]]")


class ChoiceOptions(Options):
    """How many choices a question has: the letters are A and the following."""

    choices: int = Field(default=4, ge=2, le=26)


def create(options: Mapping[str, object]) -> Choice:
    """The kind with the user's options. Raises ValueError that names option and value."""
    return Choice(checked(ChoiceOptions, "choice", options))


@dataclass(frozen=True)
class Choice:
    """Implements `AnswerKind`; answers are capital letters."""

    options: ChoiceOptions = field(default_factory=ChoiceOptions)
    name: str = "choice"
    form: str = r"Put the letter of the right choice in \boxed{}."

    def read(self, response: str) -> str | None:
        """The last letter stated, else the one that the last line gives as the answer.

        "The answer is A good idea", "A and B" and letters beyond the choices state none.
        """
        for statement in reversed(statements(response)):
            if letter := self._known(_stated(statement.text)):
                return letter
        return self._known(_concluded(response))

    def gold(self, text: str) -> str:
        """A letter, bare or in parentheses, or the last one that a worked solution states."""
        letter = self._known(_alone(text)) if len(text) <= LONGEST else None
        letter = letter or self.read(text)
        if letter is None:
            raise ValueError(
                f"no gold choice in {text[:80]!r}; give a letter from A to {self._last}"
            )
        return letter

    def same(self, a: str, b: str) -> bool:
        """The same letter; case and parentheses do not count."""
        return (_alone(a) or a.strip()) == (_alone(b) or b.strip())

    @property
    def _last(self) -> str:
        return chr(ord("A") + self.options.choices - 1)

    def _known(self, letter: str | None) -> str | None:
        return letter if letter is not None and "A" <= letter <= self._last else None


def _plain(text: str) -> str:
    text = " ".join(_TYPESET.sub(" ", text).split())
    return text.replace("( ", "(").replace(" )", ")")


def _alone(text: str) -> str | None:
    found = _ALONE.fullmatch(_plain(text)) if len(text) <= LONGEST else None
    return found["letter"].upper() if found else None


def _stated(text: str) -> str | None:
    """The letter that a stated answer begins with, unless the letter is a word of it."""
    if letter := _alone(text):
        return letter
    text = _plain(text)
    found = _LABEL.match(text) or _CLAUSE.match(text)
    if found is None or _ANOTHER.match(found["rest"]):
        return None
    letters = found.groupdict()
    letter = next(letters[k] for k in ("closed", "upper", "lower", "letter") if letters.get(k))
    return letter.upper()


def _concluded(response: str) -> str | None:
    """The letter of the last line: alone, before its text, or the only one said to be chosen."""
    trimmed = response.rstrip()
    before, _, line = trimmed.rpartition("\n")
    if len(line) > LONGEST or "\\boxed" in line or "\\fbox" in line or line.endswith("?"):
        return None
    line = _plain(bare(line))
    item = _ITEM.match(line)
    if item is not None:
        # The end of a list of choices is no choice.
        above = _ITEM.match(_plain(bare(before.rstrip().rpartition("\n")[2][:LONGEST])))
        listed = above is not None and ord(above["letter"]) == ord(item["letter"]) - 1
        return None if listed else _stated(line)
    if len(line) == 1:
        return line
    chosen = {
        found["named"] or found["closed"] or found["judged"] for found in _CHOSEN.finditer(line)
    }
    return chosen.pop() if len(chosen) == 1 else None
