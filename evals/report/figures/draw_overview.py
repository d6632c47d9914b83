"""Draws the chart at the top of a page: every line has its name at its end, so no legend is
needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evals.arm_kinds import Look
from evals.invisible import one_line
from evals.report.figures.figure import INK, SOFT, ArmLine, Panel, light_color, style_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

START = "untuned start"
_LABEL_POINTS = 11.5
"""The height of a line of labels."""


def draw_overview(axes: Axes, panel: Panel, looks: Mapping[str, Look]) -> None:
    """Lines over iterations, the main arm's with its interval, and the level of its start."""
    places = sorted({point.x for line in panel.lines for point in line.points}) or [0.0]
    last = places[-1] if len(places) > 1 else places[-1] + 0.5
    ends: list[tuple[float, str, str]] = []
    # The main arm comes first in `lines`; drawn last, no other line covers it.
    for line in (*panel.levels, *reversed(panel.lines)):
        look = looks[line.arm]
        if line.arm == panel.main:
            _draw_interval(axes, line, look, last)
        main = line.arm == panel.main
        _draw_course(axes, line, look, last, level=line in panel.levels, seeds=main)
        ends.append((line.points[-1].y, line.arm, light_color(look)))
    if (start := _find_start(panel)) is not None:
        axes.plot(
            [places[0], last], [start, start], color=SOFT, linewidth=0.9, linestyle=(0, (2, 2))
        )
        ends.append((start, START, SOFT))
    axes.set_xlim(places[0] - 0.03 * (last - places[0]), last)
    axes.set_xticks(places, ["untuned" if x == 0 else f"{x:.0f}" for x in places])
    axes.grid(visible=False, axis="x")
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    # A chart of a single line that says what it shows needs no name at its end.
    if len(ends) > 1:
        _name_ends(axes, ends, last, panel.main)


def _find_start(panel: Panel) -> float | None:
    """The main arm's value before any tuning, if the line has left it."""
    for line in panel.lines:
        if line.arm == panel.main and line.points[0].x == 0 and len(line.points) > 1:
            return line.points[0].y
    return None


def _draw_interval(axes: Axes, line: ArmLine, look: Look, last: float) -> None:
    known = [(p.x, p.low, p.high) for p in line.points if p.low is not None and p.high is not None]
    if not known:
        return
    # A single point has no width of its own: its band is as wide as its level line.
    known += [(last, *known[0][1:])] if len(known) == 1 else []
    at, lows, highs = zip(*known, strict=True)
    axes.fill_between(at, lows, highs, color=light_color(look), alpha=0.13, linewidth=0)


def _draw_course(
    axes: Axes, line: ArmLine, look: Look, last: float, *, level: bool, seeds: bool
) -> None:
    style = style_line(look) | {"markersize": 5 if look.marker == "*" else 4}
    # What does not change is drawn across the whole panel, so that its end can be named, too.
    if level or len(line.points) == 1:
        (y,) = {point.y for point in line.points[-1:]}
        axes.plot([line.points[0].x, last], [y, y], **style | {"linewidth": 1.1, "marker": ""})
        return
    at = [point.x for point in line.points]
    axes.plot(at, [point.y for point in line.points], clip_on=False, **style)
    for point in line.points if seeds else ():
        axes.plot(
            [point.x] * len(point.seeds), point.seeds, linestyle="none", marker="_", markersize=4,
            color=light_color(look), alpha=0.45,
        )  # fmt: skip


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], last: float, main: str) -> None:
    low, high = axes.get_ylim()
    # The axes take about four fifths of the drawing's height; labels keep a line's distance.
    inches = axes.get_figure(root=True).get_figheight() * 0.78  # type: ignore[union-attr]
    apart = _LABEL_POINTS / (72 * inches) * (high - low)
    ordered = sorted(ends)
    for (y, name, color), at in zip(
        ordered, _spread([y for y, *_ in ordered], apart, high), strict=True
    ):
        axes.annotate(
            one_line(name), (last, y), (14, (at - y) / (high - low) * 72 * inches),
            textcoords="offset points", va="center", annotation_clip=False,
            color=INK if name == main else SOFT, fontsize=9,
            fontweight="bold" if name == main else "normal",
            # To the middle of the name's left edge, or the line would strike it through.
            arrowprops={
                "arrowstyle": "-", "color": color, "lw": 0.8, "shrinkA": 1, "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )  # fmt: skip


def _spread(places: Sequence[float], apart: float, top: float) -> list[float]:
    """The ascending places moved as little as needed for all to be `apart`, and below `top`.

    Neighbours that are too near form a block around their mean; blocks that meet are joined.
    """
    blocks: list[list[float]] = []
    for place in places:
        # As when words are set in lines: a new one starts alone and joins what it runs into.
        blocks.append([place])
        while len(blocks) > 1 and _overlap(blocks[-2], blocks[-1], apart, top):
            later = blocks.pop()
            blocks[-1] += later
    return [at for block in blocks for at in _lay_out(block, apart, top)]


def _lay_out(block: Sequence[float], apart: float, top: float) -> list[float]:
    height = apart * (len(block) - 1)
    # Names above the axes would run into the title.
    first = min(sum(block) / len(block) - height / 2, top - height)
    return [first + apart * number for number in range(len(block))]


def _overlap(one: Sequence[float], other: Sequence[float], apart: float, top: float) -> bool:
    return _lay_out(other, apart, top)[0] - _lay_out(one, apart, top)[-1] < apart
