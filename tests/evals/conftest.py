"""A run that nobody has run: its turns follow from a seed, in the built-in model's words."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evals.judge.pool import Judge
from evals.tasks.arithmetic import Arithmetic
from evals.tasks.base import TaskQuestion
from providers.embedded import corpus
from society.method.voting import agrees, count_votes
from store import records, tables
from store.ledger import Store

TASK = Arithmetic()
AGENTS, ROUNDS = 3, 2
START = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = {
    "model": "embedded:",
    "iterations": 3,
    "seed": 0,
    "task": {"name": "arithmetic"},
    "society": {"agents": AGENTS, "rounds": ROUNDS, "others": "summarized"},
    "sampling": {"temperature": 0.6, "top_p": 1.0, "max_tokens": 112},
}
TERSE = (0.45, 0.25, 0.12, 0.08)


StoreOf = Callable[..., Store]


@pytest.fixture(scope="session")
def quick_judge() -> Iterator[Judge]:
    """One judge for all tests of a process: starting its server costs a second of CPU time."""
    judge = Judge(workers=2, cpu_seconds=0.5)
    yield judge
    judge.close()


@pytest.fixture
def store_of(tmp_path: Path) -> Iterator[StoreOf]:
    """A store with the rows it is given, or with those of `made_up` for keyword arguments."""
    opened = []

    def build(rows: Iterator[tables.Record] | None = None, **options: object) -> Store:
        store = Store.open(tmp_path / f"run{len(opened)}.duckdb")
        opened.append(store)
        store.write(*(made_up(**options) if rows is None else rows))
        return store

    yield build
    for store in opened:
        store.close()


@pytest.fixture(scope="session")
def made_up_rows() -> Callable[..., Iterator[tables.Record]]:
    """`made_up` itself."""
    return made_up


def made_up(
    iterations: int = 3, questions: int = 60, seed: int = 0, spoken: str | None = None
) -> Iterator[tables.Record]:
    """All rows of a run; `spoken` is added to every response."""
    rng = random.Random(seed)
    yield records.Run("made-up", json.dumps(CONFIG), "0" * 64, seed, json.dumps({"python": "3.11"}))
    for split in ("train", "eval"):
        for position, q in enumerate(TASK.questions(split, 0, questions)):
            yield records.Question(
                q.question_id, "arithmetic", split, q.text, q.gold, None, position
            )
    for iteration in range(iterations + 1):
        if iteration:
            yield from _debates(rng, iteration, "train", "sampled", questions, spoken)
            yield from _tuning(rng, iteration)
        for decoding in ("sampled", "greedy"):
            yield from _debates(rng, iteration, "eval", decoding, questions, spoken)


def _debates(rng, iteration, split, decoding, questions, spoken):
    level = iteration - 1 if split == "train" else iteration
    for number, question in enumerate(TASK.questions(split, 0, questions)):
        answers, earlier = [], {}
        for round_ in range(1, ROUNDS + 1):
            for agent in range(1, AGENTS + 1):
                text = _response(rng, question, level, earlier.get(agent, False), spoken)
                when = START + timedelta(hours=iteration, seconds=number, milliseconds=agent)
                turn = _turn(iteration, split, decoding, question, agent, round_, text, when)
                if round_ > 1:
                    yield _turn(
                        iteration, split, decoding, question, agent, round_,
                        "Solution 1: Plus terms: 6, 4. Answer 10.", when, kind="summary",
                    )  # fmt: skip
                yield turn
                answers.append(turn)
                earlier[agent] = turn.answer == question.gold
        tallies = [
            count_votes([t.answer for t in answers if t.round == r], TASK.equivalent)
            for r in range(1, ROUNDS + 1)
        ]
        label = tallies[-1]
        dropped = label.answer is None or (label.tie and split == "train")
        for turn in answers:
            agreeing = None if dropped else agrees(turn.answer, label, TASK.equivalent)
            yield records.Verdict(turn.turn_id, agreeing, turn.answer == question.gold)
        for round_, tally in enumerate(tallies, start=1):
            none = tally.tie and split == "train"
            answer = None if none else tally.answer
            yield records.Vote(
                iteration, split, "multiagent", decoding, question.question_id, round_, answer,
                tally.votes, tally.voters, tally.tie, answer == question.gold,
            )  # fmt: skip


def _response(
    rng: random.Random, question: TaskQuestion, level: int, was_right: bool, spoken: str | None
) -> str:
    operands = (int(n) for n in question.question_id.replace("arithmetic:", "").replace(
        "+", " ").replace("*", " ").replace("-", " ").split())  # fmt: skip
    asked = corpus.Problem(*operands)
    terse = rng.random() < TERSE[level]
    style = "terse" if terse else rng.choice(corpus.GOOD_STYLES)
    slips = (0.8 if terse else 0.2) * (0.25 if was_right else 1)
    text = corpus.solve(asked, style, rng, slips).text
    return text if spoken is None else f"{text}\n{spoken}"


def _turn(iteration, split, decoding, question, agent, round_, text, when, kind="answer"):
    return records.Turn(
        iteration=iteration, split=split, arm="multiagent", decoding=decoding,
        question_id=question.question_id, agent=agent, round=round_, kind=kind,
        model_id="base" if iteration == 0 else f"a{agent}-it{iteration}",
        messages=json.dumps([{"role": "user", "content": TASK.prompt(question.text)}]),
        response=text, answer=TASK.extract(text) if kind == "answer" else None,
        finish_reason="stop", prompt_tokens=60, completion_tokens=len(text) // 2,
        latency_ms=150.0, created_at=when,
    )  # fmt: skip


def _tuning(rng: random.Random, iteration: int) -> Iterator[tables.Record]:
    begun = START + timedelta(hours=iteration, minutes=20)
    for agent in range(1, AGENTS + 1):
        for role in ("generator", "critic"):
            name = f"it{iteration}-a{agent}-{role}"
            yield records.Dataset(
                name, iteration, "multiagent", agent, role, rng.randint(80, 140), "0" * 64,
                "final", 0, created_at=begun,
            )  # fmt: skip
            yield records.Job(
                name, iteration, "multiagent", agent, role, name, "0" * 64, "succeeded",
                trained_tokens=9000, created_at=begun,
                finished_at=begun + timedelta(seconds=10 * agent),
            )  # fmt: skip
            for step in range(1, 17):
                loss = 0.3 / iteration + 0.2 / step + rng.random() / 30
                yield records.TrainingPoint(name, step, loss, 1e-3)
