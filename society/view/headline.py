"""The first thing that the page of a run says: how often its society votes right."""

from __future__ import annotations

from dataclasses import dataclass

from society.view.overview import Overview, StageAccuracy


@dataclass(frozen=True, slots=True)
class Headline:
    """An arm's society, chosen or newest, and beside it the untuned one, if it is another.

    `several`: the run has several arms.
    """

    last: StageAccuracy
    untuned: StageAccuracy | None
    chosen: bool
    several: bool


def find_headline(found: Overview, arm: str | None = None) -> Headline | None:
    """Of the main arm, or of the one that is named; None until a society of it has an accuracy."""
    arm = arm or found.main_arm
    rows = [row for row in found.accuracies if row.stage.arm == arm and row.consensus is not None]
    if not rows:
        return None
    # Tasks come in the order of their names; the run's own goes before those evaluated apart.
    task = found.facts.task if any(row.task == found.facts.task for row in rows) else rows[0].task
    decodings = {row.stage.decoding for row in rows if row.task == task}
    decoding = "sampled" if "sampled" in decodings else "greedy"
    by_iteration = {
        row.stage.iteration: row
        for row in rows
        if (row.task, row.stage.decoding) == (task, decoding)
    }
    choice = next((c.chosen for c in found.choices if c.arm == arm), None)
    chosen = choice in by_iteration
    last = by_iteration[choice if choice is not None and chosen else max(by_iteration)]
    untuned = by_iteration.get(0) if last.stage.iteration else None
    return Headline(last, untuned, chosen, len(found.arms) > 1)
