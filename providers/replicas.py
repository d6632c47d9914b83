"""The replicas of one model: which of them answers a call, and what happens when one fails.

A call goes to the replica with the fewest calls on their way. Among those that have about as few,
calls that begin alike go to the same one, which has read their beginning before (prefix caching:
https://docs.vllm.ai/en/latest/features/automatic_prefix_caching.html).

A replica that fails takes no further calls, and those that were on their way to it are asked of the
others. It is tried again now and then, and gets its adapters before it takes calls. A server that
was started anew, or has lost its adapters, is one that fails and comes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence, Set

from providers.answer_server import AnswerServer
from providers.base import Provider
from providers.errors import (
    ConnectionLost,
    ModelNotFound,
    ProviderError,
    RequestFailed,
    RetryableError,
    RunError,
    TimedOut,
    Unreachable,
)
from providers.limits import get_breakers
from providers.limits.breaker import Breaker
from providers.replica import Call, Replica, T
from providers.types import Message, ModelRef

_log = logging.getLogger(__name__)
CHECK_EVERY_S = 20.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0
_FAILED_CHECKS = 2
# A replica may have so many more calls on their way than the least loaded one, for the sake of a
# common beginning: a tenth.
_SHARE_OF_SLACK = 10


class Replicas:
    """Servers with one model and the same adapters. `patience_s` is how long a call may wait while
    none of them takes calls.

    With several servers, open their connections with a short deadline, since a call that one of
    them does not answer is soon better asked of another. A single server has its own patience: its
    failures are raised, unless it has only lost its adapters. For one event loop. Example::

        replicas = Replicas([Replica(server, provider, administration, workdir)], patience_s=600.0)
        await replicas.load({"agent-1": "0f3a91cc"})
        answer = await replicas.ask(model, messages, lambda provider, model: ...)
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        patience_s: float,
        *,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        self._replicas = tuple(replicas)
        self._numbers = {replica: number for number, replica in enumerate(self._replicas)}
        self._patience_s = patience_s
        self._check_every_s = check_every_s
        self._digests: Mapping[str, str] = {}
        self._failed_checks = dict.fromkeys(self._replicas, 0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._breaker: Breaker | None = None
        self._change = asyncio.Event()

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas)

    def __len__(self) -> int:
        return len(self._replicas)

    async def ask(self, model: ModelRef, messages: Sequence[Message], call: Call[T]) -> T:
        """The result of `call`, at one of the replicas.

        Raises the call's own errors; `RequestFailed` once two replicas have failed at it while they
        answered others; and `Unreachable` if none has answered it for `patience_s`.
        """
        breaker, key = self._begin(), _hash_beginning(model, messages)
        refused: set[Replica] = set()
        failed_at: float | None = None
        while not breaker.tripped:
            replica = self._choose(key, refused)
            if replica is None:
                await self._wait_for_one()
                continue
            try:
                return await replica.ask(model, call)
            except RetryableError as error:
                if len(self) == 1:
                    raise
                self._set_aside(replica, error)
                # A call that brings down every server that comes back must end some time.
                failed_at = failed_at or time.monotonic()
                if time.monotonic() - failed_at > self._patience_s:
                    raise self._explain_absence() from error
            except RequestFailed:
                # Perhaps this replica's doing; what two of them fail at is the call's.
                refused.add(replica)
                if len(refused) > 1 or self._choose(key, refused) is None:
                    raise
            except ModelNotFound as error:
                failed_at = failed_at or time.monotonic()
                lost = model.artifact in self._digests
                if not lost or time.monotonic() - failed_at > self._patience_s:
                    raise self._name_server(error, replica) from error
                self._set_aside(replica, error)
            except RunError as error:
                raise self._name_server(error, replica) from error
        raise await breaker.wait_for_error()

    async def load(self, digests: Mapping[str, str]) -> None:
        """Let every replica have exactly these adapters, whatever was begun.

        Returns once all that take calls have them, at least one; the others get them before they
        take calls again. `digests` are hashes of the adapters' files by the name of their folder.
        """
        self._digests = dict(digests)
        breaker = self._begin()
        await self._do_at_all(lambda replica: replica.load(self._digests))
        while self._choose(0, frozenset()) is None and not breaker.tripped:
            await self._wait_for_one()
        if breaker.tripped:
            raise await breaker.wait_for_error()

    async def try_adapter(self, folder: str) -> None:
        """Let every replica that takes calls try an adapter; see `Replica.try_adapter`."""
        self._begin()
        await self._do_at_all(lambda replica: replica.try_adapter(folder))

    def with_deadline(self, give_up_after_s: float) -> Replicas:
        """The same servers for a user who waits, with connections of their own."""
        return Replicas(
            [replica.with_deadline(give_up_after_s) for replica in self._replicas],
            min(self._patience_s, give_up_after_s),
            check_every_s=self._check_every_s,
        )

    def lose(self, number: int, reason: str) -> None:
        """Ask the others for the calls of replica `number`, whose server has ended."""
        replica = self._replicas[number]
        # First, so that a call which is ended now does not come back to it.
        self._set_aside(replica, ConnectionLost(reason))
        replica.abandon_calls()

    async def move(self, number: int, server: AnswerServer, provider: Provider) -> None:
        """Let another server take the place of one that was lost; it gets its adapters first."""
        await self._replicas[number].move(server, provider)

    async def close(self) -> None:
        """Close all connections, even if one fails to close. The adapters stay loaded."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closing = (replica.close() for replica in self._replicas)
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _do_at_all(self, do: Callable[[Replica], Awaitable[object]]) -> None:
        """Do something at all replicas that take calls; one of several that fails is set aside."""
        ready = [replica for replica in self._replicas if replica.failure is None]
        outcomes = await asyncio.gather(*map(do, ready), return_exceptions=True)
        for replica, outcome in zip(ready, outcomes, strict=True):
            if isinstance(outcome, RetryableError) and len(self._replicas) > 1:
                self._set_aside(replica, outcome)
            elif isinstance(outcome, ProviderError):
                raise self._name_server(outcome, replica) from outcome
            elif isinstance(outcome, BaseException):
                raise outcome

    def _begin(self) -> Breaker:
        """What stops all calls; from the first one on, replicas that have calls are watched."""
        if self._breaker is None or self._breaker.tripped:
            self._breaker = Breaker()
            self._breaker.on_trip(self._change.set)
            get_breakers().register(self._breaker)
        if not self._tasks:
            self._start(self._watch())
        return self._breaker

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _choose(self, key: int, without: Set[Replica]) -> Replica | None:
        """Where a call goes that begins like `key`; None if no replica takes calls."""
        ready = [r for r in self._replicas if r.failure is None and r not in without]
        if not ready:
            return None
        least = min(replica.calls for replica in ready)
        most = least + least // _SHARE_OF_SLACK
        # Each key has an order of preference among all replicas of its own, so that few calls move
        # when one fails or comes back (rendezvous hashing).
        near = [replica for replica in ready if replica.calls <= most]
        return max(near, key=lambda replica: hash((key, self._numbers[replica])))

    async def _wait_for_one(self) -> None:
        """Return once a replica may take calls, or all calls are stopped."""
        self._change.clear()
        try:
            async with asyncio.timeout(self._patience_s):
                await self._change.wait()
        except TimeoutError:
            raise self._explain_absence() from None

    def _explain_absence(self) -> Unreachable:
        reasons = (f"{replica.address}: {_say(replica.failure)}" for replica in self._replicas)
        return Unreachable(
            f"the servers of [serving] have not answered a call for {self._patience_s:,.0f} s "
            f"({'; '.join(reasons)}). Start again when they are well: what is stored is kept"
        )

    def _set_aside(self, replica: Replica, error: ProviderError) -> None:
        """Send no more calls to a replica until it is well again."""
        # Many calls learn of one failure.
        if replica.failure is not None:
            return
        replica.failure = error
        left = sum(other.failure is None for other in self._replicas)
        others = f"{left} other server(s) answer" if left else "no other server answers"
        _log.warning(
            "%s takes no calls now (%s); %s, and it is tried again",
            replica.address,
            _say(error),
            others,
        )
        self._start(self._bring_back(replica))

    async def _bring_back(self, replica: Replica) -> None:
        pause_s = _FIRST_PAUSE_S
        digests: Mapping[str, str] | None = None
        # Another society may have been loaded into the others meanwhile.
        while digests is not self._digests:
            await asyncio.sleep(pause_s)
            pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)
            try:
                wanted = self._digests
                await replica.restart(wanted)
            except ProviderError as error:
                replica.failure = error
            else:
                digests = wanted
        replica.failure = None
        self._failed_checks[replica] = 0
        self._change.set()
        _log.warning("%s takes calls again", replica.address)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._check_every_s)
            asked = (r for r in self._replicas if r.failure is None and r.calls)
            await asyncio.gather(*map(self._check, asked))

    async def _check(self, replica: Replica) -> None:
        """Set a replica aside that does not answer, or has lost adapters."""
        answers = replica.answers
        try:
            async with asyncio.timeout(self._check_every_s):
                missing = await replica.find_missing()
        except (TimeoutError, RetryableError):
            # Servers may list their models late while they are busy with answers.
            if replica.answers > answers or len(self) == 1:
                self._failed_checks[replica] = 0
                return
            self._failed_checks[replica] += 1
            if self._failed_checks[replica] < _FAILED_CHECKS:
                return
            failure: ProviderError = TimedOut("it does not answer")
        except ProviderError as error:
            failure = error
        else:
            self._failed_checks[replica] = 0
            if not missing:
                return
            failure = ModelNotFound(f"it has lost the adapter {missing[0]}")
        self._set_aside(replica, failure)
        replica.abandon_calls()

    def _name_server(self, error: ProviderError, replica: Replica) -> ProviderError:
        """The error with the server that it is about, if there are several."""
        return error if len(self) == 1 else type(error)(f"{replica.address}: {error}")


def _hash_beginning(model: ModelRef, messages: Sequence[Message]) -> int:
    """Equal for calls that a server reads alike up to the first question: servers keep what they
    have read by adapter."""
    number = zlib.crc32((model.artifact or "").encode())
    for message in messages:
        number = zlib.crc32(message.content.encode(errors="surrogatepass"), number)
        if message.role == "user":
            break
    return number


def _say(error: ProviderError | None) -> str:
    """Why a replica takes no calls, without what the user of a single server would have to do."""
    return "well again" if error is None else str(error).partition("; given up after")[0]
