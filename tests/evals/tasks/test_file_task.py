"""The user's own questions without code."""

import json

import pytest

from evals import tasks


def load(path, **options):
    return tasks.load_task("file", {"answer": "text", "train_path": str(path), **options})


def only(task):
    [question] = task.questions("train", 0, task.size("train"))
    return question


def test_fields_and_gold_are_named_by_the_options(write):
    path = write("q.jsonl", [{"n": "x1", "q": "Which gas do plants take in?", "reply": "CO2"}])
    task = load(path, question="q", gold="reply", id="n", label="plants")
    question = only(task)
    assert question.question_id == "plants:x1"
    assert question.text == "Which gas do plants take in?"
    assert question.gold is not None
    assert task.equivalent(question.gold, "co2")
    assert task.name == "plants"


def test_without_gold_nobody_knows_the_answer(write):
    rows = [{"question": "Why?", "answer": "because"}]
    assert only(load(write("q.jsonl", rows))).gold is None


def test_an_empty_gold_leaves_only_that_row_without(write):
    rows = [{"question": "Why?", "a": "because"}, {"question": "How?", "a": None}]
    task = load(write("q.jsonl", [*rows, {"question": "Who?", "a": " "}]), gold="a")
    gold = {q.text: q.gold for q in task.questions("train", 0, 3)}
    assert gold["Why?"] is not None
    assert gold["How?"] is gold["Who?"] is None


def test_a_missing_gold_field_is_an_error_of_its_row(write):
    rows = [{"question": "Why?", "a": "because"}, {"question": "How?"}]
    with pytest.raises(ValueError, match=r"q\.jsonl, line 2: the field 'a' is missing"):
        load(write("q.jsonl", rows), gold="a").size("train")


def test_a_gold_that_cannot_be_read_names_row_and_kind(write):
    rows = [{"question": "How long?", "a": "x" * 2000}]
    with pytest.raises(ValueError, match=r"line 1: the field 'a' is no text answer: "):
        load(write("q.jsonl", rows), gold="a").size("train")


def test_ids_are_used_by_default_only_where_every_row_has_one(write):
    rows = [{"id": 1, "question": "Why?"}, {"question": "How?"}]
    some = load(write("some.jsonl", rows))
    assert all(len(q.question_id) == len("file:") + 12 for q in some.questions("train", 0, 2))
    every = load(write("every.jsonl", rows[:1]))
    assert only(every).question_id == "file:1"
    none = load(write("every.jsonl", rows[:1]), id="")
    assert only(none).question_id != "file:1"
    with pytest.raises(ValueError, match=r"line 2: the field 'id' is missing"):
        load(write("some.jsonl", rows), id="id").size("train")


def test_a_template_puts_fields_together(write):
    path = write("q.jsonl", [{"passage": "A {x} ran.", "q": "Who ran?"}])
    task = load(path, question="{passage}\n\nQuestion: {q} {{q}} {}")
    assert only(task).text == "A {x} ran.\n\nQuestion: Who ran? {q} {}"


def test_a_template_with_an_unknown_field_names_the_row(write):
    path = write("q.jsonl", [{"q": "Who ran?"}])
    with pytest.raises(ValueError, match=r"line 1: the field 'passage' is missing"):
        load(path, question="{passage} {q}").size("train")


def test_the_prompt_can_be_worded(write):
    path = write("q.jsonl", [{"question": "Who {x}?"}])
    task = load(
        path, prompt="Q: {question}\n{answer_form} \\boxed{}", answer_form="End with a name."
    )
    assert task.prompt(only(task).text) == "Q: Who {x}?\nEnd with a name. \\boxed{}"
    assert task.answer_form == "End with a name."
    plain = load(path)
    assert plain.prompt("Who?").endswith(plain.answer_form)


def test_a_regex_reads_answers(write):
    path = write("q.jsonl", [{"question": "Yes or no?", "a": "yes"}])
    task = load(path, answer="regex", pattern=r"verdict:\s*(\w+)", gold="a")
    assert task.extract("Verdict: YES") is not None
    assert task.equivalent(task.extract("Verdict: YES"), only(task).gold)
    assert task.extract("nothing") is None
    assert task.style("anything") is None


CHOICES = {"question": "Which?", "options": ["red", "green", "blue"]}


@pytest.mark.parametrize(
    ("gold", "options", "letter"),
    [
        ("B", {}, "B"),
        ("(c)", {}, "C"),
        ("green", {}, "B"),
        (0, {"first_choice": 0}, "A"),
        ("3", {"first_choice": 1}, "C"),
    ],
)
def test_choices_are_lettered_and_gold_becomes_a_letter(write, gold, options, letter):
    path = write("q.jsonl", [{**CHOICES, "a": gold}])
    task = load(path, answer="choice", choices="options", gold="a", **options)
    question = only(task)
    assert question.text == "Which?\n\n(A) red\n(B) green\n(C) blue"
    assert question.gold == letter


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"a": 1}, {}, "'1' is no choice; .*task.first_choice = 0 or 1 if it is a number"),
        ({"a": "pink"}, {}, "'pink' is no choice; give a letter up to C or"),
        ({"a": "D"}, {}, "'D' is no choice"),
        ({"a": 3}, {"first_choice": 0}, r"a = 3 is outside 0\.\.2"),
        ({"a": 0}, {"first_choice": 1}, r"a = 0 is outside 1\.\.3"),
        ({"a": "A", "options": ["B", "A"]}, {}, "fits more than one choice"),
        ({"a": "x", "options": ["x", "x"]}, {}, "fits more than one choice"),
        ({"a": "A", "options": ["x"]}, {}, "gives 1 choices; 2 to 4 can be asked"),
        ({"a": "A", "options": list("abcde")}, {}, "gives 5 choices; 2 to 4 can be asked"),
        ({"a": "A", "options": ["x", " "]}, {}, "the choice B is empty"),
        ({"a": "A", "options": "x, y"}, {}, r'must be a list such as \["red", "blue"\]'),
        ({"a": "A", "options": {"x": 1}}, {}, "must be a list, not"),
    ],
)
def test_choices_that_cannot_be_asked_name_the_row(write, row, options, message):
    path = write("q.jsonl", [{**CHOICES, **row}])
    with pytest.raises(ValueError, match=r"q\.jsonl, line 1: .*" + message):
        load(path, answer="choice", choices="options", gold="a", **options).size("train")


def test_choices_in_csv_are_a_json_list_or_columns(tmp_path):
    path = tmp_path / "q.csv"
    packed = json.dumps(["red", "green"]).replace('"', '""')
    path.write_text(f'question,options,a,one,two\nWhich?,"{packed}",B,red,green\n')
    listed = load(path, answer="choice", choices="options", gold="a")
    columns = load(path, answer="choice", choices=["one", "{two}"], gold="a")
    assert only(listed) == only(columns)
    assert only(listed).gold == "B"


def test_more_choices_can_be_allowed(write):
    path = write("q.jsonl", [{"question": "Which?", "options": list("vwxyz"), "a": "E"}])
    task = load(path, answer="choice", choices="options", choice_count=5, gold="a")
    assert only(task).gold == "E"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "task.answer: the task file needs this option"),
        ({"answer": "text"}, "^task.path is missing; set it to a file or folder"),
        ({"answer": "vibes", "path": "x"}, "task.answer: .*'number', 'math'.*got 'vibes'"),
        (
            {"answer": "text", "path": "x", "goal": "y"},
            "task.goal: unknown option of the task file",
        ),
        ({"answer": "text", "path": "x", "eval_path": "y"}, "^task.path holds both splits"),
        ({"answer": "text", "path": "x", "eval_share": 1}, "task.eval_share: .*got 1"),
        ({"answer": "text", "path": "x", "pattern": "y"}, "task.pattern belongs to .*'regex'"),
        ({"answer": "math", "path": "x", "case": "match"}, "task.case belongs to .*'text'"),
        ({"answer": "math", "path": "x", "tolerance": 0.1}, "tolerance belongs to .*'number'"),
        ({"answer": "number", "path": "x", "tolerance": 0}, "task.tolerance: .*got 0"),
        ({"answer": "regex", "path": "x"}, "task.pattern is missing"),
        ({"answer": "regex", "path": "x", "pattern": "("}, "pattern"),
        ({"answer": "text", "path": "x", "choices": "c"}, "task.choices needs .*'choice'"),
        ({"answer": "text", "path": "x", "prompt": "{question}"}, "task.prompt must contain"),
        ({"answer": "text", "path": "x", "label": "a:b"}, "task.label: .*got 'a:b'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.load_task("file", options)


def test_a_training_file_may_lack_the_gold_field_altogether(write):
    train = write("train.jsonl", [{"question": "Who?"}])
    held_out = write("eval.jsonl", [{"question": "Where?", "reply": "there"}])
    paths = {"train_path": str(train), "eval_path": str(held_out)}
    task = tasks.load_task("file", {"answer": "text", "gold": "reply", **paths})
    assert [q.gold for q in task.questions("train", 0, 1)] == [None]
    assert [q.gold for q in task.questions("eval", 0, 1)] == ["there"]
    misspelt = tasks.load_task("file", {"answer": "text", "gold": "replay", **paths})
    with pytest.raises(ValueError, match="the field 'replay' is missing"):
        misspelt.questions("eval", 0, 1)
