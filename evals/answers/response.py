r"""Finds the answer of a response: without its thoughts, and up to where another question begins.

A guess in a thought is no answer (`evals.answers.thoughts`).

Other questions: a model without a stop token writes a new question after its answer, and answers
that one too. The last answer it states is then no answer to the question that was asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from evals.answers.base import AnswerReading
from evals.answers.statements import Form
from evals.answers.thoughts import Utterance, strip_thoughts

Rule = Callable[[str], AnswerReading | None]
NOTHING = AnswerReading(None, "no answer is stated")
CONTRADICTION = AnswerReading(
    None, "two different answers are stated, and no word says which holds"
)
RULES: Mapping[Form, str] = {
    "box": "the last box",
    "tag": "the last answer tag",
    "key": 'the key "answer"',
    "hashes": "what stands after ####",
    "phrase": "the last phrase that states an answer",
    "correction": "a correction after a stated answer",
}
UNFINISHED = AnswerReading(None, "the response ends within its thought")

# Bounds of the search for another question, so that a long response takes linear time.
_MOST = 8
_LONGEST_PARAGRAPH = 1000
_LEAST_WORDS = 6
# A response may begin by repeating its own question; fewer words before "Question:" are a preamble.
_PREAMBLE_WORDS = 15

# Where another turn or question begins. `joined`: a decoder has run the answer into "user". `turn`:
# the name of a speaker or of a prompt's section. `mark`: "Question 2:", "**Problem:**", also in
# other languages; with Markdown before it, it is only a heading.
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
# Quick test for a stated answer; only behind one can a paragraph be another question.
_STATED = re.compile(r"####|\\boxed|\\fbox|nswer|hope it is correct")
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*|(?<=\n)")
# A question that the model asks itself: "Wait, is that right?", "Let me check: …".
_REFLECTS = re.compile(
    r"\W*(?:wait|but|hmm|let|is|are|does|did|do|have|has|so|check|actually|no|however|could|can"
    r"|should|would|what\sif|why|now|since|because|note|to)\b"
    r"|.*\b(?:answers?|solutions?|correct|right|mistake|double-check|agents?|we|I|our|my|let['’]s)\b",
    re.IGNORECASE | re.DOTALL,
)
_WORD = re.compile(r"[^:：.)]{0,40}[:：.)][*_]{0,3}")
# The end of a question: its solution, or an empty line.
_SOLVED = re.compile(r"\n[\s*_#>]*(?:A|Answer|Solution|Response)\b|\n\s*\n")
# Verbs and words that ask without a question mark: "Find …", "Compute …".
_IMPERATIVE = re.compile(
    r"\b(?:find|compute|calculate|determine|evaluate|solve|simplify|what|how|which|who|prove|express"
    r"|write|give|factor|convert)\b",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"[.!]\s+\S")
# GSM8K's form ends a solution, so that a question in the next line is another one.
_HASHES_ABOVE = re.compile(r"####[^\n]{0,200}\s*$")


@dataclass(frozen=True, slots=True)
class _QuestionStart:
    """Where another question may begin: after the marker of a turn, with a word such as
    "Question:", with a Markdown heading, or as a paragraph that asks something."""

    start: int
    kind: Literal["turn", "word", "heading", "paragraph"]


def find_answer(response: str, stated: Rule, concluded: Rule) -> AnswerReading:
    """What `stated` finds, else what `concluded` makes of the last line, up to another question.

    A word such as "Question:" begins another one where an answer is stated before it, or where it
    asks something after so much text that it does not just repeat what was asked.
    """
    utterance = strip_thoughts(response)
    if utterance.unfinished and not utterance.text.strip():
        return UNFINISHED
    early: AnswerReading | None = None
    # The first answer before any other question counts: a later one answers that question.
    for begin in _find_question_starts(utterance.text):
        part = utterance.text[: begin.start]
        if found := stated(part):
            return _name_thought(found, utterance)
        if begin.kind == "turn" or (
            begin.kind == "word" and _is_new_question(utterance.text, begin.start)
        ):
            return _name_thought(concluded(part) or NOTHING, utterance)
        if begin.kind == "word":
            early = early or concluded(part)
    found = stated(utterance.text) or concluded(utterance.text)
    if found is None:
        return UNFINISHED if utterance.unfinished else NOTHING
    # A question word may only repeat what was asked, so that neither answer is certain.
    if early is not None and early.answer != found.answer:
        return AnswerReading(
            None, "two questions seem to be answered, and neither answer is certain"
        )
    return _name_thought(found, utterance)


def _name_thought(found: AnswerReading, utterance: Utterance) -> AnswerReading:
    return replace(found, rule=f"{found.rule}, after the thought") if utterance.thought else found


def _find_question_starts(text: str) -> list[_QuestionStart]:
    found = list(_find_marked_questions(text))
    if "?" in text and (answered := _STATED.search(text)):
        found += _find_asking_paragraphs(text, answered.end())
    return sorted(found, key=lambda begin: begin.start)[:_MOST]


def _find_marked_questions(text: str) -> Iterator[_QuestionStart]:
    for place, mark in enumerate(_BEGINNING.finditer(text)):
        if place == _MOST:
            break
        if not text[: mark.start()].strip():
            continue
        if mark["turn"] or mark["joined"]:
            yield _QuestionStart(mark.start(), "turn")
        else:
            yield _QuestionStart(mark.start(), "heading" if mark["mark"].strip() else "word")


def _find_asking_paragraphs(text: str, at: int) -> Iterator[_QuestionStart]:
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
            yield _QuestionStart(begin, "paragraph")


def _is_new_question(text: str, begin: int) -> bool:
    """Whether a full question is asked here, after more than the preamble to repeating one."""
    part = text[:begin]
    if len(part.split()) < _PREAMBLE_WORDS and "=" not in part:
        return False
    asked = _SOLVED.split(text[begin : begin + _LONGEST_PARAGRAPH], maxsplit=1)[0]
    asked = _WORD.sub("", asked, count=1)
    asks = "?" in asked or _IMPERATIVE.search(asked) is not None
    return asks and len(asked.split()) >= _LEAST_WORDS and not _REFLECTS.match(asked)
