"""Order, names, shares and lengths of a task over rows."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import tasks


def ids(task, split):
    return [question.question_id for question in task.questions(split, 0, task.size(split))]


def texts(task, split):
    return {question.text for question in task.questions(split, 0, task.size(split))}


def file_task(**options):
    return tasks.load_task("file", {"answer": "text", **options})


def rows(count):
    return [{"question": f"What is the capital of country {n}?"} for n in range(count)]


def test_the_order_depends_on_seed_and_id_but_not_on_the_file(write):
    many = rows(60)
    task = file_task(path=str(write("a.jsonl", many)))
    random.Random(1).shuffle(many)
    again = file_task(path=str(write("b.jsonl", many)))
    other = file_task(path=str(write("b.jsonl", many)), seed=1)
    assert ids(task, "train") == ids(again, "train") != ids(other, "train")
    assert ids(task, "train") != [q.question_id for q in sorted_by_text(task)]


def sorted_by_text(task):
    return sorted(task.questions("train", 0, task.size("train")), key=lambda q: q.text)


def test_the_shares_of_one_file_are_disjoint_and_independent_of_the_seed(write):
    path = str(write("a.jsonl", rows(200)))
    zero, one = file_task(path=path), file_task(path=path, seed=1)
    for split in ("train", "eval"):
        assert texts(zero, split) == texts(one, split)
    assert not texts(zero, "train") & texts(zero, "eval")
    assert zero.size("train") + zero.size("eval") == 200
    assert 70 < zero.size("eval") < 130


def test_new_questions_move_no_old_one_to_the_other_share(write):
    before = file_task(path=str(write("a.jsonl", rows(50))))
    after = file_task(path=str(write("b.jsonl", rows(100))))
    assert texts(before, "train") <= texts(after, "train")
    assert texts(before, "eval") <= texts(after, "eval")


def test_the_share_of_evaluation_can_be_set(write):
    task = file_task(path=str(write("a.jsonl", rows(400))), eval_share=0.1)
    assert 15 < task.size("eval") < 70


def test_wordings_that_differ_in_case_or_order_of_words_share_a_side(write):
    many = [f"{a} before {b}" for a in ("One", "two", "Six") for b in ("red", "blue", "green")]
    doubled = [*many, *(" ".join(reversed(text.upper().split())) for text in many)]
    task = file_task(path=str(write("a.jsonl", [{"question": text} for text in doubled])))
    sides = {
        split: {" ".join(sorted(t.lower().split())) for t in texts(task, split)}
        for split in ("train", "eval")
    }
    assert not sides["train"] & sides["eval"]


@given(st.integers(0, 20), st.integers(0, 10))
@settings(deadline=None, max_examples=20)
def test_questions_are_the_same_from_wherever_one_starts(folder_task, start, count):
    assert (
        folder_task.questions("train", start, count)
        == folder_task.questions("train", 0, start + count)[start:]
    )


@pytest.fixture(scope="module")
def folder_task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "train.csv").write_text("question\n" + "".join(f"train {n}\n" for n in range(30)))
    (folder / "test.csv").write_text("question\n" + "".join(f"test {n}\n" for n in range(5)))
    return file_task(path=str(folder))


def test_a_folder_gives_each_split_its_own_files(folder_task):
    assert (folder_task.size("train"), folder_task.size("eval")) == (30, 5)
    assert texts(folder_task, "eval") == {f"test {n}" for n in range(5)}


def test_several_files_of_a_split_are_read_together_and_eval_goes_before_test(tmp_path, write):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "eval", "test", "validation"):
        write(f"{name}.jsonl", [{"question": f"{name} asks"}])
    (tmp_path / "notes.md").write_text("train on this")
    task = file_task(path=str(tmp_path))
    assert task.size("train") == 2
    assert texts(task, "eval") == {"eval asks"}


def test_a_folder_without_a_file_for_a_split_lists_what_is_there(tmp_path, write):
    write("train.jsonl", rows(3))
    task = file_task(path=str(tmp_path))
    with pytest.raises(
        ValueError, match=r"no eval\* or test\* or validation\* file .*there is train\.jsonl; name"
    ):
        task.size("eval")


def test_a_split_without_a_file_names_the_option(write):
    task = file_task(train_path=str(write("t.jsonl", rows(3))))
    assert task.size("train") == 3
    with pytest.raises(ValueError, match=r"no file for eval questions; set task\.eval_path"):
        task.questions("eval", 0, 1)


def test_too_few_questions_say_how_many_there_are(write):
    task = file_task(train_path=str(write("t.jsonl", rows(3))))
    with pytest.raises(ValueError, match=r"task file has 3 train questions in .*t\.jsonl, 4 are"):
        task.questions("train", 2, 2)
    with pytest.raises(ValueError, match="must not be negative"):
        task.questions("train", -1, 2)
    shared = file_task(path=str(write("a.jsonl", rows(10))))
    with pytest.raises(ValueError, match=r"change task\.eval_share or give it more data"):
        shared.questions("train", 0, 11)


def test_rows_are_read_only_when_asked_for(tmp_path):
    task = file_task(train_path=str(tmp_path / "later.jsonl"))
    (tmp_path / "later.jsonl").write_text('{"question": "Why?"}')
    assert task.size("train") == 1


def test_exact_repeats_without_an_id_are_asked_once(write):
    task = file_task(train_path=str(write("t.jsonl", [*rows(4), *rows(4)])))
    assert task.size("train") == 4
    [first, *_] = ids(task, "train")
    label, _, digest = first.partition(":")
    assert (label, len(digest)) == ("file", 12)


def test_the_same_id_twice_names_both_places(write):
    twice = [{"id": n % 3, "question": f"question {n}"} for n in range(4)]
    task = file_task(train_path=str(write("t.jsonl", twice)))
    with pytest.raises(
        ValueError, match=r"t\.jsonl, line 4: the id 'file:0' was used before, in .*line 1; give"
    ):
        task.size("train")


def test_an_id_of_both_files_that_names_two_questions_is_refused(write):
    task = file_task(
        train_path=str(write("a.jsonl", [{"id": 0, "question": "Who?"}])),
        eval_path=str(write("b.jsonl", [{"id": 0, "question": "When?"}])),
    )
    assert task.size("train") == 1
    with pytest.raises(ValueError, match=r"'file:0' names one question in the train data and .*id"):
        task.size("eval")


def test_a_hundred_thousand_rows_make_a_task(tmp_path):
    path = tmp_path / "big.jsonl"
    path.write_text(
        "".join(f'{{"question": "What comes after {n}?", "a": "{n}"}}\n' for n in range(100_000))
    )
    task = file_task(path=str(path), gold="a")
    assert task.size("train") + task.size("eval") == 100_000


@pytest.mark.parametrize(("copies", "said"), [(90, "(90 of its 100 rows repeat"), (0, None)])
def test_rows_that_were_left_out_as_copies_are_told_where_questions_lack(write, copies, said):
    many = [*rows(10), *rows(1) * copies]
    task = file_task(path=str(write("a.jsonl", many)))
    with pytest.raises(ValueError, match="50 are asked for") as error:
        task.questions("eval", 0, 50)
    assert f"the task file has {task.size('eval')} eval questions" in str(error.value)
    assert ("repeat" in str(error.value)) is (said is not None)
    assert said is None or said in str(error.value)
