import json

from evals.tasks.arithmetic import create
from providers.embedded import MODEL_DIR
from society.prompts import Wording

PROMPTS = Wording()


def test_model_text_that_looks_like_a_placeholder_stays_text():
    shown = PROMPTS.build_quoted_turn(["I say {answer_form} and {0}"], "Answer.")
    assert "I say {answer_form} and {0}" in shown
    assert shown.endswith("updated solution. Answer.")


def test_solutions_are_numbered_in_the_order_given():
    shown = PROMPTS.build_summary_request(["first", "second"])
    assert shown.index("Solution 1:\nfirst") < shown.index("Solution 2:\nsecond")


def test_the_built_in_model_was_trained_on_exactly_these_words():
    wording = json.loads((MODEL_DIR.parent / "wording.json").read_text(encoding="utf-8"))
    task = create({})
    solutions = ["first", "second", "third"]

    def listed(part: dict[str, str]) -> str:
        items = [
            part["item"].format(number=number, response=text)
            for number, text in enumerate(solutions, start=1)
        ]
        return part["open"] + part["separator"].join(items) + part["close"]

    summary = wording["summarized"]["open"] + "in short" + wording["summarized"]["close"]
    assert PROMPTS.build_quoted_turn(solutions, task.answer_form) == listed(wording["quoted"])
    assert PROMPTS.build_summary_turn("in short", task.answer_form) == summary
    assert PROMPTS.build_summary_request(solutions) == listed(wording["summarizer"])
    question = task.questions("eval", 0, 1)[0]
    expression = question.text.removeprefix("What is the result of ").removesuffix("?")
    assert task.prompt(question.text) == wording["task"].replace("{question}", expression)
