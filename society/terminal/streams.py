"""The standard streams while a command runs: any encoding, closed ones, readers that leave.

Writing never fails because of a character: typography that the encoding lacks becomes ASCII, any
other character an escape such as `\\u4e2d`. A closed stream discards what is written. The reader
of stderr may leave at any time. When the reader of stdout leaves, a command that only shows
something ends, and a run continues.
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
"""The name of the error handler, for other streams."""

READER_LEFT = 141
"""Exit status of a command whose reader has left, as after SIGPIPE."""

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
# What a write raises when a pipe, terminal or socket has no reader any more.
_GONE = frozenset({errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET, errno.ESHUTDOWN})


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or escape_ascii(c) for c in letters), error.end


codecs.register_error(ERRORS, _replace_unencodable)


def escape_ascii(text: str) -> str:
    """`text` in ASCII, other characters as Python and JSON escape them: `\\u4e2d`, `\\xff`."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


def is_unicode(stream: TextIO) -> bool:
    """Whether a stream can write every character; a stream without an encoding can."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return encoding.lower().replace("_", "-").startswith("utf")


@contextmanager
def guard_standard_streams() -> Iterator[None]:
    """Make the standard streams safe to write to while the block runs."""
    _fill_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    # Python sets a stream to None if its descriptor is closed at the start.
    sys.stdin = sys.stdin or _open_null("r")
    out, err = sys.stdout or _open_null("w"), sys.stderr or _open_null("w")
    with _write_legibly(out), _write_legibly(err):
        sys.stdout, sys.stderr = out, outlive_reader(err)
        try:
            yield
        finally:
            sys.stdin, sys.stdout, sys.stderr = before


def outlive_readers() -> None:
    """From now on the command continues when the reader of stdout leaves."""
    sys.stdout = outlive_reader(sys.stdout)


def abandon(stream: TextIO) -> None:
    """Discard everything that is still to be written to `stream`, whose reader has left."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def outlive_reader(stream: TextIO) -> TextIO:
    """`stream`, except that writing has no effect once its reader has left."""
    return stream if isinstance(stream, _LastingStream) else cast(TextIO, _LastingStream(stream))


class _LastingStream(io.TextIOBase):
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._ignore_lost_reader():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._ignore_lost_reader():
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
    def _ignore_lost_reader(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise
            abandon(self._stream)


def _open_null(mode: str) -> TextIO:
    return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))


@contextmanager
def _write_legibly(stream: TextIO) -> Iterator[None]:
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
    # If stdout is closed, the next file opened gets its number, 1. That would be the database, and
    # every library that prints would write into it.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # open() takes the lowest free number, which is the closed one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
