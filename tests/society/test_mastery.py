"""A curriculum that goes on when the agents agree: the rule, its record, and a resume."""

import asyncio
import json

import duckdb
import pytest

from evals.report.facts import collect_facts
from evals.report.tables import build_tables
from society.config.load import ConfigError
from society.costs.estimate import estimate_cost
from society.method.experiment import load_experiment
from society.method.mastery import measure_agreement
from society.method.progress import Note
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store

LADDER = ("task.curriculum=[{high=3}, {high=4}]", "task.mastery=0.9")
AGENTS, TRAIN = 3, 4
ARMS = 'arms=["multiagent", "round1-labels"]'


def load(experiment, *overrides):
    return load_experiment(str(experiment), (*LADDER, *overrides))


@pytest.fixture
def climbing(experiment):
    """An experiment of three iterations whose agents disagree in the first one only."""
    loaded = load(experiment, "iterations=3", ARMS)
    asked = [("eval", q) for e in loaded.questions.evaluation_sets for q in e.questions()]
    asked += [(f"train{k}", q) for k in (1, 2, 3) for _, found in loaded.questions.foresee(k)
              for q in found]  # fmt: skip
    lines = []
    for which, question in asked:
        for agent in range(1, AGENTS + 1):
            stem = f"{which}/{question.question_id}/a{agent}"
            # No answer to a question is like gold, and after the debate all agree.
            own = int(question.gold) + 1000 + (agent if which == "train1" and agent > 1 else 0)
            lines += [
                {"key": f"{stem}/r1/answer", "text": f"\\boxed{{{own}}}"},
                {"key": f"{stem}/r2/summary", "text": "a summary"},
                {"key": f"{stem}/r2/answer", "text": f"\\boxed{{{int(question.gold) + 1000}}}"},
            ]
    script = "".join(json.dumps(line) + "\n" for line in lines)
    (experiment.parent / "script.jsonl").write_text(script)
    return experiment


def run(folder, loaded) -> list[str]:
    """What the run notes about its curriculum."""
    events = []
    with folders.start_run(folder, loaded.config) as store:
        asyncio.run(runner.run_experiment(folder, loaded, store, events.append))
    return [e.text for e in events if isinstance(e, Note) and "stage" in e.text]


def read(folder, sql):
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)


STEPS = "SELECT iteration, curriculum_stage, task, arm, round(agreement, 3) FROM curriculum_steps"
CLIMB = [
    (1, 1, "arithmetic@1", None, None),
    (2, 1, "arithmetic@1", "multiagent", 0.333),
    (3, 2, "arithmetic@2", "multiagent", 1.0),
]
ASKED = (
    "SELECT DISTINCT arm, iteration, split_part(question_id, ':', 1) AS stage, question_id "
    "FROM turns WHERE split = 'train' ORDER BY ALL"
)


def test_agreement_in_round_1_opens_the_next_stage_for_all_arms(climbing, tmp_path):
    folder = folders.locate_run(tmp_path / "runs", "climb")
    notes = run(folder, load(climbing, "iterations=3", ARMS))
    assert read(folder, STEPS) == CLIMB
    assert notes == [
        "iteration 1 trains on stage 1, arithmetic@1",
        "iteration 2 trains on stage 1, arithmetic@1: multiagent agreed to 0.333 on arithmetic@1 "
        "before, below task.mastery = 0.9",
        "iteration 3 trains on stage 2, arithmetic@2: multiagent agreed to 1.000 on arithmetic@1 "
        "before, at least task.mastery = 0.9",
    ]
    asked = read(folder, ASKED)
    for arm in ("multiagent", "round1-labels"):
        own = [(k, stage) for name, k, stage, _ in asked if name == arm]
        assert own == [(k, f"arithmetic@{1 + (k == 3)}") for k in (1, 2, 3) for _ in range(TRAIN)]
    with Store.open(folder.database, read_only=True) as store:
        # Where the main arm has stopped, there are no votes to go by, and the stage stays.
        assert measure_agreement(store, load(climbing, ARMS).arms[0], 4) is None
        shown = build_tables(collect_facts([store]))["curriculum-steps"]
    assert [" ".join(cell.shown for cell in row) for row in shown.rows] == [
        "climb 1 1 arithmetic@1 – –",
        "climb 2 1 arithmetic@1 33.3 multiagent",
        "climb 3 2 arithmetic@2 100.0 multiagent",
    ]
    # All answers of this run are wrong, so gold has no part in it.
    assert read(folder, "SELECT max(correct) FROM votes") == [(False,)]


def test_a_resumed_run_keeps_to_its_stages(climbing, tmp_path):
    whole, parts = (folders.locate_run(tmp_path / "runs", name) for name in ("whole", "parts"))
    run(whole, load(climbing, "iterations=3"))
    run(parts, load(climbing, "iterations=2"))
    # A kill after the debates and before the decision leaves no decision.
    with duckdb.connect(str(parts.database)) as connection:
        connection.execute("DELETE FROM curriculum_steps WHERE iteration = 2")
    run(parts, load(climbing, "iterations=3"))
    assert read(parts, STEPS) == read(whole, STEPS)
    assert read(parts, ASKED) == read(whole, ASKED)
    turns = "SELECT count(*) FROM turns"
    assert read(parts, turns) == read(whole, turns)


def test_fresh_questions_follow_those_of_the_stage(experiment):
    questions = load(experiment, "iterations=4", "train.fresh=true").questions
    with pytest.raises(KeyError):
        questions.training_questions(2)
    for iteration, entry in ((2, 1), (3, 2), (4, 2)):
        questions.enter_stage(iteration, entry)
    assert [questions.start(k) for k in (1, 2, 3, 4)] == [0, TRAIN, 0, TRAIN]
    asked = {q.question_id for k in (1, 2, 3, 4) for q in questions.training_questions(k)}
    assert len(asked) == 4 * TRAIN
    # The check for overlaps sees whatever may come: four iterations of stage 1, three of stage 2.
    possible = [q.question_id for q in questions.all_training_questions()]
    assert asked < set(possible)
    assert len(possible) == 7 * TRAIN


def test_without_fresh_questions_a_stage_keeps_its_own(experiment):
    questions = load(experiment, "iterations=4").questions
    for iteration, entry in ((2, 1), (3, 2), (4, 2)):
        questions.enter_stage(iteration, entry)
    assert [questions.first_iteration(k) for k in (1, 2, 3, 4)] == [1, 1, 3, 3]
    assert len(questions.all_training_questions()) == 2 * TRAIN


def test_the_estimate_counts_every_iteration_once(experiment):
    fixed, climbing = (
        {
            (line.stage, line.role): line.calls.expected
            for line in estimate_cost(load_experiment(str(experiment), overrides)).lines
            if line.stage in ("debate", "finetune")
        }
        for overrides in (LADDER[:1], LADDER)
    )
    assert climbing == fixed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.curriculum=[{high=3}]"], r"task\.mastery = 0\.9 .* has 1; give it at least two"),
        (["task.mastery=1.1"], r"task\.mastery: "),
        (['arms=["star"]'], r"'star', whose votes decide, has one answer .*; add another"),
        (['arms=["majority"]'], r"task\.mastery = 0\.9 takes the votes of a trained arm"),
        (
            ["train.fresh=true", "train.questions=40", "iterations=4"],
            r"task\.curriculum\.0: .* train questions",
        ),
    ],
)
def test_what_is_wrong_is_named_before_anything_runs(experiment, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(experiment, *overrides)
