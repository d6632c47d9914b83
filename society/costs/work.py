"""How much work each stage of a run is, so that the time of those to come can be told."""

from __future__ import annotations

from collections import defaultdict

from providers.pricing import Prices
from society.costs.estimate import CostLine, list_lines_by_iteration
from society.method.experiment import Experiment
from society.method.progress import PlannedWork, WorkKind

# How long a drawn or a trained token takes, in tokens of a prompt: prompts are read many at a time,
# an answer grows token by token, and training goes through a token forth and back.
_DRAWN, _TRAINED = 3.0, 3.0


def plan_work(experiment: Experiment) -> tuple[PlannedWork, ...]:
    """The work of every iteration's debates, trainings and evaluations, in the order of the loop.

    The lengths of answers are guessed as in the estimate of costs. Raises ValueError if a task
    cannot load its questions.

        plan_work(load_experiment("demo"))[0].kind  # "evaluate", of the untuned society
    """
    units: dict[tuple[int, WorkKind], float] = defaultdict(float)
    work: dict[tuple[int, WorkKind], float] = defaultdict(float)
    priced: set[WorkKind] = set()
    prices = Prices(experiment.config.prices)
    for iteration, line in list_lines_by_iteration(experiment):
        kind = _find_kind(line)
        if kind is None:
            continue
        units[iteration, kind] += line.calls.expected
        work[iteration, kind] += (
            line.prompt.expected
            + _DRAWN * line.completion.expected
            + _TRAINED * line.trained.expected
        )
        price = prices.at(line.model, tuned=False)
        if price is None or not price.is_free:
            priced.add(kind)
    return tuple(
        PlannedWork(iteration, kind, units[iteration, kind], amount, kind not in priced)
        for (iteration, kind), amount in work.items()
    )


def _find_kind(line: CostLine) -> WorkKind | None:
    """The kind of a line's stage; None for measurements, which take little."""
    if line.stage == "diversity":
        return None
    if line.stage == "finetune":
        return "finetune"
    return "debate" if line.stage in ("labels", "debate") else "evaluate"
