"""Output to a terminal: all text passes through here, and none of it is interpreted.

Much of what is shown comes from models, servers and imported files. Hidden characters and escape
sequences are named (`evals.invisible`); Rich's markup and emoji codes stay the text they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from evals.invisible import escape_invisible, one_line

# Rich needs some limit to measure a table against.
_WIDEST = 1000
__all__ = ["Screen", "escape_invisible", "one_line", "say", "tell", "write_line"]


class Screen(Console):
    """Rich's console on a stream, for untrusted text."""

    def __init__(self, stream: TextIO, *, soft_wrap: bool = False) -> None:
        super().__init__(
            file=stream, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """Text for a cell or a line; hidden characters are named before the width is measured."""
        options |= {"markup": False, "emoji": False}
        return super().render_str(escape_invisible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What Rich draws; only Rich's own control codes reach the terminal."""
        # Rich measures text in `render_str`; cells that come as Text pass here only.
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(escape_invisible(segment.text), segment.style)

    def draw(self, table: Table) -> None:
        """Print a whole table; the terminal wraps one that is too wide, and nothing is cut."""
        options = self.options.update(width=_WIDEST)
        self.width = max(self.width, self.measure(table, options=options).maximum)
        self.print(table)

    def on_broken_pipe(self) -> None:
        """Raise the error, so that the command decides how it ends when its reader has left."""
        raise


def say(text: str) -> None:
    """Print lines of text on stdout."""
    write_line(sys.stdout, text)


def tell(text: str) -> None:
    """Print lines of text on stderr."""
    write_line(sys.stderr, text)


def write_line(stream: TextIO, text: str) -> None:
    """Print lines of text on a stream, at once."""
    stream.write(f"{escape_invisible(text)}\n")
    stream.flush()
