"""Every table of the report, by its name; a page, a CSV file and a paper show the same cells."""

from __future__ import annotations

from evals.report.cells import Table
from evals.report.facts import Facts
from evals.report.tables import conditions, learning, results, spending


def build(facts: Facts) -> dict[str, Table]:
    """The tables that have rows, in the order of the page."""
    tables = [
        *results.tables(facts),
        *conditions.tables(facts),
        *learning.tables(facts),
        *spending.tables(facts),
    ]
    return {table.name: table for table in tables if table.rows}
