"""The report of a run: one HTML file that needs no network and runs no script.

What models have said is text in it, never markup: the template escapes everything, and the page's
own policy forbids scripts, frames and requests.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evals.intervals import Rate
from evals.report import facts as collecting
from evals.report.chart import Series, accuracy_curves, sparkline
from evals.report.facts import Facts, StyleEntry, Tuning
from evals.styles import StyleUse
from store.ledger import Store

NAMES = {"single": "Single agent", "majority": "Round-1 majority", "consensus": "Consensus"}


def write(store: Store, out: Path) -> None:
    """Write the report of the store's run to `out`, whole or not at all.

    Raises `NothingStored` for a store without a run and OSError where `out` cannot be written.
    """
    text = render(collecting.read(store))
    draft = out.with_name(f".{out.name}.part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, out)


def render(facts: Facts) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("evals.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: "–" if number is None else f"{number:,}",
        "duration": _duration,
        "iteration": lambda number: "untuned" if number == 0 else f"iteration {number}",
        "mark": _mark,
        "p": lambda value: "< 0.0001" if value < 0.0001 else f"= {value:.2g}",
        "percent": lambda share: "–" if share is None else f"{100 * share:.1f}",
        "points": _points,
        "rate": _rate,
        "society": lambda number: "Untuned society" if number == 0 else f"Society {number}",
        "sparkline": _loss_line,
        "style_accuracy": _style_accuracy,
        "verdict": partial(_verdict, facts),
    }
    style = environment.loader.get_source(environment, "style.css")[0]  # type: ignore[union-attr]
    return environment.get_template("page.html.jinja").render(
        facts=facts,
        names=NAMES,
        style=Markup(style),
        what=_what(facts),
        curves=_curves(facts),
        curve_decoding=_vote_decoding(facts),
    )


def _what(facts: Facts) -> str:
    return (
        f"{facts.agents} agents debate {facts.task} questions over {facts.rounds} round"
        f"{'' if facts.rounds == 1 else 's'}, vote, and fine-tune on what the vote says is right. "
        f"Base model “{facts.model}”, {facts.last} iteration{'' if facts.last == 1 else 's'}. "
        "No gold answer is used for training."
    )


def _vote_decoding(facts: Facts) -> str:
    return "sampled" if any(row.decoding == "sampled" for row in facts.rows) else "greedy"


def _curves(facts: Facts) -> Markup:
    votes = _vote_decoding(facts)
    series = [
        Series("consensus", "consensus", _by_iteration(facts, "consensus", votes)),
        Series("round-1 majority", "majority", _by_iteration(facts, "majority", votes)),
        Series("single, greedy", "greedy", _by_iteration(facts, "single", "greedy")),
        Series("single, sampled", "single", _by_iteration(facts, "single", "sampled")),
    ]
    return accuracy_curves(series, "Accuracy by iteration")


def _by_iteration(facts: Facts, measure: str, decoding: str) -> dict[int, Rate]:
    return {row.iteration: getattr(row, measure) for row in facts.rows if row.decoding == decoding}


def _loss_line(tuning: Tuning) -> Markup:
    return sparkline(tuning.losses, f"training loss of agent {tuning.agent}'s {tuning.role}")


def _rate(rate: Rate) -> Markup:
    return Markup('{:.1f} <span class="ci">{:.1f}–{:.1f}</span>').format(
        100 * rate.value, 100 * rate.low, 100 * rate.high
    )


def _style_accuracy(use: StyleUse) -> Markup:
    if use.accuracy is None:
        return Markup("–")
    low, high = use.interval
    return Markup('{:.1f} <span class="ci">{:.1f}–{:.1f}</span>').format(
        100 * use.accuracy, 100 * low, 100 * high
    )


def _verdict(facts: Facts, entry: StyleEntry) -> str:
    change = entry.change
    where = "untuned" if facts.first == 0 else f"iteration {facts.first}"
    return (
        f"From {where} to iteration {facts.last} a single agent's accuracy changed by "
        f"{_points(change.difference)} points: {_points(change.choice)} from choosing other ways "
        f"of reasoning, {_points(change.skill)} from being right more or less often within the "
        "same way."
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _mark(correct: bool | None) -> Markup:
    if correct is None:
        return Markup("")
    kind, sign, name = ("right", "✓", "right") if correct else ("wrong", "✗", "wrong")
    return Markup('<span class="{}">{} {}</span>').format(kind, sign, name)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
