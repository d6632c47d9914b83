"""What a distillation has come to: the single model beside its society and one of its agents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from evals import comparison, metrics
from evals.comparison import Comparison
from evals.intervals import Rate
from evals.metrics import Measure
from evals.tasks.base import Task
from society.method.distilling import Distillation
from society.runs.summary import format_percent, format_points
from society.terminal.output import Screen, one_line
from society.terminal.table import make_table
from store.ledger import Store
from store.records import Decoding

# Answers that another arm was asked for count too: this is what a question costs, not the run.
_COST = """
SELECT count(*) / count(DISTINCT question_id) / $share,
    sum(prompt_tokens + completion_tokens) / count(DISTINCT question_id) / $share,
    sum(prompt_tokens * input_usd + completion_tokens * output_usd) / 1e3
        / count(DISTINCT question_id) / $share,
    count(*) - count(input_usd)
FROM turns AS t
LEFT JOIN models AS m USING (model_id)
LEFT JOIN prices AS p ON p.provider = m.provider AND p.tuned = (m.artifact IS NOT NULL)
WHERE split = 'eval' AND t.arm = $arm AND t.iteration = $iteration AND decoding = $decoding
    AND ($rounds IS NULL OR round <= $rounds)
    AND question_id IN (SELECT question_id FROM questions WHERE NOT is_extra)
"""
_LABELS = """
SELECT question_id, arg_max(answer, round)
FROM votes
WHERE split = 'eval' AND arm = ? AND iteration = ? AND decoding = ?
    AND question_id IN (SELECT question_id FROM questions WHERE NOT is_extra)
GROUP BY question_id
HAVING arg_max(answer, round) IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class DistillationLine:
    """One system that answers: its accuracy (None without gold) and what one question costs it.

    `tokens` counts prompts and answers; `usd_per_1000` questions is None if a price is unknown.
    """

    system: str
    arm: str
    iteration: int
    measure: Measure
    accuracy: Rate | None
    calls: float
    tokens: float
    usd_per_1000: float | None


@dataclass(frozen=True, slots=True)
class DistillationResult:
    """The lines of one decoding, the distilled model last, and its differences from the others.

    `agreement` is the share of the questions with a consensus on which the model answers like the
    society.
    """

    decoding: Decoding
    lines: tuple[DistillationLine, ...]
    differences: tuple[tuple[str, Comparison], ...]
    agreement: float | None


def read_distillation(store: Store, plan: Distillation, task: Task) -> list[DistillationResult]:
    """The results by decoding, for those that society and model were both evaluated with."""
    return [
        _read_result(store, plan, task, decoding)
        for decoding in plan.student.decodings(plan.experiment.config.evaluation.decodings)
    ]


def _read_result(
    store: Store, plan: Distillation, task: Task, decoding: Decoding
) -> DistillationResult:
    source, iteration, student = plan.source.name, plan.iteration, plan.student.name
    lines = [
        _read_line(store, plan, decoding, "one agent of the society", source, iteration, "single"),
        _read_line(store, plan, decoding, "the society", source, iteration, "consensus"),
        _read_line(store, plan, decoding, student, student, iteration + 1, "consensus"),
    ]
    if iteration:
        untuned = _read_line(store, plan, decoding, "one untuned agent", source, 0, "single")
        lines.insert(0, untuned)
    # The student votes alone, so its consensus is its one answer, and McNemar's test applies.
    found = [
        (
            line.system,
            comparison.compare(
                [store],
                student,
                line.arm,
                "consensus",
                decoding,
                iteration + 1,
                line.iteration,
                measure_b=line.measure,
            ),
        )
        for line in lines[:-1]
    ]
    told = [(system, each) for system, each in found if each is not None]
    corrected = comparison.apply_holm([each for _, each in told])
    named = zip((system for system, _ in told), corrected, strict=True)
    agreement = _measure_agreement(store, plan, task, decoding)
    return DistillationResult(decoding, tuple(lines), tuple(named), agreement)


def _read_line(
    store: Store,
    plan: Distillation,
    decoding: Decoding,
    system: str,
    arm: str,
    iteration: int,
    measure: Measure,
) -> DistillationLine:
    single = measure == "single"
    asked = {
        "arm": arm,
        "iteration": iteration,
        "decoding": decoding,
        # One agent answers once; the first round has an answer of each.
        "rounds": 1 if single else None,
        "share": plan.source.agents if single else 1,
    }
    [(calls, tokens, usd, unpriced)] = store.rows(_COST, asked)
    rates = {
        row.decoding: row.rate(measure)
        for row in metrics.read_society_accuracies(store, arm)
        if row.iteration == iteration
    }
    return DistillationLine(
        system,
        arm,
        iteration,
        measure,
        rates.get(decoding),
        float(calls or 0),
        float(tokens or 0),
        None if unpriced or usd is None else float(usd),
    )


def _measure_agreement(
    store: Store, plan: Distillation, task: Task, decoding: Decoding
) -> float | None:
    society = dict(store.rows(_LABELS, [plan.source.name, plan.iteration, decoding]))
    model = dict(store.rows(_LABELS, [plan.student.name, plan.iteration + 1, decoding]))
    if not society:
        return None
    # As the vote compares them: 1/2 and 0.5 are one answer.
    same = [
        question in model and task.equivalent(model[question], label)
        for question, label in society.items()
    ]
    return sum(same) / len(same)


def show_distillation(
    results: Sequence[DistillationResult], plan: Distillation, stream: TextIO
) -> None:
    """Print accuracy and cost of every system, and the paired differences of the new model."""
    console = Screen(stream)
    name = one_line(plan.student.name)
    for result in results:
        drawn = make_table(f"Held-out questions, {result.decoding}: % with 95 % interval")
        drawn.add_column("who answers", no_wrap=True)
        # A model of one's own costs nothing by the token, and a column of zeros says nothing.
        priced = any(line.usd_per_1000 for line in result.lines)
        costs = ("calls per\nquestion", "tokens per\nquestion")
        for heading in ("accuracy", *costs, *(["USD per\n1000"] if priced else [])):
            drawn.add_column(heading, justify="right", no_wrap=True)
        for line in result.lines:
            cells = [f"{line.calls:.3g}", f"{line.tokens:,.0f}"]
            if priced:
                cells.append("" if line.usd_per_1000 is None else f"{line.usd_per_1000:.3g}")
            accuracy = "" if line.accuracy is None else format_percent(line.accuracy)
            drawn.add_row(one_line(line.system), accuracy, *cells)
        console.draw(drawn)
        if result.differences:
            console.print(f"{name}, on the same questions:", soft_wrap=True)
        for system, found in result.differences:
            console.print(f"  minus {system}: {format_points(found.pooled)}", soft_wrap=True)
        if result.agreement is not None:
            console.print(
                f"  it answers like the society on {100 * result.agreement:.1f} % of the questions "
                "with a consensus",
                soft_wrap=True,
            )


def describe_distillation(
    results: Sequence[DistillationResult], plan: Distillation
) -> dict[str, Any]:
    """The same for programs: shares of 1, differences as the model minus the other system."""
    return {
        "arm": plan.student.name,
        "source": plan.source.name,
        "source_iteration": plan.iteration,
        "iteration": plan.iteration + 1,
        "questions": dict(plan.origin),
        "results": [
            {
                "decoding": result.decoding,
                "systems": [asdict(line) for line in result.lines],
                "differences": [
                    {
                        "minus": system,
                        **asdict(found.pooled),
                        "p_value": found.p_value,
                        "p_holm": found.p_holm,
                    }
                    for system, found in result.differences
                ],
                "agreement": result.agreement,
            }
            for result in results
        ],
    }
