"""What a figure shows, in plain numbers; how it is drawn is another matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["iterations", "against", "progress", "differences"]
"""`iterations`: lines over iterations and levels of arms that do not change. `against`: one
quantity against another. `progress`: curves. `differences`: one row per arm, zero marked."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value `y` at `x` with its interval and the single seeds' own values. In `differences` the
    value is `x`, and the interval and the seeds are along it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One arm's points in order; `faint` are single seeds' points, `label` names a row."""

    arm: str
    points: tuple[Point, ...]
    faint: tuple[Point, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes. `percent`: values are shares, shown in %. `limits` of y, None: from the
    data."""

    title: str
    kind: Kind
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    levels: tuple[Line, ...] = ()
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
