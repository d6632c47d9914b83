r"""Answers that are the letter of one of several choices: MMLU and other multiple choice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from evals.answers.base import AnswerReading, KindOptions, validate_options
from evals.answers.choice_claims import ChoiceClaims, find_claims
from evals.answers.negation import is_supposed, is_taken_back
from evals.answers.response import CONTRADICTION, RULES, find_answer
from evals.answers.statements import LONGEST, Statement, find_statements, strip_wrapping

_TYPESET = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox|bf|rm)\b|[{}$*`]|\\[()\[\], ]")
# "C \text{ mitochondria}" is a letter and the text of its choice.
_TYPESET_REST = re.compile(
    r"^(\s*\(?[A-Z]\)?)\s*((?:\\q?quad|\\[ ,;]|\s)*\\(?:text(?:bf|it|rm)?|mbox)\s*\{[.:)\s]*"
    r"(?!(?:or|and|nor|is|was|isn|not|only|but|can|cannot|if|when)\b)\w|\\q?quad\s*[\w\\(])"
)
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
_ITEM = re.compile(
    r"(?:(?:option|choice)\s)?[(\[]?(?P<letter>[A-Z])"
    r"(?:[).:\]]|(?=\s[✗✘❌✓✔✅])|(?=\s[-–—]\s(?:[A-Za-z]{2}|[✗✘❌✓✔✅])))",
    re.IGNORECASE,
)
_BULLET = re.compile(r"(?:[-•>–]|\d{1,2}[.)])\s+(?=\S)")
_IS = (
    r"(?:is|was|are|isn['’]t|can(?:not|['’]t)\sbe|must\sbe|can\sbe|should\sbe|has\sbeen|would\sbe)"
)
_DENIED = re.compile(rf"[\s,;]*(?:(?:which|that|this|it|but)\s){{0,3}}{_IS}\b", re.IGNORECASE)
_SAYS = re.compile(
    rf"\s(?:{_IS}|(?:states?|says?|claims?|describes?|refers?|implies|suggests?|has|does|doesn['’]t"
    r"|seems?|looks?|contradicts?|violates?|fails?|ignores?|confuses?|would|could|might|may)\b)"
)
_LETTER = re.compile(
    r"\W*(?:(?:the\s)?(?:answer|option|choice|letter)\W+)?[A-Z](?!\w)[)\]}*]*"
    r"(?=[.!,;]?\s(?:wait|no|but|that|this|which|actually|hmm|oh|hold|oops|sorry|scratch|I)\b)",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"[\s.,:;()\]\[–—-]*(?:(?:text|this|it|option|choice|answer|statement|the)\s){0,3}"
    r"(?:is\s|was\s|would\sbe\s|['’]s\s)?(?:(?:\w+ly|also|the)\s){0,2}"
    r"(?:(?P<no>(?:not|isn['’]t)\s(?:the\s)?(?:correct|right|true|valid|it\b|answer|supported)"
    r"|(?:incorrect|wrong|false)(?!\s(?:that|to|for)\b)|✗|✘|❌|nope\b|not\W*$|no\b(?!\s\w)|eliminated|ruled\sout)"
    r"|(?P<yes>correct|right|true|✓|✔|✅|best|yes\b))",
    re.IGNORECASE,
)
_VERDICT_ANYWHERE = re.compile(
    r"(?P<no>\b(?:incorrect|wrong|false|not\s(?:the\s)?(?:correct|right|true)|isn['’]t\s(?:the\s)?"
    r"(?:correct|right|true)|eliminated?|ruled?\sout)\b|✗|✘|❌)"
    r"|(?P<yes>(?<!not\s)\b(?:correct|true|right\s(?:answer|choice|option))\b|✓|✔|✅)",
    re.IGNORECASE,
)
_TRUTH = re.compile(r"\b(?:true|false|yes|no)\b", re.IGNORECASE)
_WRONG = re.compile(
    r"\b(?:incorrect|wrong|false|mistaken|impossible|eliminat\w*|reject\w*|rul(?:e|es|ed|ing)\s(?:\w+\s)?out"
    r"|(?:not|cannot\sbe|can['’]t\sbe)\s(?:\w+\s)?(?:correct|right|true|answer|possible|[A-Z]\b)"
    r"|(?:isn|wasn)['’]t\s(?:the\s)?(?:correct|right|answer|true|[A-Z]\b))",
    re.IGNORECASE,
)
_CORRECTS = re.compile(
    r"\b(?:wait|actually|no|correction|sorry|oops|mistake|instead|rather|on\ssecond\sthought"
    r"|however|reconsider)",
    re.IGNORECASE,
)
_REGRETS = re.compile(
    r"\b(?:wait|actually|correction|oops|sorry|mistaken?|reconsider|hold\son|on\ssecond\sthought|hmm+)\b"
    r"|\bno,",
    re.IGNORECASE,
)
_ANSWER_IS = re.compile(r"\b(answers?)\s?(?:is|was|:|=)\s", re.IGNORECASE)
_EXPLAINS = re.compile(
    r"\s*\n|[\s#*_]*(?:explanation|reason(?:ing)?|justification|rationale|analysis|because|why)\b",
    re.IGNORECASE,
)
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
        return find_answer(response, self._stated, self._concluded)

    def read_gold(self, text: str) -> str:
        """A letter, bare or in parentheses, or the last one that a worked solution states."""
        letter = self._known(_read_bare_letter(text)) if len(text) <= LONGEST else None
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

    def _stated(self, part: str) -> AnswerReading | None:
        for statement in reversed(find_statements(part)):
            letter = self._known(_read_statement(statement))
            if letter is None:
                continue
            end = _find_letter_end(part, statement)
            if is_taken_back(part, end):
                continue
            later = _find_later_claims(part, end)
            other = self._known(later.letter)
            if other is not None and other != letter:
                corrects = _CORRECTS.search(part, end) is not None
                return AnswerReading(other, "a correction") if corrects else CONTRADICTION
            if letter in later.ruled_out:
                return None
            return AnswerReading(letter, RULES[statement.form])
        return None

    def _concluded(self, part: str) -> AnswerReading | None:
        if letter := self._known(_read_last_line(part)):
            return AnswerReading(letter, "the last line")
        if letter := self._known(_read_judged_list(part)):
            return AnswerReading(letter, "the only choice of a list that is judged right")
        if letter := self._known(_read_first_line(part)):
            return AnswerReading(letter, "the first line, which the rest explains")
        return None

    @property
    def _last(self) -> str:
        return chr(ord("A") + self.options.choices - 1)

    def _known(self, letter: str | None) -> str | None:
        return letter if letter is not None and "A" <= letter <= self._last else None


def _strip_typesetting(text: str) -> str:
    text = _TYPESET_REST.sub(r"\1: \2", text)
    text = " ".join(_TYPESET.sub(" ", text).split())
    return text.replace("( ", "(").replace(" )", ")")


def _read_bare_letter(text: str) -> str | None:
    found = _ALONE.fullmatch(_strip_typesetting(text)) if len(text) <= LONGEST else None
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
    label = _LABEL.match(text)
    found = label or _CLAUSE.match(text)
    if found is None or _ANOTHER.match(found["rest"]):
        return find_claims(text).letter
    if (_SAYS if label else _DENIED).match(found["rest"]):
        return find_claims(text).letter
    letters = found.groupdict()
    letter = next(letters[k] for k in ("closed", "upper", "lower", "letter") if letters.get(k))
    return letter.upper()


def _find_letter_end(part: str, statement: Statement) -> int:
    """Where the letter of a phrase ends: "B. Wait, no" is a letter and what comes after it."""
    if statement.form != "phrase":
        return statement.end
    said = part.find(statement.text, statement.start)
    letter = _LETTER.match(part, said) if said >= 0 else None
    return letter.end() if letter else statement.end


def _find_later_claims(part: str, end: int) -> ChoiceClaims:
    """What the sentences after a stated answer choose and rule out by their words."""
    lines = part[end : end + 4 * LONGEST].split("\n")[:_MOST_LINES]
    plain = [_strip_typesetting(strip_wrapping(line)) for line in lines if line.strip()]
    found = [find_claims(line) for line in plain]
    # "B does not need energy" explains B, "B is not correct" rules it out.
    wrong = [one for line, one in zip(plain, found, strict=True) if _WRONG.search(line)]
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
    item = _ITEM.match(line)
    if item is not None:
        if _ends_list(before, item["letter"]):
            return None
        verdict = _VERDICT.match(line, item.end())
        # "(B) No" is a choice with its text, "Option B: no" says what is thought of it.
        text = line[item.end() :].strip(" .")
        if verdict is not None and (len(item[0]) > 3 or ".." in line or not _TRUTH.fullmatch(text)):
            judged = item["letter"].upper()
            other = find_claims(line).letter
            return judged if verdict["yes"] else other if other != judged else None
        return _read_payload(line)
    if len(line) == 1:
        return line
    return find_claims(_mark_suppositions(line)).letter


def _mark_suppositions(line: str) -> str:
    """The line with "might be" where it only supposes or reports an answer."""
    return _ANSWER_IS.sub(
        lambda found: f"{found[1]} might be " if is_supposed(line, found.start()) else found[0],
        line,
    )


def _read_first_line(part: str) -> str | None:
    """The letter that stands alone in the first line, where what follows only explains it."""
    first, _, rest = part.strip().partition("\n")
    letter = (
        _read_bare_letter(strip_wrapping(first)) if len(first) <= 2 * len("the answer is") else None
    )
    if letter is None or letter == "I" or not _EXPLAINS.match(rest):
        return None
    later = _find_later_claims(rest, 0)
    other = set("".join(later.chosen)) - {letter}
    return None if other or letter in later.ruled_out or _REGRETS.search(rest) else letter


def _strip_bullet(line: str) -> str:
    line = _strip_typesetting(strip_wrapping(line))
    bullet = _BULLET.match(line)
    return line[bullet.end() :] if bullet else line


def _ends_list(before: str, letter: str) -> bool:
    """Whether a line ends a list of choices, which chooses none: the item above has the letter
    before it."""
    adjacent = True
    for line in reversed(before[-8 * LONGEST :].split("\n")[-_MOST_LINES:]):
        if item := _ITEM.match(_strip_bullet(line[:LONGEST])):
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
        item = _ITEM.match(line)
        if item is None:
            continue
        judged = _read_judgment(line, item)
        if judged is None:
            return None
        (right if judged else wrong).append(item["letter"].upper())
        truths = truths or _TRUTH.search(line) is not None
    if len(right) != 1 or right[0] in wrong or len(set(wrong)) < (2 if truths else 1):
        return None
    return right[0]


def _read_judgment(line: str, item: re.Match[str]) -> bool | None:
    """What a line of a list says of its choice; None where that is unclear."""
    if verdict := _VERDICT.match(line, item.end()):
        return verdict["yes"] is not None
    kinds = {m["yes"] is not None for m in _VERDICT_ANYWHERE.finditer(line, item.end())}
    return kinds.pop() if len(kinds) == 1 else None
