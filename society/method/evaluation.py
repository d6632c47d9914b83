"""The evaluation stage: a society answers the held-out questions (Algorithm 2 of arXiv 2501.05707).

The evaluation is the same debate on questions that are never trained on, and the answer is the
vote of the last round. The compute-matched arms are sized here, since their size follows from an
evaluation.
"""

from __future__ import annotations

from dataclasses import replace

from evals import degradation
from society.method.agents import Society
from society.method.arms import Arm, count_samples, find_reference
from society.method.debating import debate_questions, store_questions
from society.method.diversity import DiversityProbe
from society.method.experiment import RunContext
from store.records import StageKey


async def evaluate_society(
    run: RunContext, arm: Arm, society: Society, iteration: int, probe: DiversityProbe
) -> None:
    """Debate every evaluation set with every decoding, and measure the agents' diversity."""
    for evaluation_set in run.experiment.questions.evaluation_sets:
        questions, label = evaluation_set.questions(), evaluation_set.label
        store_questions(run, questions, label, "eval", is_extra=evaluation_set.is_extra)
        for decoding in arm.decodings(run.config.evaluation.decodings):
            stage = StageKey(iteration, "eval", arm.name, decoding)
            name = f"{evaluation_set.stage} {decoding}"
            await debate_questions(run, arm, society, evaluation_set.task, questions, stage, name)
            if not evaluation_set.is_extra:
                await measure_diversity(run, probe, stage, label)
    # Concerns compare a society with those before it, so the untuned one has none.
    if iteration:
        run.progress.note_all(
            run.prefix(arm.name) + concern.text
            for concern in degradation.find_held_out_concerns(run.store, arm.name, iteration)
        )


async def measure_diversity(
    run: RunContext, probe: DiversityProbe, stage: StageKey, task: str
) -> None:
    """Measure what `[diversity]` asks for and the store does not have yet."""
    measurement = probe.plan(stage, task)
    if measurement is None:
        return
    # Other arms may have computed all of it; then there is nothing to report progress of.
    if not measurement.steps:
        await probe.measure(measurement)
        return
    name = run.name_stage(stage.arm, f"diversity {stage.decoding}")
    with run.progress.stage(stage.iteration, name, "steps", measurement.steps):
        await probe.measure(measurement, run.progress.advance)


def match_compute(run: RunContext, arm: Arm) -> Arm:
    """The arm, with the sample count that costs as many tokens as the debate it is matched to.

    The count is known once the debate has been held, so the debate's arm is evaluated before.
    """
    if arm.matched_to != "tokens":
        return arm
    model = find_reference(run.experiment.arms, run.config.society)
    assert model is not None  # build_arms has refused an arm without one
    samples = count_samples(run.store, model.name)
    if samples is None:
        run.progress.note(
            f"{arm.name}: the answers of {model.name} have no token counts; its sample count is "
            f"the number of calls that {model.name} makes, {arm.agents}"
        )
    else:
        arm = replace(arm, agents=samples)
    run.store.write(arm.record())
    return arm
