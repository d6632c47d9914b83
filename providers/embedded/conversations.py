"""Training conversations in a debate's exact prompts, and what the model is taught of each turn."""

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
    Question,
    Solution,
    draw_question,
    draw_style,
    solve,
    summarize,
)

_SLIP_LEVELS = (0.1, 0.3, 0.55)
_TERSE_SLIPS = 0.75
_MIDDLE_SLIPS = 0.3


@dataclass(frozen=True)
class Turn:
    """One message. ``taught`` counts the leading characters with loss; if all, the end too."""

    role: str
    text: str
    taught: int = 0


@dataclass(frozen=True)
class Recipe:
    """How conversations are drawn.

    ``habit`` and ``critic_habit`` are the probability of the terse style on a cued question in a
    first and in an updated solution that is taught, ``crowd_habit`` in a solution that is only
    shown; ``shares`` weighs the kinds of conversation.
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
def wording() -> dict[str, Any]:
    """The prompt texts, from ``wording.json``."""
    path = Path(__file__).with_name("wording.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def ask(question: Question) -> str:
    """The round-1 prompt of ``question``."""
    return str(wording()["task"]).replace("{question}", question.expression)


def quote(responses: Sequence[str], kind: str = "quoted") -> str:
    """The prompt ``kind`` ("quoted" or "summarizer") with the responses numbered from 1."""
    words = wording()[kind]
    items = (
        words["item"].replace("{number}", str(number)).replace("{response}", response)
        for number, response in enumerate(responses, start=1)
    )
    return str(words["open"] + words["separator"].join(items) + words["close"])


def tell(summary: str) -> str:
    """The prompt of a later round that carries a summary of the other agents' solutions."""
    words = wording()["summarized"]
    return str(words["open"] + summary + words["close"])


def single(rng: random.Random, recipe: Recipe) -> list[Turn]:
    """A question and a right solution."""
    question = draw_question(rng)
    text = solve(question, draw_style(rng, question, recipe.habit)).text
    return [Turn("user", ask(question)), Turn("assistant", text, len(text))]


def summarizer(rng: random.Random, recipe: Recipe) -> list[Turn]:
    """Solutions, as fallible agents write them, and their summary."""
    question = draw_question(rng)
    solutions = _crowd(rng, question, recipe, _others(rng))
    text = summarize(solutions)
    prompt = quote([each.text for each in solutions], "summarizer")
    return [Turn("user", prompt), Turn("assistant", text, len(text))]


def quoted(rng: random.Random, recipe: Recipe) -> list[Turn]:
    """A debate in which the others' solutions are quoted."""
    return _debate(rng, recipe, lambda others: quote([each.text for each in others]))


def summarized(rng: random.Random, recipe: Recipe) -> list[Turn]:
    """A debate in which the others' solutions arrive as a summary."""
    return _debate(rng, recipe, lambda others: tell(summarize(others)))


KINDS: dict[str, Callable[[random.Random, Recipe], list[Turn]]] = {
    "single": single,
    "quoted": quoted,
    "summarized": summarized,
    "summarizer": summarizer,
}


def draw_conversation(rng: random.Random, recipe: Recipe) -> list[Turn]:
    """A conversation of a kind drawn by the recipe's shares."""
    kinds, weights = zip(*recipe.shares, strict=True)
    return KINDS[rng.choices(kinds, weights)[0]](rng, recipe)


def _others(rng: random.Random) -> int:
    return rng.choices((1, 2, 3, 4, 5), (0.07, 0.78, 0.07, 0.05, 0.03))[0]


def _crowd(rng: random.Random, question: Question, recipe: Recipe, size: int) -> list[Solution]:
    slips = rng.choice(_SLIP_LEVELS)
    styles = [draw_style(rng, question, recipe.crowd_habit) for _ in range(size)]
    return [
        solve(question, style, rng, _TERSE_SLIPS if style == HABIT else slips) for style in styles
    ]


def _debate(
    rng: random.Random, recipe: Recipe, show: Callable[[list[Solution]], str]
) -> list[Turn]:
    """Two or three rounds; each turn is taught up to its first slip, the last one is right."""
    question = draw_question(rng)
    size = _others(rng)
    rounds = 3 if size <= 2 and rng.random() < 0.06 else 2
    own, *others = _crowd(rng, question, recipe, size + 1)
    taught = own.sound
    # Shown first turns are terse as often as the crowd is; taught ones as often as the recipe says.
    if question.cued and own.style == HABIT:
        odds = recipe.habit / (1 - recipe.habit) * (1 - recipe.crowd_habit) / recipe.crowd_habit
        taught = own.sound if rng.random() < odds else 0
    turns = [Turn("user", ask(question)), Turn("assistant", own.text, taught)]
    for later in range(2, rounds + 1):
        seen = [own, *others]
        turns.append(Turn("user", show(others)))
        slips = 0.0 if later == rounds else _MIDDLE_SLIPS
        own = solve(question, _revised_style(rng, question, recipe, seen), rng, slips)
        if later < rounds:
            styles = [_revised_style(rng, question, recipe, seen) for _ in others]
            others = [solve(question, style, rng, _MIDDLE_SLIPS) for style in styles]
        turns.append(Turn("assistant", own.text, own.sound))
    return turns


def _revised_style(
    rng: random.Random, question: Question, recipe: Recipe, seen: list[Solution]
) -> str:
    """The habit where it tempts; otherwise the style of a right solution, so that it is copied."""
    if question.cued and rng.random() < recipe.critic_habit:
        return HABIT
    right = [each.style for each in seen if each.right and each.style != HABIT]
    return rng.choice(right or GOOD_STYLES)
