"""How much of an arm's change is choice of style and how much is skill, over all seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals import styles, tasks
from evals.metrics import Decoding
from evals.report.accuracies import Accuracies
from evals.report.experiments import Experiment, Source
from evals.stored_run import ArmSettings
from evals.styles import StyleChange, StyleUse
from evals.tasks.base import Task


@dataclass(frozen=True, slots=True)
class Styled:
    """The styles of one arm's first answers in its first and its last evaluated iteration."""

    arm: str
    decoding: Decoding
    first: int
    last: int
    change: StyleChange

    @property
    def pairs(self) -> list[tuple[StyleUse, StyleUse]]:
        return list(zip(self.change.before, self.change.after, strict=True))


def read(
    experiment: Experiment, arms: Sequence[ArmSettings], accuracies: Accuracies
) -> list[Styled]:
    """Of the arms that have changed; empty where the task knows no styles, or is not here."""
    try:
        task = tasks.load(experiment.first.task, dict(experiment.first.task_options))
    except ValueError:
        # A module or a file of the user's own; the run stands without it.
        return []
    if not _known(experiment, task, accuracies):
        return []
    found = []
    for arm in arms:
        for decoding in accuracies.decodings():
            evaluated = [
                each.key.stage.iteration
                for each in accuracies.iterations(arm.name, decoding, "single")
            ]
            if len(evaluated) > 1:
                first, last = evaluated[0], evaluated[-1]
                before = _use(experiment.sources, task, decoding, first, arm.name)
                after = _use(experiment.sources, task, decoding, last, arm.name)
                if (change := styles.change(before, after)) is not None:
                    found.append(Styled(arm.name, decoding, first, last, change))
    return found


def _known(experiment: Experiment, task: Task, accuracies: Accuracies) -> bool:
    """Whether the task tells a style in any of the main arm's first answers."""
    main, source = experiment.main.name, experiment.first
    return any(
        styles.use(source.store, task, each.key.stage.decoding, each.key.stage.iteration, main)
        for decoding in accuracies.decodings()[:1]
        for each in accuracies.iterations(main, decoding, "single")[:1]
    )


def _use(
    sources: Sequence[Source], task: Task, decoding: Decoding, iteration: int, arm: str
) -> Mapping[str, StyleUse]:
    counts: dict[str, tuple[int, int]] = {}
    for source in sources:
        for style, use in styles.use(source.store, task, decoding, iteration, arm).items():
            answers, right = counts.get(style, (0, 0))
            counts[style] = (answers + use.answers, right + use.right)
    total = sum(answers for answers, _ in counts.values())
    return {
        style: StyleUse(style, answers, right, answers / total)
        for style, (answers, right) in sorted(counts.items())
    }
