"""A gate that requests pass through, and that can be closed to change what they depend on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Requests pass side by side; `hold` waits for those in flight and holds up new ones.

    gate = Gate()
    async with gate.pass_through():
        answer = await provider.complete(request)
    """

    def __init__(self) -> None:
        self._in_flight = 0
        self._open, self._idle = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._idle.set()
        self._change = asyncio.Lock()

    @asynccontextmanager
    async def pass_through(self) -> AsyncIterator[None]:
        """Around one request; waits while the gate is held."""
        # In a loop: another task may have closed the gate again before this one is woken up.
        while not self._open.is_set():
            await self._open.wait()
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Around a change, with no request in flight."""
        async with self._change:
            self._open.clear()
            try:
                await self._idle.wait()
                yield
            finally:
                self._open.set()
