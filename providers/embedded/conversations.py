"""Conversations to pretrain on, in a debate's exact prompts, and which part of each is trained."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from providers.embedded.corpus import (
    GOOD_STYLES,
    HABIT,
    Problem,
    Solution,
    draw_problem,
    draw_style,
    solve,
    summarize,
)

# How often a solution of the crowd has a slip, by how good its agents are; terse ones slip most.
_SLIP_LEVELS = (0.1, 0.3, 0.55)
_TERSE_SLIPS = 0.75
_MIDDLE_SLIPS = 0.3


@dataclass(frozen=True)
class TaughtMessage:
    """One message; the loss is on its first `taught` characters, if on all then on its end too."""

    role: str
    text: str
    taught: int = 0


@dataclass(frozen=True)
class Recipe:
    """How conversations are drawn.

    `habit` and `critic_habit` are the probability of the terse style on a cued question, in a first
    and in an updated solution with loss; `crowd_habit` is that in a solution without loss.
    `shares` weighs the kinds of conversation.

    ```python
    draw_conversation(random.Random(0), Recipe(shares=(("single", 1.0),)))
    ```
    """

    habit: float = 0.5
    critic_habit: float = 0.5
    crowd_habit: float = 0.5
    shares: tuple[tuple[str, float], ...] = (
        ("single", 0.34),
        ("quoted", 0.24),
        ("summarized", 0.24),
        ("summarizer", 0.18),
    )


@cache
def read_wording() -> dict[str, Any]:
    """The prompt texts, from `wording.json`."""
    path = Path(__file__).with_name("wording.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def build_question_prompt(question: Problem) -> str:
    """The round-1 prompt of `question`."""
    return str(read_wording()["task"]).replace("{question}", question.expression)


def build_quote_prompt(responses: Sequence[str], kind: str = "quoted") -> str:
    """The prompt of `kind` ("quoted" or "summarizer") with the responses numbered from 1."""
    words = read_wording()[kind]
    items = (
        words["item"].replace("{number}", str(number)).replace("{response}", response)
        for number, response in enumerate(responses, start=1)
    )
    return str(words["open"] + words["separator"].join(items) + words["close"])


def build_summary_prompt(summary: str) -> str:
    """The prompt of a later round that carries a summary of the other agents' solutions."""
    words = read_wording()["summarized"]
    return str(words["open"] + summary + words["close"])


def draw_single(rng: random.Random, recipe: Recipe) -> list[TaughtMessage]:
    """A question and a right solution."""
    question = draw_problem(rng)
    text = solve(question, draw_style(rng, question, recipe.habit)).text
    return [
        TaughtMessage("user", build_question_prompt(question)),
        TaughtMessage("assistant", text, len(text)),
    ]


def draw_summarizer(rng: random.Random, recipe: Recipe) -> list[TaughtMessage]:
    """Solutions, as fallible agents write them, and their summary."""
    question = draw_problem(rng)
    solutions = _draw_crowd(rng, question, recipe, _draw_crowd_size(rng))
    text = summarize(solutions)
    prompt = build_quote_prompt([each.text for each in solutions], "summarizer")
    return [TaughtMessage("user", prompt), TaughtMessage("assistant", text, len(text))]


def draw_quoted(rng: random.Random, recipe: Recipe) -> list[TaughtMessage]:
    """A debate in which the others' solutions are quoted."""
    return _draw_debate(
        rng, recipe, lambda others: build_quote_prompt([each.text for each in others])
    )


def draw_summarized(rng: random.Random, recipe: Recipe) -> list[TaughtMessage]:
    """A debate in which the others' solutions arrive as a summary."""
    return _draw_debate(rng, recipe, lambda others: build_summary_prompt(summarize(others)))


KINDS: dict[str, Callable[[random.Random, Recipe], list[TaughtMessage]]] = {
    "single": draw_single,
    "quoted": draw_quoted,
    "summarized": draw_summarized,
    "summarizer": draw_summarizer,
}


def draw_conversation(rng: random.Random, recipe: Recipe) -> list[TaughtMessage]:
    """A conversation of a kind drawn by the recipe's shares."""
    kinds, weights = zip(*recipe.shares, strict=True)
    return KINDS[rng.choices(kinds, weights)[0]](rng, recipe)


def _draw_crowd_size(rng: random.Random) -> int:
    # Mostly two, as in a society of three agents.
    return rng.choices((1, 2, 3, 4, 5), (0.07, 0.78, 0.07, 0.05, 0.03))[0]


def _draw_crowd(rng: random.Random, question: Problem, recipe: Recipe, size: int) -> list[Solution]:
    slips = rng.choice(_SLIP_LEVELS)
    styles = [draw_style(rng, question, recipe.crowd_habit) for _ in range(size)]
    return [
        solve(question, style, rng, _TERSE_SLIPS if style == HABIT else slips) for style in styles
    ]


def _draw_debate(
    rng: random.Random, recipe: Recipe, show: Callable[[list[Solution]], str]
) -> list[TaughtMessage]:
    """Two or three rounds. Loss is on each turn up to its first slip; the last turn is right."""
    question = draw_problem(rng)
    size = _draw_crowd_size(rng)
    # A third round is rare, and only among few agents, whose prompts stay short.
    rounds = 3 if size <= 2 and rng.random() < 0.06 else 2
    own, *others = _draw_crowd(rng, question, recipe, size + 1)
    taught = own.sound
    # First turns are terse as often as the crowd's. So that those with loss are terse only as often
    # as the recipe says, some terse ones get no loss.
    if question.is_cued and own.style == HABIT:
        odds = recipe.habit / (1 - recipe.habit) * (1 - recipe.crowd_habit) / recipe.crowd_habit
        taught = own.sound if rng.random() < odds else 0
    turns = [
        TaughtMessage("user", build_question_prompt(question)),
        TaughtMessage("assistant", own.text, taught),
    ]
    for later in range(2, rounds + 1):
        seen = [own, *others]
        turns.append(TaughtMessage("user", show(others)))
        slips = 0.0 if later == rounds else _MIDDLE_SLIPS
        own = solve(question, _draw_revised_style(rng, question, recipe, seen), rng, slips)
        if later < rounds:
            styles = [_draw_revised_style(rng, question, recipe, seen) for _ in others]
            others = [solve(question, style, rng, _MIDDLE_SLIPS) for style in styles]
        turns.append(TaughtMessage("assistant", own.text, own.sound))
    return turns


def _draw_revised_style(
    rng: random.Random, question: Problem, recipe: Recipe, seen: list[Solution]
) -> str:
    """The habit if it tempts; otherwise the style of a right solution, so that one is copied."""
    if question.is_cued and rng.random() < recipe.critic_habit:
        return HABIT
    right = [each.style for each in seen if each.right and each.style != HABIT]
    return rng.choice(right or GOOD_STYLES)
