"""A run that is trained on one task and evaluated on others too."""

import asyncio
import io
import json
import os
import re
from pathlib import Path

import pytest

from evals import metrics, report
from evals.tasks.arithmetic import create
from society.checks import overlap
from society.config import load as experiments
from society.config.load import ConfigError
from society.method.experiment import load_experiment, resolve
from society.method.progress import StageStarted
from society.runs import folder as folders
from society.runs import runner, status, summary
from store.ledger import Store

HARDER = {"low": 20, "high": 40}
SECTION = '[[zero_shot]]\nname = "arithmetic"\nlabel = "harder"\nquestions = 5\nlow = 20\nhigh = 40'


@pytest.fixture
def transfer(experiment):
    """The scripted experiment, evaluated on larger numbers too: four of five right."""
    with (experiment.parent / "script.jsonl").open("a") as script:
        for place, question in enumerate(create(HARDER).questions("eval", 0, 5)):
            gold = int(question.gold) + (place == 3)
            stem = question.question_id.replace("arithmetic:", "eval/harder:")
            for agent in (1, 2, 3):
                for request in ("r1/answer", "r2/summary", "r2/answer"):
                    line = {"key": f"{stem}/a{agent}/{request}", "text": f"\\boxed{{{gold}}}"}
                    script.write(json.dumps(line) + "\n")
    with experiment.open("a") as config:
        config.write(f"\n{SECTION}\n")
    return experiment


def start(folder, experiment, *overrides, events=None):
    config = experiments.load_config(str(experiment), overrides)
    with folders.start_run(folder, config) as store:
        observer = [].append if events is None else events.append
        asyncio.run(runner.run_experiment(folder, resolve(config), store, observer))


@pytest.fixture
def ran(tmp_path, transfer):
    folder = folders.locate_run(tmp_path / "runs", "transfer")
    start(folder, transfer)
    return folder


def test_every_society_answers_the_other_task_and_never_trains_on_it(ran):
    with Store.open(ran.database, read_only=True) as store:
        assert store.rows(
            "SELECT task, split, is_extra, count(*) FROM questions GROUP BY ALL ORDER BY ALL"
        ) == [
            ("arithmetic", "eval", False, 3),
            ("arithmetic", "train", False, 4),
            ("harder", "eval", True, 5),
        ]
        assert store.rows(
            "SELECT iteration, decoding, correct, total FROM accuracy "
            "WHERE task = 'harder' AND measure = 'consensus' ORDER BY ALL"
        ) == [(k, decoding, 4, 5) for k in (0, 1, 2) for decoding in ("greedy", "sampled")]
        assert store.rows(
            "SELECT count(*) FROM dataset_examples JOIN questions USING (question_id) "
            "WHERE is_extra"
        ) == [(0,)]


def test_the_runs_own_accuracy_leaves_the_other_task_out(ran):
    with Store.open(ran.database, read_only=True) as store:
        assert metrics.list_extra_tasks(store) == ["harder"]
        assert [row.consensus.total for row in metrics.read_society_accuracies(store)] == [3.0] * 6
        unseen = metrics.read_society_accuracies(store, task="harder")
        assert [(row.consensus.value, row.consensus.total) for row in unseen] == [(0.8, 5.0)] * 6
        assert all(row.labels is None for row in unseen)
        change = metrics.compare_iterations(store, "consensus", "greedy", 0, 2, task="harder")
        assert (change.total, change.difference) == (5, 0.0)


def test_stages_status_summary_and_report_name_the_task(tmp_path, transfer):
    folder, events = folders.locate_run(tmp_path / "runs", "shown"), []
    start(folder, transfer, events=events)
    stages = [e.stage for e in events if isinstance(e, StageStarted) and e.iteration == 0]
    assert stages == [
        "evaluate sampled",
        "evaluate greedy",
        "zero-shot harder sampled",
        "zero-shot harder greedy",
    ]
    shown = io.StringIO()
    status.show_status(folder, shown)
    lines = [line.split() for line in shown.getvalue().split("\n") if "zero-shot" in line]
    assert lines[0][2:6] == ["harder", "sampled", "multiagent", "5"]
    with Store.open(folder.database, read_only=True) as store:
        table = io.StringIO()
        summary.show_summary(store, table)
        report.write_report([store], folder.report)
    assert "Zero-shot: harder" in table.getvalue()
    page = folder.report.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<h3>Zero-shot: harder</h3>" in page
    assert "zero-shot harder, greedy" in page


def test_a_zero_shot_task_may_be_the_same_in_name_only_under_a_label(experiment):
    with experiment.open("a") as config:
        config.write('\n[[zero_shot]]\nname = "arithmetic"\n')
    with pytest.raises(ConfigError, match="label 'arithmetic' is taken; add label"):
        load_experiment(str(experiment))


def test_wrong_zero_shot_options_are_named_before_anything_runs(experiment):
    with experiment.open("a") as config:
        config.write('\n[[zero_shot]]\nname = "arithmetic"\nlabel = "b"\nlevel = 3\n')
    with pytest.raises(ConfigError, match=r"zero_shot.0: .*level"):
        load_experiment(str(experiment))


def test_more_zero_shot_questions_than_there_are_is_named(transfer):
    with pytest.raises(ConfigError, match=r"zero_shot.0: .* eval questions over 20\.\.21"):
        load_experiment(
            str(transfer),
            ['zero_shot=[{name="arithmetic", label="few", low=20, high=21, questions=500}]'],
        )


ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SOCIETY_DATA", ROOT.parent / "shared" / "data"))


def test_the_documented_example_is_an_experiment(tmp_path, monkeypatch):
    if not DATA.is_dir():
        pytest.skip(f"needs the benchmark files in {DATA}")
    doc = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```toml\n# example: zero-shot\n(.*?)```", doc, re.DOTALL)
    (tmp_path / "transfer.toml").write_text(f'model = "scripted:script.jsonl"\n{block}')
    for path in DATA.glob("*.jsonl"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "script.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    config = experiments.load_config(
        "transfer.toml", ["train.questions=50", "evaluation.questions=50"]
    )
    exams = {each.label: each for each in resolve(config).questions.evaluation_sets}
    assert {label: each.count for label, each in exams.items()} == {
        "math": 50,
        "gsm8k": 200,
        "hard": 50,
    }
    ids = {q.question_id.partition(":")[0] for q in exams["hard"].questions()}
    assert ids == {"hard"}
    assert overlap.check_overlap(resolve(config), tmp_path / "none.duckdb", allow=False) == []
