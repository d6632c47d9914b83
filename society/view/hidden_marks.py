"""Text as markup in which every hidden character is a mark that names it."""

from __future__ import annotations

from markupsafe import Markup, escape

from evals.invisible import HIDDEN, name_hidden


def mark_invisible(text: str) -> Markup:
    """`text` as markup, escaped, every hidden character replaced by a mark that names it."""
    parts: list[Markup] = []
    end = 0
    for found in HIDDEN.finditer(text):
        parts += [escape(text[end : found.start()]), _mark_hidden(found[0])]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def _mark_hidden(hidden: str) -> Markup:
    shown, name = name_hidden(hidden)
    return Markup('<span class="hidden-character" title="U+{:04X} {}">{}</span>').format(
        ord(hidden[0]), name, shown
    )
