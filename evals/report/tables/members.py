"""Who is in the main arm's society: its agents' accuracies, its runs, its tuned models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from evals.report.agents import AgentCourse
from evals.report.costs import read_costs
from evals.report.facts import ExperimentFacts, Facts
from evals.report.models import TunedModel
from evals.report.seeds import SeedRun
from evals.report.table import (
    DURATION,
    NOTHING,
    NUMBER,
    PERCENT,
    PERCENT_INTERVAL,
    Cell,
    Column,
    Format,
    ReportTable,
    TableSpec,
    decimals,
    list_seeds,
)


def build_tables(facts: Facts) -> list[ReportTable]:
    """One row per agent, per run, and per tuned model."""
    return [_AGENTS.build(facts), _RUNS.build(facts), _MODELS.build(facts)]


_AGENT_COLUMNS: Sequence[Column[AgentCourse]] = (
    Column("agent", "agent", lambda row: row.agent, NUMBER),
    Column(
        "first answer, untuned",
        "first_untuned",
        lambda row: row.before and row.before.first,
        PERCENT_INTERVAL,
    ),
    Column("first answer", "first", lambda row: row.after.first, PERCENT_INTERVAL),
    Column(
        "last answer, untuned",
        "last_untuned",
        lambda row: row.before and row.before.last,
        PERCENT_INTERVAL,
    ),
    Column("last answer", "last", lambda row: row.after.last, PERCENT_INTERVAL),
    Column(
        "last answer by seed",
        "last_by_seed",
        lambda row: list_seeds(row.after.seeds),
        note="Agents of different seeds share their number, not their model.",
    ),
    Column("unread", "unparsed", lambda row: row.after.unread, PERCENT),
    Column("cut", "truncated", lambda row: row.after.cut, PERCENT),
)
_AGENTS = TableSpec(
    "agents",
    "Every agent",
    _AGENT_COLUMNS,
    lambda experiment: experiment.agents,
    "In % of the held-out questions, after the last iteration where nothing else is said; sampled "
    "answers, or greedy ones where nothing was sampled. Unread and cut: of all its answers.",
)


@dataclass(frozen=True, slots=True)
class _Finished:
    run: SeedRun
    usd: float | None


def _list_runs(experiment: ExperimentFacts) -> Iterator[_Finished]:
    for run in experiment.group.runs:
        spent = [cost.usd for cost in read_costs([run.store])]
        yield _Finished(run, None if None in spent else sum(usd or 0.0 for usd in spent))


def _write_moment(moment: datetime | None) -> Cell:
    # Minutes are enough for people; programs get the seconds.
    shown = NOTHING if moment is None else f"{moment:%Y-%m-%d %H:%M}"
    return Cell(shown, fields=("" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}",))


def _write_length(seconds: float | None) -> Cell:
    return Cell(NOTHING) if seconds is None else DURATION.write(seconds)


MOMENT = Format(_write_moment, text=True)
LENGTH = Format(_write_length)

_RUN_COLUMNS: Sequence[Column[_Finished]] = (
    Column("run", "name", lambda row: row.run.name),
    Column("seed", "seed", lambda row: row.run.seed, NUMBER),
    Column("started", "started", lambda row: row.run.started_at, MOMENT),
    Column("finished", "finished", lambda row: row.run.finished_at, MOMENT),
    Column("took", "seconds", lambda row: row.run.seconds, LENGTH),
    Column("USD", "usd", lambda row: row.usd, decimals(2)),
    Column("versions", "versions", lambda row: row.run.versions),
)
_RUNS = TableSpec("runs", "Runs", _RUN_COLUMNS, _list_runs, "Times are UTC; took: pauses included.")

_MODEL_COLUMNS: Sequence[Column[TunedModel]] = (
    Column("run", "run", lambda model: model.run),
    Column("agent", "agent", lambda model: "all" if model.agent == 0 else str(model.agent)),
    Column("role", "role", lambda model: model.role),
    Column("tuned in iteration", "iteration", lambda model: model.iteration, NUMBER),
    Column("model", "model_id", lambda model: model.model_id),
    Column("where", "place", lambda model: model.place),
)
_MODELS = TableSpec(
    "models",
    "Tuned models",
    _MODEL_COLUMNS,
    lambda experiment: experiment.models,
    "The newest model of every agent and role.",
)
