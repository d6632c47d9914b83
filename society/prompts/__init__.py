"""The debate's prompts, in one place.

`debate_quoted.txt` and `debate_summarized.txt` open every round after the first (Du et al. 2023,
arXiv 2305.14325, section 2; Subramaniam et al. 2025, arXiv 2501.05707, section 3.1 and appendix),
`summarize.txt` asks the untuned base for the summary. Round 1 sends the task's own prompt. The
built-in base model was trained on exactly these words: changing one means training it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files


def build_quoted_turn(solutions: Sequence[str], answer_form: str) -> str:
    """The user turn that shows the other agents' responses word for word."""
    return _fill_template(
        "debate_quoted", solutions=_number_solutions(solutions), answer_form=answer_form
    )


def build_summary_turn(summary: str, answer_form: str) -> str:
    """The user turn that shows a summary of the other agents' responses."""
    return _fill_template("debate_summarized", summary=summary, answer_form=answer_form)


def build_summary_request(solutions: Sequence[str]) -> str:
    """What the summarizer is asked."""
    return _fill_template("summarize", solutions=_number_solutions(solutions))


def _number_solutions(solutions: Sequence[str]) -> str:
    return "\n\n".join(f"Solution {i}:\n{text}" for i, text in enumerate(solutions, start=1))


def _fill_template(name: str, **values: str) -> str:
    # One pass over the template: model text that happens to contain a placeholder stays as it is.
    head, *rest = _read_template(name).split("{")
    parts = [head]
    for piece in rest:
        key, _, tail = piece.partition("}")
        parts += [values[key], tail]
    return "".join(parts)


@cache
def _read_template(name: str) -> str:
    return files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")
