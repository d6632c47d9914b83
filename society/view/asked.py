"""A question that was asked in the browser, and its debate as far as it has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from threading import Event

from providers.budgeted import call_usd
from providers.pricing import Prices
from society.view.endpoint.opening import StoredSociety
from society.view.endpoint.society import ServedDebate
from store.records import Turn, utc_now


@dataclass(slots=True)
class AskedQuestion:
    """A question and its debate as far as it has come: it ends with `debate`, or with `problem`.

    `form` is the name of a served model, `society` says who answers, "" while it is being loaded.
    `stopped`: a reader wants no more of it. `usd` is what its answers have cost so far, None where
    nothing costs anything; `record` names the run that keeps it.
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
    stopped: bool = False
    usd: float | None = None
    record: str | None = None
    _over: Event = field(default_factory=Event)

    @property
    def question_id(self) -> str:
        """Its name where it is kept."""
        return f"asked-{self.asked_id}"

    @property
    def ended(self) -> bool:
        return self.debate is not None or self.problem is not None

    def end(self) -> None:
        """Nothing more will come of it."""
        self._over.set()

    def wait(self, at_most_s: float) -> None:
        """Return when it has ended, or after a while."""
        self._over.wait(at_most_s)

    @property
    def answers(self) -> int:
        """How many answers have come."""
        return sum(turn.kind == "answer" for turn in self.turns[:])

    @property
    def version(self) -> str:
        """Differs once there is more to show."""
        return f"{len(self.turns)}-{bool(self.society)}-{self.stopped}-{self.ended}"

    @property
    def rounds(self) -> list[tuple[int, list[Turn]]]:
        """The turns so far by round, a summary in front of its reader's answer."""
        # A copy, since the debate goes on in another thread.
        turns = sorted(self.turns[:], key=lambda t: (t.round, t.agent, t.kind != "summary"))
        return [(number, list(own)) for number, own in groupby(turns, key=lambda t: t.round)]


def build_turn_counter(asked: AskedQuestion, stored: StoredSociety) -> Callable[[Turn], None]:
    """What takes the turns of `asked` as they come, and adds up what they cost."""
    prices = Prices(stored.config.prices)
    models = {model.model_id: model for model in stored.run.society.models}

    def count(turn: Turn) -> None:
        model = models.get(turn.model_id)
        price = None if model is None else prices.of(model)
        if price is not None and not price.is_free:
            spent = call_usd(price, turn.prompt_tokens, turn.completion_tokens)
            asked.usd = (asked.usd or 0.0) + spent
        asked.turns.append(turn)

    return count
