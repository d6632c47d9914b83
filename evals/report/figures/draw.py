"""Draws figures with matplotlib: one code for a page's SVG and for SVG, PDF and PNG files."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

from evals.arm_kinds import Look
from evals.invisible import one_line
from evals.report.figures.draw_overview import draw_overview
from evals.report.figures.figure import (
    GRID,
    INK,
    SOFT,
    ArmLine,
    DataPoint,
    Figure,
    Panel,
    light_color,
    style_line,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Looks = Mapping[str, Look]
_TITLE = 38
_PANEL_INCHES = (4.3, 2.9)
# A page draws many of these, and to lay one out by its texts takes half the time of drawing it.
_PLAIN = ("iterations", "against", "progress")
_MARGINS = (0.7, 0.52, 0.08, 0.3)
"""Inches at the left, bottom, right and top: room for tick labels of six figures and both names."""
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 8.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 3.4,
    "legend.labelcolor": INK,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # Without a fixed salt matplotlib draws random ids, and equal facts would give unequal files.
    "svg.hashsalt": "society",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.color": SOFT,
    "ytick.labelsize": 8.5,
}
# Dates and versions left out: equal facts give equal files, which can be compared and cached.
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def draw_panel(panel: Panel, looks: Looks, inches: tuple[float, float] = _PANEL_INCHES) -> str:
    """One panel without a legend, as SVG."""
    width, height = inches
    with _use_style():
        drawing = _new_drawing(width, _height(panel, height), layout=_choose_layout(panel))
        _draw_axes(_add_axes(drawing, panel), panel, looks)
        return _save(drawing, "svg").decode()


def draw_swatch(look: Look) -> str:
    """An arm's mark in a page's legend."""
    with _use_style():
        drawing = _new_drawing(0.5, 0.17, layout=None)
        axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        # Three points with the marker at the middle one: a line needs two ends beside its marker.
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **style_line(look))
        axes.set(xlim=(-0.1, 2.1), ylim=(-1, 1))
        return _save(drawing, "svg").decode()


def draw_files(figure: Figure, looks: Looks) -> dict[str, bytes]:
    """The whole figure with its legend, by kind of file: svg, pdf, png (on white, 200 dpi)."""
    with _use_style():
        drawing = _draw_figure(figure, looks)
        return {
            kind: _save(drawing, kind, facecolor="white" if kind == "png" else "none", dpi=200)
            for kind in ("svg", "pdf", "png")
        }


@contextmanager
def _use_style() -> Iterator[None]:
    from matplotlib import style

    # On a new machine matplotlib logs that it searches the fonts; users need not know.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    # Without this the user's own settings would make equal facts give unequal files.
    with style.context(["default", _STYLE]):
        yield


def _new_drawing(width: float, height: float, layout: str | None = "constrained") -> Drawing:
    from matplotlib.figure import Figure as Drawing

    return Drawing(figsize=(width, height), layout=layout)  # type: ignore[arg-type]


def _choose_layout(panel: Panel) -> str | None:
    return None if panel.kind in _PLAIN else "constrained"


def _add_axes(drawing: Drawing, panel: Panel) -> Axes:
    if panel.kind not in _PLAIN:
        return drawing.add_subplot()
    width, height = drawing.get_size_inches()
    left, bottom, right, top = _MARGINS
    return drawing.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    )


def _save(drawing: Drawing, kind: str, **options: Any) -> bytes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.BytesIO()
    if kind == "svg":
        # The same bytes as by `savefig`, which draws everything once more to lay it out.
        FigureCanvasSVG(drawing).print_svg(file, metadata=_METADATA[kind])  # type: ignore[no-untyped-call]
    else:
        drawing.savefig(file, format=kind, metadata=_METADATA[kind], **options)
    return file.getvalue()


def _draw_figure(figure: Figure, looks: Looks) -> Drawing:
    columns = min(2, len(figure.panels))
    rows = ceil(len(figure.panels) / columns)
    height = max(_height(panel, 2.7) for panel in figure.panels)
    legend_rows = ceil(len(figure.arms) / 3) if figure.needs_legend else 0
    drawing = _new_drawing(3.7 * columns, height * rows + 0.2 * legend_rows)
    for place, panel in enumerate(figure.panels, start=1):
        _draw_axes(drawing.add_subplot(rows, columns, place), panel, looks)
    if legend_rows:
        handles = [_legend_handle(arm, looks[arm]) for arm in figure.arms]
        drawing.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    return drawing


def _legend_handle(arm: str, look: Look) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=one_line(arm), **style_line(look))


def _height(panel: Panel, usual: float) -> float:
    return max(1.3, 0.9 + 0.26 * len(panel.lines)) if panel.kind == "differences" else usual


def _draw_axes(axes: Axes, panel: Panel, looks: Looks) -> None:
    kinds: dict[str, Callable[[Axes, Panel, Looks], None]] = {
        "iterations": draw_iterations,
        "overview": draw_overview,
        "against": draw_paths,
        "progress": draw_curves,
        "differences": draw_differences,
    }
    # A panel has room for about `_TITLE` characters; a longer title is set smaller, not cut.
    heading = axes.set_title(one_line(panel.title))
    heading.set_fontsize(float(heading.get_fontsize()) * min(1.0, _TITLE / len(panel.title or " ")))
    axes.set_xlabel(one_line(panel.x_label))
    axes.set_ylabel(one_line(panel.y_label))
    kinds[panel.kind](axes, panel, looks)
    if panel.limits is not None:
        (axes.set_xlim if panel.kind == "differences" else axes.set_ylim)(*panel.limits)
    if panel.percent:
        _write_percent(axes, panel)
    axes.tick_params(length=0)


def _write_percent(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter

    along, sign = (axes.xaxis, "+") if panel.kind == "differences" else (axes.yaxis, "")

    def write(value: float, _: object) -> str:
        return f"{100 * value:{sign}.3g}".replace("-", "−").replace("+0", "0")

    along.set_major_formatter(FuncFormatter(write))


def draw_iterations(axes: Axes, panel: Panel, looks: Looks) -> None:
    """Lines over iterations, shifted a little so that their intervals do not cover each other."""
    places = sorted({point.x for line in panel.lines for point in line.points}) or [0.0]
    # Room for the lines that are shifted aside, and for the ends of level lines.
    left, right = places[0] - 0.4, places[-1] + 0.4
    for level in panel.levels:
        interval = panel.shows_interval(level.arm)
        _draw_level(axes, level, looks[level.arm], left, right, interval=interval)
    # All lines together never spread over more than 0.6 of an iteration.
    step = min(0.07, 0.6 / max(1, len(panel.lines)))
    # The main arm is drawn last, so that no other line covers it.
    for number, line in reversed(list(enumerate(panel.lines))):
        shift = (number - (len(panel.lines) - 1) / 2) * step
        interval = panel.shows_interval(line.arm)
        _draw_line(axes, line, looks[line.arm], shift, interval=interval)
    axes.set_xlim(left, right)
    axes.set_xticks(places, ["untuned" if x == 0 else f"{x:.0f}" for x in places])
    axes.grid(visible=False, axis="x")


def draw_paths(axes: Axes, panel: Panel, looks: Looks) -> None:
    """Every arm's path through the plane, iteration by iteration; single seeds are faint."""
    for line in (*panel.levels, *panel.lines):
        # A mark at 100 % stands on the upper edge, and is whole.
        full = style_line(looks[line.arm]) | {"clip_on": False}
        faint = full | {"linestyle": "none", "markersize": 3, "alpha": 0.45, "clip_on": True}
        small = full | {"linewidth": 1.2, "markersize": 3.5}
        axes.plot([p.x for p in line.faint], [p.y for p in line.faint], **faint)
        axes.plot([p.x for p in line.points], [p.y for p in line.points], **small)
        axes.plot([p.x for p in line.points[-1:]], [p.y for p in line.points[-1:]], **full)


def draw_curves(axes: Axes, panel: Panel, looks: Looks) -> None:
    """Curves that begin anew with every iteration: x runs from k to k + 1 in iteration k + 1."""
    for line in panel.lines:
        look = looks[line.arm]
        thin = style_line(look) | {"linewidth": 0.8 * look.width, "markersize": 3.5}
        for part in _split_iterations(line.points):
            axes.plot([p.x for p in part], [p.y for p in part], markevery=[len(part) - 1], **thin)
    last = ceil(max((point.x for line in panel.lines for point in line.points), default=1))
    axes.set_xticks([i + 0.5 for i in range(last)], [str(i + 1) for i in range(last)])
    for i in range(1, last):
        axes.axvline(i, color=GRID, linewidth=0.7)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(bottom=0)


def draw_differences(axes: Axes, panel: Panel, looks: Looks) -> None:
    """One row for each arm: the difference, its interval, and every seed's as a thin mark."""
    axes.axvline(0, color=SOFT, linewidth=0.9)
    rows = list(range(len(panel.lines)))
    for row, line in zip(rows, panel.lines, strict=True):
        (point,), look = line.points, looks[line.arm]
        if point.low is not None and point.high is not None:
            axes.plot([point.low, point.high], [row, row], color=light_color(look), linewidth=1.6)
        axes.plot(
            point.seeds, [row + 0.28] * len(point.seeds), linestyle="none", marker="|",
            markersize=4, color=light_color(look), alpha=0.8,
        )  # fmt: skip
        axes.plot([point.x], [row], **style_line(look) | {"markersize": 6})
    axes.set_yticks(rows, [one_line(line.label) for line in panel.lines])
    # Upside down, so that the rows stand in the order of the table.
    axes.set_ylim(len(panel.lines) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", labelcolor=INK)


def _draw_level(
    axes: Axes, level: ArmLine, look: Look, left: float, right: float, *, interval: bool
) -> None:
    (point,) = level.points
    axes.plot(
        [left, right], [point.y, point.y], markevery=[1], clip_on=False,
        **style_line(look) | {"linewidth": 1.1},
    )  # fmt: skip
    if not interval:
        return
    if point.low is not None and point.high is not None:
        axes.axhspan(point.low, point.high, color=light_color(look), alpha=0.08, linewidth=0)
    _draw_seeds(axes, right - 0.08, point.seeds, look)


def _draw_line(axes: Axes, line: ArmLine, look: Look, shift: float, *, interval: bool) -> None:
    at = [point.x + shift for point in line.points]
    axes.plot(at, [point.y for point in line.points], **style_line(look))
    for x, point in zip(at, line.points, strict=True) if interval else ():
        if point.low is not None and point.high is not None:
            axes.plot(
                [x, x], [point.low, point.high], color=light_color(look), linewidth=1.0, alpha=0.6
            )
        _draw_seeds(axes, x, point.seeds, look)


def _draw_seeds(axes: Axes, x: float, seeds: Sequence[float], look: Look) -> None:
    axes.plot(
        [x] * len(seeds), seeds, linestyle="none", marker="_", markersize=5, markeredgewidth=0.9,
        color=light_color(look), alpha=0.7,
    )  # fmt: skip


def _split_iterations(points: Sequence[DataPoint]) -> Iterator[list[DataPoint]]:
    parts: dict[int, list[DataPoint]] = {}
    for point in points:
        parts.setdefault(int(point.x), []).append(point)
    yield from parts.values()
