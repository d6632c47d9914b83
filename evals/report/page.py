"""The page: one HTML file that needs no network and runs no script.

Responses of models are text in it, never markup: the template escapes everything, and the page's
policy forbids scripts, frames and requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evals import metrics, stored_run
from evals.arm_kinds import Look
from evals.invisible import escape_invisible
from evals.report import figures as drawing
from evals.report import sentences, tables
from evals.report.comparisons import ArmVerdict
from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures.figure import PALETTE, Figure, assign_looks
from evals.report.table import ReportTable, show_points
from providers import extras

NO_FIGURES = f"Figures need matplotlib: {extras.install_command('report')}"


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A figure as it is drawn in a page: its panels in order."""

    figure: Figure
    panels: tuple[Markup, ...]


def can_draw() -> bool:
    """Whether matplotlib is installed; without it a page has its tables only."""
    return not extras.find_missing(extras.PACKAGES["report"])


def render_page(facts: Facts) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("evals.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        # Names also appear in attributes and titles, which hold text only and no markup.
        finalize=lambda value: escape_invisible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mark": _mark_correct,
        "points": show_points,
        "society": lambda number: "Untuned society" if number == 0 else f"Society {number}",
    }
    # One assignment for the whole page: an arm looks the same in every figure and table.
    marks = assign_looks(facts.arms)
    built = tables.build_tables(facts)
    symbols, swatches = _draw_swatches(marks) if can_draw() else (Markup(""), {})
    style = environment.loader.get_source(environment, "style.css")[0]  # type: ignore[union-attr]
    return environment.get_template("page.html.jinja").render(
        facts=facts,
        figures=_draw_figures(facts, marks) if can_draw() else {},
        no_figures=None if can_draw() else NO_FIGURES,
        sections=_list_sections(facts, built),
        tables=built,
        symbols=symbols,
        swatches=swatches,
        say=sentences,
        title_task=metrics.title_task,
        cards=_list_cards,
        curriculum_stage=metrics.parse_curriculum_stage,
        what=_describe_experiment,
        style=Markup(style + _define_colors()),
    )


def _list_sections(facts: Facts, tables: Mapping[str, ReportTable]) -> list[tuple[str, str]]:
    """The page's sections by id, in order."""
    examples = any(experiment.examples for experiment in facts.experiments)
    known = {
        "answer": ("Answer", True),
        "conditions": ("What was equal", any(name.startswith("conditions") for name in tables)),
        "arms": ("Arms and tasks", "table-1" in tables),
        "accuracy": ("Accuracy", "accuracy" in tables),
        "votes": ("Votes", "votes" in tables),
        "diversity": ("Diversity", "diversity" in tables),
        "zero-shot": ("Zero-shot", any(name.startswith("zero-shot") for name in tables)),
        "labels": ("Pseudo-labels", "pseudo-labels" in tables),
        "flips": ("What debate changes", "flips" in tables),
        "styles": ("What improved", "style-changes" in tables),
        "tuning": ("Fine-tuning", "tuning" in tables),
        "costs": ("Costs", "costs" in tables),
        "debates": ("Debates", examples),
        "settings": ("Settings", True),
    }
    # Sections without a table are left out of the contents, which would lead to nothing.
    return [(name, title) for name, (title, there) in known.items() if there]


def _draw_figures(facts: Facts, marks: Mapping[str, Look]) -> dict[str, DrawnFigure]:
    from evals.report.figures import draw
    from evals.report.figures.inline import inline_svg

    return {
        name: DrawnFigure(
            figure,
            tuple(
                inline_svg(
                    draw.draw_panel(panel, marks), f"{name}-{n}", f"{figure.title}: {panel.title}"
                )
                for n, panel in enumerate(figure.panels, start=1)
            ),
        )
        for name, figure in drawing.build_figures(facts).items()
    }


def _draw_swatches(marks: Mapping[str, Look]) -> tuple[Markup, dict[str, str]]:
    """The arms' marks as symbols, and the symbols' ids by arm."""
    from evals.report.figures import draw
    from evals.report.figures.inline import make_symbol

    ids = {arm: f"arm-{n}" for n, arm in enumerate(marks)}
    drawn = (make_symbol(draw.draw_swatch(look), ids[arm]) for arm, look in marks.items())
    return Markup("").join(drawn), ids


def _define_colors() -> str:
    # `@media screen`: a page that is printed stays light.
    light = " ".join(f"--{name}: {color};" for name, (color, _) in PALETTE.items())
    dark = " ".join(f"--{name}: {color};" for name, (_, color) in PALETTE.items())
    return (
        f":root {{ {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def _list_cards(experiment: ExperimentFacts) -> list[tuple[str, ArmVerdict]]:
    """The main arm against itself before tuning, by every measure."""
    names = {"single": "Single agent", "majority": "Round-1 majority", "consensus": "Consensus"}
    twin = stored_run.find_untuned_twin(experiment.group.arms)
    return [
        (f"{names[each.measure]}, {each.decoding}", verdict)
        for each in experiment.verdicts
        for verdict in each.verdicts
        if each.task is None
        and (verdict.untuned or (twin is not None and verdict.other == twin.name))
    ]


def _describe_experiment(experiment: ExperimentFacts) -> str:
    first = experiment.group.first
    last = experiment.last
    seeds = len(experiment.group.runs)
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


def _mark_correct(correct: bool | None) -> Markup:
    if correct is None:
        return Markup("")
    kind, sign, name = ("right", "✓", "right") if correct else ("wrong", "✗", "wrong")
    return Markup('<span class="{}">{} {}</span>').format(kind, sign, name)
