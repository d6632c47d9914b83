"""Every table of the report, by its name; a page, a CSV file and a paper show the same cells."""

from __future__ import annotations

from evals.report.facts import Facts
from evals.report.table import ReportTable
from evals.report.tables import conditions, results, training


def build_tables(facts: Facts) -> dict[str, ReportTable]:
    """The tables that have rows, in the order of the page."""
    tables = [
        *results.build_tables(facts),
        *conditions.build_tables(facts),
        *training.build_tables(facts),
        *conditions.build_cost_tables(facts),
    ]
    return {table.name: table for table in tables if table.rows}
