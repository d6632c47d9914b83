"""Datasets and models: what an agent was trained on, from which turns, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evals.debates import read_verdicts
from society.view.debate import NotFound
from store.reader import Reader

ROWS = 50
# More points than pixels of a curve would only make the page heavier.
_POINTS = 400
_PARTS = "SELECT parent_id, weight FROM averages WHERE model_id = $1 ORDER BY weight, parent_id"


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One dataset with the job and the model made of it, None if there is none."""

    dataset_id: str
    iteration: int
    arm: str
    agent: int
    role: str
    examples: int
    corrected: int | None
    kept: int | None
    w: float | None
    critics: str | None
    loss_on: str
    max_examples: int | None
    sha256: str
    note: str | None
    created_at: datetime
    job_id: str | None
    status: str | None
    model_id: str | None


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One row of a dataset: the turn that is trained on."""

    position: int
    turn_id: int
    question_id: str
    question: str | None
    answer: str | None
    response: str
    round: int
    first_agrees: bool | None
    correct: bool | None


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model as the list of models shows it."""

    model_id: str
    provider: str
    parent_id: str | None
    iteration: int | None
    arm: str | None
    agent: int | None
    role: str | None
    created_at: datetime
    job_id: str | None
    status: str | None
    examples: int | None
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class JobFacts:
    """The job that made a model."""

    job_id: str
    status: str
    provider_job_id: str | None
    raw_status: str | None
    error: str | None
    trained_tokens: int | None
    shared_job_id: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One optimizer step; loss in nats per trained token."""

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class ModelUse:
    """Where a model was asked, and how often."""

    iteration: int
    split: str
    arm: str
    decoding: str
    agent: int
    kind: str
    turns: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model in full. `steps` counts all optimizer steps, `points` may be a sample of them.

    `parts` are the models that an averaged model is made of, with their weights.
    """

    model_id: str
    provider: str
    parent_id: str | None
    artifact: str | None
    sha256: str | None
    iteration: int | None
    arm: str | None
    agent: int | None
    role: str | None
    created_at: datetime
    dataset: DatasetEntry | None
    job: JobFacts | None
    steps: int
    points: tuple[LossPoint, ...]
    children: tuple[ModelEntry, ...]
    spoke: tuple[ModelUse, ...]
    parts: tuple[tuple[str, float], ...] = ()


# A dataset has several jobs where one failed and was tried again: the newest counts.
def list_datasets(reader: Reader, dataset_id: str | None = None) -> list[DatasetEntry]:
    """All datasets by iteration, arm, agent and role, or the one."""
    found = reader.rows(
        """
        SELECT d.dataset_id, d.iteration, d.arm, d.agent, d.role, d.examples, d.corrected, d.kept,
            d.w, d.critics, d.loss_on, d.max_examples, d.sha256, coalesce(j.error, d.note),
            d.created_at, j.job_id, j.status, m.model_id
        FROM datasets AS d
        LEFT JOIN (
            SELECT dataset_id, arg_max(job_id, created_at) AS job_id FROM jobs GROUP BY dataset_id
        ) AS last USING (dataset_id)
        LEFT JOIN jobs AS j USING (job_id)
        LEFT JOIN models AS m ON m.job_id = j.job_id
        WHERE $1 IS NULL OR d.dataset_id = $1
        ORDER BY d.iteration, d.arm, d.agent, d.role DESC
        """,
        [dataset_id],
    )
    return [DatasetEntry(*row) for row in found]


def read_dataset(reader: Reader, dataset_id: str) -> DatasetEntry:
    """One dataset; raises `NotFound`."""
    found = list_datasets(reader, dataset_id)
    if not found:
        raise NotFound(f"no dataset {dataset_id!r}")
    return found[0]


def list_examples(reader: Reader, dataset_id: str, start: int) -> list[DatasetRow]:
    """Up to `ROWS` rows of a dataset from position `start` on."""
    rows = reader.rows(
        "SELECT position, turn_id, question_id FROM dataset_examples "
        "WHERE dataset_id = $1 AND position >= $2 AND position < $3 ORDER BY position",
        [dataset_id, start, start + ROWS],
    )
    turn_ids = [turn_id for _, turn_id, _ in rows]
    questions = sorted({question_id for *_, question_id in rows})
    texts = _read_questions(reader, questions)
    said = _read_turns(reader, turn_ids)
    first = _read_first_turns(reader, questions)
    # A critic's row shows whether the agent's answer of round 1 agreed: that decides which share it
    # counts to.
    begun = {turn_id: first.get(one[:6]) for turn_id, one in said.items()}
    worth = read_verdicts(reader, [*turn_ids, *(t for t in begun.values() if t is not None)])
    unknown = (None, None)
    listed = []
    for position, turn_id, question_id in rows:
        turn = said[turn_id][6:] if turn_id in said else (None, "", 1)
        # Ids of turns are never negative, so -1 finds nothing.
        first_agrees = worth.get(begun.get(turn_id) or -1, unknown)[0]
        correct = worth.get(turn_id, unknown)[1]
        question = texts.get(question_id)
        fields = (position, turn_id, question_id, question, *turn, first_agrees, correct)
        listed.append(DatasetRow(*fields))
    return listed


def list_models(reader: Reader, parent_id: str | None = None) -> list[ModelEntry]:
    """All models, the bare ones first, or the children of one."""
    found = reader.rows(
        """
        SELECT m.model_id, m.provider, m.parent_id, m.iteration, m.arm, m.agent, m.role,
            m.created_at, j.job_id, j.status, d.examples
        FROM models AS m
        LEFT JOIN jobs AS j USING (job_id)
        LEFT JOIN datasets AS d ON d.dataset_id = m.dataset_id
        WHERE $1 IS NULL OR m.parent_id = $1
        ORDER BY m.iteration NULLS FIRST, m.arm, m.agent, m.role DESC, m.model_id
        """,
        [parent_id],
    )
    losses = _read_losses(reader, [row[8] for row in found if row[8] is not None])
    return [ModelEntry(*(*row, losses.get(row[8], ()))) for row in found]


def read_model(reader: Reader, model_id: str) -> ModelFacts:
    """One model; raises `NotFound`."""
    found = reader.rows(
        "SELECT model_id, provider, parent_id, artifact, sha256, iteration, arm, agent, role, "
        "created_at, dataset_id, job_id FROM models WHERE model_id = $1",
        [model_id],
    )
    if not found:
        raise NotFound(f"no model {model_id!r}")
    *facts, dataset_id, job_id = found[0]
    made_of = list_datasets(reader, dataset_id) if dataset_id is not None else []
    steps, points = _read_points(reader, job_id)
    fields = (
        *facts,
        made_of[0] if made_of else None,
        _read_job(reader, job_id),
        steps,
        points,
        tuple(list_models(reader, model_id)),
        tuple(_list_uses(reader, model_id)),
        tuple(reader.rows(_PARTS, [model_id])),
    )
    return ModelFacts(*fields)


def _read_questions(reader: Reader, questions: Sequence[str]) -> dict[str, str]:
    found = reader.rows(
        "SELECT question_id, question FROM questions WHERE question_id IN (SELECT unnest($ids))",
        {"ids": list(questions)},
    )
    return dict(found)


def _read_turns(reader: Reader, turn_ids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """Whose conversation a turn is part of; then answer, beginning of the response, round.

    In two steps, which read no responses but these.
    """
    found = reader.rows(
        "SELECT turn_id, iteration, split, arm, decoding, question_id, agent, answer, "
        "left(response, 600), round FROM turns "
        "WHERE rowid IN (SELECT rowid FROM turns WHERE turn_id IN (SELECT unnest($ids)))",
        {"ids": list(turn_ids)},
    )
    return {turn_id: tuple(rest) for turn_id, *rest in found}


def _read_first_turns(reader: Reader, questions: Sequence[str]) -> dict[tuple[Any, ...], int]:
    """The round-1 answer of every conversation on these questions."""
    found = reader.rows(
        "SELECT turn_id, iteration, split, arm, decoding, question_id, agent FROM turns "
        "WHERE kind = 'answer' AND round = 1 AND question_id IN (SELECT unnest($ids))",
        {"ids": list(questions)},
    )
    return {tuple(whose): turn_id for turn_id, *whose in found}


def _read_job(reader: Reader, job_id: str | None) -> JobFacts | None:
    found = reader.rows(
        "SELECT job_id, status, provider_job_id, raw_status, error, trained_tokens, shared_job_id, "
        "created_at, finished_at FROM jobs WHERE job_id = $1",
        [job_id],
    )
    return JobFacts(*found[0]) if found else None


# Counted from the end, so that the last step is always among them. A job that reuses another one's
# model has the points of that job.
def _read_points(reader: Reader, job_id: str | None) -> tuple[int, tuple[LossPoint, ...]]:
    """How many steps a job has taken, and at most about `_POINTS` of them, the last among them."""
    found = reader.rows(
        """
        WITH counted AS (
            SELECT step, loss, learning_rate, count(*) OVER () AS steps,
                row_number() OVER (ORDER BY step DESC) AS from_end
            FROM training_points
            WHERE job_id = coalesce(
                (SELECT shared_job_id FROM jobs WHERE job_id = $job), $job)
        )
        SELECT steps, step, loss, learning_rate FROM counted
        WHERE (from_end - 1) % greatest(1, steps // $points) = 0 ORDER BY step
        """,
        {"job": job_id, "points": _POINTS},
    )
    return (found[0][0] if found else 0), tuple(LossPoint(*row[1:]) for row in found)


def _read_losses(reader: Reader, job_ids: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """About forty losses of each job, in order."""
    if not job_ids:
        return {}
    found = reader.rows(
        """
        WITH counted AS (
            SELECT job_id, step, loss, count(*) OVER (PARTITION BY job_id) AS steps
            FROM training_points WHERE job_id IN (SELECT unnest($ids))
        )
        SELECT job_id, list(loss ORDER BY step) FROM counted
        WHERE step % greatest(1, steps // 40) = 0 OR step = 1 GROUP BY job_id
        """,
        {"ids": list(job_ids)},
    )
    return {job_id: tuple(losses) for job_id, losses in found}


def _list_uses(reader: Reader, model_id: str) -> list[ModelUse]:
    found = reader.rows(
        "SELECT iteration, split, arm, decoding, agent, kind, count(*) FROM turns "
        "WHERE model_id = $1 GROUP BY ALL ORDER BY ALL",
        [model_id],
    )
    return [ModelUse(*row) for row in found]
