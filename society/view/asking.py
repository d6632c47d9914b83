"""Questions asked in the browser: a run's society debates them while a page shows its turns.

The society is the one that `society serve` answers with. It works in a thread with an event loop of
its own, so that no page waits while a model is loaded. The models of one run are in memory at a
time, and are let go when nothing has been asked for a while.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

from evals import choices
from evals.stored_run import NothingStored
from providers.budget import Budget
from providers.errors import BudgetReached
from society.config.load import ConfigError
from society.costs.budget import is_free
from society.method.connections import Connections
from society.runs.folder import RunFolder
from society.view.ask_record import AskRecord
from society.view.asked import AskedQuestion, build_turn_counter
from society.view.endpoint.body import ChatQuestion
from society.view.endpoint.forms import list_forms
from society.view.endpoint.opening import (
    StoredSociety,
    load_stored_society,
    make_opener,
    open_spending,
)
from society.view.endpoint.record import UnstoredDebates
from society.view.endpoint.refusals import refuse_error
from society.view.endpoint.society import ServedRecord, ServedSociety
from store.errors import StoreError, WriteFailed

_log = logging.getLogger(__name__)
# Ended questions that are still shown; their texts are in memory only.
_KEPT = 50
_STOP_S = 10.0
PutUnder = Callable[[Connections], Connections]


@dataclass(frozen=True, slots=True)
class AskLimits:
    """`in_flight` questions are debated at a time, each for `deadline_s` at most.

    `budget_usd` is what the questions to one run may cost; a run that costs money is not asked
    without it. Models are let go after `idle_s` without a question.
    """

    in_flight: int = 4
    deadline_s: float = 300.0
    budget_usd: float | None = None
    idle_s: float = 300.0


class AskRefused(Exception):
    """A question that is not taken on now; `status` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AskingDesk:
    """Takes questions for the runs' societies; its methods are for one thread, such as the pages'.

    desk = AskingDesk(AskLimits())
    asked = desk.ask(folder, "3+4*5+6-7*8", "society")
    desk.stop(asked)
    desk.close()

    With a `record` it takes those to the run of the record only, and keeps them there.
    """

    def __init__(
        self,
        limits: AskLimits | None = None,
        tell: Callable[[str], None] = lambda text: None,
        record: AskRecord | None = None,
    ) -> None:
        self.limits = limits or AskLimits()
        self.record = record
        self._tell = tell
        self._asked: OrderedDict[str, AskedQuestion] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # Also read by the pages' thread.
        self._budgets: dict[str, Budget] = {}
        # These are used within the loop only.
        self._opening = asyncio.Lock()
        self._society: ServedSociety | None = None
        self._record_failed = False
        self._spending: dict[str, PutUnder] = {}
        self._debating: dict[str, asyncio.Task[None]] = {}
        self._resting: asyncio.TimerHandle | None = None

    def ask(self, folder: RunFolder, text: str, form: str) -> AskedQuestion:
        """Begin a debate on `text`, in one of the run's forms (`read_askable`).

        Raises `AskRefused` where too many are under way.
        """
        if (obstacle := self.find_obstacle(folder.name)) is not None:
            raise AskRefused(409, obstacle)
        under_way = self._list_under_way()
        if len(under_way) >= self.limits.in_flight:
            raise AskRefused(
                429,
                f"{len(under_way)} of at most {self.limits.in_flight} questions are being debated; "
                "ask again when one of them has ended, or stop one",
            )
        other = next((asked.run for asked in under_way if asked.run != folder.name), None)
        if other is not None:
            raise AskRefused(
                409,
                f"run {other!r} is answering, and the models of one run are in memory at a time; "
                "ask again when its debates have ended",
            )
        asked = AskedQuestion(uuid4().hex, folder.name, text, form)
        # Before the thread knows of it, so that the next call of this counts it.
        self._asked[asked.asked_id] = asked
        self._forget_oldest()
        asyncio.run_coroutine_threadsafe(self._answer(asked, folder), self._find_loop())
        return asked

    def stop(self, asked: AskedQuestion) -> None:
        """Cancel the calls of a debate, which ends it soon; one that has ended stays as it is."""
        if asked.ended or self._loop is None:
            return
        # Seen by a debate that has not begun yet, which has no task to cancel.
        asked.stopped = True
        self._loop.call_soon_threadsafe(self._cancel, asked.asked_id)

    def find(self, run: str, asked_id: str) -> AskedQuestion | None:
        """A question that was put to `run` since the start, unless it is too long ago."""
        asked = self._asked.get(asked_id)
        return asked if asked is not None and asked.run == run else None

    def list_asked(self, run: str) -> list[AskedQuestion]:
        """The questions put to `run`, the newest first."""
        return [asked for asked in reversed(self._asked.values()) if asked.run == run]

    def find_obstacle(self, run: str) -> str | None:
        """Why the questions of this viewer do not go to `run`, None if they may."""
        if self.record is None or run == self.record.source.name:
            return None
        return (
            f"this viewer keeps what the run {self.record.source.name!r} is asked (--store "
            f"{self.record.folder.name}); ask {self.record.source.name!r}, or start a viewer for "
            f"{run!r}"
        )

    def read_spent(self, run: str) -> float:
        """USD that the questions to `run` have cost: since the start, or in all that is kept."""
        budget = self._budgets.get(run)
        return 0.0 if budget is None else budget.spent_usd

    def prepare_record(self) -> None:
        """Make the run that keeps the questions, so that what forbids it shows at the start.

        Raises `ConfigError` if it holds anything else, and the store's errors.
        """
        if self.record is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(self._prepare(), self._find_loop()).result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the debates and let the models go."""
        if self._loop is None or self._thread is None:
            return
        loop, self._loop = self._loop, None
        stopped = asyncio.run_coroutine_threadsafe(self._stop(), loop)
        try:
            stopped.result(_STOP_S)
        except TimeoutError:
            # A model that does not let go ends with the process.
            return
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    def _list_under_way(self) -> list[AskedQuestion]:
        return [asked for asked in list(self._asked.values()) if not asked.ended]

    def _forget_oldest(self) -> None:
        ended = [key for key, asked in self._asked.items() if asked.ended]
        for key in ended[: max(0, len(self._asked) - _KEPT)]:
            del self._asked[key]

    def _find_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="ask", daemon=True)
            self._thread.start()
        return self._loop

    def _cancel(self, asked_id: str) -> None:
        task = self._debating.get(asked_id)
        if task is not None:
            task.cancel()

    async def _answer(self, asked: AskedQuestion, folder: RunFolder) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._debating[asked.asked_id] = task
        try:
            if asked.stopped:
                raise asyncio.CancelledError
            society, stored = await self._open_society(folder)
            # Shown at once: from here on the page waits for agents, no longer for models.
            asked.society = choices.name_society(society.run.iteration)
            form = list_forms(stored.arm)[asked.form]
            question = ChatQuestion(asked.form, asked.text)
            count = build_turn_counter(asked, stored)
            asked.record = None if self.record is None else self.record.folder.name
            # A large model may take longer to load than a question may be debated.
            async with asyncio.timeout(self.limits.deadline_s):
                asked.debate = await society.hold_debate(
                    form, question, asked.question_id, 0, count
                )
        except asyncio.CancelledError:
            asked.problem = "it was stopped" if asked.stopped else "the viewer was stopped"
        # Whatever it is, it ends this question only.
        except Exception as error:
            asked.problem = self._explain(error)
            if isinstance(error, WriteFailed):
                # A store that could not write once takes nothing more; the next question opens it
                # anew.
                self._record_failed = True
        finally:
            del self._debating[asked.asked_id]
            asked.end()
            self._rest_later()

    def _explain(self, error: Exception) -> str:
        # Errors of the models that are timeouts, too, have types of their own.
        if type(error) is TimeoutError:
            return f"no answer within {self.limits.deadline_s:g} s, the most that a question takes"
        if isinstance(error, BudgetReached):
            return f"{error} (--ask-budget)"
        if isinstance(error, StoreError) and self.record is not None:
            return f"it could not be kept in the run {self.record.folder.name!r}: {error}"
        if isinstance(error, ConfigError | NothingStored | StoreError):
            return str(error)
        refusal = refuse_error(error)
        if refusal.status != 500:
            return str(refusal)
        _log.error("a question could not be answered", exc_info=error)
        return f"{type(error).__name__}; the terminal shows more"

    async def _open_society(self, folder: RunFolder) -> tuple[ServedSociety, StoredSociety]:
        """The society of a run with its models loaded; that of another run, or of an earlier
        iteration, is closed."""
        async with self._opening:
            if self._resting is not None:
                self._resting.cancel()
            stored = await _load_society(folder)
            if (found := self._society) is not None:
                same = found.run.name == stored.run.name
                fresh = found.run.society == stored.run.society and not self._record_failed
                # A debate that is under way keeps its society, also if the run has a newer one.
                if same and (fresh or len(self._debating) > 1):
                    return found, stored
                await self._let_go(found)
            try:
                debates, put_under = self._open_spending(stored)
                society = ServedSociety(
                    stored.run, make_opener(stored, put_under, self._tell), debates
                )
                await society.open()
            except BaseException:
                self._close_record()
                raise
            self._society = society
            return society, stored

    def _open_spending(self, stored: StoredSociety) -> tuple[ServedRecord, PutUnder]:
        """Where the debates of a society are kept, and what puts its connections under a budget."""
        name = stored.folder.name
        cap_usd = None if is_free(stored.config) else self.limits.budget_usd
        if self.record is not None:
            # What is spent is read from there, so that earlier starts of the viewer count.
            kept = self.record.open(stored)
            self._record_failed = False
            self._budgets[name], put_under = open_spending(stored, kept.store, cap_usd)
            return kept, put_under
        # One budget for a run however often its models are loaded.
        if name not in self._spending:
            self._budgets[name], self._spending[name] = open_spending(stored, None, cap_usd)
        return UnstoredDebates(), self._spending[name]

    async def _prepare(self) -> None:
        if self.record is not None:
            try:
                self._open_spending(await _load_society(self.record.source))
            finally:
                # Opened again for the first question: meanwhile anything may read the file.
                self._close_record()

    def _rest_later(self) -> None:
        loop = asyncio.get_running_loop()
        if self._resting is not None:
            self._resting.cancel()
        self._resting = loop.call_later(
            self.limits.idle_s, lambda: loop.create_task(self._close_society())
        )

    async def _close_society(self) -> None:
        async with self._opening:
            if self._society is not None and not self._debating:
                await self._let_go(self._society)

    async def _let_go(self, society: ServedSociety) -> None:
        self._society = None
        try:
            await society.close()
        finally:
            self._close_record()

    def _close_record(self) -> None:
        if self.record is not None:
            self.record.close()

    async def _stop(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
        # A debate that ends by itself meanwhile leaves them.
        tasks = list(self._debating.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._resting is not None:
            self._resting.cancel()
        await self._close_society()


async def _load_society(folder: RunFolder) -> StoredSociety:
    stored = await load_stored_society(folder, None)
    serving = stored.config.serving
    if serving is None or serving.engine is None:
        return stored
    # One debate is over before a server of its own is up, as with `society ask`.
    return replace(stored, config=stored.config.model_copy(update={"serving": None}))
