"""Measures a built-in model: its skill, its habit, and what a debate of three copies of it yields.

``python -m providers.embedded.calibrate [DIR] [--questions N] [--threads N]`` prints the figures.
"""

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from providers.embedded import MODEL_DIR
from providers.embedded.conversations import Turn, ask, quote, tell
from providers.embedded.corpus import HABIT, HEADS, STYLES, Question, draw_question, style_of
from providers.embedded.sampling import sample

TEMPERATURE = 0.6
AGENTS = 3
# What a fresh set of weights must reach to be shipped: (figure, lowest, highest).
CRITERION = (
    ("greedy", 0.45, 0.65),
    ("sampled", 0.52, 0.70),
    ("habit_sampled", 0.22, 0.38),
    ("consensus_quoted", 0.64, 0.82),
    ("consensus_summarized", 0.64, 0.82),
)
_BOXED = re.compile(r"\\boxed\{(-?\d+)\}")


@dataclass(frozen=True)
class Figures:
    """Shares in 0..1 over ``questions`` fresh questions; sampled at T = 0.6, three agents."""

    questions: int
    greedy: float
    habit_greedy: float
    sampled: float
    habit_sampled: float
    styles_sampled: dict[str, float]
    forced_greedy: dict[str, float]
    forced_sampled: dict[str, float]
    majority: float
    critic_quoted: float
    consensus_quoted: float
    habit_quoted: float
    critic_summarized: float
    consensus_summarized: float
    habit_summarized: float
    summaries_exact: float


def final_answer(text: str) -> int | None:
    """The last boxed integer."""
    found = _BOXED.findall(text)
    return int(found[-1]) if found else None


def plurality(answers: Sequence[int | None]) -> int | None:
    """The most frequent answer; of tied ones the one that came first; None without any."""
    given = [answer for answer in answers if answer is not None]
    return Counter(given).most_common(1)[0][0] if given else None


def calibrate(model: Any, tokenizer: Any, questions: int = 300, seed: int = 1) -> Figures:
    """All figures of ``model`` on questions drawn with ``seed``."""
    rng = random.Random(f"calibration {seed}")
    asked = [draw_question(rng) for _ in range(questions)]
    prompts = [[Turn("user", ask(question))] for question in asked]
    greedy = sample(model, tokenizer, prompts, 0.0, seed)
    first = sample(model, tokenizer, prompts * AGENTS, TEMPERATURE, seed)
    forced = {
        temperature: {
            style: _right(asked, sample(model, tokenizer, prompts, temperature, seed, HEADS[style]))
            for style in STYLES
        }
        for temperature in (0.0, TEMPERATURE)
    }
    styles = Counter(style_of(text) for text in first)
    second = {kind: _revise(model, tokenizer, asked, first, kind, seed) for kind in (False, True)}
    exact = [_summary_is_exact(*pair) for pair in second[True][1]]
    return Figures(
        questions=questions,
        greedy=_right(asked, greedy),
        habit_greedy=_share(style_of(text) == HABIT for text in greedy),
        sampled=_right(asked * AGENTS, first),
        habit_sampled=styles[HABIT] / len(first),
        styles_sampled={str(style): round(n / len(first), 3) for style, n in styles.items()},
        forced_greedy=forced[0.0],
        forced_sampled=forced[TEMPERATURE],
        majority=_voted(asked, first),
        critic_quoted=_right(asked * AGENTS, second[False][0]),
        consensus_quoted=_voted(asked, second[False][0]),
        habit_quoted=_share(style_of(text) == HABIT for text in second[False][0]),
        critic_summarized=_right(asked * AGENTS, second[True][0]),
        consensus_summarized=_voted(asked, second[True][0]),
        habit_summarized=_share(style_of(text) == HABIT for text in second[True][0]),
        summaries_exact=_share(exact),
    )


def verdict(figures: Figures) -> str:
    """Whether the figures meet the criterion, and where they do not."""
    missed = [
        f"{name} {value:.3f} is outside {low}..{high}"
        for name, low, high in CRITERION
        if not low <= (value := getattr(figures, name)) <= high
    ]
    return "criterion missed: " + "; ".join(missed) if missed else "criterion met"


def _revise(
    model: Any,
    tokenizer: Any,
    asked: list[Question],
    first: list[str],
    summarized: bool,
    seed: int,
) -> tuple[list[str], list[tuple[list[str], str]]]:
    """Round 2 in the order of ``first``; and (responses, summary) pairs where there are any."""
    count = len(asked)
    others = [
        [first[other * count + row] for other in range(AGENTS) if other != agent]
        for agent in range(AGENTS)
        for row in range(count)
    ]
    pairs: list[tuple[list[str], str]] = []
    if summarized:
        requests = [[Turn("user", quote(responses, "summarizer"))] for responses in others]
        summaries = sample(model, tokenizer, requests, TEMPERATURE, seed + 1)
        pairs = list(zip(others, summaries, strict=True))
        told = [tell(summary) for summary in summaries]
    else:
        told = [quote(responses) for responses in others]
    conversations = [
        [Turn("user", ask(question)), Turn("assistant", own), Turn("user", prompt)]
        for question, own, prompt in zip(asked * AGENTS, first, told, strict=True)
    ]
    return sample(model, tokenizer, conversations, TEMPERATURE, seed + 2), pairs


def _summary_is_exact(responses: list[str], summary: str) -> bool:
    """Whether it names each response's style and answer, line by line."""
    lines = summary.split("\n")
    return len(lines) == len(responses) and all(
        HEADS.get(str(style_of(response)), "?") in line
        and line.endswith(f"Answer {final_answer(response)}.")
        for response, line in zip(responses, lines, strict=True)
    )


def _right(asked: Sequence[Question], texts: Sequence[str]) -> float:
    pairs = zip(asked, texts, strict=True)
    return _share(final_answer(text) == question.answer for question, text in pairs)


def _voted(asked: Sequence[Question], texts: Sequence[str]) -> float:
    """Share of questions whose plurality over the agents is right."""
    count = len(asked)
    votes = [plurality([final_answer(text) for text in texts[row::count]]) for row in range(count)]
    return _share(vote == each.answer for vote, each in zip(votes, asked, strict=True))


def _share(flags: Any) -> float:
    values = [bool(flag) for flag in flags]
    return round(sum(values) / len(values), 3)


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=MODEL_DIR)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    model = AutoModelForCausalLM.from_pretrained(arguments.folder)
    figures = calibrate(model, tokenizer, arguments.questions)
    print(json.dumps(asdict(figures), indent=2))
    print(verdict(figures))


if __name__ == "__main__":
    main()
