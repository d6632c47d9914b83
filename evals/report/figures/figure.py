"""What a figure shows, in plain numbers, and how its arms look; `draw` draws it.

An arm looks the same in every figure: by color, dash and marker. The colors are close to those of
Okabe & Ito ("Color Universal Design", 2008), darkened where they would be too pale on paper; each
has a partner for dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any, Literal

from evals.arm_kinds import DASH_DOT, DASHED, DOTTED, LONG, SOLID, STORED_KINDS, Look
from evals.stored_run import ArmSettings

Kind = Literal["iterations", "overview", "against", "progress", "differences"]
"""`iterations`: lines over iterations and levels of arms that do not change; `overview`: the same
with every line named at its end. `against`: one quantity against another. `progress`: curves.
`differences`: one row per arm, zero marked."""

FEW = 4
"""Up to so many lines have their intervals in one panel; of more, only the main arm has."""


@dataclass(frozen=True, slots=True)
class DataPoint:
    """A value `y` at `x` with its interval and the single seeds' own values. In `differences` the
    value is `x`, and the interval and the seeds are along it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One arm's points in order; `faint` are single seeds' points, `label` names a row."""

    arm: str
    points: tuple[DataPoint, ...]
    faint: tuple[DataPoint, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes. `percent`: values are shares, shown in %. `limits` of y (in `differences`
    of x), None: from the data. `main` names the line that stands out where there are many."""

    title: str
    kind: Kind
    x_label: str
    y_label: str
    lines: tuple[ArmLine, ...]
    levels: tuple[ArmLine, ...] = ()
    percent: bool = True
    limits: tuple[float, float] | None = None
    main: str = ""

    @property
    def crowded(self) -> bool:
        return len(self.lines) + len(self.levels) > FEW

    def shows_interval(self, arm: str) -> bool:
        """Whether an arm's interval and single seeds are drawn."""
        # Rows of differences never lie upon each other.
        everyone = self.kind == "differences" or (self.kind != "overview" and not self.crowded)
        return everyone or arm == self.main

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line.arm for line in (*self.lines, *self.levels)))


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels that belong together under one caption."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm for panel in self.panels for arm in panel.arms))

    @property
    def needs_legend(self) -> bool:
        """Not if every line is named where it is drawn, and not for a single arm."""
        return self.panels[0].kind not in ("differences", "overview") and len(self.arms) > 1


def align_panels(panels: Sequence[Panel]) -> list[Panel]:
    """The same panels with one range of y (in `differences` of x) for all, so that they can be
    compared side by side."""
    values = [value for panel in panels for value in _list_values(panel)]
    if not values:
        return list(panels)
    if panels[0].percent:
        # Differences are read against zero, which is always in the panel.
        values += [0.0] if panels[0].kind == "differences" else []
        # Limits at multiples of 5 %, so that ticks fall on round numbers.
        low, high = floor(20 * min(values)) / 20, ceil(20 * max(values)) / 20
        if low == high:
            # No share is above 100 %, so a single value there stands at the upper end.
            low, high = (low, low + 0.05) if low < 1 else (low - 0.05, low)
        return [replace(panel, limits=(low, high)) for panel in panels]
    # Nats and distances have no round limits of their own; a little room keeps marks whole.
    room = 0.06 * (max(values) - min(values)) or 0.05
    return [replace(panel, limits=(min(values) - room, max(values) + room)) for panel in panels]


def _list_values(panel: Panel) -> Iterator[float]:
    for line in (*panel.lines, *panel.levels):
        for point in line.points:
            # What is not drawn must not stretch the scale.
            around = (point.low, point.high, *point.seeds)
            yield point.x if panel.kind == "differences" else point.y
            if panel.shows_interval(line.arm):
                yield from (value for value in around if value is not None)


PALETTE = {
    "blue": ("#0072b2", "#5ab4ec"),
    "vermillion": ("#c94f00", "#ff955a"),
    "green": ("#008a65", "#3ec49b"),
    "purple": ("#a8508b", "#e39fcb"),
    "orange": ("#b57b01", "#f0b44a"),
    "sky": ("#3d94c5", "#8fd0f2"),
    "black": ("#2b2d31", "#e6e6e4"),
    "brown": ("#7a4a2b", "#c99a79"),
    "grey": ("#767b83", "#a2a7af"),
    "olive": ("#6b7016", "#c3c95e"),
}
"""Light and dark. No two values are equal, so that `inline` can tell a color from its value."""

INK, SOFT, GRID, PAPER = "#1c1e22", "#5c6169", "#dcdcd7", "#fcfcfb"
"""The colors of text, of less important text, of grid lines and of the page."""


# Markers in the outer loop, so that neighbouring variants differ in color first and in marker
# later. Blue and grey are left to the society and the untuned arms.
_SPARE = tuple(
    Look(color, dash, marker, filled)
    for marker, filled, dash in (
        ("h", True, SOLID),
        ("d", False, DASHED),
        ("p", True, DOTTED),
        ("X", True, DASH_DOT),
        ("8", False, LONG),
    )
    for color in ("purple", "green", "vermillion", "orange", "sky", "brown", "olive", "black")
)


def assign_looks(arms: Sequence[ArmSettings]) -> dict[str, Look]:
    """An arm named for its kind looks as that kind always does; variants take spare looks."""
    # Repeated as often as needed: with very many variants looks come again, but none is missing.
    spare = iter(_SPARE * (1 + len(arms) // len(_SPARE)))
    return {
        arm.name: STORED_KINDS[arm.name].look if arm.name in STORED_KINDS else next(spare)
        for arm in arms
    }


def light_color(look: Look) -> str:
    """The color of a look on a light page."""
    return PALETTE[look.color][0]


def style_line(look: Look) -> dict[str, Any]:
    """A look as arguments of matplotlib."""
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
