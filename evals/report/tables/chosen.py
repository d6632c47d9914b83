"""The signs that choose among an arm's societies, by iteration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evals.report.chosen import ChosenSociety
from evals.report.facts import ExperimentFacts, Facts
from evals.report.table import (
    ARM,
    PERCENT,
    PERCENT_INTERVAL,
    SOCIETY,
    Column,
    ReportTable,
    TableSpec,
)
from evals.stopping import Signs


def build_tables(facts: Facts) -> list[ReportTable]:
    """One row per society that was compared."""
    return [_SIGNS.build(facts)]


@dataclass(frozen=True, slots=True)
class _SocietySigns:
    of: ChosenSociety
    signs: Signs


def _list_signs(experiment: ExperimentFacts) -> Iterator[_SocietySigns]:
    for each in experiment.chosen:
        for signs in each.signs:
            yield _SocietySigns(each, signs)


def _mark(row: _SocietySigns) -> str:
    return "chosen" if row.signs.iteration == row.of.choice.chosen else ""


_COLUMNS: Sequence[Column[_SocietySigns]] = (
    Column("arm", "arm", lambda row: row.of.choice.arm, ARM),
    Column("run", "run", lambda row: row.of.run),
    Column("society", "iteration", lambda row: row.signs.iteration, SOCIETY),
    Column("", "chosen", _mark),
    Column("support", "support", lambda row: row.signs.support, PERCENT),
    Column("agreement", "agreement", lambda row: row.signs.agreement, PERCENT),
    Column("flipped", "flipped", lambda row: row.signs.flipped, PERCENT),
    Column("commonest", "top_share", lambda row: row.signs.top_share, PERCENT),
    Column("unread", "unread", lambda row: row.signs.unread, PERCENT),
    Column(
        "right, by gold",
        "accuracy",
        lambda row: row.of.accuracies.get(row.signs.iteration),
        PERCENT_INTERVAL,
    ),
)
_SIGNS = TableSpec(
    "signs",
    "Signs that choose a society",
    _COLUMNS,
    _list_signs,
    "In %. Support decides: how often a first answer of the first two societies is the last vote "
    "of this one. Agreement: share of the first answers that have the plurality answer. Flipped: "
    "questions with another last vote than before. Commonest: last votes that are worded alike. "
    "Gold took no part.",
)
