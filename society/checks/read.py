"""How one response is read: the answer, what it is understood as, and the rule that found it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from evals.answers import load_kind
from evals.answers.base import AnswerKind
from evals.answers.response import strip_thoughts
from evals.answers.statements import find_statements
from society.config.load import ConfigError
from society.terminal.output import one_line, write_line

_MOST = 8


def show(
    name: str, options: Mapping[str, object], response: str, gold: str | None, stream: TextIO
) -> None:
    """Print what the kind of answer `name` reads from `response`, and whether it is `gold`.

    Raises `ConfigError` for a wrong option and for a gold answer that cannot be read.
    """
    try:
        answers = load_kind(name, options)
        wanted = None if gold is None else answers.read_gold(gold)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for title, text in _lines(answers, response, wanted):
        write_line(stream, f"{title:<11}{one_line(text)}")


def _lines(answers: AnswerKind, response: str, gold: str | None) -> list[tuple[str, str]]:
    reading = answers.explain(response)
    lines = [("read", "nothing" if reading.answer is None else reading.answer)]
    if reading.answer is not None:
        lines.append(("meaning", answers.canonicalize(reading.answer)))
    lines.append(("rule", reading.rule))
    if answers.name != "regex":
        stated = [f"{s.form} {s.text}" for s in find_statements(strip_thoughts(response).text)]
        more = [f"and {len(stated) - _MOST} before"] if len(stated) > _MOST else []
        lines.append(("stated", " · ".join([*stated[-_MOST:], *more]) or "nothing"))
    if gold is not None:
        same = reading.answer is not None and answers.same(reading.answer, gold)
        lines += [("gold", gold), ("verdict", "right" if same else "wrong")]
    return lines
