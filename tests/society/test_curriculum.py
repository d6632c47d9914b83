"""A curriculum: what its rungs train on and are examined with, and a run that has one."""

import asyncio
import io
import json
import re

import pytest

from evals import metrics, report
from evals.tasks.arithmetic import create
from society.checks import overlap
from society.config.load import ConfigError
from society.costs.estimate import estimate_cost
from society.method import questions
from society.method.experiment import load_experiment
from society.method.progress import StageStarted
from society.runs import folder as folders
from society.runs import runner, status, summary
from store.ledger import Store

LADDER = "task.curriculum=[{high=3}, {high=4}]"
AGENTS, TRAIN, EVAL = 3, 4, 3


def load(experiment, *overrides):
    return load_experiment(str(experiment), overrides)


def ids(questions) -> list[str]:
    return [question.question_id for question in questions]


def test_without_one_everything_is_as_it_was(experiment):
    loaded = load(experiment)
    assert "curriculum" not in loaded.config.to_json()
    assert loaded.questions.training_questions(2) == create({}).questions("train", 0, TRAIN)
    assert loaded.questions.first_iteration(2) is None
    assert loaded.questions.task_of(2) is loaded.questions.task


def test_rung_k_is_for_iteration_k_and_the_last_one_stays(experiment):
    questions = load(experiment, LADDER, "iterations=4").questions
    found = [questions.training_questions(k) for k in (1, 2, 3, 4)]
    assert [questions.task_of(k).options.high for k in (1, 2, 3, 4)] == [3, 4, 4, 4]
    assert all(q.question_id.startswith("arithmetic@1:") for q in found[0])
    assert all(q.question_id.startswith("arithmetic@2:") for q in found[1])
    assert ids(found[1]) == ids(found[2]) == ids(found[3])
    assert [questions.first_iteration(k) for k in (1, 2, 3, 4)] == [1, 2, 2, 2]
    assert len(questions.all_training_questions()) == 2 * TRAIN


def test_fresh_questions_go_on_where_the_rung_was_left(experiment):
    more = ("iterations=4", "train.fresh=true", "task.curriculum=[{high=3}, {high=4}, {high=3}]")
    questions = load(experiment, *more).questions
    assert [questions.start(k) for k in (1, 2, 3, 4)] == [0, 0, TRAIN, 2 * TRAIN]
    first = [name for k in (1, 3, 4) for name in ids(questions.training_questions(k))]
    assert all(name.startswith("arithmetic@1:") for name in first)
    assert len(set(first)) == 3 * TRAIN
    assert [questions.first_iteration(k) for k in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert len(questions.all_training_questions()) == 4 * TRAIN


def test_every_rung_is_an_exam_of_its_own_also_where_it_is_not_reached(experiment):
    questions = load(experiment, LADDER, "iterations=1").questions
    assert [
        (e.label, e.curriculum_stage, e.zero_shot, e.stage) for e in questions.evaluation_sets
    ] == [
        ("arithmetic", None, False, "evaluate"),
        ("arithmetic@1", 1, False, "curriculum arithmetic@1"),
        ("arithmetic@2", 2, False, "curriculum arithmetic@2"),
    ]
    asked = [name for each in questions.evaluation_sets for name in ids(each.questions())]
    assert len(asked) == len(set(asked)) == 3 * EVAL


def test_a_rung_that_is_the_task_itself_is_examined_by_its_evaluation(experiment):
    questions = load(
        experiment, "task.curriculum=[{high=3}, {high=10}, {}]", "task.high=10"
    ).questions
    assert [each.label for each in questions.evaluation_sets] == ["arithmetic", "arithmetic@1"]
    assert all(name.startswith("arithmetic:") for name in ids(questions.training_questions(2)))
    assert questions.training_questions(3) == questions.training_questions(2)


@pytest.mark.parametrize("count", [40, 60])
def test_no_exam_asks_what_a_rung_trains_on_also_not_in_other_clothes(experiment, count):
    # Over 1..3 there are 216 sums in all; most of them are questions of the wider ranges too.
    more = (f"train.questions={count}", "evaluation.questions=50", "iterations=3", "task.high=5")
    loaded = load(experiment, LADDER, *more)
    task = create({})
    trained = {task.identity(q) for q in loaded.questions.all_training_questions()}
    asked = {
        task.identity(q) for each in loaded.questions.evaluation_sets for q in each.questions()
    }
    assert len(trained) > count
    assert not trained & asked
    unfiltered = create({"high": 3}).questions("train", 0, count)
    assert {task.identity(q) for q in unfiltered} & asked
    assert overlap.check_overlap(loaded, experiment.parent / "none.duckdb", allow=False) == []


def test_swapped_operands_are_one_question():
    task = create({})
    [question] = task.questions("train", 0, 1)
    a, b, c, d, e, f = re.findall(r"\d+", question.text)
    swapped = question.text.replace(f"{a}+{b}*{c}+{d}-{e}*{f}", f"{d}+{c}*{b}+{a}-{f}*{e}")
    again = type(question)("other", swapped, None)
    assert questions.get_identity(task, again) == questions.get_identity(task, question)


def test_files_with_the_same_ids_are_kept_apart(tmp_path):
    for level in ("easy", "hard"):
        rows = (
            json.dumps({"id": n, "question": f"a {level} one, number {n}", "gold": str(n)}) + "\n"
            for n in range(40)
        )
        (tmp_path / f"{level}.jsonl").write_text("".join(rows))
    (tmp_path / "script.jsonl").write_text("")
    path = tmp_path / "own.toml"
    path.write_text(
        f"""
        model = "scripted:{tmp_path / "script.jsonl"}"
        iterations = 2
        train.questions = 9
        evaluation.questions = 9
        [task]
        name = "file"
        answer = "number"
        gold = "gold"
        path = "{tmp_path / "hard.jsonl"}"
        [[task.curriculum]]
        path = "{tmp_path / "easy.jsonl"}"
        [[task.curriculum]]
        """
    )
    questions = load(path).questions
    easy, hard = questions.training_questions(1), questions.training_questions(2)
    assert {q.text.split()[1] for q in easy} == {"easy"}
    assert {q.text.split()[1] for q in hard} == {"hard"}
    exams = [q for each in questions.evaluation_sets for q in each.questions()]
    every = ids([*easy, *hard, *exams])
    assert len(every) == len(set(every)) == 36


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.curriculum=[{}, {hgh=3}]"], r"task\.curriculum\.1: task\.hgh: unknown option"),
        (['task.curriculum=[{name="math"}]'], r"task\.curriculum\.0: .*remove name"),
        (["task.curriculum=3"], r"task\.curriculum: Input should be a valid tuple"),
        (["task.curriculum=[{high=1}]"], r"task\.curriculum\.0: .* has 0 eval questions"),
        ([LADDER, "train.questions=200"], r"task\.curriculum\.0: .* has 108 train questions"),
        (
            [LADDER, "train.questions=105", "evaluation.questions=108"],
            r"task\.curriculum\.0: .*\(\d+ are in an evaluation set and left out\)",
        ),
        (['zero_shot=[{name="arithmetic", label="b", curriculum=[]}]'], r"zero_shot\.0: .*unknown"),
    ],
)
def test_what_is_wrong_is_named_before_anything_runs(experiment, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(experiment, *overrides, "task.high=4")


@pytest.fixture
def climbing(experiment):
    """The scripted experiment on a ladder; a script that answers what it asks."""
    loaded = load(experiment, LADDER)
    asked = [("eval", q) for each in loaded.questions.evaluation_sets for q in each.questions()]
    asked += [(f"train{k}", q) for k in (1, 2) for q in loaded.questions.training_questions(k)]
    lines = []
    for which, question in asked:
        for agent in range(1, AGENTS + 1):
            stem = f"{which}/{question.question_id}/a{agent}"
            # On rung 1 agent 1 is wrong at first.
            wrong = agent == 1 and "@1" in question.question_id
            gold = int(question.gold)
            lines += [
                {"key": f"{stem}/r1/answer", "text": f"\\boxed{{{gold + 7 * wrong}}}"},
                {"key": f"{stem}/r2/summary", "text": "a summary"},
                {"key": f"{stem}/r2/answer", "text": f"\\boxed{{{gold}}}"},
            ]
    script = "".join(json.dumps(line) + "\n" for line in lines)
    (experiment.parent / "script.jsonl").write_text(script)
    return loaded


def test_a_run_climbs_and_every_society_takes_every_exam(climbing, tmp_path):
    folder, events = folders.locate_run(tmp_path / "runs", "climb"), []
    with folders.start_run(folder, climbing.config) as store:
        asyncio.run(runner.run_experiment(folder, climbing, store, events.append))
    stages = [e.stage for e in events if isinstance(e, StageStarted) and e.iteration == 0]
    labels = ("evaluate", "curriculum arithmetic@1", "curriculum arithmetic@2")
    assert stages == [f"{label} {d}" for label in labels for d in ("sampled", "greedy")]
    shown, table = io.StringIO(), io.StringIO()
    status.show_status(folder, shown)
    assert re.search(r"curriculum arithmetic@2 greedy +multiagent +3 +3", shown.getvalue())
    with Store.open(folder.database, read_only=True) as store:
        assert store.rows(
            "SELECT task, split, iteration, count(*) FROM questions GROUP BY ALL ORDER BY ALL"
        ) == [
            ("arithmetic", "eval", None, EVAL),
            ("arithmetic", "train", 1, TRAIN),
            ("arithmetic", "train", 2, TRAIN),
            ("arithmetic@1", "eval", None, EVAL),
            ("arithmetic@2", "eval", None, EVAL),
        ]
        assert store.rows(
            "SELECT task, iteration, accuracy FROM accuracy WHERE measure = 'single' AND agent = 1 "
            "AND round = 1 AND decoding = 'greedy' AND split = 'eval' ORDER BY ALL"
        ) == [
            (task, k, float(task != "arithmetic@1"))
            for task in ("arithmetic", "arithmetic@1", "arithmetic@2")
            for k in (0, 1, 2)
        ]
        assert [row.consensus.total for row in metrics.read_society_accuracies(store)] == [EVAL] * 6
        assert metrics.list_extra_tasks(store) == ["arithmetic@1", "arithmetic@2"]
        assert store.rows(
            "SELECT iteration, count(DISTINCT question_id), bool_and(starts_with(question_id, "
            "'arithmetic@' || iteration || ':')) FROM dataset_examples JOIN datasets "
            "USING (dataset_id) GROUP BY iteration ORDER BY iteration"
        ) == [(1, TRAIN, True), (2, TRAIN, True)]
        summary.show_summary(store, table)
        report.write_report([store], folder.report)
    assert "Curriculum, stage 2: arithmetic@2" in table.getvalue()
    assert "arithmetic@2" in folder.report.read_text(encoding="utf-8")


def test_the_estimate_counts_every_rungs_exam(climbing):
    lines = [
        line for line in estimate_cost(climbing).lines if line.stage == "curriculum arithmetic@1"
    ]
    # Untuned and twice tuned, both decodings, three agents.
    generators = [line.calls.expected for line in lines if line.role == "generator"]
    assert sum(generators) == 3 * 2 * AGENTS * EVAL
