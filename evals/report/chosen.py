"""Which society every arm has chosen by its signs, and what gold says of it afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from evals.choices import describe_choice, find_choice
from evals.intervals import Rate
from evals.metrics import read_society_accuracies
from evals.report.seeds import SeedRun
from evals.stopping import Signs
from evals.stored_run import ArmSettings
from store.records import Choice


@dataclass(frozen=True, slots=True)
class ChosenSociety:
    """The decision that holds for one arm of one run, with the signs that led to it.

    `accuracies` are those of the last vote, sampled, by iteration; empty where gold is unknown.
    """

    run: str
    choice: Choice
    signs: tuple[Signs, ...]
    accuracies: dict[int, Rate]

    @property
    def text(self) -> str:
        """What was decided and why, and how good it was where gold is known."""
        said = f"{self.choice.arm}, {self.run}: {describe_choice(self.choice)}."
        if self.choice.chosen not in self.accuracies:
            return said
        rates = {k: rate.value for k, rate in self.accuracies.items()}
        best, last = max(rates, key=lambda k: (rates[k], -k)), max(rates)
        return (
            f"{said} Gold, which took no part: it is right on "
            f"{100 * rates[self.choice.chosen]:.1f} %, the best (iteration {best}) on "
            f"{100 * rates[best]:.1f} %, the last (iteration {last}) on {100 * rates[last]:.1f} %."
        )


def read_chosen(runs: Sequence[SeedRun], arms: Sequence[ArmSettings]) -> list[ChosenSociety]:
    """One for every arm and run that has decided."""
    return [
        ChosenSociety(
            run.name,
            choice,
            tuple(Signs(**each) for each in json.loads(choice.signs)),
            {
                row.iteration: row.consensus
                for row in read_society_accuracies(run.store, arm.name)
                if row.decoding == "sampled"
            },
        )
        for arm in arms
        for run in runs
        if (choice := find_choice(run.store, arm.name))
    ]
