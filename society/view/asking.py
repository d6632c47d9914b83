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
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from uuid import uuid4

from evals import choices
from evals.stored_run import NothingStored
from providers.errors import BudgetReached
from society.config.load import ConfigError
from society.costs.budget import is_free
from society.method.connections import Connections
from society.runs.folder import RunFolder
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
from society.view.endpoint.society import ServedDebate, ServedSociety
from store.records import Turn, utc_now

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


@dataclass(slots=True)
class AskedQuestion:
    """A question and its debate as far as it has come: it ends with `debate`, or with `problem`.

    `form` is the name of a served model, `society` says who answers, "" while it is being loaded.
    """

    asked_id: str
    run: str
    text: str
    form: str
    asked_at: datetime = field(default_factory=utc_now)
    society: str = ""
    turns: list[Turn] = field(default_factory=list)
    debate: ServedDebate | None = None
    problem: str | None = None

    @property
    def ended(self) -> bool:
        return self.debate is not None or self.problem is not None

    @property
    def version(self) -> str:
        """Differs once there is more to show."""
        return f"{len(self.turns)}-{bool(self.society)}-{self.ended}"

    @property
    def rounds(self) -> list[tuple[int, list[Turn]]]:
        """The turns so far by round, a summary in front of its reader's answer."""
        # A copy, since the debate goes on in another thread.
        turns = sorted(self.turns[:], key=lambda t: (t.round, t.agent, t.kind != "summary"))
        return [(number, list(own)) for number, own in groupby(turns, key=lambda t: t.round)]


class AskingDesk:
    """Takes questions for the runs' societies; its methods are for one thread, such as the pages'.

    desk = AskingDesk(AskLimits())
    asked = desk.ask(folder, "3+4*5+6-7*8", "society")
    desk.close()
    """

    def __init__(
        self, limits: AskLimits | None = None, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self.limits = limits or AskLimits()
        self._tell = tell
        self._asked: OrderedDict[str, AskedQuestion] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # These are used within the loop only.
        self._opening = asyncio.Lock()
        self._society: ServedSociety | None = None
        self._spending: dict[str, PutUnder] = {}
        self._debating: set[asyncio.Task[None]] = set()
        self._resting: asyncio.TimerHandle | None = None

    def ask(self, folder: RunFolder, text: str, form: str) -> AskedQuestion:
        """Begin a debate on `text`, in one of the run's forms (`read_askable`).

        Raises `AskRefused` where too many are under way.
        """
        under_way = self._list_under_way()
        if len(under_way) >= self.limits.in_flight:
            raise AskRefused(
                429,
                f"{len(under_way)} of at most {self.limits.in_flight} questions are being debated; "
                "ask again when one of them has ended",
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

    def find(self, run: str, asked_id: str) -> AskedQuestion | None:
        """A question that was put to `run` since the start, unless it is too long ago."""
        asked = self._asked.get(asked_id)
        return asked if asked is not None and asked.run == run else None

    def list_asked(self, run: str) -> list[AskedQuestion]:
        """The questions put to `run`, the newest first."""
        return [asked for asked in reversed(self._asked.values()) if asked.run == run]

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

    async def _answer(self, asked: AskedQuestion, folder: RunFolder) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._debating.add(task)
        try:
            society, stored = await self._open_society(folder)
            # Shown at once: from here on the page waits for agents, no longer for models.
            asked.society = choices.name_society(society.run.iteration)
            form = list_forms(stored.arm)[asked.form]
            question = ChatQuestion(asked.form, asked.text)
            # A large model may take longer to load than a question may be debated.
            async with asyncio.timeout(self.limits.deadline_s):
                asked.debate = await society.hold_debate(
                    form, question, f"asked-{asked.asked_id}", 0, asked.turns.append
                )
        except asyncio.CancelledError:
            asked.problem = "the viewer was stopped"
        # Whatever it is, it ends this question only.
        except Exception as error:
            asked.problem = self._explain(error)
        finally:
            self._debating.discard(task)
            self._rest_later()

    def _explain(self, error: Exception) -> str:
        # Errors of the models that are timeouts, too, have types of their own.
        if type(error) is TimeoutError:
            return f"no answer within {self.limits.deadline_s:g} s, the most that a question takes"
        if isinstance(error, BudgetReached):
            return f"{error} (--ask-budget)"
        if isinstance(error, ConfigError | NothingStored):
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
            stored = await load_stored_society(folder, None)
            if (found := self._society) is not None:
                # A debate that is under way keeps its society, also if the run has a newer one.
                same = found.run.name == stored.run.name
                if same and (found.run.society == stored.run.society or len(self._debating) > 1):
                    return found, stored
                self._society = None
                await found.close()
            serving = stored.config.serving
            if serving is not None and serving.engine is not None:
                # One debate is over before a server of its own is up, as with `society ask`.
                config = stored.config.model_copy(update={"serving": None})
                stored = replace(stored, config=config)
            society = ServedSociety(
                stored.run,
                make_opener(stored, self._find_spending(stored), self._tell),
                UnstoredDebates(),
            )
            await society.open()
            self._society = society
            return society, stored

    def _find_spending(self, stored: StoredSociety) -> PutUnder:
        # One budget for a run however often its models are loaded.
        if stored.folder.name not in self._spending:
            cap_usd = None if is_free(stored.config) else self.limits.budget_usd
            _, self._spending[stored.folder.name] = open_spending(stored, None, cap_usd)
        return self._spending[stored.folder.name]

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
                society, self._society = self._society, None
                await society.close()

    async def _stop(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
        # A debate that ends by itself meanwhile leaves the set.
        tasks = list(self._debating)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._resting is not None:
            self._resting.cancel()
        await self._close_society()
