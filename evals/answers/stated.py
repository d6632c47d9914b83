r"""Where a response states its final answer.

Four forms are known: a closed ``\boxed{…}``; GSM8K's ``#### 18`` (Cobbe et al. 2021, arXiv
2110.14168); a line such as ``A: 18``, ``**Answer:** 18``, ``Final Answer: $18$``; and a phrase such
as "the answer is 18" or Minerva's "The final answer is $X$. I hope it is correct." (Lewkowycz et
al. 2022, arXiv 2206.14858). A kind of answer goes through `statements` from the last to the first
and takes the first it can read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from evals.answers.boxes import Box, boxes

LONGEST = 1000
"""Characters; a stated answer that is longer is no answer."""

Form = Literal["box", "hashes", "phrase"]

_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n#]*)")
_HEADING = re.compile(r"[0-9]{1,2}[.)]\s+\S")
_NUMERIC = re.compile(r"[-+−*$€£(\\ ]{0,6}[0-9.½⅓¼¾]")
_MARKER = re.compile(
    r"""
      (?P<others>                        # "Agent 2's answer is", "we check the answer:"
        \b(?:check|verify)(?:ing)?\s{1,4}(?:\w{1,20}\s{1,4})?answers?\s{0,4}[:：]
      | (?: \b(?:their|his|her|other)
          | \b(?:agent|solution|response|model|assistant)s?(?:[ ]\w{1,10})?['’]s? )
        \s{1,4} (?:\w{1,20}\s{1,4})? answers?\b )
    | (?: ^[ \t>\#*_~-]{0,12} (?P<letter>(?-i:A)) [*_]{0,3} [ ]? [:：]
        | \bfinal\s{1,2}answer [*_]{0,3} [ \t]{0,4} $
        | \b(?: answers? (?! \s{1,4}(?:the|each|every|all|a|any)\b )
              (?: \schoice(?=\s(?:is|was)\b) | (?!\schoice\b) )
            | (?:correct|right)\s(?:option|choice) )\b
          [*_"”'’)\]]{0,4}
          (?: \s{0,4} [:：=]
            | (?: \s{1,4} (?!as\b) [\w'’,-]{1,20} ){0,6}?
              \s{1,4} (?P<verb> is | was | are | equals | (?:will|would|should|must)\sbe
                        | comes\s(?:out\s)?to ) (?![\w'’])
          )
      )
      (?: \s{1,4} (?: then | thus | therefore | hence | simply | just | exactly | indeed | still
                    | now | clearly | actually | definitely | also | equal\sto | given\sby ),? \b
      ){0,2}
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
# "A: 18" above "B: 20" is a list of choices.
_NEXT_CHOICE = re.compile(r"[^\n]{0,200}\n\s{0,4}[*_(]{0,3}B[*_]{0,3}[ ]?[:：.)]")
_JUDGED = re.compile(
    r"(?:not|(?:in)?correct|wrong|asked|found|obtained|verified|confirmed|reasonable|consistent"
    r"|unclear|unknown)\b",
    re.IGNORECASE,
)
_LEAD = re.compile(r"[ \t]*(?:[:：=][ \t]*)?(?:[*_]{1,3}(?=\s|$))?[ \t]*")
_SENTENCE_END = re.compile(
    r"""
    (?: (?<!\b[A-Z]) (?<!\bSt) (?<!\b[DM]r) (?<!\bM[st]) (?<!\bMrs) (?<!\b[JS]r) (?<!\bvs)
        (?<!\bca) (?<!approx) (?<!\be\.g) (?<!\bi\.e) \.
      | \. (?=\s{1,4}I\ hope)
      | (?<!\\) (?P<raised>[!?]) )
    (?= [*_)"'”’\]$]{0,6} (?:\s|$) )
    """,
    re.VERBOSE,
)
_DISPLAYS = (("$$", "$$"), ("\\[", "\\]"))
_WRAPPINGS = (*_DISPLAYS, ("\\(", "\\)"), ("$", "$"), ("**", "**"), ("__", "__"), ("`", "`"))
_BOLD = re.compile(r"(?<![\w)*])\*\*([^*\n]+)\*\*(?![\w*])")
_HALF_BOLD = re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?![\w(*])")
_SHORT = re.compile(r"\S+(?: \S+){0,2}")
_WORKING = re.compile(r"[0-9][^=]*=")


@dataclass(frozen=True, slots=True)
class Statement:
    """An answer stated in `response[start:end]`.

    `text` is the bare payload: at most `LONGEST` characters, never blank, without the marker, the
    ``$…$`` or Markdown around all of it and, in a phrase, the full stop. Inside it is as it was.
    """

    start: int
    end: int
    text: str
    form: Form


def statements(response: str) -> list[Statement]:
    r"""Every answer a response states, in order of position; the last readable one counts.

    - Of boxes within boxes the innermost speak; an unclosed ``\boxed{`` states nothing.
    - A phrase whose payload holds a box, and a phrase within a box, give way to the box.
    - A phrase runs to the end of its sentence or line; after "The answer is:" at the end of a
      line the payload is the next line, where that stands alone. A question states nothing, nor
      do "the answer is correct", "the answer is not 5" and "Agent 2's answer is 5".

    Never raises; takes linear time.
    """
    held = boxes(response)
    found = [
        Statement(box.start, box.end, bare(response[box.inside : box.close]), "box")
        for box in held.innermost
        if box.close - box.inside <= LONGEST
    ]
    found.extend(_outside([*_hashes(response), *_phrases(response)], held.outermost))
    return sorted((s for s in found if s.text), key=lambda s: s.start)


def bare(text: str) -> str:
    """A payload without the white space, the math delimiters and the Markdown around all of it."""
    text = text.strip()
    for _ in range(8):
        stripped = _HALF_BOLD.sub("", _BOLD.sub(r"\1", text)).strip()
        for opening, closing in _WRAPPINGS:
            inside = stripped[len(opening) : len(stripped) - len(closing)]
            wrapped = stripped.startswith(opening) and stripped.endswith(closing)
            if wrapped and inside.strip() and opening not in inside and closing not in inside:
                stripped = inside.strip()
        if stripped == text:
            break
        text = stripped
    return text


def _outside(found: list[Statement], closed: tuple[Box, ...]) -> Iterator[Statement]:
    remaining = iter(closed)
    box = next(remaining, None)
    for statement in sorted(found, key=lambda s: s.start):
        while box is not None and box.end <= statement.start:
            box = next(remaining, None)
        if box is None or statement.start < box.start:
            yield statement


def _hashes(response: str) -> Iterator[Statement]:
    last_line = len(response.rstrip())
    for match in _HASHES.finditer(response):
        start, end = match.span(1)
        text = _sentence(match[1]) if end - start <= LONGEST else None
        if text is None or _HEADING.match(match[1]):
            continue
        # Other lines that begin so are Markdown headings.
        if _NUMERIC.match(text) or end >= last_line:
            yield Statement(match.start(), end, text, "hashes")


def _phrases(response: str) -> Iterator[Statement]:
    markers = [*_MARKER.finditer(response)]
    stops = [*(marker.start() for marker in markers[1:]), len(response)]
    for marker, stop in zip(markers, stops, strict=False):
        at = marker.end()
        if marker["others"] or (marker["letter"] and _NEXT_CHOICE.match(response, at)):
            continue
        lead = _LEAD.match(response, at, stop)
        at = lead.end() if lead else at
        # "Answer:" alone may be a heading above the working.
        heads = not marker["verb"] and "final" not in marker[0].lower()
        span = _display(response, at, stop, heads) or _line(response, at, stop)
        text = None if span is None else _sentence(response[slice(*span)])
        if span is None or not text or (marker["verb"] and _JUDGED.match(text)):
            continue
        yield Statement(marker.start(), span[1], text, "phrase")


def _display(response: str, at: int, stop: int, heads: bool) -> tuple[int, int] | None:
    """The inside of the display formula that comes next, on this line or below."""
    at = _skip_space(response, at, stop)
    for opening, closing in _DISPLAYS:
        if response.startswith(opening, at):
            inside = at + len(opening)
            close = response.find(closing, inside, min(stop, inside + LONGEST + len(closing)))
            if close > inside and not (heads and _WORKING.search(response, inside, close)):
                return inside, close
    return None


def _line(response: str, at: int, stop: int) -> tuple[int, int] | None:
    """The rest of this line or, where nothing is left of it, the next if that stands alone."""
    end = _line_end(response, at, stop)
    if response[at:end].strip():
        return at, end
    at = _skip_space(response, end, stop)
    end = _line_end(response, at, stop)
    line = response[at:end].strip()
    last = not response[end : end + LONGEST].strip()
    alone = _SHORT.fullmatch(line) is not None and not _WORKING.search(line)
    return (at, end) if any(map(str.isalnum, line)) and (last or alone) else None


def _skip_space(text: str, at: int, stop: int) -> int:
    while at < stop and text[at].isspace():
        at += 1
    return at


def _line_end(text: str, at: int, stop: int) -> int:
    limit = min(stop, at + LONGEST + 1)
    end = text.find("\n", at, limit)
    return limit if end < 0 else end


def _sentence(text: str) -> str | None:
    """The first sentence, bare; None for a question, one that holds a box, one that never ends."""
    for end in _SENTENCE_END.finditer(text):
        if end["raised"] == "?":
            return None
        # A factorial inside of $…$ raises no voice.
        if end["raised"] is None or text.count("$", 0, end.start()) % 2 == 0:
            text = text[: end.start()]
            break
    if len(text) > LONGEST or "\\boxed" in text or "\\fbox" in text:
        return None
    text = bare(text).rstrip(".,;:")
    # An interval may close with another bracket than it opens with.
    if text.endswith(")") and sum(map(text.count, ")]")) > sum(map(text.count, "([")):
        text = text[:-1]
    return bare(text)
