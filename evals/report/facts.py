"""Every number the report shows, read from a run's store once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from evals import metrics, reading, styles, tasks
from evals.intervals import PairedDifference
from evals.metrics import ARM, DECODINGS, MEASURES, Decoding, Measure
from evals.report.examples import Example, choose
from store.ledger import Store

_FLIPS = """
    select iteration, split, decoding, conversations, wrong_to_right, right_to_wrong
    from flips where arm = ? and agent is null
      and task in (select task from questions where not zero_shot)
    order by split, decoding desc, iteration
"""
_DEBATE_COSTS = """
    select iteration, split, task, decoding, turns, summaries, prompt_tokens, completion_tokens,
           epoch(last_at - started_at)
    from progress where arm = ?
"""
_ALLOWED = "select count(distinct eval_question_id) from allowed_overlaps"
_JOBS = """
    select j.iteration, j.agent, j.role, d.examples, j.status, coalesce(j.error, d.note),
           coalesce(list(p.loss order by p.step) filter (p.loss is not null), [])
    from jobs j
    join datasets d using (dataset_id)
    left join training_points p using (job_id)
    where j.arm = ?
    group by j.iteration, j.agent, j.role, d.examples, j.status, j.error, d.note
    order by j.iteration, j.agent, j.role desc
"""
_JOB_COSTS = """
    select iteration, count(*), sum(trained_tokens), epoch(max(finished_at) - min(created_at))
    from jobs where arm = ? and status <> 'skipped' and finished_at is not null
    group by iteration
"""


@dataclass(frozen=True, slots=True)
class Headline:
    """How far one measure has come between two societies."""

    measure: Measure
    decoding: Decoding
    change: PairedDifference


@dataclass(frozen=True, slots=True)
class StyleEntry:
    """The styles of one decoding's first answers, first society against last."""

    decoding: Decoding
    change: styles.StyleChange

    @property
    def pairs(self) -> list[tuple[styles.StyleUse, styles.StyleUse]]:
        return list(zip(self.change.before, self.change.after, strict=True))


@dataclass(frozen=True, slots=True)
class Flips:
    """Of `answers` pairs of first and last answer of one agent, how many turned. One-round
    debates have none."""

    iteration: int
    split: str
    decoding: str
    answers: int
    wrong_to_right: int
    right_to_wrong: int


@dataclass(frozen=True, slots=True)
class Cost:
    """One stage. `new_tokens` are completion tokens, or the tokens learnt by fine-tuning jobs;
    `seconds` is wall time from the first to the last response, or from submission to adoption."""

    iteration: int
    stage: str
    answers: int | None
    summaries: int | None
    prompt_tokens: int | None
    new_tokens: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """One fine-tuning job; `losses` in nats per learnt token, one per optimizer step."""

    iteration: int
    agent: int
    role: str
    examples: int
    status: str
    note: str | None
    losses: Sequence[float]


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """A task that was evaluated and never trained on."""

    task: str
    rows: Sequence[metrics.Row]
    headlines: Sequence[Headline]


@dataclass(frozen=True)
class Facts:
    """A whole report. `first` and `last` are the iterations that are compared; `leaked` counts the
    evaluation questions that are much like training questions and were allowed to be."""

    name: str
    finished_at: datetime | None
    versions: str
    settings: list[tuple[str, str]]
    task: str
    model: str
    agents: int
    rounds: int
    temperature: float
    rows: list[metrics.Row]
    first: int
    last: int
    headlines: list[Headline]
    zero_shot: list[ZeroShot]
    leaked: int
    styles: list[StyleEntry]
    labels: list[metrics.Labels]
    flips: list[Flips]
    tunings: list[Tuning]
    costs: list[Cost]
    example_decoding: Decoding
    examples: list[Example]


def read(store: Store) -> Facts:
    """Collect everything. Raises `NothingStored` for a store without a run."""
    run = reading.run_of(store)
    config = json.loads(run.config)
    rows = metrics.table(store)
    first, last = (rows[0].iteration, rows[-1].iteration) if rows else (0, 0)
    decodings = [d for d in DECODINGS if any(row.decoding == d for row in rows)]
    shown: Decoding = decodings[0] if decodings else "sampled"
    return Facts(
        name=run.name,
        finished_at=run.finished_at,
        versions=", ".join(f"{k} {v}" for k, v in json.loads(run.versions).items()),
        settings=list(_flat(config)),
        task=str(config["task"]["name"]),
        model=str(config["model"]),
        agents=int(config["society"]["agents"]),
        rounds=int(config["society"]["rounds"]),
        temperature=float(config["sampling"]["temperature"]),
        rows=rows,
        first=first,
        last=last,
        headlines=_headlines(store, decodings, first, last),
        zero_shot=[_zero_shot(store, task) for task in metrics.zero_shot_tasks(store)],
        leaked=int(store.rows(_ALLOWED)[0][0]),
        styles=_styles(store, config["task"], decodings, first, last),
        labels=metrics.label_health(store),
        flips=[Flips(*row) for row in store.rows(_FLIPS, [ARM])],
        tunings=_tunings(store),
        costs=_costs(store),
        example_decoding=shown,
        examples=choose(store, shown, first, last) if rows else [],
    )


def _headlines(
    store: Store,
    decodings: Sequence[Decoding],
    first: int,
    last: int,
    task: str | None = None,
) -> list[Headline]:
    if first == last:
        return []
    found = (
        (measure, decoding, metrics.comparison(store, measure, decoding, first, last, task=task))
        for measure in reversed(MEASURES)
        for decoding in decodings
    )
    return [Headline(m, d, change) for m, d, change in found if change is not None]


def _zero_shot(store: Store, task: str) -> ZeroShot:
    rows = metrics.table(store, task=task)
    if not rows:
        return ZeroShot(task, [], [])
    decodings = list(dict.fromkeys(row.decoding for row in rows))
    first, last = rows[0].iteration, rows[-1].iteration
    return ZeroShot(task, rows, _headlines(store, decodings, first, last, task))


def _styles(
    store: Store, section: dict[str, object], decodings: Sequence[Decoding], first: int, last: int
) -> list[StyleEntry]:
    if first == last:
        return []
    options = {key: value for key, value in section.items() if key not in ("name", "curriculum")}
    task = tasks.load(str(section["name"]), options)
    entries = []
    for decoding in decodings:
        before = styles.use(store, task, decoding, first)
        after = styles.use(store, task, decoding, last)
        if (change := styles.change(before, after)) is not None:
            entries.append(StyleEntry(decoding, change))
    return entries


def _tunings(store: Store) -> list[Tuning]:
    return [Tuning(*row) for row in store.rows(_JOBS, [ARM])]


def _costs(store: Store) -> list[Cost]:
    unseen = metrics.zero_shot_tasks(store)
    stages: dict[tuple[int, int, str], Cost] = {}
    for iteration, split, task, decoding, *numbers in store.rows(_DEBATE_COSTS, [ARM]):
        stage = f"zero-shot {task}" if task in unseen else "evaluation"
        stage = "training debate" if split == "train" else f"{stage}, {decoding}"
        order = (iteration, 0 if split == "train" else 2, stage)
        stages[order] = Cost(iteration, stage, *numbers)
    for iteration, jobs, tokens, seconds in store.rows(_JOB_COSTS, [ARM]):
        stages[iteration, 1, ""] = Cost(
            iteration, f"{jobs} fine-tuning jobs", None, None, None, tokens, seconds
        )
    return [stages[order] for order in sorted(stages)]


def _flat(value: object, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return [(prefix, value if isinstance(value, str) else json.dumps(value))]
    return [
        pair
        for key, inner in value.items()
        for pair in _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    ]
