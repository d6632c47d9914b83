"""Distilling a society: one model learns what its agents agree on, and answers alone.

The society debates questions without labels once more. Every first answer that agrees with the vote
of its debate, whichever agent gave it, is a row of one dataset, and one job tunes the base on it.
All this is an arm of the run ("distilled"): its iteration is the one after the society's, as if the
society had gone on learning, but into a single model. So reports, exports and queries know it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evals.arm_kinds import DISTILLED
from evals.tasks.base import TaskQuestion
from finetune.errors import TuningFailed
from society.config.arm import ArmSection
from society.method.arms import Arm
from society.method.debating import debate_questions, store_questions
from society.method.diversity import DiversityProbe
from society.method.evaluation import evaluate_society
from society.method.experiment import Experiment, RunContext
from society.method.finetuning import build_datasets, finetune_agents, load_society
from store.records import StageKey, StoredArm

# What an arm of the run may have changed for its own loop, and a single training does without.
_DATASETS: Mapping[str, Any] = {
    "generation": None,
    "critic": None,
    "replay": 0,
    "replay_share": 1.0,
    "novelty": None,
    "critic_first_answers": False,
}
# Preferences compare rounds of one agent, and a single model has one round.
_FINETUNE: Mapping[str, Any] = {
    "objective": "sft",
    "sft_weight": 0.0,
    "init": "fresh",
    "critic_init": "own",
}
_OF_LABELS = ("labels", "label_samples", "average_decay")


@dataclass(frozen=True, slots=True)
class Distillation:
    """What is distilled into which arm of the run.

    `source` is the arm whose society after `iteration` iterations teaches: `teacher` is that arm
    as it debates, `student` the single model. `experiment` has the run's settings and the
    student's; `questions` are debated, `origin` says where they come from.
    """

    source: Arm
    iteration: int
    experiment: Experiment
    teacher: Arm
    student: Arm
    questions: Sequence[TaskQuestion]
    origin: Mapping[str, Any]

    @property
    def stage(self) -> StageKey:
        """The debates that the student learns from."""
        return StageKey(self.iteration + 1, "train", self.student.name)

    def record(self) -> StoredArm:
        """The student as an arm of the run, with all that distinguishes it from another one."""
        stored = self.student.record()
        finetune = self.experiment.config.for_arm(self.student.name).finetune
        lineage = {
            "source": self.source.name,
            "source_iteration": self.iteration,
            "questions": dict(self.origin),
            "training": finetune.hyperparameters("generator").facts,
        }
        return replace(stored, settings=json.dumps({**json.loads(stored.settings), **lineage}))


def plan_distillation(
    experiment: Experiment,
    source: Arm,
    iteration: int,
    name: str,
    position: int,
    questions: Sequence[TaskQuestion],
    origin: Mapping[str, Any],
) -> Distillation:
    """The distillation of the society of `source` after `iteration` iterations into the arm `name`.

    `position` is the new arm's place among the stored ones.
    """
    config = experiment.config
    # Among the training arms this is the one that a pooled vote labels, with one agent left.
    student = Arm(
        name=name,
        kind=DISTILLED.name,
        position=position,
        agents=1,
        train_agents=source.agents,
        rounds=1,
        others=source.others,
        iterations=iteration + 1,
        labels="final",
        tuned=("generator",),
        data="pooled",
        w=None,
    )
    teacher = replace(
        student, agents=source.agents, rounds=source.rounds, early_end=source.early_end
    )
    config = config.model_copy(
        update={
            "iterations": iteration + 1,
            "arms": (*config.arms, _describe_student(source, name)),
            # A student that kept the base would be evaluated as if it had learnt something.
            "finetune": config.finetune.model_copy(update={"on_failure": "stop"}),
        }
    )
    whole = Experiment(config, (*experiment.arms, student), experiment.questions)
    return Distillation(source, iteration, whole, teacher, student, questions, origin)


def _describe_student(source: Arm, name: str) -> ArmSection:
    own = {section: dict(keys) for section, keys in source.own.items()}
    consensus = {k: v for k, v in own.get("consensus", {}).items() if k not in _OF_LABELS}
    return ArmSection(
        name=name,
        # A kind that is trained, whatever the source is: also an untuned debate can be distilled.
        like="majority-ft",
        consensus=consensus or None,
        datasets={**own.get("datasets", {}), **_DATASETS},
        finetune={**own.get("finetune", {}), **_FINETUNE},
    )


async def distill_society(run: RunContext, plan: Distillation) -> None:
    """Bring a distillation to its end, from wherever it is; `run` has `plan.experiment`.

    Raises what the loop raises, and `TuningFailed` if the agents agree on too few answers.
    """
    student, number = plan.student, plan.iteration + 1
    # Stored first, so that a start after a kill knows with which options it began.
    run.store.write(plan.record())
    task = run.experiment.questions.task
    store_questions(run, plan.questions, task.name, "train", iteration=number)
    untuned = run.connections.start_society(plan.source.agents)
    society = load_society(run.store, untuned, plan.iteration, plan.source.name)
    await debate_questions(run, plan.teacher, society, task, plan.questions, plan.stage, "debate")
    # One model for all agents: its dataset pools their rows.
    datasets = build_datasets(run, [student], number)
    base = run.connections.start_society(1)
    after = await finetune_agents(run, {student.name: base}, datasets, number)
    model = after[student.name].model(0, "generator")
    # The base itself, evaluated under this name, would pass for a model that has learnt nothing.
    if model.artifact is None:
        dataset = datasets[student.name][0, "generator"]
        least = run.connections[model.address].capabilities.min_examples
        raise TuningFailed(
            f"the society agrees on {dataset.examples} first answers, and {model.address} needs "
            f"{max(1, least)} to train on; distill more questions, with --questions FILE, under "
            "another name (--as)"
        )
    probe = DiversityProbe(run.store, run.config, run.connections)
    await evaluate_society(run, student, after[student.name], number, probe)
