"""Under which conditions: what was equal between the arms, and every setting."""

from __future__ import annotations

from collections.abc import Iterator

from evals.report.cells import Alike, Cell, Column, Number, Table, Text
from evals.report.facts import ExperimentFacts, Facts
from evals.report.parity import NEAR, Fact
from evals.report.tables.rows import spanning


def tables(facts: Facts) -> list[Table]:
    """One table of equal and unequal conditions for every experiment, then the settings."""
    several = len(facts.experiments) > 1
    parities = [
        _parity(each, f"conditions-{number}" if several else "conditions")
        for number, each in enumerate(facts.experiments, start=1)
    ]
    return [*(table for table in parities if table), _differing(facts), _settings(facts)]


def _parity(experiment: ExperimentFacts, name: str) -> Table | None:
    parity = experiment.parity
    if parity is None:
        return None
    columns = [Column("", "property", text=True)]
    columns += [Column(arm, arm, text=True) for arm in parity.arms]
    rows: list[tuple[Cell, ...]] = []
    for each in parity.properties:
        cells = (
            Alike(_cell(value), equal if arm != parity.main else None)
            for arm, value, equal in zip(parity.arms, each.values, each.equal, strict=True)
        )
        rows.append((Text(each.name), *cells))
    note = (
        f"= : as in {parity.main}; counts within {100 * NEAR:.0f} % of it are taken as equal. "
        "Counts are means per model, iteration and seed; calls and tokens are those of an "
        f"evaluation question, {experiment.decoding}, as the arm needs them. –: does not apply or "
        "is not told."
    )
    return Table(name, "What was equal between the arms", tuple(columns), tuple(rows), note)


def _cell(fact: Fact) -> Cell:
    if fact.count is not None:
        return Number(fact.count, 0 if fact.count >= 20 or fact.count == int(fact.count) else 1)
    return Text(fact.text or "–")


def _differing(facts: Facts) -> Table:
    columns = [Column("setting", "setting", text=True)]
    columns += [Column(each.label, each.label, text=True) for each in facts.experiments]
    rows = tuple((Text(key), *map(Text, values)) for key, values in facts.differing)
    return Table("differing-settings", "Where the experiments differ", tuple(columns), rows)


def _settings(facts: Facts) -> Table:
    columns = [Column("setting", "setting", text=True), Column("value", "value", text=True)]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        seeds = ", ".join(str(source.seed) for source in experiment.experiment.sources)
        for key, value in experiment.experiment.first.settings:
            yield Text(key), Text(seeds if key == "seed" else value)

    return spanning(facts, "settings", "Settings", columns, rows)
