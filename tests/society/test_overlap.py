"""A run whose evaluation questions are training questions does not start."""

import json

import pytest
from typer.testing import CliRunner

from society import cli
from store.ledger import Store

QUESTIONS = {
    "train": [
        "A farmer has 12 hens and buys 5 more. How many hens does he have?",
        "What is 7 times 8?",
        "How many legs do 9 spiders have?",
    ],
    "eval": [
        "a farmer has 12 hens, and buys 5 more: how many hens does he have",
        "What is 7 times 9?",
    ],
}


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A scripted experiment whose first evaluation question is a training question."""
    monkeypatch.chdir(tmp_path)
    lines = []
    for split, texts in QUESTIONS.items():
        rows = [{"id": f"{split}{n}", "q": text} for n, text in enumerate(texts)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        which = "train1" if split == "train" else "eval"
        lines += [
            {"key": f"{which}/file:{row['id']}/a{agent}/r1/answer", "text": "\\boxed{17}"}
            for row in rows
            for agent in (1, 2)
        ]
    (tmp_path / "script.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "leaky.toml").write_text(
        """
        model = "scripted:script.jsonl"
        society = { agents = 2, rounds = 1 }
        train.questions = 3
        evaluation = { questions = 2, decodings = ["sampled"] }
        [task]
        name = "file"
        train_path = "train.jsonl"
        eval_path = "eval.jsonl"
        question = "q"
        answer = "number"
        """
    )
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(cli.app, ["run", "leaky.toml", *arguments])


def test_the_pair_is_shown_and_nothing_is_left_behind(experiment):
    refused = run()
    assert refused.exit_code == 2
    assert "training file:train0: A farmer has 12 hens" in refused.stderr
    assert "evaluation file:eval0: a farmer has 12 hens" in refused.stderr
    assert "7 times" not in refused.stderr
    assert "--allow-overlap" in refused.stderr
    assert not (experiment / "runs").exists()


def test_an_allowed_overlap_is_recorded_reported_and_remembered(experiment):
    allowed = run("--allow-overlap")
    assert allowed.exit_code == 0, allowed.stderr
    database = experiment / "runs" / "leaky" / "run.duckdb"
    with Store.open(database, read_only=True) as store:
        [overlap] = store.overlaps()
    assert (overlap.train_question_id, overlap.eval_question_id) == ("file:train0", "file:eval0")
    assert overlap.exact
    report = (experiment / "runs" / "leaky" / "report.html").read_text(encoding="utf-8")
    assert "<code>allowed_overlaps</code>" in report
    assert run().exit_code == 0


def test_a_resumed_run_is_refused_for_an_overlap_that_was_not_allowed(experiment):
    assert run("--set", "iterations=0").exit_code == 0
    refused = run("--set", "iterations=1")
    assert refused.exit_code == 2
    assert "file:train0" in refused.stderr


def test_zero_shot_questions_are_checked_too(experiment):
    unseen = 'zero_shot=[{name="file", label="other", path="train.jsonl", question="q", '
    unseen += 'answer="number", questions=1, eval_share=0.9}]'
    refused = run("--set", 'task.eval_path="fine.jsonl"', "--set", unseen)
    assert refused.exit_code == 2
    assert "fine.jsonl" in refused.stderr
    rows = [{"id": "f1", "q": "How many sides has a square?"}, {"id": "f2", "q": "How many moons?"}]
    (experiment / "fine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    refused = run("--set", 'task.eval_path="fine.jsonl"', "--set", unseen)
    assert refused.exit_code == 2
    assert "evaluation other:train" in refused.stderr


def test_a_threshold_of_one_looks_for_exact_copies_only(experiment):
    text = "How many legs do nine spiders have, then"
    (experiment / "eval.jsonl").write_text(
        "".join(json.dumps({"id": f"eval{n}", "q": f"{text} {n}?"}) + "\n" for n in range(2))
    )
    assert run("--set", "leakage.threshold=1").exit_code == 0


def test_one_question_under_one_id_in_both_splits_cannot_be_allowed(experiment):
    (experiment / "eval.jsonl").write_text((experiment / "train.jsonl").read_text())
    refused = run("--allow-overlap")
    assert refused.exit_code == 2
    assert "remove them from one of the files" in refused.stderr
    assert not (experiment / "runs").exists()
