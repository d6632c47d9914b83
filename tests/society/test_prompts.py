from society import prompts


def test_model_text_that_looks_like_a_placeholder_stays_text():
    shown = prompts.quoted(["I say {answer_form} and {0}"], "Answer.")
    assert "I say {answer_form} and {0}" in shown
    assert shown.endswith("updated solution. Answer.")


def test_solutions_are_numbered_in_the_order_given():
    shown = prompts.summarize(["first", "second"])
    assert shown.index("Solution 1:\nfirst") < shown.index("Solution 2:\nsecond")
