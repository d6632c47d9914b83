"""Under which conditions: what was equal between the arms, what it took, and every setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from evals.report.comparisons import NEAR, SharedProperty, SharedValue
from evals.report.costs import StageCost, sum_by_stage, sum_costs
from evals.report.facts import ExperimentFacts, Facts
from evals.report.table import (
    ARM,
    DURATION,
    NOTHING,
    NUMBER,
    SOCIETY,
    TEXT,
    Cell,
    Column,
    Format,
    ReportTable,
    TableSpec,
    decimals,
    fill,
)


def build_tables(facts: Facts) -> list[ReportTable]:
    """Equal and unequal conditions of every experiment, the settings, then what was spent."""
    several = len(facts.experiments) > 1
    parities = [
        _parity(each, f"conditions-{number}" if several else "conditions")
        for number, each in enumerate(facts.experiments, start=1)
    ]
    return [*(table for table in parities if table), _list_differing(facts), _SETTINGS.build(facts)]


def build_cost_tables(facts: Facts) -> list[ReportTable]:
    """Calls, tokens, time and money: by arm and stage, and the same by iteration."""
    return [_COSTS.build(facts), _COSTS_BY_ITERATION.build(facts)]


def _write_shared(value: SharedValue) -> Cell:
    if value.count is None:
        return TEXT.write(value.text or NOTHING)
    # One decimal matters for means of small counts, such as 2.5 models.
    round_number = value.count >= 20 or value.count == int(value.count)
    return decimals(0 if round_number else 1).write(value.count)


def _write_compared(pair: tuple[SharedValue, bool | None]) -> Cell:
    """People see "=" for a value that equals the main arm's; programs always get the value."""
    cell = _write_shared(pair[0])
    return Cell("=", fields=cell.fields) if pair[1] else cell


SHARED = Format(_write_shared, text=True)
COMPARED = Format(_write_compared, text=True)


def _parity(experiment: ExperimentFacts, name: str) -> ReportTable | None:
    parity = experiment.parity
    if parity is None:
        return None
    columns: list[Column[SharedProperty]] = [Column("", "property", lambda each: each.name)]
    for place, arm in enumerate(parity.arms):
        # The main arm's own value is always written out: it is what "=" refers to.
        if arm == parity.main:
            columns.append(Column(arm, arm, _take_value(place), SHARED))
        else:
            columns.append(Column(arm, arm, _take_compared(place), COMPARED))
    note = (
        f"= : as in {parity.main}; counts within {100 * NEAR:.0f} % of it are taken as equal. "
        "Counts are means per model, iteration and seed; calls and tokens are those of an "
        f"evaluation question, {experiment.decoding}, as the arm needs them. {NOTHING}: does not "
        "apply or is unknown."
    )
    rows = fill(columns, parity.properties)
    return ReportTable(name, "What was equal between the arms", tuple(columns), rows, note)


def _take_value(place: int) -> Callable[[SharedProperty], SharedValue]:
    return lambda each: each.values[place]


def _take_compared(place: int) -> Callable[[SharedProperty], tuple[SharedValue, bool | None]]:
    return lambda each: (each.values[place], each.equal[place])


_Setting = tuple[str, tuple[str, ...]]
"""A setting's dotted name, and its value in every experiment."""


def _list_differing(facts: Facts) -> ReportTable:
    columns: list[Column[_Setting]] = [Column("setting", "setting", lambda row: row[0])]
    columns += [
        Column(each.label, each.label, _take_setting(place))
        for place, each in enumerate(facts.experiments)
    ]
    rows = fill(columns, facts.differing)
    return ReportTable("differing-settings", "Where the experiments differ", tuple(columns), rows)


def _take_setting(place: int) -> Callable[[_Setting], str]:
    return lambda row: row[1][place]


def _list_settings(experiment: ExperimentFacts) -> Iterator[tuple[str, str]]:
    seeds = ", ".join(str(run.seed) for run in experiment.group.runs)
    for key, value in experiment.group.first.settings:
        yield key, seeds if key == "seed" else value


_SETTING_COLUMNS: Sequence[Column[tuple[str, str]]] = (
    Column("setting", "setting", lambda row: row[0]),
    Column("value", "value", lambda row: row[1]),
)
_SETTINGS = TableSpec("settings", "Settings", _SETTING_COLUMNS, _list_settings)


def _write_whose(cost: StageCost) -> Cell:
    """The arm; the row of all arms together has no stage, and no arm to mark."""
    return (ARM if cost.stage else TEXT).write(cost.arm)


_ARM: Column[StageCost] = Column("arm", "arm", lambda cost: cost, Format(_write_whose, text=True))
_STAGE: Column[StageCost] = Column("stage", "stage", lambda cost: cost.stage)
_AMOUNTS: Sequence[Column[StageCost]] = (
    Column("answers", "answers", lambda cost: cost.answers, NUMBER),
    Column("summaries", "summaries", lambda cost: cost.summaries, NUMBER),
    Column("jobs", "jobs", lambda cost: cost.jobs, NUMBER),
    Column("prompt tokens", "prompt_tokens", lambda cost: cost.prompt_tokens, NUMBER),
    Column("new or trained tokens", "new_tokens", lambda cost: cost.new_tokens, NUMBER),
    Column("time", "seconds", lambda cost: cost.seconds, DURATION),
    Column("USD", "usd", lambda cost: cost.usd, decimals(2)),
)


def _list_by_stage(experiment: ExperimentFacts) -> Iterator[StageCost]:
    found = sum_by_stage(_list_in_order(experiment))
    yield from found
    if found:
        # Summed from the stages above, so that the total always equals its rows.
        yield replace(sum_costs(found), arm="all", stage="")


def _list_in_order(experiment: ExperimentFacts) -> list[StageCost]:
    order = {each.name: place for place, each in enumerate(experiment.group.arms)}
    return sorted(experiment.costs, key=lambda cost: order.get(cost.arm, len(order)))


_COSTS = TableSpec(
    "costs",
    "Calls, tokens, time and money",
    (_ARM, _STAGE, *_AMOUNTS),
    _list_by_stage,
    "All iterations and runs together. What was taken over from another arm cost nothing and does "
    "not count. Time runs from the first to the last response of a stage, pauses of an interrupted "
    "run included; for fine-tuning from submission to adoption. Arms that run at the same time "
    f"each count their own. {NOTHING}: unknown, or the price is unknown.",
)
_COSTS_BY_ITERATION = TableSpec(
    "costs-by-iteration",
    "The same by iteration",
    (
        _ARM,
        Column("iteration", "iteration", lambda cost: cost.iteration, SOCIETY),
        _STAGE,
        *_AMOUNTS,
    ),
    _list_in_order,
)
