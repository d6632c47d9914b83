"""Measures a built-in model: its skill, its habit, and the accuracy of a debate of three copies.

`python -m providers.embedded.calibrate [DIR] [--questions N] [--threads N]` prints the figures.
"""

from __future__ import annotations

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
from providers.embedded.conversations import (
    TaughtMessage,
    build_question_prompt,
    build_quote_prompt,
    build_summary_prompt,
)
from providers.embedded.corpus import HABIT, HEADS, STYLES, Problem, draw_problem, find_style

TEMPERATURE = 0.6
AGENTS = 3
MAX_NEW_TOKENS = 96
# The model must be right often enough to vote, wrong often enough to improve, and better together.
# New weights are shipped only if these figures lie within their bounds: (figure, lowest, highest).
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
    """Shares in 0..1 over `questions` new questions, sampled at T = 0.6 by three agents.

    `greedy` and `sampled` are the accuracy of one answer, `habit_*` how often it has the bad habit.
    `forced_*` is the accuracy by style if the answer must begin in that style. `majority` is the
    vote of round 1, `consensus_*` that of round 2, after quoted answers or a summary of them.
    """

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


def parse_answer(text: str) -> int | None:
    """The last boxed integer."""
    found = _BOXED.findall(text)
    return int(found[-1]) if found else None


def find_plurality(answers: Sequence[int | None]) -> int | None:
    """The most frequent answer, the first of tied ones; None if there is no answer."""
    given = [answer for answer in answers if answer is not None]
    return Counter(given).most_common(1)[0][0] if given else None


def measure_model(model: Any, tokenizer: Any, questions: int = 300, seed: int = 1) -> Figures:
    """All figures of `model` on questions drawn with `seed`.

    ```python
    print(judge_figures(measure_model(model, tokenizer, questions=100)))
    ```
    """
    rng = random.Random(f"calibration {seed}")
    asked = [draw_problem(rng) for _ in range(questions)]
    prompts = [[TaughtMessage("user", build_question_prompt(question))] for question in asked]
    greedy = sample_answers(model, tokenizer, prompts, 0.0, seed)
    first = sample_answers(model, tokenizer, prompts * AGENTS, TEMPERATURE, seed)
    forced = {
        temperature: {
            style: _compute_accuracy(
                asked, sample_answers(model, tokenizer, prompts, temperature, seed, HEADS[style])
            )
            for style in STYLES
        }
        for temperature in (0.0, TEMPERATURE)
    }
    styles = Counter(find_style(text) for text in first)
    second = {
        kind: _draw_revisions(model, tokenizer, asked, first, kind, seed) for kind in (False, True)
    }
    exact = [_is_summary_exact(*pair) for pair in second[True][1]]
    return Figures(
        questions=questions,
        greedy=_compute_accuracy(asked, greedy),
        habit_greedy=_compute_share(find_style(text) == HABIT for text in greedy),
        sampled=_compute_accuracy(asked * AGENTS, first),
        habit_sampled=styles[HABIT] / len(first),
        styles_sampled={str(style): round(n / len(first), 3) for style, n in styles.items()},
        forced_greedy=forced[0.0],
        forced_sampled=forced[TEMPERATURE],
        majority=_compute_vote_accuracy(asked, first),
        critic_quoted=_compute_accuracy(asked * AGENTS, second[False][0]),
        consensus_quoted=_compute_vote_accuracy(asked, second[False][0]),
        habit_quoted=_compute_share(find_style(text) == HABIT for text in second[False][0]),
        critic_summarized=_compute_accuracy(asked * AGENTS, second[True][0]),
        consensus_summarized=_compute_vote_accuracy(asked, second[True][0]),
        habit_summarized=_compute_share(find_style(text) == HABIT for text in second[True][0]),
        summaries_exact=_compute_share(exact),
    )


def judge_figures(figures: Figures) -> str:
    """A sentence that says whether the figures meet `CRITERION`, and which ones do not."""
    missed = [
        f"{name} {value:.3f} is outside {low}..{high}"
        for name, low, high in CRITERION
        if not low <= (value := getattr(figures, name)) <= high
    ]
    return "criterion missed: " + "; ".join(missed) if missed else "criterion met"


def _draw_revisions(
    model: Any,
    tokenizer: Any,
    asked: list[Problem],
    first: list[str],
    summarized: bool,
    seed: int,
) -> tuple[list[str], list[tuple[list[str], str]]]:
    """The answers of round 2 in the order of `first`, and (responses, summary) pairs if any."""
    count = len(asked)
    others = [
        [first[other * count + row] for other in range(AGENTS) if other != agent]
        for agent in range(AGENTS)
        for row in range(count)
    ]
    pairs: list[tuple[list[str], str]] = []
    if summarized:
        # Summaries and answers have seeds of their own, so that no noise is used twice.
        requests = [
            [TaughtMessage("user", build_quote_prompt(responses, "summarizer"))]
            for responses in others
        ]
        summaries = sample_answers(model, tokenizer, requests, TEMPERATURE, seed + 1)
        pairs = list(zip(others, summaries, strict=True))
        prompts = [build_summary_prompt(summary) for summary in summaries]
    else:
        prompts = [build_quote_prompt(responses) for responses in others]
    conversations = [
        [
            TaughtMessage("user", build_question_prompt(question)),
            TaughtMessage("assistant", own),
            TaughtMessage("user", prompt),
        ]
        for question, own, prompt in zip(asked * AGENTS, first, prompts, strict=True)
    ]
    return sample_answers(model, tokenizer, conversations, TEMPERATURE, seed + 2), pairs


def _is_summary_exact(responses: list[str], summary: str) -> bool:
    """Whether it names each response's style and answer, line by line."""
    lines = summary.split("\n")
    return len(lines) == len(responses) and all(
        HEADS.get(str(find_style(response)), "?") in line
        and line.endswith(f"Answer {parse_answer(response)}.")
        for response, line in zip(responses, lines, strict=True)
    )


def _compute_accuracy(asked: Sequence[Problem], texts: Sequence[str]) -> float:
    pairs = zip(asked, texts, strict=True)
    return _compute_share(parse_answer(text) == question.answer for question, text in pairs)


def _compute_vote_accuracy(asked: Sequence[Problem], texts: Sequence[str]) -> float:
    """The share of questions for which the plurality of the agents is right."""
    count = len(asked)
    votes = [
        find_plurality([parse_answer(text) for text in texts[row::count]]) for row in range(count)
    ]
    return _compute_share(vote == each.answer for vote, each in zip(votes, asked, strict=True))


def _compute_share(flags: Any) -> float:
    values = [bool(flag) for flag in flags]
    return round(sum(values) / len(values), 3)


def render_turns(turns: Sequence[TaughtMessage]) -> list[dict[str, str]]:
    """The turns in the shape a chat template takes."""
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def sample_answers(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[TaughtMessage]],
    temperature: float,
    seed: int,
    start: str = "",
    batch: int = 256,
) -> list[str]:
    """The next assistant turn of each conversation; greedy if `temperature` is 0.

    `start` forces the first words of every answer, and the returned answers contain it.
    """
    import torch

    prompts = [
        tokenizer.apply_chat_template(
            render_turns(turns), add_generation_prompt=True, tokenize=False
        )
        + start
        for turns in conversations
    ]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    # Rows of similar length share a batch, which needs little padding.
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    generator = torch.Generator().manual_seed(seed)
    answers = [""] * len(ids)
    model.eval()
    with torch.no_grad():
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            tokens = _decode(model, tokenizer, [ids[row] for row in rows], temperature, generator)
            for row, new in zip(rows, tokens, strict=True):
                answers[row] = start + tokenizer.decode(new)
    return answers


def _decode(
    model: Any, tokenizer: Any, prompts: list[list[int]], temperature: float, generator: Any
) -> list[list[int]]:
    """New token ids per prompt, without the end token; finished rows leave the batch."""
    import torch
    from transformers import DynamicCache

    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    inputs_BT = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    alive = torch.arange(len(prompts))
    going_B = torch.ones(len(prompts), dtype=torch.bool)
    new: list[list[int]] = [[] for _ in prompts]
    for _ in range(MAX_NEW_TOKENS):
        logits_BV = model(
            input_ids=inputs_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if temperature:
            chances_BV = torch.softmax(logits_BV.float() / temperature, -1)
            next_B = torch.multinomial(chances_BV, 1, generator=generator)[:, 0]
        else:
            next_B = logits_BV.argmax(-1)
        # A row that has ended stays in the batch for now, and its tokens are dropped.
        going_B = going_B & (next_B != tokenizer.eos_token_id)
        for row, token, going in zip(
            alive.tolist(), next_B.tolist(), going_B.tolist(), strict=True
        ):
            if going:
                new[row].append(token)
        if not going_B.any():
            break
        positions_BT = positions_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], 1)
        # Taking rows out copies the cache, so it waits until a fifth of the batch has ended.
        if going_B.sum() < 0.8 * len(going_B):
            keep = going_B.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            alive, next_B = alive[keep], next_B[keep]
            mask_BT, positions_BT, going_B = mask_BT[keep], positions_BT[keep], going_B[keep]
        inputs_BT = next_B[:, None]
    return new


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
    figures = measure_model(model, tokenizer, arguments.questions)
    print(json.dumps(asdict(figures), indent=2))
    print(judge_figures(figures))


if __name__ == "__main__":
    main()
