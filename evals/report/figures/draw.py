"""Draws figures with matplotlib: one code for a page's SVG and for SVG, PDF and PNG files."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

from evals.arm_kinds import Look
from evals.report.figures import axes as drawing_on
from evals.report.figures.looks import GRID, INK, SOFT
from evals.report.figures.specification import Figure, Panel
from evals.visible import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Looks = Mapping[str, Look]
_TITLE = 38
_PANEL_INCHES = (4.3, 2.9)
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
    "svg.hashsalt": "society",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.color": SOFT,
    "ytick.labelsize": 8.5,
}
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def panel_svg(panel: Panel, looks: Looks) -> str:
    """One panel without a legend, as SVG."""
    width, height = _PANEL_INCHES
    with _styled():
        drawing = _drawing(width, _height(panel, height))
        _draw(drawing.add_subplot(), panel, looks)
        return _bytes(drawing, "svg").decode()


def swatch_svg(look: Look) -> str:
    """What stands for an arm in a page's legend."""
    with _styled():
        drawing = _drawing(0.5, 0.17, layout=None)
        axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **drawing_on.stroke(look))
        axes.set(xlim=(-0.1, 2.1), ylim=(-1, 1))
        return _bytes(drawing, "svg").decode()


def files(figure: Figure, looks: Looks) -> dict[str, bytes]:
    """The whole figure with its legend, by kind of file: svg, pdf, png (on white, 200 dpi)."""
    with _styled():
        drawing = _whole(figure, looks)
        return {
            kind: _bytes(drawing, kind, facecolor="white" if kind == "png" else "none", dpi=200)
            for kind in ("svg", "pdf", "png")
        }


@contextmanager
def _styled() -> Iterator[None]:
    from matplotlib import style

    # On a new machine it tells that it looks through the fonts, which is nobody's business here.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    # The user's own settings would make equal facts give unequal files.
    with style.context(["default", _STYLE]):
        yield


def _drawing(width: float, height: float, layout: str | None = "constrained") -> Drawing:
    from matplotlib.figure import Figure as Drawing

    return Drawing(figsize=(width, height), layout=layout)  # type: ignore[arg-type]


def _bytes(drawing: Drawing, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    drawing.savefig(file, format=kind, metadata=_METADATA[kind], **options)
    return file.getvalue()


def _whole(figure: Figure, looks: Looks) -> Drawing:
    columns = min(2, len(figure.panels))
    rows = ceil(len(figure.panels) / columns)
    height = max(_height(panel, 2.7) for panel in figure.panels)
    legend_rows = 0 if figure.panels[0].kind == "differences" else ceil(len(figure.arms) / 3)
    drawing = _drawing(3.7 * columns, height * rows + 0.2 * legend_rows)
    for place, panel in enumerate(figure.panels, start=1):
        _draw(drawing.add_subplot(rows, columns, place), panel, looks)
    if legend_rows:
        handles = [_handle(arm, looks[arm]) for arm in figure.arms]
        drawing.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    return drawing


def _handle(arm: str, look: Look) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=one_line(arm), **drawing_on.stroke(look))


def _height(panel: Panel, usual: float) -> float:
    return max(1.3, 0.9 + 0.26 * len(panel.lines)) if panel.kind == "differences" else usual


def _draw(axes: Axes, panel: Panel, looks: Looks) -> None:
    kinds: dict[str, Callable[[Axes, Panel, Looks], None]] = {
        "iterations": drawing_on.iterations,
        "against": drawing_on.against,
        "progress": drawing_on.progress,
        "differences": drawing_on.differences,
    }
    # A panel is about `_TITLE` characters wide; a longer title is set smaller, not cut.
    heading = axes.set_title(one_line(panel.title))
    heading.set_fontsize(float(heading.get_fontsize()) * min(1.0, _TITLE / len(panel.title or " ")))
    axes.set_xlabel(one_line(panel.x_label))
    axes.set_ylabel(one_line(panel.y_label))
    kinds[panel.kind](axes, panel, looks)
    if panel.limits is not None and panel.kind != "differences":
        axes.set_ylim(*panel.limits)
    if panel.percent:
        _in_percent(axes, panel)
    axes.tick_params(length=0)


def _in_percent(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter

    along, sign = (axes.xaxis, "+") if panel.kind == "differences" else (axes.yaxis, "")

    def shown(value: float, _: object) -> str:
        return f"{100 * value:{sign}.3g}".replace("-", "−").replace("+0", "0")

    along.set_major_formatter(FuncFormatter(shown))
