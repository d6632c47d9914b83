r"""What stands around an answer without changing it: ``k \in \mathbb{Z}``, "about 4.2".

All functions take and give tidied text (`evals.answers.latex`).
"""

from __future__ import annotations

import re

_SET = (
    r"\\(?:mathbb|mathbf|text)?\s*\{?\s*(?:[ZNQRC]|integers?|reals?)\s*\}?"
    r"(?:\s*[\^_]\s*\{?[+*0-9\\gen> -]{1,8}\}?)?|[ZNQRC]|\{\s*[ZNQRC]\s*\}"
)
_NAME = r"(?:(?<![A-Za-z\\])[A-Za-z]|\\(?!pi)[a-z]{2,7}(?![A-Za-z]))(?:_\w)?"
_NAMES = rf"{_NAME}(?:\s*,\s*{_NAME}){{0,4}}"
_FOR_WORDS = (
    r"(?:where|for|with|and|over|given|such\sthat|provided|assuming|,|\s|\(|any|all|every|each|some"
    r"|arbitrary|integers?|natural|real|numbers?|constants?|values?\sof|is|are|an?|in|of|that|the)+"
)
_KIND = (
    r"(?:(?:is|are)\s)?(?:(?:an?|any|some)\s)?"
    r"(?:(?:arbitrary|positive|non-?negative|non-?zero|real)\s)?"
    r"(?:integers?|(?:real|natural|whole)\snumbers?|constants?|real)"
)
_PREFIX = rf"(?:\\forall\s*|\\text\s*\{{{_FOR_WORDS}\}}|(?<![A-Za-z\\]){_FOR_WORDS}(?![A-Za-z]))"
_MEMBERSHIPS = tuple(
    re.compile(
        rf"{before}\s*(?P<names>{names})\s*(?:\\in(?![A-Za-z])\s*(?:{_SET})"
        rf"|\\text\s*\{{\s*{_KIND}\s*\}})\s*\)?\s*$",
        re.IGNORECASE,
    )
    for before, names in (
        # The last letter of the answer is none of several names.
        (rf"\s*(?:[,;|(][\s(]*{_PREFIX}?|{_PREFIX})", _NAMES),
        (rf"[\s,;|]*\(?\s*{_PREFIX}?", _NAME),
    )
)
_BOUNDED = re.compile(
    rf"[,;]\s*\(?(?P<names>{_NAME})\s*(?:\\[gl]e(?![A-Za-z])|[<>])\s*-?\d{{1,3}}\s*\)?$"
)
_UNEQUAL = re.compile(
    rf"(?:[,;]|[\s,;]*\(?\s*\\text\s*\{{{_FOR_WORDS}(?:if|when)?\s*\}}|\s*\()\s*"
    rf"(?P<names>{_NAMES})\s*\\ne\s*[^,;()=<>]{{1,20}}\)?\s*$",
    re.IGNORECASE,
)
_WORDED = re.compile(
    r"[\s,;]*\(?\s*(?:\\text\s*\{[\s,(]*(?:where|for|with)\b(?P<text>[^{}]*)\}"
    r"|(?<![A-Za-z\\])(?:where|for|with)\s(?P<plain>))(?P<rest>[^{}=]{0,60}(?:\{[^{}]*\}[^{}=]{0,40})?)$",
    re.IGNORECASE,
)
_CONDITIONS = re.compile(
    r"\\(?:ne|le|ge|in)(?![A-Za-z])|[<>]|\\text|integer|real|natural|constant|any|all"
)
_PIECES = re.compile(r"(?<![A-Za-z])(?:for|if|when|otherwise)(?![A-Za-z])", re.IGNORECASE)
_CONDITION = re.compile(r"\\(?:ne|le|ge|in)(?![A-Za-z])|[<>]")
_ABOUT = r"(?:or|which\sis|that\sis|i\.e\.)?[\s,]*(?:about|approximately|approx\.?|roughly|around)"
_ROUGHLY = re.compile(
    rf"\s*,?\s*\(?\s*\\text\s*\{{[\s(,]*{_ABOUT}\s*(?P<number>[0-9.]*)\s*\)?\s*\}}"
    rf"|(?<=[\w)}}])\s*,?\s*\(?(?<![A-Za-z\\]){_ABOUT}\s+(?=[0-9.])",
    re.IGNORECASE,
)
_IN_BRACKETS = re.compile(r"\(\s*(?:\\text\s*\{\s*or\s*\}|or)?\s*\\approx([^()]*)\)\s*$")
_OR_ABOUT = re.compile(r",?\s*(?:\\text\s*\{\s*or\s*\}|(?<![A-Za-z\\])or)\s*\\approx\s*")
_TITLE = re.compile(
    r"\\text\s*\{\s*[A-Za-z][^{}\\]{1,40}:\s*\}\s*|(?=[A-Za-z]{3})[A-Za-z][A-Za-z ]{2,24}:\s+(?=\S)"
)


def unqualified(text: str) -> str:
    r"""The answer without a condition behind it that only says what its letters may be.

    A condition that is an answer itself stays, as do the pieces of a function: "x for x > 0".
    """
    title = _TITLE.match(text)
    text = text[title.end() :] if title else text
    worded = r"\text" in text or _WORDED.search(text)
    bounded = _BOUNDED.search(text)
    if r"\in" not in text and r"\ne" not in text and not worded and not bounded:
        return text
    for pattern in (*_MEMBERSHIPS, _UNEQUAL):
        found = pattern.search(text)
        if found is not None and _is_about(text[: found.start()], found["names"]):
            return text[: found.start()].rstrip(" ,;")
    # "x = 1, x > 3" states two things about x.
    if (
        bounded
        and _is_about(text[: bounded.start()], bounded["names"])
        and not re.match(rf"\s*{re.escape(bounded['names'])}\s*=", text)
    ):
        return text[: bounded.start()].rstrip(" ,;")
    found = _WORDED.search(text)
    if found is None or len(_PIECES.findall(text)) > 1:
        return text
    condition = (found["text"] or "") + found["rest"]
    before = text[: found.start()].rstrip(" ,;")
    plain = re.sub(r"\\[A-Za-z]+", " ", condition)
    names = re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", plain)
    names = [name for name in names if name != "a"]
    if _CONDITIONS.search(condition) and names and _is_about(before, ",".join(names)):
        return before
    return text


def _is_about(before: str, names: str) -> bool:
    """Whether the names occur in an answer before, which is no condition itself."""
    if not re.search(r"[0-9A-Za-z]", before) or _CONDITION.search(before):
        return False
    letters = re.sub(r"\\text\s*\{[^{}]*\}", " ", before)
    return all(
        re.search(rf"(?<![A-Za-z\\]){re.escape(name)}|(?<=[A-Za-z]){re.escape(name)}", letters)
        for name in re.findall(r"\\?[A-Za-z]+", names)[:1]
    )


def with_signs(text: str) -> str:
    r"""The words for an approximation as ``\approx``."""
    if r"\text" in text or "r" in text or "a" in text:
        text = _ROUGHLY.sub(lambda found: rf" \approx {found['number'] or ''}", text)
    text = _OR_ABOUT.sub(r" \\approx ", text)
    return _IN_BRACKETS.sub(r" \\approx\1", text)
