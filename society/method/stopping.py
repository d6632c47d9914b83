"""The stopping stage: after each evaluation, which society is the arm's, and whether it goes on.

`stop = "labels"` asks for it. The signs and the rule are those of `evals.stopping`, without gold.
What was decided is stored and never decided again, so that a resumed run goes the same way.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from evals import ballots, choices, stopping
from society.method.arms import Arm
from society.method.experiment import RunContext
from store.records import Choice

_BEGUN = "SELECT 1 FROM turns WHERE split <> 'eval' AND iteration = ? AND arm = ? LIMIT 1"


def choose_society(run: RunContext, arm: Arm, iteration: int) -> bool:
    """Choose among an arm's societies up to `iteration`; returns whether training stops here."""
    # The next iteration exists where the run once went on: without asking, or with more iterations.
    if run.config.stop == "never" or run.store.rows(_BEGUN, [iteration + 1, arm.name]):
        return False
    known = {choice.iteration: choice for choice in choices.read_choices(run.store, arm.name)}
    choice = known.get(iteration)
    if choice is None:
        choice = _decide(run, arm, iteration)
        run.store.write(choice)
    ends = choices.has_ended(choice, arm.iterations)
    # The last society's is told with the final table.
    if ends:
        run.progress.note(run.prefix(arm.name) + choices.describe_choice(choice))
    return ends


def _decide(run: RunContext, arm: Arm, iteration: int) -> Choice:
    task = run.experiment.questions.task
    societies = ballots.read_ballots(run.store, arm.name, iteration, task.equivalent)
    signs = stopping.read_signs(societies)
    decision = stopping.decide(signs)
    return Choice(
        arm=arm.name,
        iteration=iteration,
        chosen=decision.chosen,
        stops=decision.stops,
        iterations=arm.iterations,
        reason=decision.reason,
        signs=json.dumps([asdict(each) for each in signs]),
    )
