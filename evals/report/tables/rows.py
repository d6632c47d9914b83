"""Rows of tables that may span several experiments: the first column then says which."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from evals.report.cells import Cell, Column, Table, Text
from evals.report.facts import ExperimentFacts, Facts

RowsOf = Callable[[ExperimentFacts], Iterable[tuple[Cell, ...]]]


def spanning(
    facts: Facts,
    name: str,
    title: str,
    columns: Iterable[Column],
    rows_of: RowsOf,
    note: str = "",
) -> Table:
    """A table with the rows of every experiment, one after the other."""
    several = len(facts.experiments) > 1
    lead = (Column("experiment", "experiment", text=True),) if several else ()
    return Table(
        name,
        title,
        (*lead, *columns),
        tuple(
            ((Text(each.label),) if several else ()) + row
            for each in facts.experiments
            for row in rows_of(each)
        ),
        note,
    )


def arm(name: str) -> Text:
    """An arm's name, marked as such."""
    return Text(name, arm=name)


def society(iteration: int) -> Text:
    """Which society it is, by the passes it has been through."""
    return Text("untuned" if iteration == 0 else f"iteration {iteration}")
