"""Charts as SVG text. Colours come from the page's style sheet: a series is known by its class,
its dash and its marker, so the chart also reads in grey and with colour-blind eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from markupsafe import Markup, escape

from evals.intervals import Rate

_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 368, 12, 262
_LABEL_GAP = 15
_DODGE = 4


@dataclass(frozen=True, slots=True)
class Series:
    """One line: `points` maps an iteration to its rate; `kind` is its CSS class."""

    label: str
    kind: str
    points: dict[int, Rate]


@dataclass(frozen=True, slots=True)
class _Scale:
    iterations: tuple[int, ...]
    low: float
    high: float

    def x(self, iteration: int) -> float:
        places = len(self.iterations) - 1
        inner = (_RIGHT - _LEFT) - 40
        at = self.iterations.index(iteration) / places if places else 0.5
        return _LEFT + 20 + inner * at

    def y(self, share: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (share - self.low) / (self.high - self.low)


def accuracy_curves(series: Sequence[Series], title: str) -> Markup:
    """Accuracy in % over iterations, with a whisker per 95 % interval and labels at the ends."""
    drawn = [line for line in series if line.points]
    if not drawn:
        return Markup("")
    scale = _scale(drawn)
    parts = [_axes(scale)]
    for number, line in enumerate(drawn):
        parts.append(_line(line, scale, (number - (len(drawn) - 1) / 2) * _DODGE))
    parts.append(_labels(drawn, scale))
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, title, Markup("").join(parts))


def sparkline(values: Sequence[float], title: str) -> Markup:
    """A small line over equal steps, from its lowest to its highest value."""
    if len(values) < 2:
        return Markup("")
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = 116 / (len(values) - 1)
    path = " ".join(
        f"{2 + i * step:.1f},{26 - 22 * (v - low) / span:.1f}" for i, v in enumerate(values)
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 120 30" role="img" aria-label="{}">'
        '<polyline points="{}"/></svg>'
    ).format(title, path)


def _scale(series: Sequence[Series]) -> _Scale:
    rates = [rate for line in series for rate in line.points.values()]
    low = floor(10 * min(rate.low for rate in rates)) / 10
    high = ceil(10 * max(rate.high for rate in rates)) / 10
    iterations = tuple(sorted({i for line in series for i in line.points}))
    return _Scale(iterations, low, high if high > low else low + 0.1)


def _axes(scale: _Scale) -> Markup:
    parts = []
    step = 1 if scale.high - scale.low <= 0.55 else 2
    for tenth in range(round(scale.low * 10), round(scale.high * 10) + 1, step):
        y = scale.y(tenth / 10)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.1f}">{tenth * 10}%</text>'
        )
    for iteration in scale.iterations:
        text = "untuned" if iteration == 0 else str(iteration)
        parts.append(
            f'<text class="tick middle" x="{scale.x(iteration):.1f}" y="{_BOTTOM + 17}">{text}'
            "</text>"
        )
    middle = (_LEFT + _RIGHT) / 2
    parts.append(f'<text class="tick middle" x="{middle}" y="{_HEIGHT - 4}">iteration</text>')
    return Markup("".join(parts))


def _line(line: Series, scale: _Scale, shift: float) -> Markup:
    places = [(scale.x(i) + shift, rate) for i, rate in sorted(line.points.items())]
    parts = [f'<g class="{escape(line.kind)}">']
    path = " ".join(f"{x:.1f},{scale.y(rate.value):.1f}" for x, rate in places)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for x, rate in places:
        low, high = scale.y(rate.low), scale.y(rate.high)
        parts.append(
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            + _marker(line.kind, x, scale.y(rate.value))
        )
    return Markup("".join([*parts, "</g>"]))


def _marker(kind: str, x: float, y: float) -> str:
    size = 3.8
    shapes = {
        "majority": f"M{x - size},{y - size}h{2 * size}v{2 * size}h{-2 * size}z",
        "greedy": f"M{x},{y - 5}l5,8.5h-10z",
        "single": f"M{x},{y - 5}l5,5l-5,5l-5,-5z",
    }
    if kind in shapes:
        return f'<path class="marker" d="{shapes[kind]}"/>'
    return f'<circle class="marker" cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>'


def _labels(series: Sequence[Series], scale: _Scale) -> Markup:
    ends = sorted(
        ((scale.y(line.points[max(line.points)].value), line) for line in series),
        key=lambda end: end[0],
    )
    places = _apart([y for y, _ in ends])
    return Markup("").join(
        Markup('<text class="name {}" x="{}" y="{:.1f}">{} {:.0f}%</text>').format(
            line.kind, _RIGHT + 6, y + 4, line.label, 100 * line.points[max(line.points)].value
        )
        for y, (_, line) in zip(places, ends, strict=True)
    )


def _apart(heights: Sequence[float]) -> list[float]:
    """The sorted heights moved just far enough apart that labels do not overlap."""
    places = list(heights)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + _LABEL_GAP)
    overhang = max(0.0, places[-1] - _BOTTOM)
    places = [y - overhang for y in places]
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - _LABEL_GAP)
    return places
