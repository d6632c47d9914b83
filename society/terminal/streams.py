"""The standard streams while a command runs: any encoding, closed ones, readers that leave.

What is written never fails for its characters: typography becomes ASCII where the encoding lacks
it, anything else an escape such as `\\u4e2d`. A closed stream is one that nobody reads. Whoever
reads stderr may leave at any time; when the reader of stdout leaves, a command that looks at
something ends, and a run, which is more than its display, goes on.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

ERRORS = "society.legible"
"""The name of the error handler, for streams of one's own."""

READER_LEFT = 141
"""Exit status of a command whose output nobody reads any more, as after SIGPIPE."""

_ASCII = {
    "–": "-",
    "—": "-",
    "−": "-",
    "·": "-",
    "•": "*",
    "…": "...",
    "→": "->",
    "←": "<-",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "±": "+/-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u00a0": " ",
    "▸": ">",
    "✓": "+",
    "✗": "x",
    "■": "#",
}
_GONE = frozenset({errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET, errno.ESHUTDOWN})


def _legible(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or escaped(c) for c in letters), error.end


codecs.register_error(ERRORS, _legible)


def escaped(text: str) -> str:
    """Every character of `text` as Python and JSON write it in ASCII: `\\u4e2d`, `\\xff`."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


def is_unicode(stream: TextIO) -> bool:
    """Whether a stream can write every character; one without an encoding can."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return encoding.lower().replace("_", "-").startswith("utf")


@contextmanager
def standard() -> Iterator[None]:
    """Make the standard streams safe to write to while the block runs."""
    _fill_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = sys.stdin or _nowhere("r")
    out, err = sys.stdout or _nowhere("w"), sys.stderr or _nowhere("w")
    with _legibly(out), _legibly(err):
        sys.stdout, sys.stderr = out, lasting(err)
        try:
            yield
        finally:
            sys.stdin, sys.stdout, sys.stderr = before


def outlive_readers() -> None:
    """From now on the command goes on when nobody reads stdout any more."""
    sys.stdout = lasting(sys.stdout)


def abandon(stream: TextIO) -> None:
    """Let whatever is still to be written to `stream`, whose reader has left, go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def lasting(stream: TextIO) -> TextIO:
    """`stream`, but writing to it goes on without effect once its reader has left."""
    return stream if isinstance(stream, _Lasting) else cast(TextIO, _Lasting(stream))


class _Lasting(io.TextIOBase):
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._lasting():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._lasting():
            self._stream.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise
            abandon(self._stream)


def _nowhere(mode: str) -> TextIO:
    return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))


@contextmanager
def _legibly(stream: TextIO) -> Iterator[None]:
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors=ERRORS)
    try:
        yield
    finally:
        with suppress(ValueError, OSError):
            stream.reconfigure(errors=before)


def _fill_descriptors() -> None:
    # A database that got the number of a closed stdout would be written to by every library that
    # prints.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is the one that is closed.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
