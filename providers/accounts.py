"""What one call costs, attempt by attempt: asked of the budget before, kept in the record after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from providers import attempts
from providers.attempts import FREE, Usage
from providers.budget import Budget
from providers.charges import Charge, Charges
from providers.errors import ConnectionLost, TimedOut
from providers.types import ModelRef

PERHAPS_BILLED = (TimedOut, ConnectionLost, asyncio.CancelledError)
"""After these the server may have done the work although its answer never arrived."""


class Account:
    """Implements `providers.attempts.Attempts` for one call, whose attempts cost `most` at most.

    A provider that tells nothing of its attempts is taken to make one, which `ends`. `found_again`:
    what is under way when the call is broken off goes on, and is paid by whoever asks for it again.
    """

    def __init__(
        self,
        budget: Budget,
        charges: Charges,
        model: ModelRef,
        most: Usage,
        usd: Callable[[Usage], float],
        *,
        found_again: bool = False,
    ) -> None:
        self._budget = budget
        self._charges = charges
        self._model = model
        self._most = most
        self._usd = usd
        self._most_usd = usd(most)
        self._found_again = found_again
        self._told = False
        self._charge: Charge | None = None
        self.is_reserved = False

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """While inside, the attempts of a provider are counted here."""
        await self.reserve()
        token = attempts.current.set(self)
        try:
            yield
        except PERHAPS_BILLED:
            if not self._told and not self._found_again:
                self.failed()
            raise
        finally:
            attempts.current.reset(token)
            self._settle(0.0)

    def ends(self, usage: Usage) -> None:
        """The call has its answer, which was billed `usage` unless the provider has told more."""
        if not self._told:
            self.answered(usage)

    def enlist(self) -> None:
        self._told = True

    async def reserve(self) -> None:
        if not self.is_reserved:
            await self._budget.reserve(self._most_usd)
            self.is_reserved = True

    async def depart(self) -> None:
        self._charge = self._charges.open(self._model)
        await self._charge.send(self._most)

    def answered(self, usage: Usage) -> None:
        self._taken_charge().answered(usage)
        self._settle(self._usd(usage))

    def failed(self, usage: Usage | None = None) -> None:
        if usage == FREE:
            # What is set aside serves the next attempt.
            if self._charge is not None:
                self._taken_charge().failed(FREE)
            return
        billed = self._most if usage is None else usage
        self._taken_charge().failed(billed)
        self._settle(self._usd(billed))

    def _taken_charge(self) -> Charge:
        charge, self._charge = self._charge, None
        return charge or self._charges.open(self._model)

    def _settle(self, usd: float) -> None:
        if self.is_reserved:
            self.is_reserved = False
            self._budget.settle(self._most_usd, usd)
