"""Makes a drawn SVG part of a page: it takes the page's fonts and its light or dark colours."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from evals.invisible import one_line
from evals.report.figures.figure import GRID, INK, PALETTE, PAPER, SOFT

# matplotlib writes fixed colors. Replaced by CSS variables, they follow the page into dark mode.
_VARIABLES = {light: f"var(--{name})" for name, (light, _) in PALETTE.items()} | {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
}
_COLOUR = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"font: ((?:bold|\d{3}) )?([\d.]+)px [^;\"]*")
_ID = re.compile(r' id="([^"]+)"')
_REFERENCE = re.compile(r'(xlink:href="#|url\(#)([^")]+)')
_HEAD = re.compile(r'<svg [^>]*?viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>')


def inline_svg(svg: str, name: str, described: str) -> Markup:
    """The drawing as an element of a page.

    `name` keeps its ids apart from those of others, `described` is what is read out.
    """
    size, body = _taken_in(svg, name)
    label = escape(one_line(described))
    opening = f'<svg class="chart" viewBox="{size}" role="img" aria-label="{label}">'
    return Markup(opening + body)


def make_symbol(svg: str, name: str) -> Markup:
    """The drawing as a symbol, to be used by its id `name` as often as one likes."""
    size, body = _taken_in(svg, name)
    return Markup(f'<symbol id="{name}" viewBox="{size}">{body.replace("</svg>", "</symbol>")}')


def _taken_in(svg: str, name: str) -> tuple[str, str]:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # A style in a drawing would hold for the whole page.
    body = re.sub(r"\s*<style [^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = _COLOUR.sub(lambda found: _VARIABLES[found.group()], body)
    # Size and weight stay; the family is the page's, as the reader's machine may lack matplotlib's.
    body = _FONT.sub(_font, body)
    body = _own_ids(body, name)
    head = _HEAD.search(body)
    if head is None:
        raise ValueError(f"the drawing of {name} has no viewBox")
    return f"0 0 {head.group(1)} {head.group(2)}", body[head.end() :]


def _font(found: re.Match[str]) -> str:
    weight = "; font-weight: 600" if found.group(1) else ""
    return f"font-size: {found.group(2)}px{weight}"


def _own_ids(body: str, name: str) -> str:
    # Ids that nothing refers to are dropped; the rest get a prefix, as a page holds many drawings.
    used = {target for _, target in _REFERENCE.findall(body)}
    body = _ID.sub(
        lambda found: f' id="{name}-{found.group(1)}"' if found.group(1) in used else "", body
    )
    return _REFERENCE.sub(lambda found: f"{found.group(1)}{name}-{found.group(2)}", body).replace(
        "xlink:href", "href"
    )
