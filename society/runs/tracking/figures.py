"""The figures of a run that trackers draw, read from its database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from evals.agreement import read_agreements
from evals.intervals import Rate
from evals.metrics import (
    MEASURES,
    list_extra_tasks,
    parse_curriculum_stage,
    read_label_health,
    read_society_accuracies,
)
from evals.tuning import summarize_tuning
from society.method.progress import PartFinished
from society.runs.tracking.tracker import Axis, TrackedValue
from store.ledger import Store

# A tracker draws no more than some hundred points of a curve, and thousands would slow it down.
_MOST_POINTS = 200
# The rules of MLflow, which are the strictest.
_NOT_IN_NAMES = re.compile(r"[^\w\-. ]")
_VOTES = """
SELECT agreement, unanimous, top_share, entropy_bits FROM label_health
WHERE arm = $arm AND iteration = $iteration
"""
_COST = """
SELECT sum(calls), sum(prompt_tokens), sum(completion_tokens), sum(trained_tokens),
    if(bool_or(usd IS NULL AND calls > 0), NULL, sum(usd))
FROM spend WHERE arm = $arm AND iteration {compared} $iteration
"""
# A job that reuses another job's model has that job's points. Steps count on from iteration to
# iteration, so that a curve never goes back.
_LOSSES = """
WITH trained AS (
    SELECT iteration, agent, role, coalesce(shared_job_id, job_id) AS job_id
    FROM jobs WHERE arm = $arm AND status = 'succeeded' AND iteration <= $iteration
),

lengths AS (
    SELECT iteration, agent, role, max(step) AS steps
    FROM trained JOIN training_points USING (job_id) GROUP BY ALL
)

SELECT agent, role,
    step + coalesce((
        SELECT sum(steps) FROM lengths AS l
        WHERE l.iteration < t.iteration AND l.agent = t.agent AND l.role = t.role
    ), 0) AS place,
    loss
FROM trained AS t JOIN training_points USING (job_id)
WHERE iteration = $iteration
ORDER BY agent, role, step
"""


def read_figures(store: Store, finished: PartFinished) -> list[TrackedValue]:
    """The figures of a part of an iteration that is stored for good.

    Without gold answers there are no accuracies, and without prices no dollars.
    """
    arm, iteration = finished.arm, finished.iteration
    readers = {"labels": _read_labels, "training": _read_training, "evaluation": _read_evaluation}
    found = readers[finished.part](store, arm, iteration)
    return [
        TrackedValue(f"{clean_name(arm)}/{name}", step, float(value), axis)
        for name, step, value, axis in found
        if value is not None
    ]


def clean_name(text: str) -> str:
    """`text` as a part of a figure's name: what some tracker refuses becomes "_".

    >>> clean_name("math@2")
    'math_2'
    """
    return _NOT_IN_NAMES.sub("_", text)


_Row = tuple[str, int, float | None, Axis]


def _read_evaluation(store: Store, arm: str, iteration: int) -> Iterator[_Row]:
    yield from _read_task(store, arm, iteration, None, "eval")
    for task in list_extra_tasks(store):
        kind = "zero-shot" if parse_curriculum_stage(task) is None else "curriculum"
        yield from _read_task(store, arm, iteration, task, f"{kind}/{clean_name(task)}")
    which = {"arm": arm, "iteration": iteration}
    for compared, title in (("=", "cost"), ("<=", "cost-so-far")):
        [(calls, prompt, completion, trained, usd)] = store.rows(
            _COST.format(compared=compared), which
        )
        values = {
            "calls": calls,
            "prompt-tokens": prompt,
            "completion-tokens": completion,
            "trained-tokens": trained,
            "usd": usd,
        }
        yield from ((f"{title}/{name}", iteration, v, "iteration") for name, v in values.items())


def _read_task(
    store: Store, arm: str, iteration: int, task: str | None, title: str
) -> Iterator[_Row]:
    for row in read_society_accuracies(store, arm, task):
        if row.iteration == iteration:
            for measure in MEASURES:
                name = f"{title}/{row.decoding}/{measure}"
                yield from _write_rate(name, iteration, row.rate(measure))
    for voting in read_agreements(store, arm, task):
        if voting.stage.iteration == iteration:
            stem = f"{title}/{voting.stage.decoding}"
            for name in ("first", "last"):
                yield f"{stem}/agreement-{name}", iteration, getattr(voting, name), "iteration"
            for name in ("coverage", "ties", "unparsed", "truncated"):
                yield f"{stem}/{name}", iteration, getattr(voting, name), "iteration"


def _read_labels(store: Store, arm: str, iteration: int) -> Iterator[_Row]:
    for row in read_label_health(store, arm):
        if row.iteration != iteration:
            continue
        if row.accuracy is not None:
            yield from _write_rate("labels/accuracy", iteration, row.accuracy)
        for name in ("coverage", "ties", "below_quorum", "unparsed", "truncated"):
            title = f"labels/{name.replace('_', '-')}"
            yield title, iteration, getattr(row, name), "iteration"
    names = ("agreement", "unanimous", "top-share", "entropy-bits")
    for votes in store.rows(_VOTES, {"arm": arm, "iteration": iteration}):
        for name, value in zip(names, votes, strict=True):
            yield f"labels/{name}", iteration, value, "iteration"


def _read_training(store: Store, arm: str, iteration: int) -> Iterator[_Row]:
    # A failed attempt at a model is left out: the next one takes its place.
    for row in summarize_tuning(store, arm):
        if row.iteration == iteration:
            for name in ("done", "examples", "first_loss", "last_loss"):
                title = f"training/{row.role}/{name.replace('_', '-')}"
                yield title, iteration, getattr(row, name), "iteration"
    curves: dict[str, list[tuple[int, float]]] = {}
    for agent, role, place, loss in store.rows(_LOSSES, {"arm": arm, "iteration": iteration}):
        whose = f"agent-{agent}-{role}" if agent else f"shared-{role}"
        curves.setdefault(whose, []).append((int(place), loss))
    for whose, points in curves.items():
        for place, loss in thin_out(points):
            yield f"loss/{whose}", place, loss, "training_step"


def _write_rate(name: str, iteration: int, rate: Rate) -> Iterator[_Row]:
    yield name, iteration, rate.value, "iteration"
    yield f"{name}-low", iteration, rate.low, "iteration"
    yield f"{name}-high", iteration, rate.high, "iteration"


def thin_out(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most 200 points of a curve, evenly spread, the first and the last among them.

    >>> [step for step, _ in thin_out([(n, 0.0) for n in range(1, 1001)])][:3]
    [1, 6, 11]
    """
    if len(points) <= _MOST_POINTS:
        return list(points)
    last = len(points) - 1
    return [points[round(k * last / (_MOST_POINTS - 1))] for k in range(_MOST_POINTS)]
