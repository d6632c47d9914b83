"""Text from models on a page: whatever could hide, move or reorder text is shown as a mark.

Covered are control characters and ANSI escape sequences, the bidirectional formatting characters
(Unicode Standard Annex 9; the attack: https://trojansource.codes), invisible spaces and joiners
that no script needs, and tag characters. ZWJ and ZWNJ stay: emoji and Persian need them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from markupsafe import Markup, escape

_SHORT = {
    "\u00ad": "SHY",
    "\u061c": "ALM",
    "\u180e": "MVS",
    "\u200b": "ZWSP",
    "\u200e": "LRM",
    "\u200f": "RLM",
    "\u2028": "LSEP",
    "\u2029": "PSEP",
    "\u202a": "LRE",
    "\u202b": "RLE",
    "\u202c": "PDF",
    "\u202d": "LRO",
    "\u202e": "RLO",
    "\u2060": "WJ",
    "\u2066": "LRI",
    "\u2067": "RLI",
    "\u2068": "FSI",
    "\u2069": "PDI",
    "\ufeff": "BOM",
}
_CONTROLS = (
    "NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI "
    "DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US"
)
_ANSI = "\x1b\\[[0-?]*[ -/]*[@-~]"
_HIDDEN = re.compile(
    f"{_ANSI}|[\x00-\x08\x0b-\x1f\x7f-\x9f{''.join(_SHORT)}"
    "\u2061-\u2064\u206a-\u206f\ufff9-\ufffb\U000e0000-\U000e007f]"
)
FOLD_AT = 2_400
SHOWN_AT_MOST = 60_000


def visible(text: str) -> Markup:
    """`text` as markup, escaped, every hidden character replaced by a mark that names it."""
    parts: list[Markup] = []
    end = 0
    for found in _HIDDEN.finditer(text):
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


def plain(text: str) -> str:
    """`text` with every hidden character named in brackets, for where there can be no markup."""
    return _HIDDEN.sub(lambda found: f"[{_named(found[0])[0]}]", text)


def _mark(hidden: str) -> Markup:
    shown, name = _named(hidden)
    return Markup('<span class="hidden-character" title="U+{:04X} {}">{}</span>').format(
        ord(hidden[0]), name, shown
    )


def _named(hidden: str) -> tuple[str, str]:
    """What is shown instead of a hidden character or an escape sequence, and its name."""
    first = ord(hidden[0])
    if len(hidden) > 1:
        return f"ESC{hidden[1:]}", "escape sequence"
    if first < 0x20:
        return _CONTROLS.split()[first], "control character"
    if first == 0x7F:
        return "DEL", "control character"
    shown = _SHORT.get(hidden, f"U+{first:04X}")
    return shown, unicodedata.name(hidden, "control character").lower()
