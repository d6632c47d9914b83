"""GSM8K, MATH and MMLU: their rows, in the hub's shape and as the real files have them."""

import re
from collections import Counter

import pytest

from evals import tasks
from evals.tasks import gsm8k, math, mmlu


def everything(task, split="train"):
    return task.questions(split, 0, task.size(split))


def test_every_real_gsm8k_question_has_a_gold_answer(data):
    task = tasks.load_task(
        "gsm8k",
        {"train_path": f"{data}/gsm8k_train.jsonl", "eval_path": f"{data}/gsm8k_test.jsonl"},
    )
    assert (task.size("train"), task.size("eval")) == (7473, 1319)
    questions = [*everything(task), *everything(task, "eval")]
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", q.gold) for q in questions)
    [natalia] = [q for q in questions if q.text.startswith("Natalia sold clips to 48")]
    assert natalia.gold == "72"
    prompt = task.prompt(natalia.text)
    assert prompt.startswith(natalia.text)
    assert prompt.endswith(task.answer_form)


def test_every_real_math_question_has_a_gold_answer(data):
    task = tasks.load_task("math", {"train_path": f"{data}/math_test.jsonl"})
    questions = everything(task)
    assert len(questions) == 5000
    assert all(q.gold for q in questions)
    assert Counter(q.meta["level"] for q in questions)["3"] == 1131
    assert Counter(q.meta["subject"] for q in questions)["counting_and_probability"] == 474


def test_levels_and_subjects_keep_a_part(data):
    options = {"levels": [1, 3], "subjects": ["algebra", "geometry"]}
    task = tasks.load_task("math", {"train_path": f"{data}/math_test.jsonl", **options})
    metas = [q.meta for q in everything(task)]
    assert {meta["level"] for meta in metas} == {"1", "3"}
    assert {meta["subject"] for meta in metas} == {"algebra", "geometry"}


def test_every_real_mmlu_question_has_a_gold_letter(data):
    task = tasks.load_task("mmlu", {"train_path": f"{data}/mmlu_stem_test.jsonl"})
    questions = everything(task)
    # 12 of the 3,018 rows are exact repeats.
    assert len(questions) == 3006
    assert {q.gold for q in questions} == set("ABCD")
    [frameshift] = [q for q in questions if q.text.startswith("A frameshift mutation is created")]
    assert frameshift.gold == "C"
    assert "\n(C) a base pair is either inserted or deleted in a gene\n" in frameshift.text
    assert frameshift.meta == {"subject": "college_biology"}


def test_shuffling_moves_the_gold_letter_with_its_choice(data):
    path = f"{data}/mmlu_stem_test.jsonl"
    plain = tasks.load_task("mmlu", {"path": path, "subjects": ["astronomy"]})
    shuffled = tasks.load_task(
        "mmlu", {"path": path, "subjects": ["astronomy"], "shuffle_choices": True}
    )
    moved = 0
    for split in ("train", "eval"):
        for before, after in zip(
            everything(plain, split), everything(shuffled, split), strict=True
        ):
            assert before.question_id == after.question_id
            assert right_choice(before) == right_choice(after)
            assert sorted(t for _, t in choices(before)) == sorted(t for _, t in choices(after))
            moved += before.gold != after.gold
    assert moved > 50


def choices(question):
    return re.findall(r"^\(([A-D])\) (.*)$", question.text, re.MULTILINE)[-4:]


def right_choice(question):
    return dict(choices(question))[question.gold]


HUB_MMLU = {"question": "Which?", "subject": "anatomy", "choices": ["w", "", "2", "3"], "answer": 3}


def test_mmlu_reads_the_hubs_shape_from_parquet(parquet):
    task = tasks.load_task("mmlu", {"train_path": str(parquet("m.parquet", [HUB_MMLU]))})
    [question] = everything(task)
    assert question.text == "Which?\n\n(A) w\n(B) \n(C) 2\n(D) 3"
    assert (question.gold, question.meta) == ("D", {"subject": "anatomy"})


@pytest.mark.parametrize("answer", [2, "2", "C"])
def test_mmlu_answers_are_numbers_from_zero_or_letters(write, answer):
    row = {**HUB_MMLU, "choices": ["w", "x", "y", "z"], "answer": answer}
    [question] = everything(tasks.load_task("mmlu", {"train_path": str(write("m.jsonl", [row]))}))
    assert question.gold == "C"


def test_math_reads_the_shape_of_math_500(write):
    row = {
        "problem": "What is $1+1$?",
        "solution": r"It is $\boxed{2}$.",
        "answer": "2",
        "subject": "Counting & Probability",
        "level": 2,
        "unique_id": "test/counting_and_probability/1.json",
    }
    [question] = everything(tasks.load_task("math", {"train_path": str(write("m.jsonl", [row]))}))
    assert question.gold == "2"
    assert question.meta == {"level": "2", "subject": "counting_and_probability"}
    assert question.question_id.startswith("math:")


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"question": "q", "answer": "18"}, "'answer' does not end with '#### '"),
        ("gsm8k", {"question": "q", "answer": "so #### ducks"}, "'answer' has no gold answer: "),
        ("gsm8k", {"question": " ", "answer": "#### 1"}, "'question' is empty"),
        ("gsm8k", {"prompt": "q"}, r"'question' is missing \(fields there: prompt\)"),
        (
            "math",
            {"problem": "p", "solution": "no box", "level": "Level 1", "type": "Algebra"},
            "'solution' has no .*boxed",
        ),
        ("mmlu", {**HUB_MMLU, "choices": "wxyz"}, "'choices' must be a list"),
        ("mmlu", {**HUB_MMLU, "choices": ["w", "x"]}, "has 2 choices, MMLU has 4; use the task"),
        ("mmlu", {**HUB_MMLU, "answer": 4}, r"answer = 4 is outside 0\.\.3"),
    ],
)
def test_a_row_of_another_shape_is_named(write, name, row, message):
    path = write("rows.jsonl", [row])
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: .*" + message):
        tasks.load_task(name, {"train_path": str(path)}).size("train")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("math", {"levels": [6]}, r"task\.levels\.0: .*got 6"),
        ("math", {"levels": []}, r"task\.levels: .*got \[\]"),
        ("math", {"subjects": ["algebra2"]}, r"task\.subjects\.0: .*'algebra'.*got 'algebra2'"),
        ("math", {"subset": "half"}, r"task\.subset: .*'math-500', got 'half'"),
        ("gsm8k", {"revision": "main"}, r"task\.revision: .*got 'main'"),
        ("gsm8k", {"subset": "x"}, "task.subset: unknown option of the task gsm8k; it has path"),
        ("mmlu", {"train_split": "dev"}, r"task\.train_split: .*got 'dev'"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        tasks.load_task(name, options)


def test_a_subject_that_no_row_has_is_an_error(write):
    path = str(write("m.jsonl", [{**HUB_MMLU, "choices": list("wxyz")}]))
    task = tasks.load_task("mmlu", {"train_path": path, "subjects": ["anatomie"]})
    with pytest.raises(ValueError, match=r"task\.subjects: no .* has 'anatomie'; it has anatomy"):
        task.size("train")


def test_filters_that_leave_nothing_are_an_error(write):
    rows = [
        {"problem": f"p{n}", "solution": r"\boxed{1}", "level": f"Level {n}", "type": subject}
        for n, subject in ((1, "Algebra"), (2, "Geometry"))
    ]
    options = {"levels": [1], "subjects": ["geometry"]}
    task = tasks.load_task("math", {"train_path": str(write("m.jsonl", rows)), **options})
    with pytest.raises(
        ValueError, match=r"none of 2 questions is left by task\.levels and task\.s"
    ):
        task.size("train")


def test_the_hub_files_are_pinned_to_commits():
    for revision in (gsm8k.REVISION, math.REVISION, math.REVISION_500, mmlu.REVISION):
        assert re.fullmatch(r"[0-9a-f]{40}", revision)
