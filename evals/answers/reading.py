"""From a response to its answer: thoughts aside, and only up to where another question begins.

A model without a stop token goes on after its answer with a question of its own and answers that
one, too. What it states last is then no answer to what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from evals.answers.stated import Form
from evals.answers.thoughts import Spoken, spoken


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer of a response, or None, and in a few words which rule found it or why not."""

    answer: str | None
    rule: str


Rule = Callable[[str], Reading | None]
NOTHING = Reading(None, "no answer is stated")
CONTRADICTION = Reading(None, "two different answers are stated, and no word says which holds")
RULES: Mapping[Form, str] = {
    "box": "the last box",
    "tag": "the last answer tag",
    "key": 'the key "answer"',
    "hashes": "what stands after ####",
    "phrase": "the last phrase that states an answer",
    "correction": "a correction after a stated answer",
}
UNFINISHED = Reading(None, "the response ends within its thought")

_MOST = 8
_LONGEST_PARAGRAPH = 1000
_LEAST_WORDS = 6
_PREAMBLE_WORDS = 15

_BEGINNING = re.compile(
    r"""
    (?<=[.!?)}\]0-9*$]) (?P<joined> (?:assistant|user) [ \t]*$ )
    | ^[ \t]{0,8}
    (?: (?P<turn> (?:user|human)[ \t]*$
      | (?: \#{1,4}[ ]? (?:Instruction|Human|User|Input|Prompt|Question)s?\b
                    | \[?(?:Human|User|Instruction|Instruct|USER|HUMAN)\]?[ ]?: ) )
      | (?P<mark>[*_\#>]{0,6}[ ]?) (?:\d{1,2}[.)][ ])?
        (?: (?:Here(?:['’]s|[ ]is)[ ])?
            (?:(?:Another|A|The|Next|New|Similar|Related|Follow-?up|Bonus|Sample)[ ]){1,2} )?
        (?: (?:Question|Problem|Exercise|Puzzle|Riddle|Task|Frage|Aufgabe|Pregunta|Pergunta
              |QUESTION|PROBLEM|question|problem)s? | Q(?=[ ]?\d{0,3}[*_]{0,3}[:.]) | 问题 | 题目 )
        (?:[ ]?\#?\d{1,3})? [*_]{0,3}[ ]? (?: [:：.)] | (?<=\d|\*|_) [ \t]*$ ) )
    """,
    re.VERBOSE | re.MULTILINE,
)
_STATED = re.compile(r"####|\\boxed|\\fbox|nswer|hope it is correct")
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*|(?<=\n)")
_REFLECTS = re.compile(
    r"\W*(?:wait|but|hmm|let|is|are|does|did|do|have|has|so|check|actually|no|however|could|can"
    r"|should|would|what\sif|why|now|since|because|note|to)\b"
    r"|.*\b(?:answers?|solutions?|correct|right|mistake|double-check|agents?|we|I|our|my|let['’]s)\b",
    re.IGNORECASE | re.DOTALL,
)
_WORD = re.compile(r"[^:：.)]{0,40}[:：.)][*_]{0,3}")
_SOLVED = re.compile(r"\n[\s*_#>]*(?:A|Answer|Solution|Response)\b|\n\s*\n")
_IMPERATIVE = re.compile(
    r"\b(?:find|compute|calculate|determine|evaluate|solve|simplify|what|how|which|who|prove|express"
    r"|write|give|factor|convert)\b",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"[.!]\s+\S")
_HASHES_ABOVE = re.compile(r"####[^\n]{0,200}\s*$")


@dataclass(frozen=True, slots=True)
class _Beginning:
    """Where another question may begin: after the marker of a turn, with a word such as
    "Question:", with a Markdown heading, or as a paragraph that asks something."""

    start: int
    kind: Literal["turn", "word", "heading", "paragraph"]


def read_first(response: str, stated: Rule, concluded: Rule) -> Reading:
    """What `stated` finds, else what `concluded` makes of the last line, up to another question.

    A word such as "Question:" begins another one where an answer is stated before it, or where it
    asks something after so much text that it does not just repeat what was asked.
    """
    said = spoken(response)
    if said.unfinished and not said.text.strip():
        return UNFINISHED
    early: Reading | None = None
    for begin in _beginnings(said.text):
        part = said.text[: begin.start]
        if found := stated(part):
            return _noted(found, said)
        if begin.kind == "turn" or (begin.kind == "word" and _is_another(said.text, begin.start)):
            return _noted(concluded(part) or NOTHING, said)
        if begin.kind == "word":
            early = early or concluded(part)
    found = stated(said.text) or concluded(said.text)
    if found is None:
        return UNFINISHED if said.unfinished else NOTHING
    if early is not None and early.answer != found.answer:
        return Reading(None, "two questions seem to be answered, and neither answer is certain")
    return _noted(found, said)


def _noted(found: Reading, said: Spoken) -> Reading:
    return replace(found, rule=f"{found.rule}, after the thought") if said.thought else found


def _beginnings(text: str) -> list[_Beginning]:
    found = list(_marked(text))
    if "?" in text and (answered := _STATED.search(text)):
        found += _asked(text, answered.end())
    return sorted(found, key=lambda begin: begin.start)[:_MOST]


def _marked(text: str) -> Iterator[_Beginning]:
    for place, mark in enumerate(_BEGINNING.finditer(text)):
        if place == _MOST:
            break
        if not text[: mark.start()].strip():
            continue
        if mark["turn"] or mark["joined"]:
            yield _Beginning(mark.start(), "turn")
        else:
            yield _Beginning(mark.start(), "heading" if mark["mark"].strip() else "word")


def _asked(text: str, at: int) -> Iterator[_Beginning]:
    """Paragraphs that tell something and ask about it, after an answer may have been stated."""
    for place, gap in enumerate(_PARAGRAPH.finditer(text, at)):
        if place > 10 * _MOST:
            break
        begin = gap.end()
        end = text.find("\n", begin, begin + _LONGEST_PARAGRAPH)
        line = text[begin : end if end >= 0 else begin + _LONGEST_PARAGRAPH].strip()
        if not line.endswith(("?", '?"', "?”", "?)")) or len(line.split()) < _LEAST_WORDS:
            continue
        hashed = _HASHES_ABOVE.search(text, max(0, begin - 300), begin)
        tells = _SENTENCES.search(line) and gap[0].count("\n") > 1
        if (hashed or tells) and not _REFLECTS.match(line):
            yield _Beginning(begin, "paragraph")


def _is_another(text: str, begin: int) -> bool:
    """Whether a full question is asked here, after more than the preamble to repeating one."""
    part = text[:begin]
    if len(part.split()) < _PREAMBLE_WORDS and "=" not in part:
        return False
    asked = _SOLVED.split(text[begin : begin + _LONGEST_PARAGRAPH], maxsplit=1)[0]
    asked = _WORD.sub("", asked, count=1)
    asks = "?" in asked or _IMPERATIVE.search(asked) is not None
    return asks and len(asked.split()) >= _LEAST_WORDS and not _REFLECTS.match(asked)
