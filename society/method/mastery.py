"""When a curriculum goes on to its next stage: once the society's own votes say it is mastered.

Agreement stands in for the accuracy that nobody knows without labels: agents that answer alike by
themselves are sure of their answers. It is measured on the training debates of the iteration
before, in their first round, since agents that have read each other agree also where all are
wrong. Neither gold nor an evaluation question has a part in it.

The main arm decides for all arms, which are comparable because they train on the same questions.
A decision is stored before anything is asked with it, and never made again.
"""

from __future__ import annotations

from evals.stored_run import choose_main_arm, read_curriculum_steps
from society.method.arms import Arm
from society.method.experiment import RunContext
from store.ledger import Store
from store.records import CurriculumStep

# Mean over the questions of the votes of the plurality answer. An answer that cannot be read
# agrees with none, so all agents count, not only those with an answer.
_AGREEMENT = """
SELECT avg(votes) FROM votes
WHERE iteration = ? AND arm = ? AND split = 'train' AND decoding = 'sampled' AND round = 1
"""


def enter_stage(run: RunContext, iteration: int) -> None:
    """Let `iteration` train on its stage, and say which it is and why.

    Without `task.mastery` the stage follows from the iteration, and there is nothing to decide.
    """
    mastery, questions = run.config.task.mastery, run.experiment.questions
    if mastery is None:
        return
    steps = {step.iteration: step for step in read_curriculum_steps(run.store)}
    step = steps.get(iteration)
    if step is None:
        step = _decide_step(run, mastery, iteration, steps.get(iteration - 1))
        run.store.write(step)
    questions.enter_stage(iteration, step.curriculum_stage)
    run.progress.note(_describe_step(step, mastery, steps.get(iteration - 1)))


def measure_agreement(store: Store, arm: Arm, iteration: int) -> float | None:
    """The mean share of an arm's agents that give the plurality answer of round 1, on the training
    questions of an iteration whose debates are complete; None if the arm had none.

    3 agents of whom 2 agree on every question: 0.67.
    """
    [(votes,)] = store.rows(_AGREEMENT, [iteration, arm.name])
    return None if votes is None else float(votes) / arm.train_agents


def _decide_step(
    run: RunContext, mastery: float, iteration: int, before: CurriculumStep | None
) -> CurriculumStep:
    arm, agreement, entry = None, None, 1
    stages = run.experiment.questions.curriculum
    if before is not None:
        deciding = choose_main_arm(run.experiment.arms)
        arm, agreement = deciding.name, measure_agreement(run.store, deciding, iteration - 1)
        mastered = agreement is not None and agreement >= mastery
        entry = min(before.curriculum_stage + mastered, len(stages))
    return CurriculumStep(iteration, entry, stages[entry - 1].label, arm, agreement)


def _describe_step(step: CurriculumStep, mastery: float, before: CurriculumStep | None) -> str:
    where = f"iteration {step.iteration} trains on stage {step.curriculum_stage}, {step.task}"
    if before is None or step.agreement is None:
        return where
    comparison = "at least" if step.agreement >= mastery else "below"
    return (
        f"{where}: {step.arm} agreed to {step.agreement:.3f} on {before.task} before, {comparison} "
        f"task.mastery = {mastery:g}"
    )
