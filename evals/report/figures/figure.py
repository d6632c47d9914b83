"""What a figure shows, in plain numbers, and how its arms look; `draw` draws it.

An arm looks the same in every figure: by color, dash and marker. The colors are close to those of
Okabe & Ito ("Color Universal Design", 2008), darkened where they would be too pale on paper; each
has a partner for dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evals.arm_kinds import ARM_KINDS, DASH_DOT, DASHED, DOTTED, LONG, SOLID, Look
from evals.stored_run import ArmSettings

Kind = Literal["iterations", "against", "progress", "differences"]
"""`iterations`: lines over iterations and levels of arms that do not change. `against`: one
quantity against another. `progress`: curves. `differences`: one row per arm, zero marked."""


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
    """One pair of axes. `percent`: values are shares, shown in %. `limits` of y, None: from the
    data."""

    title: str
    kind: Kind
    x_label: str
    y_label: str
    lines: tuple[ArmLine, ...]
    levels: tuple[ArmLine, ...] = ()
    percent: bool = True
    limits: tuple[float, float] | None = None

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
        arm.name: ARM_KINDS[arm.name].look if arm.name in ARM_KINDS else next(spare) for arm in arms
    }


def light_color(look: Look) -> str:
    """The color of a look on a light page."""
    return PALETTE[look.color][0]
