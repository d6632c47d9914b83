r"""Where a response states its final answer.

Known forms: a closed ``\boxed{…}``; an answer tag or key (``<answer>18</answer>``,
``{"answer": 18}``); GSM8K's ``#### 18`` (Cobbe et al. 2021, arXiv 2110.14168); a line such as
``A: 18``, ``**Answer:** 18``, ``Final Answer: $18$``; a phrase such as "the answer is 18" or
Minerva's "The final answer is $X$. I hope it is correct." (Lewkowycz et al. 2022, arXiv
2206.14858); and, after any of these, a correction such as "Wait, it is 19." A kind of answer goes
through `find_statements` from the last to the first and takes the first it can read.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from evals.answers import negation
from evals.answers.markup import Box, find_boxes, find_keys, find_tags

LONGEST = 1000
"""Characters; a stated answer that is longer is no answer."""

Form = Literal["box", "tag", "key", "hashes", "phrase", "correction"]

# GSM8K's "#### 18": exactly four hashes; the answer ends with the line or at another hash.
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n#]*)")
# "#### 2. Multiply the eggs" is a Markdown heading, no answer.
_HEADING = re.compile(r"[0-9]{1,2}[.)]\s+\S")
_NUMERIC = re.compile(r"[-+−*$€£(\\ ]{0,6}[0-9.½⅓¼¾]")
# The words before an answer. The group `others` comes first: it takes what looks like a marker but
# is about the answer of another agent, or about checking an answer. All
# repetitions are bounded, so that the search stays linear on hostile text.
_MARKER = re.compile(
    r"""
      (?P<others>                        # "Agent 2's answer is", "we check the answer:"
        \b(?:check|verify)(?:ing)?\s{1,4}(?:\w{1,20}\s{1,4})?answers?\s{0,4}[:：]
      | (?: \b(?:their|his|her|other)
          | \b(?:agent|solution|response|model|assistant)s?(?:[ ]\w{1,10})?['’]s? )
        \s{1,4} (?:\w{1,20}\s{1,4})? answers?\b )
    | (?: ^[ \t>\#*_~-]{0,12} (?P<letter>(?-i:A)) [*_]{0,3} [ ]? [:：]
        | \bfinal\s{1,2}answer [*_]{0,3} [ \t]{0,4} $
        | ^[ \t]{0,4} (?:\#{1,6}[ ]|\*\*) [*_ ]{0,3} answer [*_]{0,3} [ \t]{0,4} $
        | \b(?: answers? (?! \s{1,4}(?:the|each|every|all|a|any)\b )
              (?: \schoice(?=\s(?:is|was)\b) | (?!\schoice\b) )
            | (?:correct|right)\s(?:option|choice) | ans(?=[*_]{0,3}\s?[:：]) )\b
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
# "The answer is correct", "the answer was found to be": words about an answer, not the answer.
_JUDGED = re.compile(
    r"(?:not|(?:in)?correct|wrong|asked|found|obtained|verified|confirmed|reasonable|consistent"
    r"|unclear|unknown)\b",
    re.IGNORECASE,
)
# What may stand between the marker and the answer: a colon, opening Markdown, spaces.
_LEAD = re.compile(r"[ \t]*(?:[:：=][ \t]*)?(?:[*_]{1,3}(?=\s|$))?[ \t]*")
# The end of a sentence, but not the point of "St. Louis", "J. K. Rowling", "e.g." or "3.50".
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
# "**18**" around a word, but not the power in "2**3**2".
_BOLD = re.compile(r"(?<![\w)*])\*\*([^*\n]+)\*\*(?![\w*])")
# One half of "**…**" whose other half lies outside of the payload.
_HALF_BOLD = re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?![\w(*])")
# What joins two boxes to one answer: "and", "or", a comma, LaTeX spacing, and "y =" before the
# second.
_JOINT = re.compile(
    r"""
    [\s$.)*\\]{0,8}
    (?: (?: , | ; | & | \\(?:quad|qquad|text|mbox|mathrm|lor|vee|land|wedge)(?![A-Za-z])
          | (?<![A-Za-z]) (?:and|or|und) (?![A-Za-z]) ) [\s$,{}~\\]{0,8} ){1,5}
    (?:also\s)? [\s$(*\\]{0,8}
    (?: [A-Za-z](?:_\{?\w{1,3}\}?|'{1,2})? (?:\([A-Za-z]\))? \s? = [\s$]{0,4} )?
    """,
    re.VERBOSE,
)
# "x =" right before a box.
_NAMED = re.compile(r"([A-Za-z](?:_\{?\w{1,3}\}?|'{1,2})?)\s?=[\s$]{0,4}$")
_SHORT = re.compile(r"\S+(?: \S+){0,2}")
# "16 - 3 = …" in the line after "Answer:" is the working, not the answer.
_WORKING = re.compile(r"[0-9][^=]*=")


@dataclass(frozen=True, slots=True)
class Statement:
    """An answer stated in `response[start:end]`.

    `text` is the bare payload: at most `LONGEST` characters, never blank, without the marker, the
    ``$…$`` or Markdown around all of it and, in a phrase, the full stop. Inside it is as it was.
    `parts` are the payloads of several boxes in a row ("4 or -9"), which state one answer together.
    """

    start: int
    end: int
    text: str
    form: Form
    parts: tuple[str, ...] = ()


def find_statements(response: str) -> list[Statement]:
    r"""Every answer a response states, in order of position; the last readable one counts.

    - Of boxes within boxes the innermost speak; an unclosed ``\boxed{`` states nothing. Boxes with
      only "and", "or", a comma between them are one statement.
    - A phrase whose payload holds a box, and a phrase within a box, give way to the box; a tag
      gives way to what is stated within it.
    - A phrase runs to the end of its sentence or line; after "The answer is:" at the end of a
      line the payload is the next line, where that stands alone. A question states nothing, nor
      do "the answer is correct", "the answer is not 5" and "Agent 2's answer is 5".
    - What is supposed, denied or taken back right away states nothing: "if the answer is 5", "not
      \boxed{5}", "the answer is 5. Wait, that is wrong."

    Never raises; takes linear time.
    """
    return list(_find_all(response))


def find_boxed_statements(response: str) -> list[Statement]:
    """Those of the statements that are boxes; much quicker."""
    return [s for s in _join_boxes(response, find_boxes(response).innermost) if s.text]


@lru_cache(maxsize=8)
def _find_all(response: str) -> tuple[Statement, ...]:
    held = find_boxes(response)
    found = list(_join_boxes(response, held.innermost))
    others = [*_find_keyed_statements(response), *_find_hash_statements(response)]
    others.extend(_find_phrases(response, [(s.start, s.end) for s in others if s.form == "key"]))
    found.extend(_drop_inside_boxes(others, held.outermost))
    found.extend(_find_tagged_statements(response, found, held.outermost))
    if found:
        first = min(found, key=lambda s: s.start)
        found.extend(
            _drop_inside_boxes(
                _find_correction_statements(response, first.end, found), held.outermost
            )
        )
    return tuple(sorted((s for s in found if s.text), key=lambda s: s.start))


def _join_boxes(response: str, innermost: Sequence[Box]) -> Iterator[Statement]:
    # Boxes that only a joint separates state one answer together and form a row.
    rows: list[list[Box]] = []
    for box in innermost:
        if box.close - box.inside > LONGEST:
            continue
        between = (rows[-1][-1].end, box.start) if rows else (0, 0)
        joined = rows and between[1] - between[0] <= 60 and _JOINT.fullmatch(response, *between)
        if joined:
            rows[-1].append(box)
        else:
            rows.append([box])
    for row in rows:
        start, end = row[0].start, row[-1].end
        if negation.is_denied(response, start) or negation.is_taken_back(response, end):
            continue
        parts = tuple(strip_wrapping(response[box.inside : box.close]) for box in row)
        text = parts[0] if len(set(parts)) == 1 else ", ".join(_add_names(response, row, parts))
        if len(text) <= LONGEST:
            yield Statement(start, end, text, "box", parts if len(parts) > 1 else ())


def _add_names(response: str, row: Sequence[Box], parts: Sequence[str]) -> Sequence[str]:
    """The payloads, with the names before their boxes where the names differ."""
    named = [_NAMED.search(response, max(0, box.start - 16), box.start) for box in row]
    names = [found[1] for found in named if found]
    if len(names) != len(parts) or len(set(names)) == 1:
        return parts
    return [f"{name} = {part}" for name, part in zip(names, parts, strict=True)]


def _find_keyed_statements(response: str) -> Iterator[Statement]:
    if '"' in response or "'" in response:
        for start, end, value in find_keys(response):
            yield Statement(start, end, strip_wrapping(value[: LONGEST + 1])[:LONGEST], "key")


def _find_tagged_statements(
    response: str, found: Sequence[Statement], closed: tuple[Box, ...]
) -> Iterator[Statement]:
    if "<" not in response and "[" not in response:
        return
    stated = sorted(s.start for s in found)
    boxed = [box.end for box in closed]
    for start, inside, close, end in find_tags(response):
        place = bisect_left(stated, inside)
        if place < len(stated) and stated[place] < close:
            continue
        place = bisect_right(boxed, inside)
        if place < len(closed) and closed[place].start < close:
            continue
        text = response[inside:close]
        if len(text.strip()) <= LONGEST and not negation.is_taken_back(response, end):
            yield Statement(start, end, strip_wrapping(text), "tag")


def _find_correction_statements(
    response: str, begin: int, found: Sequence[Statement]
) -> Iterator[Statement]:
    stated = sorted(found, key=lambda s: s.start)
    starts = [s.start for s in stated]
    for start, end, value in negation.find_corrections(response, begin):
        place = bisect_right(starts, start)
        within = place > 0 and stated[place - 1].end > start
        if not within and not (place < len(starts) and starts[place] < end):
            yield Statement(start, end, strip_wrapping(value).rstrip(".,;:"), "correction")


def strip_wrapping(text: str) -> str:
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


def _drop_inside_boxes(found: Iterable[Statement], closed: tuple[Box, ...]) -> Iterator[Statement]:
    # Both are in order of position, so one pass over each finds what lies inside a box.
    remaining = iter(closed)
    box = next(remaining, None)
    for statement in sorted(found, key=lambda s: s.start):
        while box is not None and box.end <= statement.start:
            box = next(remaining, None)
        if box is None or statement.start < box.start:
            yield statement


def _find_hash_statements(response: str) -> Iterator[Statement]:
    last_line = len(response.rstrip())
    for match in _HASHES.finditer(response):
        start, end = match.span(1)
        text = _read_sentence(match[1]) if end - start <= LONGEST else None
        if text is None or _HEADING.match(match[1]):
            continue
        # Other lines that begin so are Markdown headings.
        heads = not (_NUMERIC.match(text) or end >= last_line)
        if not heads and not negation.is_taken_back(response, end):
            yield Statement(match.start(), end, text, "hashes")


def _find_phrases(response: str, keys: Sequence[tuple[int, int]]) -> Iterator[Statement]:
    """Phrases outside of `keys`, where "answer" is a key of JSON."""
    markers = [
        marker for marker in _MARKER.finditer(response) if not _is_within(marker.start(), keys)
    ]
    stops = [*(marker.start() for marker in markers[1:]), len(response)]
    for marker, stop in zip(markers, stops, strict=False):
        at = marker.end()
        if marker["others"] or (marker["letter"] and _NEXT_CHOICE.match(response, at)):
            continue
        lead = _LEAD.match(response, at, stop)
        at = lead.end() if lead else at
        # "Answer:" alone may be a heading above the working.
        heads = not marker["verb"] and "final" not in marker[0].lower()
        span = _find_display(response, at, stop, heads) or _find_line(response, at, stop)
        text = None if span is None else _read_sentence(response[slice(*span)])
        if span is None or not text or (marker["verb"] and _JUDGED.match(text)):
            continue
        for _, _, value in negation.find_corrections(text, 1)[-1:]:
            text = strip_wrapping(value)
        start = response.find(text, *span)
        # Words that take the answer back follow the payload itself, not the rest of its line.
        end = start + len(text) if start >= 0 else span[1]
        if (
            negation.is_supposed(response, marker.start())
            or negation.is_doubted(text)
            or negation.is_taken_back(response, end)
        ):
            continue
        yield Statement(marker.start(), end, text, "phrase")


def _is_within(position: int, spans: Sequence[tuple[int, int]]) -> bool:
    place = bisect_right(spans, (position, len(spans) and spans[-1][1] + 1))
    return place > 0 and position < spans[place - 1][1]


def _find_display(response: str, at: int, stop: int, heads: bool) -> tuple[int, int] | None:
    """The inside of the display formula that comes next, on this line or below."""
    at = _skip_space(response, at, stop)
    for opening, closing in _DISPLAYS:
        if response.startswith(opening, at):
            inside = at + len(opening)
            close = response.find(closing, inside, min(stop, inside + LONGEST + len(closing)))
            if close > inside and not (heads and _WORKING.search(response, inside, close)):
                return inside, close
    return None


def _find_line(response: str, at: int, stop: int) -> tuple[int, int] | None:
    """The rest of this line or, where nothing is left of it, the next if that stands alone."""
    end = _find_line_end(response, at, stop)
    if response[at:end].strip():
        return at, end
    at = _skip_space(response, end, stop)
    end = _find_line_end(response, at, stop)
    line = response[at:end].strip()
    last = not response[end : end + LONGEST].strip()
    alone = _SHORT.fullmatch(line) is not None and not _WORKING.search(line)
    return (at, end) if any(map(str.isalnum, line)) and (last or alone) else None


def _skip_space(text: str, at: int, stop: int) -> int:
    while at < stop and text[at].isspace():
        at += 1
    return at


def _find_line_end(text: str, at: int, stop: int) -> int:
    limit = min(stop, at + LONGEST + 1)
    ends = [text.find(mark, at, limit) for mark in ("\n", "</", "<|")]
    return min((end for end in ends if end >= 0), default=limit)


def _read_sentence(text: str) -> str | None:
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
    text = strip_wrapping(text).rstrip(".,;:")
    # An interval may close with another bracket than it opens with.
    if text.endswith(")") and sum(map(text.count, ")]")) > sum(map(text.count, "([")):
        text = text[:-1]
    return strip_wrapping(text)
