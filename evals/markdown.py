"""Text from outside in Markdown: it is shown as it stands, whatever Markdown would make of it."""

from __future__ import annotations

import re

from evals.invisible import one_line

# Also what begins a link by itself in GitHub's Markdown, and its mathematics.
_SPECIAL = re.compile(r"[\\`*_\[\]<>|~$&]|:(?=//)|(?<=www)\.")


def escape_markdown(text: str) -> str:
    """`text` on one line, for a paragraph or a table's cell."""
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", one_line(text))


def code_markdown(text: str) -> str:
    """`text` on one line, as code; a backtick, which would end it, becomes an apostrophe."""
    return "`" + one_line(text).replace("`", "'").replace("|", "\u2502") + "`"
