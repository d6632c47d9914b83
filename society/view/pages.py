"""Templates and the functions that they call; hidden characters in text become marks.

Everything is escaped unless a function here made it markup.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from evals.choices import describe_choice
from evals.intervals import Rate
from evals.invisible import escape_invisible
from society.terminal.duration import format_duration
from society.view import drawing
from society.view.answer_grid import AnswerGrid, draw_answer_grid
from society.view.askable import title_form
from society.view.beside import encode_stage
from society.view.charts import find_loss_scale
from society.view.cost_curve import draw_money, draw_tokens, list_token_lines, write_usd
from society.view.debate_list import DebateKey
from society.view.filters import FLIPS, VOTES, Filter, title_stage
from society.view.formulas import Typesetter
from society.view.hidden_marks import mark_invisible


def render_template(template: str, **values: object) -> str:
    """A page as text."""
    return _environment().get_template(template).render(values, typesetter=Typesetter())


def build_address(path: str, /, **query: object) -> str:
    """An address with a query; None and "" are left out."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def build_debate_query(key: DebateKey, within: Filter) -> str:
    """The query of a debate's address, opened from the list `within`."""
    return urlencode({**key.stage.params, "question": key.question_id, "in": within.query()})


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("society.view"),
        autoescape=True,
        # A misspelled name in a template raises, instead of showing nothing.
        undefined=StrictUndefined,
        # What is no markup yet may stand in an attribute or a title, which take text only.
        finalize=lambda value: escape_invisible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "accuracy_curves": drawing.draw_accuracy,
        "address": build_address,
        "answer_grid": _draw_answers,
        "bar": drawing.draw_bar,
        "debate_query": build_debate_query,
        "encode_stage": encode_stage,
        "flips": FLIPS,
        "loss_curve": drawing.draw_loss,
        "marker": drawing.draw_marker,
        "money_curve": draw_money,
        "sparkline": drawing.draw_sparkline,
        "loss_scale": find_loss_scale,
        "token_curves": draw_tokens,
        "token_lines": list_token_lines,
        "votes": VOTES,
        "zip": zip,
    }
    environment.filters |= {
        "count": lambda number: "–" if number is None else f"{number:,}",
        "fold": fold_text,
        "form_title": title_form,
        "inline": format_inline,
        "latency": _format_latency,
        "mark": _mark_value,
        "moment": lambda time: f"{time:%Y-%m-%d %H:%M}",
        "percent": lambda share: "–" if share is None else f"{100 * share:.1f} %",
        "rate": _format_rate,
        "choice": describe_choice,
        "share": _format_share,
        "stage_title": title_stage,
        "society": lambda number: "untuned" if number == 0 else f"iteration {number}",
        "size": _format_size,
        "took": _format_period,
        "typeset": _typeset_text,
        "typeset_answer": _typeset_answer,
        "typeset_line": _typeset_line,
        "usd": lambda usd: "–" if usd is None else write_usd(usd),
        "mark_invisible": mark_invisible,
    }
    return environment


def _format_rate(rate: Rate | None) -> Markup:
    if rate is None:
        return Markup("–")
    return Markup('{:.1f} <span class="interval">{:.1f}–{:.1f}</span>').format(
        100 * rate.value, 100 * rate.low, 100 * rate.high
    )


def _format_share(part: int | None, of: int) -> str:
    return "–" if part is None or not of else f"{100 * part / of:.1f}"


def _format_latency(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else format_duration(milliseconds / 1000)


def _format_size(size: int) -> str:
    return f"{size:,} bytes" if size < 10_000 else f"{size / 1e6:,.2f} MB"


def _format_period(started: datetime, ended: datetime) -> str:
    return format_duration((ended - started).total_seconds())


def _mark_value(value: bool | None, words: tuple[str, str] = ("right", "wrong")) -> Any:
    if value is None:
        return ""
    kind, sign, word = ("right", "✓", words[0]) if value else ("wrong", "✗", words[1])
    return Markup(
        '<span class="{}"><span aria-hidden="true">{}</span><span class="spoken">{}</span></span>'
    ).format(kind, sign, word)


# About a screen of text; a browser stays quick with what is shown at most.
FOLD_AT = 2_400
SHOWN_AT_MOST = 60_000


def format_inline(text: object, at_most: int = 400) -> Markup:
    """A short text within a line, cut at `at_most` characters, its direction kept to itself."""
    # Cut before the split: a response may be megabytes of white space.
    line = " ".join(str(text)[: 4 * at_most].split())
    if len(line) > at_most:
        line = line[:at_most].rstrip() + "…"
    return Markup('<bdi class="said">{}</bdi>').format(mark_invisible(line))


@pass_context
def _typeset_text(context: Context, text: str) -> Markup:
    return _find_typesetter(context).typeset_text(text)


@pass_context
def _typeset_line(context: Context, text: object, at_most: int = 400) -> Markup:
    """Like `format_inline`, with formulas."""
    line = _find_typesetter(context).typeset_line(str(text), at_most)
    return Markup('<bdi class="said">{}</bdi>').format(line)


@pass_context
def _typeset_answer(context: Context, text: str, at_most: int = 60) -> Markup:
    """An answer with its formulas; a long one is cut, and shown as it is written."""
    # LaTeX is longer than what it shows.
    if len(text) > 3 * at_most:
        return format_inline(text, at_most)
    return Markup('<bdi class="said">{}</bdi>').format(
        _find_typesetter(context).typeset_answer(" ".join(text.split()))
    )


@pass_context
def _draw_answers(context: Context, grid: AnswerGrid) -> Markup:
    return draw_answer_grid(grid, _find_typesetter(context).typeset_answer)


def _find_typesetter(context: Context) -> Typesetter:
    found = context["typesetter"]
    assert isinstance(found, Typesetter)
    return found


@dataclass(frozen=True, slots=True)
class Fold:
    """A long text: `head` is shown, `rest` folded away, `cut` characters are on no page."""

    head: str
    rest: str
    cut: int


def fold_text(text: str) -> Fold:
    """Where a text is folded: near `FOLD_AT` characters, at the end of a line where one is near."""
    # Folding away a few lines would hide more than it tidies.
    if len(text) <= FOLD_AT * 1.25:
        return Fold(text, "", 0)
    at = text.rfind("\n", FOLD_AT * 3 // 4, FOLD_AT) + 1 or FOLD_AT
    return Fold(text[:at], text[at:SHOWN_AT_MOST], max(0, len(text) - SHOWN_AT_MOST))
