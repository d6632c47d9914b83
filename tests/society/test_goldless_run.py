"""Runs without gold, with gold for some questions, and with answers that are cut: what is said."""

import asyncio
import io
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from society.cli import app
from society.config import load as experiments
from society.method.arms import main_arm
from society.method.experiment import resolve
from society.runs import folder as folders
from society.runs import runner
from society.sweeps import definition, results
from society.sweeps.axes import SweepOptions, SweepSource
from store.ledger import Store

TRAIN, EVAL = 6, 5


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A function that writes an experiment: `gold` says which evaluation questions have gold, `cut`
    which agents' answers end at the token limit."""
    monkeypatch.chdir(tmp_path)

    def write(gold=(), cut=(), more="") -> Path:
        script = []
        for split, count in (("train", TRAIN), ("eval", EVAL)):
            rows = [
                {"id": f"{split}{n}", "question": f"Which {split} number is {n}?"}
                for n in range(count)
            ]
            if gold and split == "eval":
                rows = [
                    row | {"answer": str(n) if n in gold else None} for n, row in enumerate(rows)
                ]
            Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            which = "train1" if split == "train" else "eval"
            for n in range(count):
                for agent in (1, 2, 3):
                    stem = f"{which}/file:{split}{n}/a{agent}"
                    for number in (1, 2):
                        wrong = agent == 3 and number == 1
                        script.append(
                            {"key": f"{stem}/r{number}/answer", "text": f"It is {n + wrong}."}
                        )
                        if agent in cut:
                            script[-1]["finish_reason"] = "length"
        Path("script.jsonl").write_text("".join(json.dumps(line) + "\n" for line in script))
        Path("own.toml").write_text(
            f"""
            model = "scripted:script.jsonl"
            {more}
            [task]
            name = "file"
            train_path = "train.jsonl"
            eval_path = "eval.jsonl"
            answer = "number"
            {'gold = "answer"' if gold else ""}
            [society]
            others = "quoted"
            [train]
            questions = {TRAIN}
            [evaluation]
            questions = {EVAL}
            decodings = ["sampled"]
            """
        )
        return Path("own.toml")

    return write


def society(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def line(text: str, beginning: str) -> str:
    """The first line that begins so, its spaces single."""
    lines = (" ".join(each.split()) for each in text.splitlines())
    return next(each for each in lines if each.startswith(beginning))


def test_a_run_without_gold_says_what_is_known(experiment):
    path = experiment()
    said = society("run", path, "--no-live")
    assert "none of the 5 evaluation questions has one" in said
    assert "no evaluation debate is complete" not in said
    # Agent 3 differs at first and comes to the others' answer.
    assert line(said, "untuned sampled") == "untuned sampled 5 66.7 100.0 33.3 0.0 0.0 0.0 0.0 0.0"
    assert re.search(r"^ +1 +6 +100\.0 +0\.0 +0\.0 +0\.0 +0\.0 *$", said, re.MULTILINE)
    assert re.search(r"^ +1 +critic +3 of 3 +6 ", said, re.MULTILINE)
    status = society("status", "own")
    assert line(status, "untuned sampled") == line(said, "untuned sampled")
    page = Path("runs/own/report.html").read_text()
    assert "none of the 5 evaluation questions has one" in page
    assert "1 iteration" in page
    assert "No evaluation debate is complete yet" not in page
    rates = society(
        "sql", "own", "--format", "csv",
        "SELECT to_label_rate FROM label_flips WHERE agent = 3 AND split = 'eval'",
    )  # fmt: skip
    assert rates.split() == ["to_label_rate", "1.0", "1.0"]


def test_gold_for_some_questions_says_of_how_many(experiment):
    said = society("run", experiment(gold=(0, 3)), "--no-live")
    assert "2 of the 5 evaluation questions have gold: accuracies are over those." in said
    assert line(said, "untuned sampled").startswith("untuned sampled 66.7 ")
    assert "right ones with 95 %" not in said
    [(questions,)] = _rows("SELECT DISTINCT questions FROM accuracy WHERE measure = 'consensus'")
    assert questions == 2
    assert "2 of the 5 evaluation questions have gold" in Path("runs/own/report.html").read_text()


def test_cut_answers_are_told_and_make_no_label(experiment):
    path = experiment(gold=range(5), cut=(2, 3), more="stop_if_unread = 0")
    said = society("run", path, "--no-live")
    # Beside every accuracy: tied, unread, cut.
    assert line(said, "untuned sampled").endswith(" 0.0 66.7 66.7")
    assert _rows("SELECT labelled, below_quorum FROM pseudo_labels") == [(0, 6)]
    assert _rows("SELECT count(*) FROM dataset_examples") == [(0,)]
    assert line(society("status", "own"), "1 6") == "1 6 0.0 0.0 100.0 66.7 66.7"
    page = Path("runs/own/report.html").read_text()
    assert '<strong class="worse">66.7 %</strong> of all answers: they cast no vote' in page
    assert "raise sampling.max_tokens" in page
    assert "100.0 % of the training questions have too few voters" in page


def test_a_sweep_without_gold_says_what_is_known(experiment, tmp_path):
    path = experiment(more="seeds = [0, 1]")
    sweep = definition.load_sweep(
        SweepSource(str(path), (), SweepOptions()), tmp_path / "runs", "own"
    )
    sweep.folder.path.mkdir(parents=True)
    for member in sweep.members:
        with folders.start_run(member.folder, member.config) as store:
            asyncio.run(
                runner.run_experiment(
                    member.folder, resolve(member.config), store, lambda event: None
                )
            )
    said = io.StringIO()
    results.show_results(definition.record_sweep(sweep, str(path)), tmp_path / "runs", said)
    assert "accuracy needs gold answers, and there are none" in said.getvalue()
    assert line(said.getvalue(), "multiagent sampled") == (
        "multiagent sampled untuned 2 100.0 100.0–100.0 0.0 0.0–0.0 0.0 0.0–0.0 0.0 0.0–0.0"
    )


def _rows(sql):
    folder = folders.locate_run(Path("runs"), "own")
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)


def test_an_arm_without_gold_stands_beside_the_others(experiment):
    path = experiment(more='arms = ["multiagent", "majority"]')
    said = society("run", path, "--no-live")
    assert line(said, "majority") == "majority untuned 66.7 0.0 0.0 0.0"
    assert main_arm(experiments.load_config(str(path))).name == "multiagent"
