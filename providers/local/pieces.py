"""A fit as steps that ask for one gradient after the other, whoever computes it.

What is trained asks for its next gradient by yielding a `Piece`, and is told the piece's loss. So a
fit by itself and fits that share their passes are the same code: `complete` computes each piece in
a pass of its own, `joint_training` puts the pieces of several fits into one.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import torch

from providers.local.hardware import is_out_of_memory
from providers.local.loss import MicroBatch, SummedLoss

T = TypeVar("T")


class Failure(Enum):
    """Why there is no gradient: memory ran out, for this piece alone or for those beside it."""

    MEMORY = "memory"
    NEIGHBORS = "neighbors"


@dataclass(frozen=True, slots=True)
class Piece:
    """A micro-batch whose gradient is to be added: that of its summed losses over `divisor`."""

    loss: SummedLoss
    batch: MicroBatch
    divisor: float

    def backward(self) -> torch.Tensor | Failure:
        """Add the gradient in a pass of this piece alone; returns its loss, a scalar in nats."""
        try:
            return self.loss.backward(self.batch, self.divisor)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return Failure.MEMORY


Steps = Generator[Piece, torch.Tensor | Failure, T]
"""Something that asks for gradients, and returns a `T` in the end."""


def complete(steps: Steps[T]) -> T:
    """Carry out steps by themselves, and return what they return.

    ```python
    point = complete(fit.take_step())
    ```
    """
    try:
        piece = next(steps)
        while True:
            try:
                outcome = piece.backward()
            except Exception as error:
                piece = steps.throw(error)
            else:
                piece = steps.send(outcome)
    except StopIteration as end:
        done: T = end.value
        return done
    finally:
        # What was opened in them must be closed now, not when they are collected.
        steps.close()
