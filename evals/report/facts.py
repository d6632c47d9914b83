"""Every number the report shows, read from the runs' stores once.

Page, tables and figures are made from these facts, so that they cannot say different things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals import health
from evals.health import Concern
from evals.metrics import Decoding
from evals.report import (
    accuracies,
    costs,
    diversities,
    experiments,
    parity,
    published,
    styled,
    training,
    verdicts,
    votings,
)
from evals.report.accuracies import Accuracies
from evals.report.costs import Cost
from evals.report.diversities import Diversity
from evals.report.examples import Example, choose
from evals.report.experiments import Experiment, Source
from evals.report.parity import Parity
from evals.report.published import Published
from evals.report.styled import Styled
from evals.report.training import Flips, Labels, Tuning
from evals.report.verdicts import Verdicts
from evals.report.votings import Voting
from evals.stored_run import ArmSettings
from store.ledger import Store

_ALLOWED = "select count(distinct eval_question_id) from allowed_overlaps"


@dataclass(frozen=True, slots=True)
class ExperimentFacts:
    """One experiment over all its seeds.

    `arms` are those with something evaluated, `waiting` the others. `leaked` counts the evaluation
    questions that are much like training questions and were allowed to be. `decoding` is that of
    the votes, of `examples` too. `concerns` are what gets worse, run by run.
    """

    experiment: Experiment
    arms: tuple[ArmSettings, ...]
    waiting: tuple[str, ...]
    leaked: int
    decoding: Decoding
    accuracies: Accuracies
    votings: tuple[Voting, ...]
    verdicts: tuple[Verdicts, ...]
    diversities: tuple[Diversity, ...]
    labels: tuple[Labels, ...]
    concerns: tuple[tuple[Source, Concern], ...]
    flips: tuple[Flips, ...]
    tunings: tuple[Tuning, ...]
    parity: Parity | None
    styles: tuple[Styled, ...]
    costs: tuple[Cost, ...]
    examples: tuple[Example, ...]

    @property
    def label(self) -> str:
        return self.experiment.label

    @property
    def main(self) -> ArmSettings:
        return self.experiment.main

    @property
    def last(self) -> int:
        """The society's last evaluated iteration."""
        found = self.accuracies.last(self.main.name, self.decoding, "consensus")
        if found is not None:
            return found.key.stage.iteration
        return max((each.iteration for each in self.main_votings), default=0)

    @property
    def main_votings(self) -> list[Voting]:
        """How the society votes on the runs' own questions, by decoding and iteration."""
        return [v for v in self.votings if (v.task, v.arm) == (None, self.main.name)]

    def voting(
        self, arm: str, iteration: int, decoding: str, task: str | None = None
    ) -> Voting | None:
        """What is known without gold of one society on one task."""
        for each in self.votings:
            if (each.arm, each.iteration, each.decoding, each.task) == (
                arm,
                iteration,
                decoding,
                task,
            ):
                return each
        return None


@dataclass(frozen=True, slots=True)
class Facts:
    """A whole report. `differing` are the settings that are not the same in all experiments."""

    experiments: tuple[ExperimentFacts, ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...]
    published: tuple[Published, ...]

    @property
    def title(self) -> str:
        labels = [experiment.label for experiment in self.experiments]
        more = f" and {len(labels) - 3} more" if len(labels) > 4 else ""
        return ", ".join(labels[:3] if more else labels) + more

    @property
    def arms(self) -> tuple[ArmSettings, ...]:
        """Every arm of any experiment, once by name, in order."""
        found: dict[str, ArmSettings] = {}
        for experiment in self.experiments:
            for arm in experiment.experiment.arms:
                found.setdefault(arm.name, arm)
        return tuple(found.values())

    @property
    def tasks(self) -> tuple[str, ...]:
        """The labels of all that is evaluated apart: zero-shot tasks, rungs of a curriculum."""
        found = (task for each in self.experiments for task in each.accuracies.tasks())
        return tuple(dict.fromkeys(found))


def read(stores: Sequence[Store], *, quote: bool = True) -> Facts:
    """Collect everything; `quote` adds the paper's numbers where the task is one of its.

    Raises `NothingStored` for a store without a run, and `SameRun`.
    """
    grouped = experiments.group(stores)
    found = tuple(_experiment(each) for each in grouped)
    tasks = dict.fromkeys(each.experiment.first.task for each in found)
    for each in found:
        tasks |= dict.fromkeys(each.accuracies.tasks())
    return Facts(
        found,
        tuple(experiments.differing(grouped)) if len(grouped) > 1 else (),
        tuple(published.matching(list(tasks))) if quote else (),
    )


def _experiment(experiment: Experiment) -> ExperimentFacts:
    sources = experiment.sources
    values = accuracies.read(sources)
    evaluated = {key.stage.arm for key in values.by_key}
    arms = tuple(arm for arm in experiment.arms if arm.name in evaluated)
    jobs = training.tunings(sources)
    shown: Decoding = (values.decodings() or ["sampled"])[0]
    main = experiment.main
    voted = votings.read(sources, arms)
    iterations = [
        each.iteration
        for each in voted
        if (each.task, each.arm, each.decoding) == (None, main.name, shown)
    ]
    return ExperimentFacts(
        experiment=experiment,
        arms=arms,
        waiting=tuple(arm.name for arm in experiment.arms if arm.name not in evaluated),
        leaked=max(int(store.rows(_ALLOWED)[0][0]) for store in experiment.stores),
        decoding=shown,
        accuracies=values,
        votings=tuple(voted),
        verdicts=tuple(verdicts.read(experiment, values)),
        diversities=tuple(diversities.read(sources, values)),
        labels=tuple(training.labels(sources, experiment.arms)),
        concerns=tuple(
            (source, concern)
            for arm in experiment.arms
            if arm.trained
            for source in sources
            for concern in health.concerns(source.store, arm.name)
        ),
        flips=tuple(training.flips(sources)),
        tunings=tuple(jobs),
        parity=(
            parity.read(experiment, arms, jobs, shown) if main in arms and len(arms) > 1 else None
        ),
        styles=tuple(styled.read(experiment, arms, values)),
        costs=tuple(costs.read(experiment.stores)),
        examples=tuple(
            choose(experiment.first.store, shown, iterations[0], iterations[-1], arm=main.name)
            if iterations
            else ()
        ),
    )
