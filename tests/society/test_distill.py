"""`society distill`: what one model learns from a society, how it resumes, and what it refuses."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals import stored_run
from evals.tasks.dataset import make_text_id
from finetune.errors import TuningFailed
from society.cli import app
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.connections import Connections
from society.method.progress import StageStarted
from society.runs import distill, distillation, pruning
from society.runs.cancel import rebuild_spec
from society.runs.distill import DistillChoice
from society.runs.folder import RunFolder
from society.view.endpoint.body import ChatQuestion
from society.view.endpoint.forms import list_forms
from society.view.endpoint.opening import load_stored_society
from society.view.endpoint.record import UnstoredDebates
from society.view.endpoint.society import ServedSociety
from store.ledger import Store
from tests.society.whole_run import rows, start

EXTRA = ("What is the result of 100+2*3+4-5*6?", "What is the result of 200+2*3+4-5*6?")
LABELS = (80, 180)


def add_extra(folder):
    """A file of two questions, one with an empty gold field, and the agents' answers to them."""
    (folder / "more.jsonl").write_text(
        "".join(json.dumps({"question": text, "gold": ""}) + "\n" for text in EXTRA)
    )
    with (folder / "script.jsonl").open("a") as script:
        for agent in (1, 2, 3):
            line = {"key": f"eval/served/a{agent}/r1/answer", "text": f"\\boxed{{{LABELS[0]}}}"}
            script.write(json.dumps(line) + "\n")
        for text, label in zip(EXTRA, LABELS, strict=True):
            for agent in (1, 2, 3):
                stem = f"train3/{make_text_id('distilled', text)}/a{agent}"
                # Agent 3 is wrong at first, so its first answer is not learnt.
                first = label if agent < 3 else label + 1
                for part, said in (("r1", first), ("r2", label)):
                    line = {"key": f"{stem}/{part}/answer", "text": f"\\boxed{{{said}}}"}
                    script.write(json.dumps(line) + "\n")
                line = {"key": f"{stem}/r2/summary", "text": "a summary"}
                script.write(json.dumps(line) + "\n")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scripted):
    """A folder with a run of two iterations, and a file of more questions."""
    home = tmp_path_factory.mktemp("finished")
    path = scripted(home)
    add_extra(home)
    start(home, path)
    return home


@pytest.fixture
def home(finished, tmp_path):
    shutil.copytree(finished / "runs", tmp_path / "runs")
    return tmp_path


@pytest.fixture(scope="module")
def distilled(finished, tmp_path_factory):
    """The run with a model distilled from both sorts of questions, and what was read of it."""
    home = tmp_path_factory.mktemp("distilled")
    shutil.copytree(finished / "runs", home / "runs")
    return home, carry_out(home, DistillChoice(file=finished / "more.jsonl"))


def folder_of(home):
    return RunFolder("run", home / "runs" / "run")


def carry_out(home, choice, observe=lambda event: None):
    folder = folder_of(home)
    with Store.open(folder.database, create=False) as store:
        plan = distill.plan_from_run(store, choice)
        asyncio.run(distill.distill(folder, store, plan, observe))
        task = plan.experiment.questions.task
        return plan, distillation.read_distillation(store, plan, task)


def refused(home, choice):
    with (
        Store.open(folder_of(home).database, create=False) as store,
        pytest.raises(ConfigError) as caught,
    ):
        distill.plan_from_run(store, choice)
    return str(caught.value)


def test_first_answers_that_agree_with_the_vote_are_learnt_whoever_gave_them(distilled):
    home, _ = distilled
    folder = folder_of(home)
    learnt = rows(
        folder,
        "SELECT t.agent, count(*), count(*) FILTER (WHERE question_id LIKE 'distilled:%') "
        "FROM dataset_examples JOIN turns AS t USING (turn_id, question_id) "
        "WHERE dataset_id LIKE 'distilled-%' AND round = 1 GROUP BY t.agent ORDER BY t.agent",
    )
    # Four training questions and two more; agent 3 is right at first at one of them only.
    assert learnt == [(1, 6, 2), (2, 6, 2), (3, 1, 0)]
    [(examples, parent, artifact)] = rows(
        folder,
        "SELECT examples, parent_id, artifact FROM datasets JOIN models USING (dataset_id) "
        "WHERE datasets.arm = 'distilled'",
    )
    assert (examples, artifact) == (13, "run-distilled-a0-generator-it3-" + artifact[-8:])
    assert parent.startswith("scripted:")


def test_the_model_is_shown_beside_its_society_at_the_cost_of_one_answer(distilled):
    _, (plan, results) = distilled
    assert [result.decoding for result in results] == ["sampled", "greedy"]
    found = {line.system: (line.accuracy.value, line.calls) for line in results[0].lines}
    assert found == {
        "one untuned agent": (pytest.approx(7 / 9), 1.0),
        "one agent of the society": (pytest.approx(7 / 9), 1.0),
        "the society": (1.0, 9.0),
        "distilled": (1.0, 1.0),
    }
    assert results[0].agreement == 1.0
    differences = {system: each.pooled.difference for system, each in results[0].differences}
    assert differences["the society"] == 0.0
    assert differences["one agent of the society"] == pytest.approx(2 / 9)
    told = distillation.describe_distillation(results, plan)
    assert told["questions"]["file"]["questions"] == 2
    assert json.loads(json.dumps(told))["iteration"] == 3


def test_the_run_knows_its_arm_and_speaks_of_the_society_as_before(distilled):
    home, _ = distilled
    folder = folder_of(home)
    with Store.open(folder.database, read_only=True) as store:
        assert stored_run.find_main_arm(store) == "multiagent"
        last = stored_run.read_arms(store)[-1]
        assert (last.name, last.agents, last.rounds, last.iterations) == ("distilled", 1, 1, 3)
        config = Config.from_json(stored_run.load_run(store).config)
        [job] = [job for job in store.jobs() if job.arm == "distilled"]
        assert rebuild_spec(store, config, "run", job).name == job.job_id
        choice = pruning.PruneChoice((), False, False, True)
        plan = asyncio.run(pruning.plan_pruning(folder, store, choice))
    assert not any("distilled" in str(item) for item in plan.items)


def test_it_is_served_alone_and_takes_no_part_in_debates(distilled):
    home, _ = distilled
    stored = asyncio.run(load_stored_society(folder_of(home), None))
    forms = list_forms(stored.arm, stored.distilled)
    assert list(forms)[-2:] == ["society:agent-3", "society:distilled"]
    assert "society:agent-4" not in forms

    async def connect():
        return Connections.open(stored.config, stored.folder.models)

    async def ask():
        served = ServedSociety(stored.run, connect, UnstoredDebates())
        return [
            await served.hold_debate(
                forms[name], ChatQuestion(name, EXTRA[0]), "served", 0, lambda turn: None
            )
            for name in ("society:distilled", "society:round1")
        ]

    alone, debate = asyncio.run(ask())
    assert len(alone.turns) == 1
    assert "-distilled-a0-" in alone.turns[0].model_id
    assert (debate.agents, len(debate.turns)) == (3, 3)


def test_a_stopped_distillation_goes_on_and_asks_nothing_twice(home, finished):
    class Stopped(Exception):
        pass

    def stop(event):
        if isinstance(event, StageStarted) and event.stage == "finetune":
            raise Stopped

    with pytest.raises(Stopped):
        carry_out(home, DistillChoice(training=3), stop)
    sql = "SELECT turn_id, created_at FROM turns WHERE arm = 'distilled' AND split = 'train'"
    before = sorted(rows(folder_of(home), sql))
    assert len(before) == 3 * 9
    carry_out(home, DistillChoice(training=3))
    assert sorted(rows(folder_of(home), sql)) == before
    jobs = rows(folder_of(home), "SELECT status FROM jobs WHERE arm = 'distilled'")
    assert jobs == [("succeeded",)]
    # Another distillation needs another name; its debates reuse the answers of the first one.
    assert "questions: stored {'training': 3}" in refused(home, DistillChoice())
    carry_out(home, DistillChoice(name="whole"))
    asked = rows(
        folder_of(home),
        "SELECT count(*) FILTER (WHERE shared_turn_id IS NULL), count(*) "
        "FROM turns WHERE arm = 'whole' AND split = 'train'",
    )
    assert asked == [(9, 36)]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (DistillChoice(arm="star"), "no such society (arms: multiagent)"),
        (DistillChoice(iteration=7), "(there: 0, 1, 2)"),
        (DistillChoice(name="multiagent"), "--as multiagent: the run has an arm of that name"),
        (DistillChoice(name="a/b"), "--as 'a/b': use up to 64 letters"),
        (DistillChoice(training=0), "--training or --questions FILE"),
        (DistillChoice(settings=["society.agents=5"]), "may change keys of finetune, datasets"),
        (DistillChoice(settings=["finetune.generator_epochs=0"]), "finetune.generator_epochs"),
        (DistillChoice(file=Path("missing.jsonl")), "missing.jsonl"),
    ],
)
def test_what_cannot_be_distilled_is_refused_before_anything_is_spent(home, choice, told):
    assert told in refused(home, choice)
    assert rows(folder_of(home), "SELECT arm FROM arms") == [("multiagent",)]


def test_evaluation_questions_in_the_file_are_refused(home):
    [(text,)] = rows(folder_of(home), "SELECT question FROM questions WHERE split = 'eval' LIMIT 1")
    (home / "leak.csv").write_text(f"problem\n{text}\n")
    told = refused(home, DistillChoice(file=home / "leak.csv"))
    assert "leak.csv has 1 of the run's evaluation questions" in told
    assert "remove them from the file" in told


def test_a_society_that_agrees_on_too_little_trains_nothing(home):
    with pytest.raises(TuningFailed, match="distill more questions"):
        carry_out(home, DistillChoice(settings=["datasets.margin=[0.0, 0.1]"]))
    sql = "SELECT 1 FROM turns WHERE arm = 'distilled' AND split = 'eval'"
    assert rows(folder_of(home), sql) == []


def test_the_command_prices_and_distills(home):
    def call(*options):
        done = CliRunner().invoke(app, ["distill", "run", "--runs", str(home / "runs"), *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    told = json.loads(call("--cost", "--json"))
    calls = {line["stage"]: line["calls"] for line in told if line["role"] == "generator"}
    assert calls == {"debate, distilled": 12, "finetune, distilled": 1, "evaluate, distilled": 6}
    assert rows(folder_of(home), "SELECT arm FROM arms") == [("multiagent",)]
    told = json.loads(call("--quiet", "--json"))
    assert [each["decoding"] for each in told["results"]] == ["sampled", "greedy"]
    report = folder_of(home).report.read_text()
    assert "distilled" in report
