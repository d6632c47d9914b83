r"""Finds the answer of a response: without its thoughts, and up to where another question begins.

Thoughts: a reasoning model writes them between markers of its template (``<think>…</think>``,
``[THINK]…[/THINK]``, channels). Where the prompt opens the thought, only the closing marker is
left; where a decoder drops special tokens, only words of it are left. A guess in a thought is no
answer.

Other questions: a model without a stop token writes a new question after its answer, and answers
that one too. The last answer it states is then no answer to the question that was asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from evals.answers.base import AnswerReading
from evals.answers.statements import Form

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


_NAMES = (
    r"think(?:ing)?|thoughts?|thought_process|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|analysis"
    r"|(?:inner_?)?monologue|internal_?(?:thoughts?|reasoning)|chain_?of_?thought|cot|rationale"
)
# The markers of thoughts in chat templates: <think>, ◁think▷, <seed:think>, <unused94>, [THINK],
# <｜begin▁of▁thought｜>, <|channel>. A model closes a family of markers with the same family.
_MARK = re.compile(
    rf"""
      [<◁] \|? (?P<close>\\?/)? \s{{0,2}} (?:seed:|ant_?|longcat_)? (?P<tag>{_NAMES})
      (?:\s[^<>▷]{{0,80}})? \|? [>▷]
    | <(?P<unused>unused9[45])> | <\|im_start\|>(?P<section>think|answer)\b
    | \[ (?P<capital_close>/)? (?P<capital>(?-i:THINK)) \]
    | <[|｜]? (?P<edge>begin|start|end) [_▁] (?:of[_▁])? (?P<pipe>thought|think(?:ing)?|reasoning)
      [|｜]?>
    | <\|(?P<side>open|close)\|> (?P<open>think) <\|sep\|>
    | (?P<channel><\|channel> | <channel\|>)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FAMILIES = {"thinking": "think", "thoughts": "thought", "reason": "reasoning"}
# OpenAI's harmony format: only the last "final" channel is the answer.
_CHANNEL = re.compile(r"<\|channel\|>\s*(?:(?P<final>final)\s*(?:<\|constrain\|>[^<]{0,40})?)?")
_CHANNEL_END = re.compile(r"<\|(?:end|return|start|channel|call)\|>")
# Decoded without special tokens, the channels run together: "analysisWe add.assistantfinalIt is 5".
_DECODED = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z0-9\\$(])")
_DECODED_FINAL = re.compile(r"assistant\s?final")
# Granite writes its thoughts behind these words instead of between markers.
_WORDED = re.compile(r"\s*Here(?:[’']s| is) my thought process:", re.IGNORECASE)
_WORDED_END = re.compile(r"Here(?:[’']s| is) my response:", re.IGNORECASE)
# Markers at the start or end of a turn, over all common templates, with the role behind them.
_TURN = re.compile(
    r"""
    (?: <[|｜] (?: im_(?:end|start) | eot_id | eom_id | end[_▁]?of[_▁]?(?:text|turn|sentence)
          | endoftext | end_turn | end | return | start | start_header_id | begin_of_text | eos
          | user | assistant | system | turn | bot | human ) [|｜]?>
      | </?s> | <eos> | <bos> | <(?:start|end)_of_turn> | <\|turn> | <turn\|>
      | \[/?INST\] | <</?SYS>> )
    (?P<role> \s* (?:assistant|model|user|system)? \s* (?:<\|end_header_id\|>|<\|message\|>)? )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# A marker in quotes is spoken of, not used: write `<think>` to open a thought.
_QUOTES = "`'\"“”‘’"


@dataclass(frozen=True, slots=True)
class ThoughtSpan:
    """`text[start:end]` is a thought with its markers, `text[inside:close]` without them;
    `unfinished`: it has no end."""

    start: int
    inside: int
    close: int
    end: int
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Utterance:
    """A response in which thoughts are blanked: as long as before, so that every
    position means what it meant. `unfinished`: the response ends within a thought."""

    text: str
    unfinished: bool = False
    thought: bool = False


def strip_thoughts(response: str, *, keep_markers: bool = False) -> Utterance:
    """The response without its thoughts, up to another turn of the chat. Takes linear time.

    Text before a closing marker without an opening one is thought, too. With
    `keep_markers` only the inside of thoughts is blanked.
    """
    if not any(sign in response for sign in "<[◁") and not _opens_with_thought_words(response):
        return Utterance(response)
    spans = list(_find_thoughts(response))
    unfinished = any(span.unfinished for span in spans)
    text = _blank_spans(
        response,
        ((s.inside, s.close) if keep_markers else (s.start, s.end) for s in spans),
    )
    return Utterance(text if keep_markers else _keep_own_turn(text), unfinished, bool(spans))


def _opens_with_thought_words(response: str) -> bool:
    return bool(_DECODED.match(response) or _WORDED.match(response))


def _find_thoughts(response: str) -> Iterator[ThoughtSpan]:
    if "<|channel|>" in response:
        yield from _find_channel_thoughts(response)
    elif _DECODED.match(response):
        yield _span_up_to_last(response, _DECODED_FINAL)
    elif _WORDED.match(response):
        yield _span_up_to_last(response, _WORDED_END)
    else:
        yield from _find_marked_thoughts(response)


def _span_up_to_last(response: str, ending: re.Pattern[str]) -> ThoughtSpan:
    endings = [found.span() for found in ending.finditer(response)]
    if not endings:
        return ThoughtSpan(0, 0, len(response), len(response), unfinished=True)
    return ThoughtSpan(0, 0, *endings[-1])


def _find_channel_thoughts(response: str) -> Iterator[ThoughtSpan]:
    """Everything but the last final channel."""
    last = None
    for mark in _CHANNEL.finditer(response):
        last = mark if mark["final"] else last
    if last is None:
        yield ThoughtSpan(0, 0, len(response), len(response), unfinished=True)
        return
    begin = last.end()
    if response.startswith("<|message|>", begin):
        begin += len("<|message|>")
    end = _CHANNEL_END.search(response, begin)
    yield ThoughtSpan(0, 0, last.start(), begin)
    if end is not None:
        yield ThoughtSpan(end.start(), end.end(), len(response), len(response))


def _find_marked_thoughts(response: str) -> Iterator[ThoughtSpan]:
    spans: list[ThoughtSpan] = []
    opened: tuple[str, re.Match[str]] | None = None
    for mark in _MARK.finditer(response):
        if _is_quoted(response, mark):
            continue
        family, closes = _classify_marker(mark)
        if opened is None and not closes:
            opened = family, mark
        elif opened is not None and closes and opened[0] == family:
            first = opened[1]
            spans.append(ThoughtSpan(first.start(), first.end(), mark.start(), mark.end()))
            opened = None
        # The prompt opened the thought: all text before its closing marker is thought.
        elif opened is None and closes:
            spans = _close_unopened(response, spans, mark)
    if opened is not None:
        # Text before the first thought is no answer while that thought has not ended.
        start = opened[1].start() if spans else 0
        spans.append(ThoughtSpan(start, start, len(response), len(response), unfinished=True))
    yield from spans


def _close_unopened(
    response: str, spans: list[ThoughtSpan], mark: re.Match[str]
) -> list[ThoughtSpan]:
    stray = spans and response[spans[-1].end : mark.start()].strip()
    if stray and not _TURN.sub("", response[mark.end() :]).strip():
        return [*spans, ThoughtSpan(mark.start(), mark.end(), mark.end(), mark.end())]
    return [ThoughtSpan(0, 0, mark.start(), mark.end())]


def _classify_marker(mark: re.Match[str]) -> tuple[str, bool]:
    if mark["channel"]:
        return "channel", mark["channel"].lower() == "<channel|>"
    if mark["unused"] or mark["section"]:
        return "section", mark["unused"] == "unused95" or mark["section"] == "answer"
    name = (mark["tag"] or mark["capital"] or mark["pipe"] or mark["open"]).lower()
    closes = bool(mark["close"] or mark["capital_close"])
    closes = closes or (mark["edge"] or mark["side"] or "").lower() in ("end", "close")
    return _FAMILIES.get(name, name), closes


def _is_quoted(response: str, mark: re.Match[str]) -> bool:
    return response[mark.start() - 1 : mark.start()] in tuple(_QUOTES) and (
        response[mark.end() : mark.end() + 1] in tuple(_QUOTES)
    )


def _blank_spans(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with spans turned into spaces and the end of a line."""
    parts: list[str] = []
    at = 0
    for start, end in spans:
        start, end = max(start, at), min(end, len(text))
        if end > start:
            parts += [text[at:start], " " * (end - start - 1), "\n"]
            at = end
    return "".join([*parts, text[at:]])


def _keep_own_turn(text: str) -> str:
    """The text without the header of its own turn and without any later turn."""
    headers: list[tuple[int, int]] = []
    at = 0
    for mark in _TURN.finditer(text):
        if text[at : mark.start()].strip():
            return _blank_spans(text, [*headers, (mark.start(), len(text))])
        at = mark.end()
        headers.append(mark.span())
    return _blank_spans(text, headers) if headers else text
