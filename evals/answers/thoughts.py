r"""Tells the thoughts of a response from its answer.

A reasoning model writes its thoughts between markers of its template (``<think>…</think>``,
``[THINK]…[/THINK]``, channels). Where the prompt opens the thought, only the closing marker is
left; where a decoder drops special tokens, only words of it are left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class SplitResponse:
    """A response in its two parts, both without outer whitespace if there is a thought.

    `thought` has its markers, and is "" where there is none: then `answer` is the whole response.
    """

    thought: str
    answer: str

    @property
    def is_thought_only(self) -> bool:
        """Whether the response has a thought and nothing after it."""
        return bool(self.thought) and not self.answer


def split_response(response: str) -> SplitResponse:
    r"""The response's thoughts, and the answer outside of them. Takes linear time.

    >>> split_response("<think>\n3+4 is 7.\n</think>\n\nIt is 7.")
    SplitResponse(thought='<think>\n3+4 is 7.\n</think>', answer='It is 7.')
    """
    if not _may_think(response):
        return SplitResponse("", response)
    thoughts: list[str] = []
    answers: list[str] = []
    at = 0
    for span in _find_thoughts(response):
        start, end = max(span.start, at), min(span.end, len(response))
        if end > start:
            answers.append(response[at:start])
            thoughts.append(response[start:end])
            at = end
    if not thoughts:
        return SplitResponse("", response)
    answers.append(response[at:])
    return SplitResponse("".join(thoughts).strip(), "".join(answers).strip())


def set_thought_apart(response: str) -> tuple[str | None, str]:
    """A response as (thought, text): one that never gets beyond its thought has no text.

    >>> set_thought_apart("<think>3+4 is")
    ('<think>3+4 is', '')
    >>> set_thought_apart("<think>3+4</think> 7")
    (None, '<think>3+4</think> 7')
    """
    return (response, "") if split_response(response).is_thought_only else (None, response)


def strip_thoughts(response: str, *, keep_markers: bool = False) -> Utterance:
    """The response without its thoughts, up to another turn of the chat. Takes linear time.

    Text before a closing marker without an opening one is thought, too. With
    `keep_markers` only the inside of thoughts is blanked.
    """
    if not _may_think(response):
        return Utterance(response)
    spans = list(_find_thoughts(response))
    unfinished = any(span.unfinished for span in spans)
    text = _blank_spans(
        response,
        ((s.inside, s.close) if keep_markers else (s.start, s.end) for s in spans),
    )
    return Utterance(text if keep_markers else _keep_own_turn(text), unfinished, bool(spans))


def _may_think(response: str) -> bool:
    """A quick test that most responses without thoughts fail."""
    marked = any(sign in response for sign in "<[◁")
    return marked or bool(_DECODED.match(response) or _WORDED.match(response))


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
