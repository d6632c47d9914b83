"""Line charts as SVG text. Values are shown at the pointer and at the keyboard's focus.

Color and dash of a line come from the style sheet by its class; the classes `line-1` … `line-6`
differ in dash and marker too, so that a chart can be read without color. A chart has a band for
every place on its x axis; the band that is pointed at or focused shows its box of values. The
style sheet does that, so that it works without script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10

from markupsafe import Markup

from evals.intervals import Rate
from evals.invisible import one_line
from society.terminal.duration import format_duration
from society.view.lineage import LossPoint

# As many lines as the style sheet has classes for.
LINES = 6
# The plane leaves room for the ticks' texts at the left, and for two lines of text below.
_WIDTH, _HEIGHT = 600, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 588, 14, 218
# Circle, square, triangle, diamond, cross, triangle upside down: told apart without color.
_MARKERS = (
    "M{x},{y}m-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M{x},{y}m-3.6,-3.6h7.2v7.2h-7.2z",
    "M{x},{y}m0,-5l4.8,8.4h-9.6z",
    "M{x},{y}m0,-5l5,5l-5,5l-5,-5z",
    "M{x},{y}m-4.4,-1.3h3.1v-3.1h2.6v3.1h3.1v2.6h-3.1v3.1h-2.6v-3.1h-3.1z",
    "M{x},{y}m0,5l4.8,-8.4h-9.6z",
)


# How high an axis of accuracies may be for a tick at every 10 %.
_CROWDED = 0.55
# Of the boxes of values: pixels for a character and a line, characters of a row.
_CHARACTER, _LINE, _LONGEST = 7.9, 19, 44
# The keyboard stops at every band; more stops than these would be too many.
MOST_BANDS = 24

Scale = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: accuracies by iteration."""

    label: str
    points: tuple[tuple[int, Rate], ...]


@dataclass(frozen=True, slots=True)
class Total:
    """One line: a sum that grows, at the end of every span of time."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Plane:
    x: Callable[[float], float]
    y: Callable[[float], float]


def find_scale(curves: Sequence[Curve]) -> Scale:
    """The axis of accuracies that all these curves fit in, so that charts can share it."""
    rates = [rate for curve in curves for _, rate in curve.points]
    # The axis does not start at zero, but at a multiple of 10 % below the lowest interval.
    low = floor(10 * min(rate.low for rate in rates)) / 10
    # At least 10 % high, or equal rates would leave an axis with a single tick.
    high = max(ceil(10 * max(rate.high for rate in rates)) / 10, low + 0.1)
    # A high axis has a tick at every 20 %, the last of them at its upper end.
    uneven = high - low > _CROWDED and round(10 * (high - low)) % 2 == 1
    return (max(0.0, low - 0.1), high) if uneven and low > 0 else (low, high + 0.1 * uneven)


def draw_accuracy(curves: Sequence[Curve], scale: Scale | None = None) -> Markup:
    """Accuracy in % over iterations, a whisker for every 95 % interval. Up to `LINES` curves."""
    drawn = [curve for curve in curves if curve.points][:LINES]
    if not drawn:
        return Markup("")
    low, high = scale or find_scale(drawn)
    iterations = sorted({iteration for curve in drawn for iteration, _ in curve.points})
    # Room at both ends for the curves that are shifted aside.
    plane = _make_plane(iterations[0] - 0.35, iterations[-1] + 0.35, low, high)
    # More than six lines across would crowd the chart.
    every = 0.1 if high - low <= _CROWDED else 0.2
    ticks = [low + every * number for number in range(round((high - low) / every) + 1)]
    parts = [
        _draw_y_axis(plane, ticks, lambda share: f"{100 * share:.0f} %"),
        _draw_x_axis(plane, iterations, lambda i: "untuned" if i == 0 else str(i), "iteration"),
    ]
    for number, curve in enumerate(drawn, start=1):
        # Curves are shifted by a few pixels each, so that whiskers at the same iteration stay
        # apart.
        parts.append(_draw_curve(plane, number, curve, 5.0 * (number - (len(drawn) + 1) / 2)))
    places = [
        (
            plane.x(iteration),
            "untuned" if iteration == 0 else f"iteration {iteration}",
            [
                (number, f"{curve.label}: {_write_rate(rate)}")
                for number, curve in enumerate(drawn, start=1)
                for at, rate in curve.points
                if at == iteration
            ],
        )
        for iteration in iterations
    ]
    parts.append(_draw_bands(places))
    return _wrap_svg("Accuracy by iteration, in %", parts)


def draw_loss(points: Sequence[LossPoint]) -> Markup:
    """Loss in nats per token over optimizer steps; the axis starts at zero."""
    if len(points) < 2:
        return Markup("")
    first, last = points[0], points[-1]
    ticks = _choose_ticks(max(point.loss for point in points) or 1.0)
    # The last tick may lie below the highest loss, which would be drawn outside the plane.
    top = max(ticks[-1], *(point.loss for point in points))
    plane = _make_plane(first.step, last.step, 0.0, top)
    steps = sorted({first.step, (first.step + last.step) // 2, last.step})
    path = " ".join(f"{plane.x(p.step):.1f},{plane.y(p.loss):.1f}" for p in points)
    every = ceil(len(points) / MOST_BANDS)
    kept = [*points[:-1:every], last]
    places = [(plane.x(p.step), f"step {p.step:,}", [(1, f"loss {p.loss:.4f}")]) for p in kept]
    return _wrap_svg(
        f"Training loss in nats per token: {first.loss:.3f} at step {first.step}, "
        f"{last.loss:.3f} at step {last.step}",
        [
            _draw_y_axis(plane, ticks, lambda loss: f"{loss:g}"),
            _draw_x_axis(plane, steps, lambda step: f"{step:,}", "optimizer step"),
            Markup('<g class="line-1"><polyline class="line" points="{}"/></g>').format(path),
            _draw_bands(places),
        ],
    )


def draw_totals(
    what: str,
    spans: Sequence[tuple[float, float]],
    totals: Sequence[Total],
    write: Callable[[float], str],
) -> Markup:
    """Sums over time, up to `LINES` of them; `spans` are the seconds between which they grow."""
    values = [value for total in totals for value in total.values]
    ticks = _choose_ticks(max(values))
    end = spans[-1][1]
    plane = _make_plane(0.0, end, 0.0, max(ticks[-1], *values))
    moments = sorted({round(end * part / 3) for part in range(4)})
    lines = []
    for number, total in enumerate(totals, start=1):
        # Between two spans nothing was taken, so the line is level there.
        levels = zip(spans, (0.0, *total.values), total.values, strict=False)
        places = [
            place
            for (since, until), before, after in levels
            for place in ((since, before), (until, after))
        ]
        path = " ".join(f"{plane.x(at):.1f},{plane.y(value):.1f}" for at, value in places)
        lines.append(
            Markup('<g class="line-{}"><polyline class="line" points="{}"/></g>').format(
                number, path
            )
        )
    bands = [
        (
            plane.x(until),
            f"after {format_duration(until)}",
            [
                (number, f"{total.name}: {write(total.values[place])}")
                for number, total in enumerate(totals, start=1)
            ],
        )
        for place, (_, until) in enumerate(spans)
    ]
    return _wrap_svg(
        f"{what} by time: {write(totals[0].values[-1])} after {format_duration(end)}",
        [
            _draw_y_axis(plane, ticks, _shorten_number),
            _draw_x_axis(plane, moments, format_duration, "since the first call"),
            *lines,
            _draw_bands(bands),
        ],
    )


def draw_sparkline(values: Sequence[float], label: str, scale: Scale) -> Markup:
    """A small line over equal steps; `scale` are the values at its lower and its upper edge."""
    if len(values) < 2:
        return Markup("")
    low, span = scale[0], (scale[1] - scale[0]) or 1.0
    path = " ".join(
        f"{2 + 96 * i / (len(values) - 1):.1f},{20 - 18 * (value - low) / span:.1f}"
        for i, value in enumerate(values)
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 100 22" role="img" aria-label="{}">'
        '<polyline points="{}"/></svg>'
    ).format(one_line(label), path)


def draw_marker(number: int) -> Markup:
    """The line's sign in a legend."""
    return Markup(
        '<svg class="sign" viewBox="0 0 28 12" aria-hidden="true"><g class="line-{}">'
        '<line class="line" x1="0" x2="28" y1="6" y2="6"/><path class="marker" d="{}"/></g></svg>'
    ).format(number, _MARKERS[number - 1].format(x=14, y=6))


def draw_sign(number: int, x: float, y: float) -> Markup:
    """The marker of line `number` within another drawing, in the color of the class around it."""
    return Markup('<path class="marker" d="{}"/>').format(
        _MARKERS[number - 1].format(x=f"{x:.1f}", y=f"{y:.1f}")
    )


def draw_bar(share: float) -> Markup:
    """How much of something is done, 0..1."""
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="all" width="100" height="6"/><rect class="done" width="{:.1f}" height="6"/>'
        "</svg>"
    ).format(100 * min(1.0, max(0.0, share)))


def _draw_curve(plane: _Plane, number: int, curve: Curve, shift: float) -> Markup:
    places = [(plane.x(i) + shift, rate) for i, rate in sorted(curve.points)]
    parts = [
        Markup('<polyline class="line" points="{}"/>').format(
            " ".join(f"{x:.1f},{plane.y(rate.value):.1f}" for x, rate in places)
        )
    ]
    for x, rate in places:
        parts.append(
            Markup(
                '<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>{}'
            ).format(
                draw_sign(number, x, plane.y(rate.value)),
                x=x,
                low=plane.y(rate.low),
                high=plane.y(rate.high),
            )
        )
    return Markup('<g class="line-{}">{}</g>').format(number, Markup("").join(parts))


def _draw_bands(places: Sequence[tuple[float, str, Sequence[tuple[int, str]]]]) -> Markup:
    """A band around every place, by its x, its title and its rows: number of the line and text."""
    edges = [(one[0] + other[0]) / 2 for one, other in pairwise(places)]
    bounds = zip([_LEFT, *edges], [*edges, _RIGHT], strict=True)
    return Markup("").join(
        _draw_band(left, right, place)
        for (left, right), place in zip(bounds, places, strict=True)
        if place[2]
    )


def _draw_band(
    left: float, right: float, place: tuple[float, str, Sequence[tuple[int, str]]]
) -> Markup:
    x, title, rows = place
    texts = [one_line(title), *(one_line(text)[:_LONGEST] for _, text in rows)]
    width = 26 + _CHARACTER * max(map(len, texts))
    height = _LINE * len(texts) + 10
    # Beside the place, on the side that has more room.
    at = x + 10 if x < (_LEFT + _RIGHT) / 2 else x - 10 - width
    at = min(max(at, 2.0), _WIDTH - width - 2)
    lines = Markup("").join(
        Markup('<text x="{:.1f}" y="{}">{}</text>').format(at + 18 if row else at + 8, y, text)
        for row, (y, text) in enumerate(
            (_TOP + 16 + _LINE * number, text) for number, text in enumerate(texts)
        )
    )
    dots = Markup("").join(
        Markup('<g class="line-{}"><circle class="dot" cx="{:.1f}" cy="{}" r="4"/></g>').format(
            number, at + 10, _TOP + 12 + _LINE * row
        )
        for row, (number, _) in enumerate(rows, start=1)
    )
    return Markup(
        '<g class="band" tabindex="0" role="img" aria-label="{label}">'
        '<rect class="reach" x="{left:.1f}" y="{top}" width="{reach:.1f}" height="{tall}"/>'
        '<g class="tip"><line class="cross" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        '<rect class="box" x="{at:.1f}" y="{top}" width="{width:.1f}" height="{height}" rx="4"/>'
        "{lines}{dots}</g></g>"
    ).format(
        label=f"{texts[0]}: {'; '.join(texts[1:])}",
        left=left,
        reach=right - left,
        top=_TOP,
        bottom=_BOTTOM,
        tall=_BOTTOM - _TOP,
        x=x,
        at=at,
        width=width,
        height=height,
        lines=lines,
        dots=dots,
    )


def _write_rate(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} % ({100 * rate.low:.1f}–{100 * rate.high:.1f})"


def _make_plane(left: float, right: float, low: float, high: float) -> _Plane:
    return _Plane(
        lambda x: _LEFT + (_RIGHT - _LEFT) * (x - left) / ((right - left) or 1.0),
        lambda y: _BOTTOM - (_BOTTOM - _TOP) * (y - low) / ((high - low) or 1.0),
    )


def _draw_y_axis(plane: _Plane, ticks: Sequence[float], name: Callable[[float], str]) -> Markup:
    return Markup("").join(
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text class="tick end" x="{}" y="{:.1f}">{}</text>'
        ).format(_LEFT, _RIGHT, _LEFT - 6, plane.y(tick) + 4, name(tick), y=plane.y(tick))
        for tick in ticks
    )


def _draw_x_axis(
    plane: _Plane, ticks: Sequence[int], name: Callable[[int], str], what: str
) -> Markup:
    named = Markup("").join(
        Markup('<text class="tick {}" x="{:.1f}" y="{}">{}</text>').format(
            # A centered text at the right edge would be cut off.
            "end" if plane.x(tick) > _RIGHT - 30 else "middle",
            plane.x(tick),
            _BOTTOM + 16,
            name(tick),
        )
        for tick in ticks
    )
    return named + Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(
        (_LEFT + _RIGHT) / 2, _HEIGHT - 4, what
    )


def _wrap_svg(label: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="group" aria-label="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, one_line(label), Markup("").join(parts))


def _shorten_number(number: float) -> str:
    for size, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:g}{sign}"
    return f"{number:g}"


def _choose_ticks(high: float) -> list[float]:
    """Round numbers from zero to `high`, three to six of them."""
    power = 10.0 ** floor(log10(high))
    # The smallest of 0.2, 0.5, 1, 2 times the power of ten that leaves at most five intervals.
    step = next(power * s for s in (0.2, 0.5, 1.0, 2.0) if high / (power * s) <= 5.5)
    return [round(step * i, 10) for i in range(int(high / step) + 1)]
