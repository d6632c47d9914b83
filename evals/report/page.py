"""The page: one HTML file that needs no network and runs no script.

What models have said is text in it, never markup: the template escapes everything, and the page's
own policy forbids scripts, frames and requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evals import metrics, stored_run
from evals.arm_kinds import Look
from evals.report import figures as drawing
from evals.report import saying, tables
from evals.report.cells import Table, points
from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures import looks
from evals.report.figures.looks import PALETTE
from evals.report.figures.specification import Figure
from evals.report.verdicts import Verdict
from evals.visible import plain
from providers import extras

NO_FIGURES = f"Figures need matplotlib: {extras.install_command('report')}"


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure as it stands in a page: panels in order, arms with their marks."""

    figure: Figure
    panels: tuple[Markup, ...]


def can_draw() -> bool:
    """Whether matplotlib is installed; without it a page has its tables only."""
    return not extras.find_missing(extras.PACKAGES["report"])


def render(facts: Facts) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("evals.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        # Names stand in attributes and titles, too, which take text only.
        finalize=lambda value: plain(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mark": _mark,
        "points": points,
        "society": lambda number: "Untuned society" if number == 0 else f"Society {number}",
    }
    marks = looks.assign(facts.arms)
    shown = tables.build(facts)
    symbols, swatches = _swatches(marks) if can_draw() else (Markup(""), {})
    style = environment.loader.get_source(environment, "style.css")[0]  # type: ignore[union-attr]
    return environment.get_template("page.html.jinja").render(
        facts=facts,
        figures=_figures(facts, marks) if can_draw() else {},
        no_figures=None if can_draw() else NO_FIGURES,
        sections=_sections(facts, shown),
        tables=shown,
        symbols=symbols,
        swatches=swatches,
        say=saying,
        apart=metrics.apart,
        cards=_cards,
        rung_of=metrics.rung_of,
        what=_what,
        style=Markup(style + _colours()),
    )


def _sections(facts: Facts, shown: Mapping[str, Table]) -> list[tuple[str, str]]:
    """The page's sections by id, in order."""
    examples = any(experiment.examples for experiment in facts.experiments)
    known = {
        "answer": ("Answer", True),
        "conditions": ("What was equal", any(name.startswith("conditions") for name in shown)),
        "arms": ("Arms and tasks", "table-1" in shown),
        "accuracy": ("Accuracy", "accuracy" in shown),
        "votes": ("Votes", "votes" in shown),
        "diversity": ("Diversity", "diversity" in shown),
        "zero-shot": ("Zero-shot", any(name.startswith("zero-shot") for name in shown)),
        "labels": ("Pseudo-labels", "pseudo-labels" in shown),
        "flips": ("What debate changes", "flips" in shown),
        "styles": ("What improved", "style-changes" in shown),
        "tuning": ("Fine-tuning", "tuning" in shown),
        "costs": ("Costs", "costs" in shown),
        "debates": ("Debates", examples),
        "settings": ("Settings", True),
    }
    return [(name, title) for name, (title, there) in known.items() if there]


def _figures(facts: Facts, marks: Mapping[str, Look]) -> dict[str, Shown]:
    from evals.report.figures import draw
    from evals.report.figures.inline import inline

    return {
        name: Shown(
            figure,
            tuple(
                inline(
                    draw.panel_svg(panel, marks), f"{name}-{n}", f"{figure.title}: {panel.title}"
                )
                for n, panel in enumerate(figure.panels, start=1)
            ),
        )
        for name, figure in drawing.build(facts).items()
    }


def _swatches(marks: Mapping[str, Look]) -> tuple[Markup, dict[str, str]]:
    """The arms' marks as symbols, and the symbols' ids by arm."""
    from evals.report.figures import draw
    from evals.report.figures.inline import symbol

    ids = {arm: f"arm-{n}" for n, arm in enumerate(marks)}
    drawn = (symbol(draw.swatch_svg(look), ids[arm]) for arm, look in marks.items())
    return Markup("").join(drawn), ids


def _colours() -> str:
    light = " ".join(f"--{name}: {colour};" for name, (colour, _) in PALETTE.items())
    dark = " ".join(f"--{name}: {colour};" for name, (_, colour) in PALETTE.items())
    return (
        f":root {{ {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def _cards(experiment: ExperimentFacts) -> list[tuple[str, Verdict]]:
    """The society against the untuned one, by every measure."""
    names = {"single": "Single agent", "majority": "Round-1 majority", "consensus": "Consensus"}
    twin = stored_run.find_untuned_twin(experiment.experiment.arms)
    return [
        (f"{names[each.measure]}, {each.decoding}", verdict)
        for each in experiment.verdicts
        for verdict in each.verdicts
        if each.task is None
        and (verdict.untuned or (twin is not None and verdict.other == twin.name))
    ]


def _what(experiment: ExperimentFacts) -> str:
    first = experiment.experiment.first
    last = experiment.last
    seeds = len(experiment.experiment.sources)
    labels = {arm.labels for arm in experiment.arms}
    gold = (
        "Only star is trained on gold answers."
        if "gold" in labels
        else ("No gold answer is used for training.")
    )
    return (
        f"{first.agents} agents debate {first.task} questions over {first.rounds} round"
        f"{'' if first.rounds == 1 else 's'}, vote, and fine-tune on what the vote says is right. "
        f"Base model “{first.model}”, {last} iteration{'' if last == 1 else 's'}"
        f"{f', {seeds} seeds' if seeds > 1 else ''}. {gold}"
    )


def _mark(correct: bool | None) -> Markup:
    if correct is None:
        return Markup("")
    kind, sign, name = ("right", "✓", "right") if correct else ("wrong", "✗", "wrong")
    return Markup('<span class="{}">{} {}</span>').format(kind, sign, name)
