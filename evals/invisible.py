"""Text from outside made visible: characters that could hide, move or reorder text get a name.

Models, servers and imported files write most of what is stored, and all of it is shown: on
terminals, in reports, in a browser. Covered are control characters and ANSI escape sequences, the
bidirectional formatting characters (Unicode Standard Annex 9; the attack:
https://trojansource.codes), invisible spaces, joiners and fillers that no script needs, tag
characters, and lone surrogates, which no encoding can write. ZWJ and ZWNJ stay: emoji and Persian
need them.
"""

from __future__ import annotations

import re
import unicodedata

# The usual abbreviations; characters without one are shown by number, as U+2061.
_SHORT = {
    "\u00ad": "SHY",
    "\u034f": "CGJ",
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
# A whole sequence gets one mark: with ESC alone replaced, its rest would stay as stray letters.
_ANSI = "\x1b\\[[0-?]*[ -/]*[@-~]"
_INVISIBLE = (
    "\u115f\u1160\u3164\uffa0"  # fillers of Hangul, which look like spaces
    "\u2061-\u2065\u206a-\u206f\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\ud800-\udfff\U000e0000-\U000e0fff"
)
HIDDEN = re.compile(f"{_ANSI}|[\x00-\x08\x0b-\x1f\x7f-\x9f{''.join(_SHORT)}{_INVISIBLE}]")
"""An escape sequence, or one hidden character. Line ends and tabs are none."""


def escape_invisible(text: str) -> str:
    """`text` with every hidden character named in brackets: "[ESC[31m]", "[RLO]", "[NUL]"."""
    return HIDDEN.sub(lambda found: f"[{name_hidden(found[0])[0]}]", text)


def one_line(text: str) -> str:
    """`text` on a single line, with its hidden characters named: a stored line end cannot begin a
    line of its own."""
    return " ".join(escape_invisible(text).split())


def name_hidden(hidden: str) -> tuple[str, str]:
    """What is shown instead of a hidden character or an escape sequence, and its name."""
    first = ord(hidden[0])
    if len(hidden) > 1:
        return f"ESC{hidden[1:]}", "escape sequence"
    if first < 0x20:
        return _CONTROLS.split()[first], "control character"
    if first == 0x7F:
        return "DEL", "control character"
    # Control characters and surrogates have no name in Unicode.
    shown = _SHORT.get(hidden, f"U+{first:04X}")
    return shown, unicodedata.name(hidden, "control character").lower()
