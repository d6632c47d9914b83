r"""What a response says aloud: without what is only thought, and without another turn of the chat.

A reasoning model writes its thoughts between markers of its template (``<think>…</think>``,
``[THINK]…[/THINK]``, channels); where the prompt opens the thought, only the closing marker is
left, and where a decoder drops special tokens, only words of it. A guess in a thought is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_NAMES = (
    r"think(?:ing)?|thoughts?|thought_process|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|analysis"
    r"|(?:inner_?)?monologue|internal_?(?:thoughts?|reasoning)|chain_?of_?thought|cot|rationale"
)
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
_CHANNEL = re.compile(r"<\|channel\|>\s*(?:(?P<final>final)\s*(?:<\|constrain\|>[^<]{0,40})?)?")
_CHANNEL_END = re.compile(r"<\|(?:end|return|start|channel|call)\|>")
# Decoded without special tokens, the channels run together: "analysisWe add.assistantfinalIt is 5".
_DECODED = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z0-9\\$(])")
_DECODED_FINAL = re.compile(r"assistant\s?final")
_WORDED = re.compile(r"\s*Here(?:[’']s| is) my thought process:", re.IGNORECASE)
_WORDED_END = re.compile(r"Here(?:[’']s| is) my response:", re.IGNORECASE)
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
_QUOTES = "`'\"“”‘’"


@dataclass(frozen=True, slots=True)
class Span:
    """`text[start:end]` is a thought with its markers, `text[inside:close]` without them;
    `unfinished`: it has no end."""

    start: int
    inside: int
    close: int
    end: int
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Spoken:
    """A response with everything that is not said aloud blanked: as long as before, and every
    position means what it meant. `unfinished`: the response ends within a thought."""

    text: str
    unfinished: bool = False
    thought: bool = False


def spoken(response: str, *, keep_markers: bool = False) -> Spoken:
    """What is said aloud, up to where another turn of the chat begins. Takes linear time.

    What stands before a marker that closes a thought nobody opened is thought, too. With
    `keep_markers` only the inside of thoughts is blanked.
    """
    if not any(sign in response for sign in "<[◁") and not _is_worded(response):
        return Spoken(response)
    spans = list(_thoughts(response))
    unfinished = any(span.unfinished for span in spans)
    text = _blanked(
        response,
        ((s.inside, s.close) if keep_markers else (s.start, s.end) for s in spans),
    )
    return Spoken(text if keep_markers else _one_turn(text), unfinished, bool(spans))


def _is_worded(response: str) -> bool:
    return bool(_DECODED.match(response) or _WORDED.match(response))


def _thoughts(response: str) -> Iterator[Span]:
    if "<|channel|>" in response:
        yield from _channels(response)
    elif _DECODED.match(response):
        yield _up_to_last(response, _DECODED_FINAL)
    elif _WORDED.match(response):
        yield _up_to_last(response, _WORDED_END)
    else:
        yield from _marked(response)


def _up_to_last(response: str, ending: re.Pattern[str]) -> Span:
    endings = [found.span() for found in ending.finditer(response)]
    if not endings:
        return Span(0, 0, len(response), len(response), unfinished=True)
    return Span(0, 0, *endings[-1])


def _channels(response: str) -> Iterator[Span]:
    """Everything but the last final channel."""
    last = None
    for mark in _CHANNEL.finditer(response):
        last = mark if mark["final"] else last
    if last is None:
        yield Span(0, 0, len(response), len(response), unfinished=True)
        return
    begin = last.end()
    if response.startswith("<|message|>", begin):
        begin += len("<|message|>")
    end = _CHANNEL_END.search(response, begin)
    yield Span(0, 0, last.start(), begin)
    if end is not None:
        yield Span(end.start(), end.end(), len(response), len(response))


def _marked(response: str) -> Iterator[Span]:
    spans: list[Span] = []
    opened: tuple[str, re.Match[str]] | None = None
    for mark in _MARK.finditer(response):
        if _is_quoted(response, mark):
            continue
        family, closes = _family(mark)
        if opened is None and not closes:
            opened = family, mark
        elif opened is not None and closes and opened[0] == family:
            first = opened[1]
            spans.append(Span(first.start(), first.end(), mark.start(), mark.end()))
            opened = None
        elif opened is None and closes:
            spans = _closed_unopened(response, spans, mark)
    if opened is not None:
        # Before its first thought ends nobody has answered; what stood there is no answer yet.
        start = opened[1].start() if spans else 0
        spans.append(Span(start, start, len(response), len(response), unfinished=True))
    yield from spans


def _closed_unopened(response: str, spans: list[Span], mark: re.Match[str]) -> list[Span]:
    stray = spans and response[spans[-1].end : mark.start()].strip()
    if stray and not _TURN.sub("", response[mark.end() :]).strip():
        return [*spans, Span(mark.start(), mark.end(), mark.end(), mark.end())]
    return [Span(0, 0, mark.start(), mark.end())]


def _family(mark: re.Match[str]) -> tuple[str, bool]:
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


def _blanked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with spans turned into spaces and the end of a line."""
    parts: list[str] = []
    at = 0
    for start, end in spans:
        start, end = max(start, at), min(end, len(text))
        if end > start:
            parts += [text[at:start], " " * (end - start - 1), "\n"]
            at = end
    return "".join([*parts, text[at:]])


def _one_turn(text: str) -> str:
    """The text without the header of its own turn and without any later turn."""
    headers: list[tuple[int, int]] = []
    at = 0
    for mark in _TURN.finditer(text):
        if text[at : mark.start()].strip():
            return _blanked(text, [*headers, (mark.start(), len(text))])
        at = mark.end()
        headers.append(mark.span())
    return _blanked(text, headers) if headers else text
