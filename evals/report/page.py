"""The page: one HTML file that needs no network and runs no script.

Responses of models are text in it, never markup: the template escapes everything, and the page's
policy forbids scripts, frames and requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evals import metrics
from evals.arm_kinds import Look
from evals.invisible import escape_invisible
from evals.report import figures as drawing
from evals.report import sentences, tables
from evals.report.diversity_answer import answer_diversity
from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures.figure import PALETTE, Figure, assign_looks
from evals.report.models import show_loading_code
from evals.report.table import DURATION, ReportTable, show_points
from providers import extras

NO_FIGURES = f"Figures need matplotlib: {extras.install_command('report')}"


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A figure as it is drawn in a page: its panels in order."""

    figure: Figure
    panels: tuple[Markup, ...]


@dataclass(frozen=True, slots=True)
class OverviewChart:
    """The chart at the top, for a wide and for a narrow screen."""

    wide: Markup
    narrow: Markup
    caption: str


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
    built = _choose_tables(facts)
    symbols, swatches = _draw_swatches(marks) if can_draw() else (Markup(""), {})
    style = environment.loader.get_source(environment, "style.css")[0]  # type: ignore[union-attr]
    return environment.get_template("page.html.jinja").render(
        facts=facts,
        figures=_draw_figures(facts, marks) if can_draw() else {},
        no_figures=None if can_draw() else NO_FIGURES,
        overviews=_draw_overviews(facts, marks) if can_draw() else {},
        titles=_list_sections(facts, built),
        tables=built,
        zero_shot=[task for task in facts.tasks if f"zero-shot-{task}" in built],
        conditions=[name for name in built if name.startswith("conditions")],
        symbols=symbols,
        swatches=swatches,
        say=sentences,
        title_task=metrics.title_task,
        answer_diversity=answer_diversity,
        list_run_facts=_list_run_facts,
        loading_code=_write_loading_code,
        curriculum_stage=metrics.parse_curriculum_stage,
        leads=_list_leads(facts),
        style=Markup(style + _define_colors()),
    )


def _choose_tables(facts: Facts) -> dict[str, ReportTable]:
    """The tables as the page shows them: trimmed, and without what another table has."""
    built = tables.build_tables(facts)
    # With gold, ties and unread answers stand beside every accuracy.
    if "accuracy" in built and "votes" in built:
        built["votes"] = built["votes"].drop("tied", "unparsed", "truncated")
    # The single seeds are marks in the figure, and columns of the table of every comparison.
    if "arms" in built:
        built["arms"] = built["arms"].drop("by_seed", "difference_by_seed")
    return {name: table.trim() for name, table in built.items()}


def _list_sections(facts: Facts, tables: Mapping[str, ReportTable]) -> dict[str, str]:
    """The page's sections by id, in order."""
    examples = any(experiment.examples for experiment in facts.experiments)
    known = {
        "arms": ("Against the alternatives", "arms" in tables and len(facts.arms) > 1),
        "agents": ("Every agent", "agents" in tables),
        "accuracy": ("Accuracy by iteration", "accuracy" in tables),
        "diversity": ("Diversity", "diversity" in tables),
        "zero-shot": ("Other tasks", any(name.startswith("zero-shot") for name in tables)),
        "conditions": (
            "What was equal between the arms",
            any(name.startswith("conditions") for name in tables),
        ),
        "votes": ("How the agents vote", "votes" in tables),
        "labels": ("Pseudo-labels", "pseudo-labels" in tables),
        "choice": ("The chosen society", "signs" in tables),
        "flips": ("What debate changes", "flips" in tables),
        "styles": ("What improved and what did not", "style-changes" in tables),
        "tuning": ("Fine-tuning", "tuning" in tables),
        "models": ("The tuned models, and how to load them", "models" in tables),
        "costs": ("Calls, tokens, time and money", "costs" in tables),
        "debates": ("Debates to read", examples),
        "settings": ("Runs and settings", True),
    }
    # Without other arms there is nothing but the untuned society to compare with.
    if len(facts.arms) == 1:
        known["arms"] = ("Before and after tuning", "comparisons" in tables)
    # Sections without a table are left out of the contents, which would lead to nothing.
    return {name: title for name, (title, there) in known.items() if there}


def _draw_overviews(facts: Facts, marks: Mapping[str, Look]) -> dict[str, OverviewChart]:
    from evals.report.figures import draw
    from evals.report.figures.inline import inline_svg

    found = {}
    for number, (label, panel) in enumerate(drawing.build_overview(facts).items(), start=1):
        # matplotlib's text is not read out as one sentence: the course is told in the label.
        read_out = f"{panel.title}, {drawing.describe_course(panel)}"
        wide, narrow = (
            inline_svg(draw.draw_panel(panel, marks, size), f"overview-{number}-{kind}", read_out)
            for kind, size in (("wide", (7.0, 3.9)), ("narrow", (4.1, 3.9)))
        )
        found[label] = OverviewChart(wide, narrow, drawing.caption_overview(panel))
    return found


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
        for name, figure in drawing.build_figures(facts, votes=False).items()
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


def _list_run_facts(
    experiment: ExperimentFacts,
) -> list[tuple[str, str, tuple[str, str] | None]]:
    """When, how long, at what cost, and where the models are: name, value, and a section's id
    with the words that lead there."""
    runs, models, main = experiment.group.runs, experiment.models, experiment.main.name
    ends = [run.finished_at for run in runs]
    lasted = [run.seconds for run in runs]
    several = f" in {len(runs)} runs" if len(runs) > 1 else ""
    found: list[tuple[str, str, tuple[str, str] | None]] = []
    # A run that goes on has no duration yet, and a sum without it would be too short.
    if None not in ends:
        last = max(end for end in ends if end is not None)
        found.append(("finished", f"{last:%Y-%m-%d %H:%M} UTC", None))
        total = sum(seconds or 0.0 for seconds in lasted)
        found.append(("took", DURATION.write(total).shown + several, None))
    else:
        first = min(run.started_at for run in runs)
        found.append(("started", f"{first:%Y-%m-%d %H:%M} UTC, not finished", None))
    spent = "unknown, a price is missing" if experiment.usd is None else f"${experiment.usd:,.2f}"
    if experiment.costs:
        found.append(("cost", spent, ("costs", "stage by stage")))
    chosen = {each.choice.chosen for each in experiment.chosen if each.choice.arm == main}
    if chosen:
        names = ", ".join(
            "untuned" if each == 0 else f"iteration {each}" for each in sorted(chosen)
        )
        found.append(("chosen without gold", names, ("choice", "why")))
    if models:
        where = f"runs/{models[0].run}/models" if models[0].is_file else "kept by the provider"
        more = f" and {len(runs) - 1} more runs" if len(runs) > 1 else ""
        count = f"{len(models)} in {where}" if models[0].is_file else f"{len(models)}, {where}"
        found.append(("tuned models", count + more, ("models", "load them")))
    return found


def _write_loading_code(experiment: ExperimentFacts) -> str | None:
    return show_loading_code(experiment.models[0], full=experiment.group.first.tunes_fully)


def _list_leads(facts: Facts) -> list[tuple[list[str], str]]:
    """What was done, once for all experiments of which the same can be said."""
    found: dict[str, list[str]] = {}
    for experiment in facts.experiments:
        found.setdefault(_describe_experiment(experiment), []).append(experiment.label)
    return [(labels, text) for text, labels in found.items()]


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
