"""The packaged built-in model itself: files, tokenizer, template, and what it can do."""

import json
import random
from typing import Any

import pytest

from providers.embedded import MODEL_DIR
from providers.embedded.calibrate import MAX_NEW_TOKENS, sample_answers
from providers.embedded.conversations import (
    TaughtMessage,
    build_question_prompt,
    build_quote_prompt,
    build_summary_prompt,
)
from providers.embedded.corpus import (
    HABIT,
    HEADS,
    STYLES,
    Problem,
    draw_problem,
    find_style,
    solve,
    summarize,
)

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def asked() -> list[Problem]:
    rng = random.Random("held out")
    return [draw_problem(rng) for _ in range(40)]


def prompts(asked: list[Problem]) -> list[list[TaughtMessage]]:
    return [[TaughtMessage("user", build_question_prompt(question))] for question in asked]


def right(asked: list[Problem], texts: list[str]) -> float:
    hits = [f"\\boxed{{{each.answer}}}" in text for each, text in zip(asked, texts, strict=True)]
    return sum(hits) / len(hits)


def test_the_package_stays_small() -> None:
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) < 8 * MEBIBYTE


def test_it_is_a_plain_llama_of_at_least_1024_positions() -> None:
    config = json.loads((MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] >= 1024
    assert "auto_map" not in config


def test_pad_and_end_are_distinct_and_generation_stops_at_the_end(
    model: Any, tokenizer: Any
) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert len(tokenizer) == model.config.vocab_size


def test_any_text_survives_a_round_trip(tokenizer: Any) -> None:
    rng = random.Random(1)
    texts = ["", " ", "  two  spaces ", "\n\n\ttab", "naïve 数学 🙂 \\boxed{}", "\x00\x7f"]
    texts += ["".join(chr(rng.randrange(1, 0xD7FF)) for _ in range(50)) for _ in range(20)]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_every_digit_is_its_own_token(tokenizer: Any) -> None:
    assert len(tokenizer("1234567890")["input_ids"]) == 10
    digits = [token for token in tokenizer.get_vocab() if any(each.isdigit() for each in token)]
    assert sorted(token for token in digits if token.isascii()) == list("0123456789")


def test_template_is_prefix_stable(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1+1?\n"},
        {"role": "assistant", "content": "  \\boxed{2} "},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    for count in (3, 5):
        given, reply = messages[: count - 1], messages[count - 1]["content"]
        before = tokenizer.apply_chat_template(given, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(messages[:count], tokenize=False)
        assert whole.startswith(before + reply + tokenizer.eos_token)
        ids = tokenizer(before)["input_ids"] + tokenizer(reply)["input_ids"]
        assert tokenizer(whole)["input_ids"][: len(ids)] == ids


def test_solutions_and_summaries_are_short(tokenizer: Any, asked: list[Problem]) -> None:
    for question in asked:
        solutions = [solve(question, style) for style in STYLES]
        lengths = [len(tokenizer(each.text)["input_ids"]) for each in solutions]
        assert max(lengths) < MAX_NEW_TOKENS
        assert len(tokenizer(summarize(solutions[:2]))["input_ids"]) <= 40


def test_it_answers_greedily_in_a_box_and_in_a_known_style(
    model: Any, tokenizer: Any, asked: list[Problem]
) -> None:
    texts = sample_answers(model, tokenizer, prompts(asked), 0.0, 0)
    assert all("\\boxed{" in text for text in texts)
    assert all(find_style(text) in STYLES for text in texts)
    assert 0.3 <= right(asked, texts) <= 0.8


def test_the_habit_is_what_fails(model: Any, tokenizer: Any, asked: list[Problem]) -> None:
    by_style = {
        style: right(asked, sample_answers(model, tokenizer, prompts(asked), 0.0, 0, HEADS[style]))
        for style in STYLES
    }
    assert by_style.pop(HABIT) <= 0.4
    assert min(by_style.values()) >= 0.7


def test_the_habit_is_cued_and_shares_the_samples_with_every_good_style(
    model: Any, tokenizer: Any, asked: list[Problem]
) -> None:
    texts = sample_answers(model, tokenizer, prompts(asked) * 2, 0.6, 0)
    styles = [find_style(text) for text in texts]
    assert 0.15 <= styles.count(HABIT) / len(styles) <= 0.5
    assert min(styles.count(style) for style in STYLES) >= 0.05 * len(styles)
    is_cued = [style for style, each in zip(styles, asked * 2, strict=True) if each.is_cued]
    assert is_cued.count(HABIT) >= 0.8 * styles.count(HABIT)


def test_it_summarizes_and_revises(model: Any, tokenizer: Any, asked: list[Problem]) -> None:
    few = asked[:24]
    shown = [[solve(each, style) for style in ("products", "signs")] for each in few]
    requests = [
        [
            TaughtMessage(
                "user", build_quote_prompt([solution.text for solution in pair], "summarizer")
            )
        ]
        for pair in shown
    ]
    summaries = sample_answers(model, tokenizer, requests, 0.0, 0)
    exact = [text == summarize(pair) for text, pair in zip(summaries, shown, strict=True)]
    assert sum(exact) >= 0.7 * len(few)
    for later in (
        [build_summary_prompt(text) for text in summaries],
        [build_quote_prompt([s.text for s in p]) for p in shown],
    ):
        conversations = [
            [
                TaughtMessage("user", build_question_prompt(each)),
                TaughtMessage("assistant", solve(each, "pairs").text),
                TaughtMessage("user", t),
            ]
            for each, t in zip(few, later, strict=True)
        ]
        updated = sample_answers(model, tokenizer, conversations, 0.0, 0, HEADS["pairs"])
        assert right(few, updated) >= 0.75
