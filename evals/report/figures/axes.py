"""The kinds of panel, each drawn on matplotlib axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from evals.arm_kinds import Look
from evals.report.figures.looks import GRID, INK, PAPER, SOFT, light_color
from evals.report.figures.specification import Line, Panel, Point
from evals.visible import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Looks = Mapping[str, Look]


def iterations(axes: Axes, panel: Panel, looks: Looks) -> None:
    """Lines over iterations, a little apart so that their intervals do not hide each other."""
    places = sorted({point.x for line in panel.lines for point in line.points}) or [0.0]
    left, right = places[0] - 0.4, places[-1] + 0.4
    for level in panel.levels:
        _level(axes, level, looks[level.arm], left, right)
    step = min(0.07, 0.6 / max(1, len(panel.lines)))
    for number, line in enumerate(panel.lines):
        _dodged(axes, line, looks[line.arm], (number - (len(panel.lines) - 1) / 2) * step)
    axes.set_xlim(left, right)
    axes.set_xticks(places, ["untuned" if x == 0 else f"{x:.0f}" for x in places])
    axes.grid(visible=False, axis="x")


def against(axes: Axes, panel: Panel, looks: Looks) -> None:
    """Every arm's way through the plane, iteration by iteration; single seeds are faint."""
    for line in (*panel.levels, *panel.lines):
        full = stroke(looks[line.arm])
        faint = full | {"linestyle": "none", "markersize": 3, "alpha": 0.45}
        small = full | {"linewidth": 1.2, "markersize": 3.5}
        axes.plot([p.x for p in line.faint], [p.y for p in line.faint], **faint)
        axes.plot([p.x for p in line.points], [p.y for p in line.points], **small)
        axes.plot([p.x for p in line.points[-1:]], [p.y for p in line.points[-1:]], **full)


def progress(axes: Axes, panel: Panel, looks: Looks) -> None:
    """Curves that begin anew with every iteration: x runs from k to k + 1 in iteration k + 1."""
    for line in panel.lines:
        look = looks[line.arm]
        thin = stroke(look) | {"linewidth": 0.8 * look.width, "markersize": 3.5}
        for part in _pieces(line.points):
            axes.plot([p.x for p in part], [p.y for p in part], markevery=[len(part) - 1], **thin)
    last = ceil(max((point.x for line in panel.lines for point in line.points), default=1))
    axes.set_xticks([i + 0.5 for i in range(last)], [str(i + 1) for i in range(last)])
    for i in range(1, last):
        axes.axvline(i, color=GRID, linewidth=0.7)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(bottom=0)


def differences(axes: Axes, panel: Panel, looks: Looks) -> None:
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
        axes.plot([point.x], [row], **stroke(look) | {"markersize": 6})
    axes.set_yticks(rows, [one_line(line.label) for line in panel.lines])
    axes.set_ylim(len(panel.lines) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", labelcolor=INK)


def stroke(look: Look) -> dict[str, Any]:
    """A look in matplotlib's words."""
    return {
        "color": light_color(look),
        "linewidth": look.width,
        "linestyle": (0, look.dash) if look.dash else "solid",
        "marker": look.marker,
        "markersize": 7 if look.marker == "*" else 5,
        "markerfacecolor": light_color(look) if look.filled else PAPER,
        "markeredgecolor": light_color(look),
        "markeredgewidth": 1.1,
    }


def _level(axes: Axes, level: Line, look: Look, left: float, right: float) -> None:
    (point,) = level.points
    axes.plot(
        [left, right], [point.y, point.y], markevery=[1], clip_on=False,
        **stroke(look) | {"linewidth": 1.1},
    )  # fmt: skip
    if point.low is not None and point.high is not None:
        axes.axhspan(point.low, point.high, color=light_color(look), alpha=0.08, linewidth=0)
    _seed_marks(axes, right - 0.08, point.seeds, look)


def _dodged(axes: Axes, line: Line, look: Look, shift: float) -> None:
    at = [point.x + shift for point in line.points]
    axes.plot(at, [point.y for point in line.points], **stroke(look))
    for x, point in zip(at, line.points, strict=True):
        if point.low is not None and point.high is not None:
            axes.plot(
                [x, x], [point.low, point.high], color=light_color(look), linewidth=1.0, alpha=0.6
            )
        _seed_marks(axes, x, point.seeds, look)


def _seed_marks(axes: Axes, x: float, seeds: Sequence[float], look: Look) -> None:
    axes.plot(
        [x] * len(seeds), seeds, linestyle="none", marker="_", markersize=5, markeredgewidth=0.9,
        color=light_color(look), alpha=0.7,
    )  # fmt: skip


def _pieces(points: Sequence[Point]) -> Iterator[list[Point]]:
    parts: dict[int, list[Point]] = {}
    for point in points:
        parts.setdefault(int(point.x), []).append(point)
    yield from parts.values()
