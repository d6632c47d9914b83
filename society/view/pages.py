"""Templates and what they may call. Everything is escaped unless a function here made it markup."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evals.intervals import Rate
from evals.invisible import escape_invisible
from society.terminal.progress_display import format_duration
from society.view import chart
from society.view.debates import DebateKey
from society.view.filters import FLIPS, VOTES, Filter, stage_title
from society.view.visible import fold, inline, visible


def render(template: str, **values: object) -> str:
    """A page as text."""
    return _environment().get_template(template).render(values)


def address(path: str, /, **query: object) -> str:
    """An address with a query; None and "" are left out."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def debate_query(key: DebateKey, within: Filter) -> str:
    """The query of a debate's address, opened from the list `within`."""
    return urlencode({**key.stage.params, "question": key.question_id, "in": within.query()})


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("society.view"),
        autoescape=True,
        undefined=StrictUndefined,
        # What is no markup yet may stand in an attribute or a title, which take text only.
        finalize=lambda value: escape_invisible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "accuracy_curves": chart.accuracy_curves,
        "address": address,
        "bar": chart.bar,
        "debate_query": debate_query,
        "flips": FLIPS,
        "loss_curve": chart.loss_curve,
        "marker": chart.marker,
        "sparkline": chart.sparkline,
        "votes": VOTES,
        "zip": zip,
    }
    environment.filters |= {
        "count": lambda number: "–" if number is None else f"{number:,}",
        "fold": fold,
        "inline": inline,
        "latency": _latency,
        "mark": _mark,
        "moment": lambda time: f"{time:%Y-%m-%d %H:%M}",
        "percent": lambda share: "–" if share is None else f"{100 * share:.1f} %",
        "rate": _rate,
        "share": _share,
        "stage_title": stage_title,
        "society": lambda number: "untuned" if number == 0 else f"iteration {number}",
        "took": _took,
        "usd": lambda usd: "–" if usd is None else f"{usd:,.2f}",
        "visible": visible,
    }
    return environment


def _rate(rate: Rate | None) -> Markup:
    if rate is None:
        return Markup("–")
    return Markup('{:.1f} <span class="interval">{:.1f}–{:.1f}</span>').format(
        100 * rate.value, 100 * rate.low, 100 * rate.high
    )


def _share(part: int | None, of: int) -> str:
    return "–" if part is None or not of else f"{100 * part / of:.1f}"


def _latency(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else format_duration(milliseconds / 1000)


def _took(started: datetime, ended: datetime) -> str:
    return format_duration((ended - started).total_seconds())


def _mark(value: bool | None, words: tuple[str, str] = ("right", "wrong")) -> Any:
    if value is None:
        return ""
    kind, sign, word = ("right", "✓", words[0]) if value else ("wrong", "✗", words[1])
    return Markup(
        '<span class="{}"><span aria-hidden="true">{}</span><span class="spoken">{}</span></span>'
    ).format(kind, sign, word)
