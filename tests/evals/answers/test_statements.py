import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.answers.statements import LONGEST, find_statements


def texts(response: str) -> list[str]:
    return [statement.text for statement in find_statements(response)]


@pytest.mark.parametrize(
    ("response", "stated"),
    [
        (r"so \boxed{42}.", ["42"]),
        (r"\boxed{\frac{1}{2}}", [r"\frac{1}{2}"]),
        (r"\fbox{7} eggs and $\boxed {8}$", ["7", "8"]),
        (r"\fbox{7} and $\boxed {8}$", ["7, 8"]),
        (r"$x=\boxed{4}$ or $x=\boxed{-9}$", ["4, -9"]),
        (r"$x=\boxed{4}$, $y=\boxed{-9}$", ["x = 4, y = -9"]),
        (r"\boxed{2}, \boxed{8} \text{ and } \boxed{11}", ["2, 8, 11"]),
        (r"\boxed{5} or \boxed{5}", ["5"]),
        (r"\boxed{5}" + "\n\n" + r"\boxed{6}", ["5", "6"]),
        (r"It is not \boxed{5}.", []),
        (r"The answer \boxed{5} is wrong.", []),
        (r"\boxed 5.", ["5"]),
        (r"\boxed5", ["5"]),
        (r"\boxed\frac{1}{2}", [r"\frac{1}{2}"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{\left\{ x \right.}", [r"\left\{ x \right."]),
        (r"\\boxed{5}", ["5"]),
        (r"x \\\boxed{5}", ["5"]),
        (r"\boxed{$8$}", ["8"]),
        (r"\boxed{**8**}", ["8"]),
        (r"\boxed{ } and \boxed{}", []),
        (r"use \boxed to state it", []),
        (r"\boxedpoints{5}", []),
    ],
)
def test_boxes(response: str, stated: list[str]) -> None:
    assert texts(response) == stated


@pytest.mark.parametrize(
    ("response", "stated"),
    [
        (r"\boxed{\boxed{3}}", ["3"]),
        (r"\boxed{x = 2, \fbox{y = 3}}", ["y = 3"]),
        (r"\boxed{3 \boxed{}}", [r"3 \boxed{}"]),
        (r"\boxed{ then \boxed{5}", ["5"]),
        (r"{ {\boxed{5}", ["5"]),
        (r"\boxed{4", []),
        (r"\boxed{ {4 }", []),
        (r"the answer is \boxed{4", []),
    ],
)
def test_the_innermost_closed_box_speaks(response: str, stated: list[str]) -> None:
    assert texts(response) == stated


@pytest.mark.parametrize(
    "response",
    [
        "#### 18",
        "some working\n#### 18\n",
        "A: 18",
        "Answer: 18",
        "**Answer:** 18",
        "**Answer: 18**",
        "**Answer**: 18",
        "Answer：18",
        "- Final Answer: $18$",
        "### Final Answer\n\n18",
        "**Final answer:**\n$$\n18\n$$\nI hope this helps.",
        "the answer is 18",
        "The final answer is **18**.",
        "**The answer is 18.**",
        "(The answer is 18.)",
        "(The answer is 18)",
        r"answer is: \(18\)",
        r"The answer is \[ 18 \] as shown",
        "The answer is:\n18",
        "The final answer is $18$. I hope it is correct.",
        "The final answer is 18. I hope it is correct.",
        "The correct answer to this question is therefore 18!",
        "The answer would be 18. She is done.",
        "answer = 18",
        r"The answer is $\boxed{18}$.",
        r"The answer is that \boxed{18} eggs remain. Nice.",
        "A: 18\n",
    ],
)
def test_one_statement_of_18(response: str) -> None:
    assert texts(response) == ["18"]


@pytest.mark.parametrize(
    "response",
    [
        "",
        "I see 3 and 4.",
        "#### 2. Multiply the eggs",
        "#### Step 2: multiply\n16 - 3 = 13",
        "##### 18",
        "The answer is 18?",
        "The answer isn't 18",
        "Agent 2's answer is 7.",
        "Their final answer is 7.",
        "So our answer is correct.",
        "We check our answer: 9 * 2 = 18, as it should be.",
        "We have not boxed the answer as we normally do, as that would be confusing.",
        "The answer is not 5.",
        "Always answer the question that is asked.",
        "This confirms that answer choice C is the closest.",
        "Answer:\n16 - 3 = 13 eggs\n13 * 2 = 26 dollars",
        "A: 18\nB: 20\nC: 22",
        "The answer is:",
        "banswer is 5",
    ],
)
def test_no_statement(response: str) -> None:
    assert texts(response) == []


def test_statements_come_in_order_of_position() -> None:
    response = "A: 1\n#### 2\nIt is \\boxed{3}. Wait, the answer is 4.\n\\fbox{5}"
    found = find_statements(response)
    assert [s.text for s in found] == ["1", "2", "3", "4", "5"]
    assert [s.form for s in found] == ["phrase", "hashes", "box", "phrase", "box"]
    assert all(s.text in response[s.start : s.end] for s in found)


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("The answer is St. Louis. It is large.", "St. Louis"),
        ("The answer is J. K. Rowling.", "J. K. Rowling"),
        ("The answer is 3.50.", "3.50"),
        ("The answer is x=2**3.", "x=2**3"),
        ("The answer is **18** dollars.", "18 dollars"),
        (r"The answer is $x=5$ and $y=6$.", r"$x=5$ and $y=6$"),
        ("The answer is that the answer is 5", "5"),
        ("The answer is (2, 3).", "(2, 3)"),
    ],
)
def test_a_phrase_runs_to_the_end_of_its_sentence(response: str, text: str) -> None:
    assert texts(response)[-1] == text


def test_a_phrase_in_a_box_gives_way_to_the_box() -> None:
    assert texts(r"\boxed{\text{The answer is } 18}") == [r"\text{The answer is } 18"]


@pytest.mark.parametrize("form", [r"\boxed{%s}", "#### %s", "The answer is %s."])
def test_an_answer_too_long_is_none(form: str) -> None:
    assert texts(form % ("8" * LONGEST)) == ["8" * LONGEST]
    assert texts(form % ("8" * (LONGEST + 1))) == []


FRAGMENTS = [
    "\\boxed{", "\\boxed", "\\fbox{", "}", "{", "\\", "####", "A:", "answer", " is ", ":", "\n",
    " ", "$", "$$", "\\[", "\\]", "**", "the answer is ", "Agent 1's ", "5", "x", ".", "?", "\x00",
    "\ud800", "\u2028", "I hope",
]  # fmt: skip


@given(st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join)))
def test_statements_hold_for_any_text(response: str) -> None:
    found = find_statements(response)
    assert [s.start for s in found] == sorted({s.start for s in found})
    for statement in found:
        assert 0 <= statement.start < statement.end <= len(response)
        assert 0 < len(statement.text) <= LONGEST
        assert statement.text.strip()


@pytest.mark.parametrize(
    "endless",
    [
        "{" * 1_000_000,
        r"\boxed{" * 100_000,
        r"\boxed{" * 100_000 + "}" * 100_000,
        (r"\boxed{" * 100 + "}" * 100) * 500,
        "answer is " * 100_000,
        "answer is:\n" * 100_000,
        "answer" + " " * 1_000_000,
        "answer is:" + "\n" * 1_000_000,
        "answer " + "a " * 500_000,
        "answer: **" * 100_000,
        "answer: $$" * 100_000,
        "#### " * 100_000,
        "A:\n" * 100_000,
        "\\" * 1_000_000,
        "*" * 1_000_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_endless_fragments_of_markers_take_linear_time(endless: str) -> None:
    assert isinstance(find_statements(endless), list)


@pytest.mark.parametrize(
    ("response", "payload"),
    [
        ("The answer is $[0,\\infty)$.", "[0,\\infty)"),
        ("So (the answer is 7)", "7"),
        ("The answer is $111, \\! 111$ dollars.", "$111, \\! 111$ dollars"),
        ("The answer is $5!$ ways.", "$5!$ ways"),
        ("The answer is 5! I am sure.", "5"),
    ],
)
def test_brackets_spaces_and_factorials_belong_to_the_payload(response, payload):
    assert [s.text for s in find_statements(response)] == [payload]
