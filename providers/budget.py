"""A hard cap on what a run spends.

Every call reserves the most it can cost before it is sent, and is settled with what it did cost.
A call that does not fit waits as long as calls in flight may still release part of their
reservations. If even that cannot make room, the run ends with `BudgetReached`, after the calls in
flight have returned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from providers.errors import BudgetReached

# Money is counted in whole picodollars, so that sums have no rounding error.
_PICO = 10**12

RAISE_IN_FILE = "raise budget_usd in the experiment file and run again"
"""What to do about a cap that is reached, unless another command has set it."""


@dataclass(slots=True)
class _Waiting:
    amount: int
    granted: asyncio.Future[None]


@dataclass(slots=True)
class _Job:
    """The most a job can cost. While `watched`, the job is polled and its cost will be settled."""

    amount: int
    watched: bool


class Budget:
    """What may be spent and what is, in USD; for the tasks of one event loop.

    `cap_usd` None sets no limit. `spent_usd` is what earlier starts of the run have spent, on the
    `paid` jobs too; `jobs` holds the most that each of the others can cost, by name. `remedy` says
    how the user raises the cap.
    """

    def __init__(
        self,
        cap_usd: float | None = None,
        spent_usd: float = 0.0,
        jobs: Mapping[str, float] | None = None,
        paid: Collection[str] = (),
        *,
        remedy: str = RAISE_IN_FILE,
    ) -> None:
        self._remedy = remedy
        self._cap = None if cap_usd is None else _pico(cap_usd)
        self._jobs = {name: _Job(_pico(usd), False) for name, usd in (jobs or {}).items()}
        self._paid = set(paid)
        # Jobs of earlier starts count as spent until `watch_job` finds them at the provider.
        self._spent = _pico(spent_usd) + sum(job.amount for job in self._jobs.values())
        self._reserved = 0
        self._in_flight = 0
        self._waiting: deque[_Waiting] = deque()
        self._reached: str | None = None
        self.unpriced_calls = 0

    @property
    def cap_usd(self) -> float | None:
        """The limit, None without one."""
        return None if self._cap is None else self._cap / _PICO

    @property
    def spent_usd(self) -> float:
        """What is spent, as far as prices are known; `unpriced_calls` counts the other calls."""
        return self._spent / _PICO

    @property
    def reserved_usd(self) -> float:
        """The most that calls and jobs in flight can still cost."""
        return self._reserved / _PICO

    async def reserve(self, usd: float) -> None:
        """Set `usd` aside for one call, in the order of asking; `settle_call` ends it.

        Raises `BudgetReached` if even the end of everything in flight could not make room. From
        then on nothing is granted; the error is raised once nothing is in flight.
        """
        amount = _pico(usd)
        # A call that fits still queues behind waiting ones, or a large one would wait for ever.
        if self._reached is None and not self._waiting and self._fits(amount):
            self._take(amount)
            return
        place = _Waiting(amount, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        self._grant()
        try:
            await place.granted
        except asyncio.CancelledError:
            # Cancelled while it waited: the next in line may fit. Cancelled in the moment in which
            # the money was granted: give it back.
            if place.granted.cancelled():
                self._grant()
            elif place.granted.exception() is None:
                self.settle_call(usd, 0.0)
            raise

    def settle_call(self, reserved_usd: float, spent_usd: float) -> None:
        """A call is over: its reservation gives way to what it really cost."""
        self._in_flight -= 1
        self._reserved -= _pico(reserved_usd)
        self._spent += _pico(spent_usd)
        self._grant()

    async def reserve_job(self, name: str, usd: float) -> None:
        """`reserve` for submitting the job `name`, in place of what is still set aside for it."""
        self._paid.discard(name)
        # A submission of unknown outcome that `find` never saw: it was not created after all.
        earlier = self._jobs.pop(name, None)
        if earlier is not None:
            self._release(earlier)
        await self.reserve(usd)

    def record_job(self, name: str, usd: float, *, certain: bool) -> None:
        """The submission is over and its reservation becomes the job's.

        A job that is not `certain` to exist counts as spent until `watch_job` finds it.
        """
        self._in_flight -= 1
        self._jobs[name] = _Job(_pico(usd), True)
        if not certain:
            self.unwatch_job(name)
        self._grant()

    def watch_job(self, name: str, usd: float) -> None:
        """The job `name` was found at the provider and will be followed to its end.

        `usd` is the most it can cost, used if nothing is reserved for it.
        """
        # An earlier start of the run has paid it: its cost is in `spent_usd` already.
        if name in self._paid:
            return
        job = self._jobs.setdefault(name, _Job(0, True))
        if job.amount == 0:
            job.amount = _pico(usd)
            self._reserved += job.amount
        elif not job.watched:
            # It counted as spent while its fate was unknown; now it may still turn out cheaper.
            job.watched = True
            self._spent -= job.amount
            self._reserved += job.amount

    def unwatch_job(self, name: str) -> None:
        """The job's cost will not be known, so it counts with the most it can have cost."""
        job = self._jobs.get(name)
        if job is not None and job.watched:
            job.watched = False
            self._reserved -= job.amount
            self._spent += job.amount
            self._grant()

    def settle_job(self, name: str, usd: float) -> None:
        """The job has cost `usd`. Does nothing for a job that is settled already."""
        job = self._jobs.pop(name, None)
        if job is not None:
            self._paid.add(name)
            self._release(job)
            self._spent += _pico(usd)
            self._grant()

    def _release(self, job: _Job) -> None:
        if job.watched:
            self._reserved -= job.amount
        else:
            self._spent -= job.amount

    def _fits(self, amount: int) -> bool:
        return self._cap is None or self._spent + self._reserved + amount <= self._cap

    def _take(self, amount: int) -> None:
        self._reserved += amount
        self._in_flight += 1

    def _grant(self) -> None:
        while self._waiting and self._reached is None:
            first = self._waiting[0]
            if first.granted.done():
                self._waiting.popleft()
            elif self._fits(first.amount):
                self._waiting.popleft()
                self._take(first.amount)
                first.granted.set_result(None)
            # What is spent never comes back, so waiting for calls in flight cannot help.
            elif self._cap is not None and self._spent + first.amount > self._cap:
                self._reached = self._explain(first.amount)
            else:
                return
        # The task that settles a call hands its answer on before any other task runs. So once
        # nothing is in flight, every paid answer has reached its caller.
        if self._reached is not None and not self._in_flight:
            for place in self._waiting:
                if not place.granted.done():
                    place.granted.set_exception(BudgetReached(self._reached))
            self._waiting.clear()

    def _explain(self, amount: int) -> str:
        unknown = sum(job.amount for job in self._jobs.values() if not job.watched)
        aside = (
            f" (of which {unknown / _PICO:.6f} USD are the most that jobs can have cost whose "
            "cost the provider has not reported)"
            if unknown
            else ""
        )
        return (
            f"budget_usd = {self.cap_usd} is reached: {self.spent_usd:.6f} USD are spent{aside} "
            f"and the next call could cost {amount / _PICO:.6f} USD, so it was not sent; "
            f"{self._remedy}, nothing is paid twice"
        )


def _pico(usd: float) -> int:
    return round(usd * _PICO)
