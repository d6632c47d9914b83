"""Where every paid attempt is kept, so that what was spent outlives the process that spent it."""

from __future__ import annotations

from typing import Protocol

from providers.attempts import Usage
from providers.types import ModelRef


class Charge(Protocol):
    """The record of one attempt."""

    async def send(self, most: Usage) -> None:
        """Keep that an attempt goes out which can cost `most`; returns once it is safe.

        Whatever ends the process now, the attempt counts.
        """

    def answered(self, usage: Usage) -> None:
        """It brought an answer, which was billed `usage`."""

    def failed(self, usage: Usage) -> None:
        """It brought none, and was billed `usage`, or may have been."""


class Charges(Protocol):
    """Keeps the attempts of a run."""

    def open(self, model: ModelRef) -> Charge:
        """The record of an attempt at `model` that is about to be made."""

    def tidy(self) -> None:
        """Let go of what is kept elsewhere by now."""


class NoCharges:
    """Keeps nothing, of models that cost nothing."""

    def open(self, model: ModelRef) -> Charge:
        return _NO_CHARGE

    def tidy(self) -> None:
        return


class _NoCharge:
    async def send(self, most: Usage) -> None:
        return

    def answered(self, usage: Usage) -> None:
        return

    def failed(self, usage: Usage) -> None:
        return


_NO_CHARGE = _NoCharge()
