"""The header of a GGUF file: what it says of the model, and which tensors follow.

It is walked once, by our own code: the package gguf makes arrays of every token in it, which takes
seconds for a usual vocabulary, and it believes every count in the file, such as 2^60 entries. The
format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

# The value types of a header as letters of `struct`. Strings and arrays have own lengths.
_LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
_LETTERS |= {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DEEPEST, _MOST_DIMENSIONS = 4, 8
_ALIGNMENT = "general.alignment"
_TEMPLATE = "tokenizer.chat_template"
_ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of the file: its name, its shape with the fastest dimension first, its bytes."""

    name: str
    shape: tuple[int, ...]
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The numbers and texts of a header by their keys, without its lists, and its tensors."""

    values: Mapping[str, object]
    tensors: tuple[GgufTensor, ...]

    @property
    def template(self) -> str | None:
        """The chat template."""
        found = self.values.get(_TEMPLATE)
        return None if found is None else str(found)

    @property
    def context(self) -> int | None:
        """How many tokens prompt and answer may have together."""
        named = (value for key, value in self.values.items() if key.endswith(".context_length"))
        return next((value for value in named if isinstance(value, int)), None)

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text, a turn or a message."""
        found = (self.values.get(key) for key in _ENDS)
        return frozenset(value for value in found if isinstance(value, int))


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of the file, read again only if the file has changed.

    Raises ValueError if it claims more than the file holds, OSError if the file is unreadable, and
    ModuleNotFoundError without the package gguf.

    ```python
    read_gguf_header(Path("smollm2.gguf")).context  # 8192
    ```
    """
    found = path.stat()
    return _read_header(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _read_header(path: Path, size: int, changed_ns: int) -> GgufHeader:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            reader = _HeaderReader(content, os.fstat(file.fileno()).st_size)
            return reader.read_header()


class _HeaderReader:
    """Walks a header value by value; every count must fit into the rest of the file."""

    def __init__(self, content: mmap.mmap, size: int) -> None:
        self._content = content
        self._size = size
        self._order = "<"
        self._at = 4

    def read_header(self) -> GgufHeader:
        """All of the header, from its version on."""
        version = self._read_count("I")
        # A big-endian file has its version in the upper half.
        if version & 0xFFFF == 0:
            self._order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise ValueError(f"it has version {version} of the format; only 2 and 3 can be read")
        tensors, entries = self._read_count("Q"), self._read_count("Q")
        self._expect(entries, 12, "entries")
        values: dict[str, object] = {}
        for _ in range(entries):
            key = self._read_text("a key")
            if key in values:
                raise ValueError(f"it has {key!r} twice")
            values[key] = self._read_value(self._read_count("I"), 0)
        return GgufHeader(values, self._read_tensors(tensors, values.get(_ALIGNMENT, 32)))

    def _read_tensors(self, count: int, alignment: object) -> tuple[GgufTensor, ...]:
        """The tensors of the header's end; all of them must lie in the file."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"its {_ALIGNMENT} is {alignment!r}, which is no power of two")
        self._expect(count, 24, "tensors")
        found = [self._read_tensor() for _ in range(count)]
        start = -(-self._at // alignment) * alignment
        for tensor, offset in found:
            if (end := start + offset + tensor.stored_bytes) > self._size:
                raise ValueError(
                    f"its tensor {tensor.name!r} ends at byte {end:,}, the file at {self._size:,}"
                )
        if len({tensor.name for tensor, _ in found}) < count:
            raise ValueError("it has two tensors of one name")
        return tuple(tensor for tensor, _ in found)

    def _read_tensor(self) -> tuple[GgufTensor, int]:
        """A tensor, and where it begins after the header."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self._read_text("a tensor's name")
        dimensions = self._read_count("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = tuple(self._read_count("Q") for _ in range(dimensions))
        kind, offset = self._read_count("I"), self._read_count("Q")
        # Raises ValueError for a kind that the package does not know.
        numbers, packed_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if shape and shape[0] % numbers:
            raise ValueError(f"{name!r} has rows of {shape[0]} numbers, stored {numbers} at a time")
        return GgufTensor(name, shape, prod(shape) // numbers * packed_bytes), offset

    def _read_number(self, letter: str) -> int | float:
        form = self._order + letter
        try:
            (value,) = struct.unpack_from(form, self._content, self._at)
        except (struct.error, OverflowError):
            raise ValueError("it ends within its header") from None
        self._at += struct.calcsize(form)
        assert isinstance(value, int | float)
        return value

    def _read_count(self, letter: str) -> int:
        return int(self._read_number(letter))

    def _read_text(self, what: str) -> str:
        start = self._skip(self._read_count("Q"), f"bytes of {what}")
        return self._content[start : self._at].decode()

    def _read_value(self, kind: int, depth: int) -> object:
        """A value of this kind; None for a list, which is only passed over."""
        if kind in _LETTERS:
            return self._read_number(_LETTERS[kind])
        if kind == _STRING:
            return self._read_text("a text")
        if kind != _ARRAY or depth == _DEEPEST:
            raise ValueError(f"a value of the unknown kind {kind}, or arrays in arrays in arrays")
        kind, length = self._read_count("I"), self._read_count("Q")
        if kind in _LETTERS:
            self._skip(struct.calcsize("<" + _LETTERS[kind]) * length, "bytes of a list")
            return None
        self._expect(length, 8, "list items")
        if kind == _STRING:
            self._skip_texts(length)
            return None
        for _ in range(length):
            self._read_value(kind, depth + 1)
        return None

    def _skip_texts(self, count: int) -> None:
        # A vocabulary has 100,000 and more texts: no call for each of them.
        read, content, at = struct.Struct(f"{self._order}Q").unpack_from, self._content, self._at
        try:
            for _ in range(count):
                at += 8 + read(content, at)[0]
        except (struct.error, OverflowError):
            raise ValueError("it ends within a list of texts of its header") from None
        self._at = at
        self._expect(0, 1, "bytes of a list")

    def _skip(self, length: int, what: str) -> int:
        """Pass over some bytes; returns where they begin."""
        self._expect(length, 1, what)
        start, self._at = self._at, self._at + length
        return start

    def _expect(self, count: int, each: int, what: str) -> None:
        """Raise ValueError if `count` things of at least `each` bytes do not fit into the rest."""
        left = self._size - self._at
        if count * each > left:
            raise ValueError(f"it claims {count} {what}, and has {left} bytes left for them")
