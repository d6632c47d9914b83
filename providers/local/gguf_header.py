"""The header of a GGUF file, walked before a library reads it: every count must fit into the file.

A file that claims 2^60 entries keeps a reader busy for ever. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_DEEPEST, _MOST_DIMENSIONS = 4, 8


def check(path: Path) -> None:
    """Raise ValueError where the file claims more than it holds, OSError where it is unreadable."""
    with path.open("rb") as file:
        walk = _Walk(file, os.fstat(file.fileno()).st_size)
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        # A big-endian file has its version in the upper half.
        version = walk.number("I")
        if version & 0xFFFF == 0:
            walk.order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise ValueError(f"version {version} of the format, and only 2 and 3 can be read")
        tensors, entries = walk.number("Q"), walk.number("Q")
        walk.expect(entries, 12, "entries")
        for _ in range(entries):
            walk.skip(walk.number("Q"), "a key")
            walk.skip_value(walk.number("I"), 0)
        walk.expect(tensors, 24, "tensors")
        for _ in range(tensors):
            walk.skip(walk.number("Q"), "a tensor's name")
            dimensions = walk.number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            walk.skip(8 * dimensions + 12, "a tensor's shape")


@dataclass(slots=True)
class _Walk:
    file: BinaryIO
    size: int
    order: str = "<"

    def number(self, kind: str) -> int:
        content = self.file.read(struct.calcsize(f"<{kind}"))
        try:
            return int(struct.unpack(f"{self.order}{kind}", content)[0])
        except struct.error:
            raise ValueError("it ends within its header") from None

    def expect(self, count: int, each: int, what: str) -> None:
        """Refuse a count of things that take `each` bytes at least, more than are left."""
        left = self.size - self.file.tell()
        if count * each > left:
            raise ValueError(f"it claims {count} {what}, and has {left} bytes left for them")

    def skip(self, length: int, what: str) -> None:
        self.expect(length, 1, f"bytes of {what}")
        self.file.seek(length, os.SEEK_CUR)

    def skip_value(self, kind: int, depth: int) -> None:
        if kind in _SIZES:
            self.skip(_SIZES[kind], "a value")
        elif kind == _STRING:
            self.skip(self.number("Q"), "a text")
        elif kind != _ARRAY or depth == _DEEPEST:
            raise ValueError(f"a value of the unknown kind {kind}, or arrays in arrays in arrays")
        else:
            self._skip_array(depth)

    def _skip_array(self, depth: int) -> None:
        kind, length = self.number("I"), self.number("Q")
        if kind in _SIZES:
            self.skip(_SIZES[kind] * length, "a list")
            return
        self.expect(length, 8, "list items")
        for _ in range(length):
            self.skip_value(kind, depth + 1)
