"""A keyed shuffle of range(size) that is computed place by place, never held in memory.

A Feistel network over a slightly larger rectangle; a value that falls outside the range is sent
through again until it falls inside, which keeps the map one-to-one (Black & Rogaway 2002,
"Ciphers with Arbitrary Finite Domains", cycle walking). The same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import isqrt

_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Shuffle:
    """A permutation of range(`size`), chosen by `key`."""

    size: int
    key: str

    def __getitem__(self, position: int) -> int:
        """What stands at `position`. Raises IndexError outside 0..size-1."""
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} is outside 0..{self.size - 1}")
        side = isqrt(self.size - 1) + 1
        value = self._once(position, side)
        while value >= self.size:
            value = self._once(value, side)
        return value

    def _once(self, value: int, side: int) -> int:
        left, right = divmod(value, side)
        for number in range(_ROUNDS):
            left, right = right, (left + self._noise(number, right)) % side
        return left * side + right

    def _noise(self, number: int, half: int) -> int:
        text = f"{self.key}/{number}/{half}".encode()
        return int.from_bytes(blake2b(text, digest_size=16).digest())
