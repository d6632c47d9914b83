"""Every number the report shows, read from the runs' stores once.

Page, tables and figures are made from these facts, so they always agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evals import degradation, stored_run
from evals.agreement import Agreement
from evals.degradation import Concern
from evals.report import accuracies, comparisons, costs, diversities, published, seeds, training
from evals.report.accuracies import Accuracies
from evals.report.agents import AgentCourse, read_agents
from evals.report.chosen import ChosenSociety, read_chosen
from evals.report.comparisons import ArmVerdict, ArmVerdicts, Parity
from evals.report.costs import StageCost
from evals.report.diversities import ArmDiversity
from evals.report.examples import DebateExample, choose_examples
from evals.report.models import TunedModel, read_models
from evals.report.published import Published
from evals.report.seeds import SeedGroup, SeedRun
from evals.report.training import ArmLabels, ArmStyles, Flips, Tuning
from evals.stored_run import ArmSettings, read_curriculum_steps
from store.ledger import Store
from store.records import CurriculumStep, Decoding, StageKey

_ALLOWED = "select count(distinct eval_question_id) from allowed_overlaps"


@dataclass(frozen=True, slots=True)
class ExperimentFacts:
    """One experiment over all its seeds.

    `arms` have something evaluated, `waiting` have not. `leaked` counts the evaluation questions
    that resemble training questions although the run was allowed to go on. `decoding` is that of
    the votes and of `examples`. `concerns` are what gets worse, `steps` the stages that votes have
    opened, `chosen` the societies that were chosen without gold, run by run; `agents` and `models`
    are those of the main arm.
    """

    group: SeedGroup
    arms: tuple[ArmSettings, ...]
    waiting: tuple[str, ...]
    leaked: int
    decoding: Decoding
    accuracies: Accuracies
    votings: tuple[Agreement, ...]
    verdicts: tuple[ArmVerdicts, ...]
    diversities: tuple[ArmDiversity, ...]
    labels: tuple[ArmLabels, ...]
    concerns: tuple[tuple[SeedRun, Concern], ...]
    chosen: tuple[ChosenSociety, ...]
    steps: tuple[tuple[SeedRun, CurriculumStep], ...]
    flips: tuple[Flips, ...]
    tunings: tuple[Tuning, ...]
    parity: Parity | None
    styles: tuple[ArmStyles, ...]
    costs: tuple[StageCost, ...]
    examples: tuple[DebateExample, ...]
    agents: tuple[AgentCourse, ...]
    models: tuple[TunedModel, ...]

    @property
    def label(self) -> str:
        return self.group.label

    @property
    def task(self) -> str:
        """The runs' own task."""
        return self.group.first.task

    @property
    def main(self) -> ArmSettings:
        """The main arm, which is compared with the others."""
        return self.group.main

    @property
    def last(self) -> int:
        """The main arm's last evaluated iteration."""
        found = self.accuracies.find_last(self.main.name, self.decoding, "consensus")
        if found is not None:
            return found.key.stage.iteration
        return max((each.stage.iteration for each in self.main_votings), default=0)

    @property
    def main_votings(self) -> list[Agreement]:
        """How the main arm votes on the runs' own questions, by decoding and iteration."""
        return [v for v in self.votings if (v.task, v.stage.arm) == (None, self.main.name)]

    @property
    def last_voting(self) -> Agreement | None:
        """How the main arm votes after its last iteration, under the decoding of the votes."""
        return self.find_voting(StageKey(self.last, "eval", self.main.name, self.decoding))

    @property
    def usd(self) -> float | None:
        """What all runs have paid; None where a price is unknown."""
        spent = [cost.usd for cost in self.costs]
        return None if None in spent else sum(usd or 0.0 for usd in spent)

    def is_untuned_main(self, verdict: ArmVerdict) -> bool:
        """Whether the main arm is compared with what it was before any tuning."""
        twin = stored_run.find_untuned_twin(self.group.arms)
        return verdict.untuned or (twin is not None and verdict.other == twin.name)

    def find_voting(self, stage: StageKey, task: str | None = None) -> Agreement | None:
        """How one society votes on one task."""
        fitting = (each for each in self.votings if (each.stage, each.task) == (stage, task))
        return next(fitting, None)


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
            for arm in experiment.group.arms:
                found.setdefault(arm.name, arm)
        return tuple(found.values())

    @property
    def several_seeds(self) -> bool:
        return any(len(each.group.runs) > 1 for each in self.experiments)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The labels of the extra tasks: zero-shot tasks and curriculum stages."""
        found = (task for each in self.experiments for task in each.accuracies.list_tasks())
        return tuple(dict.fromkeys(found))


def collect_facts(stores: Sequence[Store], *, quote: bool = True) -> Facts:
    """Collect everything; `quote` adds the paper's numbers for the tasks that it reports.

    Raises `NothingStored` for a store without a run, and `SameRun`.
    """
    grouped = seeds.group_runs(stores)
    found = tuple(_collect_experiment(each) for each in grouped)
    tasks = dict.fromkeys(each.task for each in found)
    for each in found:
        tasks |= dict.fromkeys(each.accuracies.list_tasks())
    return Facts(
        found,
        tuple(seeds.list_differing_settings(grouped)) if len(grouped) > 1 else (),
        tuple(published.find_published(list(tasks))) if quote else (),
    )


def _collect_experiment(group: SeedGroup) -> ExperimentFacts:
    runs = group.runs
    values = accuracies.read_accuracies(runs)
    evaluated = {key.stage.arm for key in values.by_key}
    arms = tuple(arm for arm in group.arms if arm.name in evaluated)
    # Read once, as the parity of the arms and the tuning tables need the same jobs.
    jobs = training.read_tunings(runs)
    # All votes are shown under one decoding. A run without an evaluation yet has none to choose
    # from.
    decoding: Decoding = (values.list_decodings() or ["sampled"])[0]
    votings = tuple(accuracies.read_votings(runs, arms))
    # Before the main arm is evaluated there is nothing to compare the others with.
    comparable = group.main in arms and len(arms) > 1
    return ExperimentFacts(
        group=group,
        arms=arms,
        waiting=tuple(arm.name for arm in group.arms if arm.name not in evaluated),
        # Seeds may share their questions, so a sum would count them several times.
        leaked=max(int(store.rows(_ALLOWED)[0][0]) for store in group.stores),
        decoding=decoding,
        accuracies=values,
        votings=votings,
        verdicts=tuple(comparisons.compare_arms(group, values)),
        diversities=tuple(diversities.read_diversities(runs, values)),
        labels=tuple(training.read_labels(runs, group.arms)),
        concerns=tuple(_list_concerns(group)),
        chosen=tuple(read_chosen(runs, group.arms)),
        steps=tuple((run, step) for run in group.runs for step in read_curriculum_steps(run.store)),
        flips=tuple(training.read_flips(runs)),
        tunings=tuple(jobs),
        parity=comparisons.read_parity(group, arms, jobs, decoding) if comparable else None,
        styles=tuple(training.read_style_changes(group, arms, values)),
        costs=tuple(costs.read_costs(group.stores)),
        examples=tuple(_choose_examples(group, votings, decoding)),
        agents=_read_agents(group, votings, decoding),
        models=read_models(runs, group.main.name),
    )


def _read_agents(
    group: SeedGroup, votings: Sequence[Agreement], decoding: Decoding
) -> tuple[AgentCourse, ...]:
    """None for a society of one agent, whose answers are the vote."""
    iterations = [
        each.stage.iteration
        for each in votings
        if (each.task, each.stage.arm) == (None, group.main.name)
    ]
    if not iterations or group.main.agents == 1:
        return ()
    return read_agents(group.runs, group.main.name, max(iterations), decoding)


def _list_concerns(group: SeedGroup) -> Iterator[tuple[SeedRun, Concern]]:
    for arm in group.arms:
        if arm.trained:
            for run in group.runs:
                for concern in degradation.find_concerns(run.store, arm.name):
                    yield run, concern


def _choose_examples(
    group: SeedGroup, votings: Sequence[Agreement], decoding: Decoding
) -> list[DebateExample]:
    """Debates of the main arm's first and last evaluated iteration."""
    arm = group.main.name
    iterations = [
        each.stage.iteration
        for each in votings
        if (each.task, each.stage.arm, each.stage.decoding) == (None, arm, decoding)
    ]
    if not iterations:
        return []
    return choose_examples(group.first.store, arm, decoding, iterations[0], iterations[-1])
