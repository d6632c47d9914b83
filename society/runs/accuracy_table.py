"""The accuracies of a run as rows, as a data frame, and as a table that a notebook shows.

They are those of the report: every one counts a question once, and has its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup

from evals.invisible import one_line
from evals.metrics import MEASURES, Measure, list_extra_tasks, read_society_accuracies
from evals.stored_run import list_evaluated_arms
from society.runs.summary import NAMES
from store.ledger import Store
from store.query import make_frame
from store.records import Decoding

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

_CELL = "border:1px solid #8886;padding:.3em .6em;text-align:{}"
_NOTHING = "no accuracy: no evaluation debate about a question with a gold answer is complete"


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """One accuracy; shares of 1. `questions` counts those with gold that it is over."""

    task: str
    arm: str
    iteration: int
    decoding: Decoding
    measure: Measure
    accuracy: float
    low: float
    high: float
    questions: int


class AccuracyTable:
    """All accuracies of a run: `rows`, `frame()`, and its display in a notebook.

    run.accuracy().frame().query("measure == 'consensus'")
    """

    def __init__(self, rows: tuple[AccuracyRow, ...]) -> None:
        self.rows = rows

    def frame(self) -> pandas.DataFrame | polars.DataFrame | pyarrow.Table:
        """A row for each accuracy, in the first of pandas, polars and Arrow that is installed."""
        names = [field.name for field in fields(AccuracyRow)]
        return make_frame({name: [getattr(row, name) for row in self.rows] for name in names})

    def __repr__(self) -> str:
        """A line for each society and decoding, in %."""
        if not self.rows:
            return _NOTHING
        lines = [self._list_heads(), *self._list_cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        """The same as a table."""
        if not self.rows:
            return Markup("<p>{}</p>").format(_NOTHING)
        heads = Markup("").join(
            Markup('<th style="{}">{}</th>').format(_CELL.format("left"), head)
            for head in self._list_heads()
        )
        return Markup(
            '<table class="tex2jax_ignore mathjax_ignore" style="border-collapse:collapse">'
            "<caption>accuracy, % with 95 % interval</caption>"
            "<thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
        ).format(heads, Markup("").join(map(_draw_line, self._list_cells())))

    def _list_heads(self) -> list[str]:
        return ["task", "arm", "iteration", "decoding", *(NAMES[each] for each in MEASURES)]

    def _list_cells(self) -> Iterator[list[str]]:
        for key, found in groupby(self.rows, key=lambda row: astuple(row)[:4]):
            task, arm, iteration, decoding = key
            yield [
                one_line(task),
                one_line(arm),
                str(iteration) if iteration else "untuned",
                decoding,
                *map(_format_accuracy, found),
            ]


def read_accuracy_table(store: Store, own_task: str) -> AccuracyTable:
    """The accuracies of all arms and tasks; `own_task` is what the run's own task is called."""
    return AccuracyTable(
        tuple(
            AccuracyRow(
                task or own_task,
                arm,
                society.iteration,
                society.decoding,
                measure,
                (rate := society.rate(measure)).value,
                rate.low,
                rate.high,
                rate.total,
            )
            for task in (None, *list_extra_tasks(store))
            for arm in list_evaluated_arms(store)
            for society in read_society_accuracies(store, arm, task)
            for measure in MEASURES
        )
    )


def _format_accuracy(row: AccuracyRow) -> str:
    return f"{100 * row.accuracy:.1f} ({100 * row.low:.1f}–{100 * row.high:.1f})"


def _draw_line(cells: list[str]) -> Markup:
    # Names at the left, numbers at the right, as tables have them.
    return Markup("<tr>{}</tr>").format(
        Markup("").join(
            Markup('<td style="{}">{}</td>').format(
                _CELL.format("left" if place < 4 else "right"), cell
            )
            for place, cell in enumerate(cells)
        )
    )
