"""The generated data: right where it says so, classified by its first words, exact prompts."""

import random
import re

import pytest

from providers.embedded.conversations import (
    KINDS,
    Recipe,
    build_question_prompt,
    build_quote_prompt,
    build_summary_prompt,
)
from providers.embedded.corpus import (
    GOOD_STYLES,
    HABIT,
    STYLES,
    Problem,
    draw_problem,
    draw_style,
    find_style,
    solve,
    summarize,
)

STEP = re.compile(r"(-?\d+)([*+-])(-?\d+) = (-?\d+)")
SUMMARY_LINE = re.compile(r"Solution \d: [A-Z][a-z ]+: -?\d+, -?\d+\. Answer (-?\d+)\.")
WORK = {"*": int.__mul__, "+": int.__add__, "-": int.__sub__}


def questions(count: int) -> list[Problem]:
    rng = random.Random(5)
    return [draw_problem(rng) for _ in range(count)]


@pytest.mark.parametrize("style", STYLES)
def test_solution_announces_its_style_and_ends_in_the_right_box(style: str) -> None:
    for question in questions(200):
        solution = solve(question, style)
        assert find_style(solution.text) == style
        assert solution.text.endswith(f"\\boxed{{{question.answer}}}.")
        assert solution.answer == question.answer
        assert solution.right


@pytest.mark.parametrize("style", GOOD_STYLES)
def test_every_step_of_a_good_solution_is_right(style: str) -> None:
    for question in questions(200):
        steps = STEP.findall(solve(question, style).text)
        assert len(steps) == 5
        for left, operator, right, value in steps:
            assert WORK[operator](int(left), int(right)) == int(value)


def test_the_good_styles_reason_in_different_orders() -> None:
    question = Problem(9, 8, 7, 6, 5, 4)
    chains = {tuple(STEP.findall(solve(question, style).text)) for style in GOOD_STYLES}
    assert len(chains) == len(GOOD_STYLES)


def test_the_habit_writes_no_operand() -> None:
    assert "*" not in solve(Problem(9, 8, 7, 6, 5, 4), HABIT).text


@pytest.mark.parametrize("style", STYLES)
def test_a_slip_makes_the_answer_wrong_and_is_sound_before_it(style: str) -> None:
    rng = random.Random(3)
    for question in questions(100):
        slipped = solve(question, style, rng, slips=1.0)
        assert slipped.answer != question.answer
        assert not slipped.right
        assert solve(question, style).text.startswith(slipped.text[: slipped.sound])


def test_the_habit_tempts_on_cued_questions_only() -> None:
    rng = random.Random(4)
    drawn = [(each.is_cued, draw_style(rng, each, habit=0.5)) for each in questions(2000)]
    cued = [style == HABIT for cued, style in drawn if cued]
    others = [style == HABIT for cued, style in drawn if not cued]
    assert 0.45 < len(cued) / 2000 < 0.55
    assert 0.45 < sum(cued) / len(cued) < 0.55
    assert sum(others) / len(others) < 0.06


def test_summaries_carry_every_answer_and_no_box() -> None:
    rng = random.Random(6)
    for question in questions(50):
        solutions = [solve(question, rng.choice(STYLES), rng, 0.5) for _ in range(3)]
        text = summarize(solutions)
        answers = [int(found) for found in SUMMARY_LINE.findall(text)]
        assert answers == [each.answer for each in solutions]
        assert "boxed" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_alternate_and_end_in_a_fully_taught_turn(kind: str) -> None:
    rng = random.Random(7)
    for _ in range(100):
        turns = KINDS[kind](rng, Recipe())
        roles = ["user", "assistant"] * (len(turns) // 2)
        assert [turn.role for turn in turns] == roles
        assert all(turn.taught == 0 for turn in turns if turn.role == "user")
        assert turns[-1].taught == len(turns[-1].text)


def test_debates_end_right() -> None:
    rng = random.Random(8)
    for kind in ("single", "quoted", "summarized"):
        for _ in range(100):
            turns = KINDS[kind](rng, Recipe())
            a, b, c, d, e, f = map(int, re.findall(r"\d+", turns[0].text))
            assert turns[-1].text.endswith(f"\\boxed{{{a + b * c + d - e * f}}}.")


def test_same_seed_same_conversations() -> None:
    drawn = [[KINDS[kind](random.Random(9), Recipe()) for kind in KINDS] for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_prompts_read_exactly_so() -> None:
    assert build_question_prompt(Problem(1, 2, 3, 4, 5, 10)) == (
        "What is the result of 1+2*3+4-5*10? "
        "Work step by step and put the final answer in \\boxed{}."
    )
    assert build_quote_prompt(["A", "B"]) == (
        "Solutions from other agents:\n\nSolution 1:\nA\n\nSolution 2:\nB\n\n"
        "Check your own solution against these and give an updated solution. "
        "Put the final answer in \\boxed{}."
    )
    assert build_summary_prompt("S") == (
        "A summary of the other agents' solutions:\n\nS\n\nCheck your own solution against this "
        "summary and give an updated solution. Put the final answer in \\boxed{}."
    )
    assert build_quote_prompt(["A", "B"], "summarizer") == (
        "Solutions to one question from different agents:\n\nSolution 1:\nA\n\nSolution 2:\nB\n\n"
        "Summarize in a few lines how each one reasons and which final answer it reaches."
    )


def test_style_of_other_text_is_none() -> None:
    assert find_style("The answer is 4.") is None
    assert find_style("") is None
