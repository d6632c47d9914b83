"""Which society is an arm's: the one that its signs have chosen, or the last.

What was decided is stored in `choices` (`society.method.stopping`); here it is read back, for all
that answers, shows or exports "the" society of a run.
"""

from __future__ import annotations

from evals.stored_run import Queryable
from store.records import Choice
from store.tables import TABLES

_STOP = "select config ->> '$.stop' from runs"
_CHOICES = f"""
    select {", ".join(TABLES[Choice].given)} from choices where arm = $arm order by iteration
"""
_EVALUATED = """
    select distinct iteration from votes where arm = $arm and split = 'eval' order by iteration
"""


def read_choices(source: Queryable, arm: str) -> list[Choice]:
    """What was decided about an arm, in the order of its iterations; none where `stop` is off."""
    # A run of an earlier version has no such table; its settings have no `stop` either.
    if source.rows(_STOP) != [("labels",)]:
        return []
    return [Choice(*row) for row in source.rows(_CHOICES, {"arm": arm})]


def find_choice(source: Queryable, arm: str) -> Choice | None:
    """The decision that holds for an arm: its last one."""
    return next(reversed(read_choices(source, arm)), None)


def has_ended(choice: Choice | None, iterations: int) -> bool:
    """Whether an arm with this last decision is trained no further in a run of `iterations`."""
    # With more iterations than the decision knew of, the arm goes on: whoever raises them wants it.
    return choice is not None and choice.stops and choice.iterations == iterations


def list_evaluated(source: Queryable, arm: str) -> list[int]:
    """The iterations whose society has answered evaluation questions; 0 is the untuned one."""
    return [int(iteration) for (iteration,) in source.rows(_EVALUATED, {"arm": arm})]


def find_society(source: Queryable, arm: str) -> int:
    """The iteration of an arm's society: the chosen one, or else the last that was evaluated."""
    choice = find_choice(source, arm)
    return choice.chosen if choice else max(list_evaluated(source, arm), default=0)


def name_society(iteration: int) -> str:
    """A society in a sentence."""
    return f"the society of iteration {iteration}" if iteration else "the untuned society"


def describe_choice(choice: Choice) -> str:
    """What was decided and why, in one or two sentences."""
    ended = ""
    if choice.stops and choice.iteration < choice.iterations:
        ended = f"training stops after iteration {choice.iteration} of {choice.iterations}. "
    return f"{ended}The signs choose {name_society(choice.chosen)}: {choice.reason}"
