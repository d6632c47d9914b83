"""Calls, tokens, time and money."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evals.report import costs
from evals.report.cells import Cell, Column, Duration, Number, Table, Text
from evals.report.costs import Cost
from evals.report.facts import ExperimentFacts, Facts
from evals.report.tables.rows import arm, society, spanning

_NUMBERS = (
    Column("answers", "answers"),
    Column("summaries", "summaries"),
    Column("jobs", "jobs"),
    Column("prompt tokens", "prompt_tokens"),
    Column("new or trained tokens", "new_tokens"),
    Column("time", "seconds"),
    Column("USD", "usd"),
)


def tables(facts: Facts) -> list[Table]:
    """By arm and stage, and the same by iteration."""
    return [_by_stage(facts), _by_iteration(facts)]


def _by_stage(facts: Facts) -> Table:
    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        found = costs.by_stage(_in_order(experiment))
        for each in found:
            yield arm(each.arm), Text(each.stage), *_numbers(each)
        if found:
            yield Text("all"), Text(""), *_numbers(costs.summed(found))

    columns = [Column("arm", "arm", text=True), Column("stage", "stage", text=True), *_NUMBERS]
    note = (
        "All iterations and seeds together. What was taken over from another arm cost nothing and "
        "does not count. Time runs from the first to the last response of a stage, pauses of an "
        "interrupted run included; for fine-tuning from submission to adoption. Arms that run at "
        "the same time each count their own. –: not told, or the price is unknown."
    )
    return spanning(facts, "costs", "Calls, tokens, time and money", columns, rows, note)


def _by_iteration(facts: Facts) -> Table:
    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        for each in _in_order(experiment):
            yield arm(each.arm), society(each.iteration), Text(each.stage), *_numbers(each)

    columns = [
        Column("arm", "arm", text=True),
        Column("iteration", "iteration", text=True),
        Column("stage", "stage", text=True),
        *_NUMBERS,
    ]
    return spanning(facts, "costs-by-iteration", "The same by iteration", columns, rows)


def _in_order(experiment: ExperimentFacts) -> list[Cost]:
    order = {each.name: place for place, each in enumerate(experiment.experiment.arms)}
    return sorted(experiment.costs, key=lambda cost: order.get(cost.arm, len(order)))


def _numbers(cost: Cost) -> Sequence[Cell]:
    counts = (cost.answers, cost.summaries, cost.jobs, cost.prompt_tokens, cost.new_tokens)
    return (*map(Number, counts), Duration(cost.seconds), Number(cost.usd, 2))
