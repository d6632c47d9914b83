"""The text of a user's file: UTF-8, with or without a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LOOKED_AT = 4096


def read_text(path: Path, name: str | None = None) -> str:
    """The whole text of a file, its lines as they are; `name` is what messages call it.

    Raises ValueError for a file that cannot be read, or is of another encoding, with its place.
    """
    name = name or str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error
    if content.startswith(_WIDE) or content[:_LOOKED_AT].count(0) > len(content[:_LOOKED_AT]) // 4:
        raise ValueError(f"{name} is UTF-16 or UTF-32 text; save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None
