"""How every agent of the main arm answers held-out questions, before any tuning and after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from evals.intervals import Rate, rate
from evals.report.seeds import SeedRun
from store.records import Decoding, StageKey

# Answers of complete debates only: those have verdicts. In a debate that ended early, an agent's
# last answer stands for the rounds that were left out.
_ANSWERS = """
    select t.agent, t.question_id,
           arg_min(v.correct::int, t.round), arg_max(v.correct::int, t.round),
           avg((t.answer is null)::int), avg((t.finish_reason = 'length')::int)
    from turns t join verdicts v using (turn_id) join questions q using (question_id)
    where t.split = 'eval' and t.kind = 'answer' and not q.is_extra
      and t.arm = ? and t.iteration = ? and t.decoding = ?
    group by all
"""


@dataclass(frozen=True, slots=True)
class AgentAnswers:
    """One agent's answers under one society; shares 0 to 1, means over the seeds.

    `first` and `last` are how often its first and its last answer are right, None without gold.
    `unread` and `cut` are shares of all its answers. `seeds` are the single seeds' values of
    `last`: agents of different seeds share their number, not their model.
    """

    agent: int
    first: Rate | None
    last: Rate | None
    unread: float
    cut: float
    seeds: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class AgentCourse:
    """One agent before tuning and after the last iteration, None where that was not evaluated."""

    agent: int
    before: AgentAnswers | None
    after: AgentAnswers


def read_agents(
    runs: Sequence[SeedRun], arm: str, last: int, decoding: Decoding
) -> tuple[AgentCourse, ...]:
    """The agents of one arm by number; empty where nothing was evaluated."""
    stages = {
        iteration: _read_answers(runs, StageKey(iteration, "eval", arm, decoding))
        for iteration in {0, last}
    }
    # Iteration 0 alone is the untuned society itself: there is no earlier one.
    before = stages[0] if last else {}
    return tuple(
        AgentCourse(agent, before.get(agent), after)
        for agent, after in sorted(stages[last].items())
    )


def _read_answers(runs: Sequence[SeedRun], stage: StageKey) -> dict[int, AgentAnswers]:
    found: defaultdict[int, list[tuple[int, tuple[object, ...]]]] = defaultdict(list)
    for run in runs:
        params = [stage.arm, stage.iteration, stage.decoding]
        for agent, *row in run.store.rows(_ANSWERS, params):
            found[int(agent)].append((run.seed, tuple(row)))
    return {agent: _pool(agent, rows) for agent, rows in found.items()}


def _pool(agent: int, rows: Sequence[tuple[int, tuple[object, ...]]]) -> AgentAnswers:
    last = _mean_by_question(rows, 2)
    seeds = dict.fromkeys(seed for seed, _ in rows)
    # A seed whose questions have no gold has no value, and must not count as 0.
    own = ((seed, [row[2] for at, row in rows if at == seed]) for seed in seeds)
    return AgentAnswers(
        agent,
        rate(first) if (first := _mean_by_question(rows, 1)) else None,
        rate(last) if last else None,
        fmean(float(row[3]) for _, row in rows),  # type: ignore[arg-type]
        fmean(float(row[4]) for _, row in rows),  # type: ignore[arg-type]
        tuple((seed, _mean(marks)) for seed, marks in own if any(m is not None for m in marks)),
    )


def _mean_by_question(rows: Sequence[tuple[int, tuple[object, ...]]], place: int) -> list[float]:
    """A question that several seeds have asked counts once, or the interval would be too narrow."""
    asked: defaultdict[object, list[object]] = defaultdict(list)
    for _, row in rows:
        if row[place] is not None:
            asked[row[0]].append(row[place])
    return [_mean(marks) for _, marks in sorted(asked.items(), key=lambda pair: str(pair[0]))]


def _mean(marks: Sequence[object]) -> float:
    return fmean(float(mark) for mark in marks if mark is not None)  # type: ignore[arg-type]
