"""Whether a call that fails for good is at fault itself, or the server is."""

from providers.limits.evidence import CallContext, Evidence


def fail(evidence, *subjects, model="m", mark=None, again=False):
    contexts = [CallContext(model, subject, again) for subject in subjects]
    marks = [mark or evidence.mark(context) for context in contexts]
    return [evidence.blames_call(e, m) for e, m in zip(contexts, marks, strict=True)]


def answer(evidence, times, model="m"):
    for _ in range(times):
        evidence.record_answer(CallContext(model, "good"))


def test_a_server_that_never_answered_is_at_fault():
    assert fail(Evidence(), "a", "b") == [False, False]


def test_a_few_questions_that_fail_after_answers_are_at_fault_themselves():
    evidence = Evidence()
    answer(evidence, 1)
    assert fail(evidence, "a", "b", "c", "d") == [True, True, False, False]
    assert fail(evidence, "a", "b") == [True, True]
    answer(evidence, 1)
    assert fail(evidence, "e") == [True]


def test_many_questions_may_fail_while_as_many_calls_are_answered():
    evidence = Evidence()
    began = evidence.mark(CallContext("m"))
    answer(evidence, 10)
    poisoned = [f"q{n}" for n in range(12)]
    assert fail(evidence, *poisoned, mark=began) == [True] * 10 + [False] * 2


def test_a_server_that_went_away_is_at_fault_although_it_answered_before():
    evidence = Evidence()
    answer(evidence, 500)
    assert fail(evidence, *(f"q{n}" for n in range(5))) == [True, True, False, False, False]


def test_each_model_is_looked_at_by_itself():
    evidence = Evidence()
    answer(evidence, 50)
    assert fail(evidence, "a", model="tuned") == [False]


def test_what_failed_in_an_earlier_start_means_nothing_for_the_server():
    evidence = Evidence()
    assert fail(evidence, "a", "b", "c", again=True) == [True] * 3
    assert fail(evidence, "d") == [False]
    assert fail(evidence, "a") == [True]
