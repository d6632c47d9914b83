"""Every table of the report, by its name; a page, a CSV file and a paper show the same cells."""

from __future__ import annotations

from evals.report.facts import Facts
from evals.report.table import ReportTable
from evals.report.tables import chosen, conditions, members, results, standing, training


def build_tables(facts: Facts) -> dict[str, ReportTable]:
    """The tables that have rows, in the order of the page."""
    tables = [
        standing.build_table(facts),
        *results.build_tables(facts),
        *conditions.build_tables(facts),
        *training.build_tables(facts),
        *chosen.build_tables(facts),
        *conditions.build_cost_tables(facts),
        *members.build_tables(facts),
    ]
    return {table.name: table for table in tables if table.rows}
