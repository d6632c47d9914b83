"""What a model's weight files hold, by their headers; reads no weights.

The header of a safetensors file is its length in 8 bytes and a JSON object with the type and shape
of every tensor: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers.errors import ModelNotFound
from providers.local.gguf_header import read_gguf_header

_LONGEST_HEADER = 100_000_000
# Formats that are unpacked when they are loaded: how many numbers are in one element of these
# tensors, by the end of their name. Scales are no weights of the model.
_PACKED = {"_blocks": 2, ".weight_packed": 8}
_SCALES = ("_scale_inv", "_scales", ".weight_scale", ".weight_shape", ".input_scale")
# Beside the packed weights of a layer.
_COMPANIONS = (".qzeros", ".scales", ".g_idx", ".absmax", ".quant_map", ".SCB")
_NOT_LINEAR = ("embed", "embd", "lm_head", "wte", "wpe", "norm", "visual", "vision", "router")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file: its name, shape, and bytes on the disk."""

    name: str
    shape: tuple[int, ...]
    stored_bytes: int

    @property
    def numbers(self) -> int:
        """How many weights of the model it holds."""
        if self.name.endswith(_SCALES):
            return 0
        packed = next((n for end, n in _PACKED.items() if self.name.endswith(end)), 1)
        return packed * math.prod(self.shape)

    @property
    def is_expert(self) -> bool:
        """Whether it belongs to one of several experts, which are joined when they are loaded."""
        return ".experts" in self.name

    @property
    def is_linear(self) -> bool:
        """Whether it is the matrix of a linear layer that may be quantized and get an adapter."""
        # The tensors of a GGUF file are blk.0.attn_q and so on; those of other files say `weight`.
        return (
            len(self.shape) == 2
            and min(self.shape) > 1
            and not self.is_expert
            and self.name != "output.weight"
            and not self.name.endswith((*_COMPANIONS, *_SCALES))
            and not any(word in self.name for word in _NOT_LINEAR)
        )


def list_tensors(folder: Path, gguf_file: str | None) -> list[StoredTensor]:
    """The tensors of a model folder; [] if its files do not say what is in them.

    Raises `ModelNotFound` if a file is damaged.

    ```python
    sum(tensor.numbers for tensor in list_tensors(Path("my-model"), None))
    ```
    """
    if gguf_file is not None:
        return list(_read_gguf(folder / gguf_file))
    found: list[StoredTensor] = []
    for path in find_weight_files(folder):
        if path.suffix != ".safetensors":
            return []
        found += _read_safetensors(path)
    return found


def find_weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights; others beside them may hold the same ones again."""
    for kind in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{kind}.index.json"
        if index.is_file():
            return sorted({folder / name for name in _read_index(index)})
        if (folder / kind).is_file():
            return [folder / kind]
    for pattern in ("*.safetensors", "*.bin", "*.gguf"):
        if paths := sorted(folder.glob(pattern)):
            return paths
    return []


def count_stored_bytes(folder: Path, gguf_file: str | None) -> int:
    """How long the weight files are."""
    if gguf_file is not None:
        return (folder / gguf_file).stat().st_size
    return sum(path.stat().st_size for path in find_weight_files(folder) if path.is_file())


def _read_index(path: Path) -> Iterable[str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        return [str(name) for name in names]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelNotFound(
            f"{str(path)!r} is no index of weights; fetch the model again"
        ) from None


def _read_safetensors(path: Path) -> Iterator[StoredTensor]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
            held = os.fstat(file.fileno()).st_size - 8 - length
        last = 0
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = map(int, entry["data_offsets"])
                last = max(last, end)
                yield StoredTensor(name, tuple(map(int, entry["shape"])), end - start)
        if last != held:
            raise ValueError(f"its header tells of {last:,} bytes of weights, it has {held:,}")
    except (OSError, ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise ModelNotFound(
            f"{str(path)!r} is not a readable safetensors file ({error}); fetch it again"
        ) from None


def _read_gguf(path: Path) -> Iterator[StoredTensor]:
    try:
        header = read_gguf_header(path)
    except ValueError as error:
        raise ModelNotFound(
            f"{str(path)!r} is not a readable GGUF file ({error}); fetch it again"
        ) from None
    for tensor in header.tensors:
        yield StoredTensor(tensor.name, tensor.shape, tensor.stored_bytes)
