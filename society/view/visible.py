"""Text from models on a page: what `evals.invisible` names is shown as a mark."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup, escape

from evals.invisible import HIDDEN, name_hidden

FOLD_AT = 2_400
SHOWN_AT_MOST = 60_000


def visible(text: str) -> Markup:
    """`text` as markup, escaped, every hidden character replaced by a mark that names it."""
    parts: list[Markup] = []
    end = 0
    for found in HIDDEN.finditer(text):
        parts += [escape(text[end : found.start()]), _mark(found[0])]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def inline(text: object, at_most: int = 400) -> Markup:
    """A short text within a line, cut at `at_most` characters, its direction kept to itself."""
    line = " ".join(str(text)[: 4 * at_most].split())
    if len(line) > at_most:
        line = line[:at_most].rstrip() + "…"
    return Markup('<bdi class="said">{}</bdi>').format(visible(line))


@dataclass(frozen=True, slots=True)
class Fold:
    """A long text: `head` is shown, `rest` folded away, `cut` characters are on no page."""

    head: str
    rest: str
    cut: int


def fold(text: str) -> Fold:
    """Where a text is folded: near `FOLD_AT` characters, at the end of a line where one is near."""
    if len(text) <= FOLD_AT * 1.25:
        return Fold(text, "", 0)
    at = text.rfind("\n", FOLD_AT * 3 // 4, FOLD_AT) + 1 or FOLD_AT
    return Fold(text[:at], text[at:SHOWN_AT_MOST], max(0, len(text) - SHOWN_AT_MOST))


def _mark(hidden: str) -> Markup:
    shown, name = name_hidden(hidden)
    return Markup('<span class="hidden-character" title="U+{:04X} {}">{}</span>').format(
        ord(hidden[0]), name, shown
    )
