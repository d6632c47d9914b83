"""Which settings may change between two starts of one run, and what is kept of that."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from society.cli import app
from society.config import load as experiments
from society.config.load import ConfigError
from society.runs import folder as folders
from society.runs.folder import RunFolder
from store.ledger import Store
from store.records import Job, Turn
from store.spending import Batch

REMOTE = """
model = "openai+http://127.0.0.1:1/v1:m"
iterations = 2
[task]
name = "arithmetic"
[prices."m"]
input_usd = 1
output_usd = 1
tuned_input_usd = 1
tuned_output_usd = 1
training_usd = 1
"""
LOCAL = 'model = "embedded:"\niterations = 2\ntask.name = "arithmetic"\n'
RATE = "finetune.learning_rate=0.01"
OWNERS = [(agent, role) for agent in (1, 2, 3) for role in ("generator", "critic")]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    return folders.locate_run(tmp_path / "runs", "run")


@pytest.fixture
def start(folder, tmp_path):
    """A function that starts a run with `rows` in it, and again with other settings."""

    def restart(*overrides: str, rows=(), text=REMOTE):
        path = tmp_path / "experiment.toml"
        path.write_text(text)
        with folders.start_run(folder, experiments.load_config(str(path))) as store:
            store.write(*rows)
        with folders.start_run(folder, experiments.load_config(str(path), overrides)) as store:
            return store.setting_changes()

    return restart


def job(status, agent=1, role="generator", iteration=1, settings="{}", name=""):
    name = name or f"run-a{agent}-{role}-it{iteration}"
    return Job(name, iteration, "multiagent", agent, role, "d", "digest", status, settings=settings)


def all_jobs(status, iteration=1):
    return [job(status, *owner, iteration) for owner in OWNERS]


EVALUATED = Turn(
    1, "eval", "multiagent", "sampled", "q", 1, 1, "answer", "m", "[]", "", None, "stop", 1, 1, 1.0
)


@pytest.mark.parametrize(
    ("override", "key", "before", "now"),
    [
        ("provider.limits.requests_per_minute=60", "provider.limits", None, None),
        ("provider.max_attempts=3", "provider.max_attempts", None, 3),
        ("provider.timeout_s=30", "provider.timeout_s", None, 30),
        ('provider.api_key_env="ANOTHER_KEY"', "provider.api_key_env", None, "ANOTHER_KEY"),
        ('finetune.on_failure="keep"', "finetune.on_failure", "stop", "keep"),
        ("finetune.learning_rate_multiplier=2", "finetune.learning_rate_multiplier", None, 2.0),
        ("iterations=4", "iterations", 2, 4),
        ("budget_usd=3", "budget_usd", None, 3.0),
        ("prices.m.input_usd=2", "prices.m.input_usd", 1.0, 2.0),
        ("evaluation.batch=true", "evaluation.batch", False, True),
    ],
)
def test_what_decides_nothing_may_change_and_is_kept(start, override, key, before, now):
    changes = start(override)
    assert any(change.key.startswith(key) for change in changes)
    for change in changes:
        if change.key == key:
            assert json.loads(change.before or "null") == before
            assert json.loads(change.now or "null") == now


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("provider.temperature=false", r"temperature: stored .*absent.*, now False"),
        ("sampling.temperature=0.5", r"sampling\.temperature: stored 1\.0, now 0\.5"),
        # A server may have a value of its own for what it is not told.
        ("sampling.top_k=0", r"sampling\.top_k: stored .*absent.*, now 0"),
        ("society.agents=4", r"society\.agents: stored 3, now 4"),
        ("seed=3", "seed: stored 0, now 3"),
    ],
)
def test_what_decides_the_answers_may_not(start, override, named):
    with pytest.raises(ConfigError, match=named) as refusal:
        start(override)
    assert "start a new run with --name" in str(refusal.value)


def test_a_local_model_needs_not_be_told_what_is_off(start):
    [change] = start("sampling.top_k=0", text=LOCAL)
    assert (change.key, change.before, change.now) == ("sampling.top_k", None, "0")


def test_a_run_keeps_the_quorum_it_was_started_with(start):
    with pytest.raises(ConfigError, match=r"consensus\.quorum: stored None, now 3"):
        start("consensus.quorum=3")


@pytest.mark.parametrize("quorum", [None, 2])
def test_a_run_from_before_there_was_a_quorum_goes_on_without_one(tmp_path, quorum):
    path = tmp_path / "remote.toml"
    path.write_text(REMOTE)
    folder = folders.locate_run(tmp_path / "runs", "run")
    given = [] if quorum is None else [f"consensus.quorum={quorum}"]
    with folders.start_run(folder, experiments.load_config(str(path))) as store:
        first = store.run()
        config = json.loads(first.config)
        del config["consensus"]["quorum"]
        store.write(replace(first, config=json.dumps(config)))
    if quorum is not None:
        with pytest.raises(ConfigError, match=r"consensus\.quorum: stored 1, now 2"):
            folders.start_run(folder, experiments.load_config(str(path), given))
        return
    for _ in range(2):
        with folders.start_run(folder, experiments.load_config(str(path))) as store:
            assert json.loads(store.run().config)["consensus"]["quorum"] == 1
    assert "quorum = 1" in folder.config.read_text()


def test_a_served_model_may_move_to_another_server(start):
    text = LOCAL + 'serving.address = "openai+http://127.0.0.1:1/v1:m"\n'
    start('serving.address="openai+http://127.0.0.1:2/v1:m"', text=text)
    with pytest.raises(ConfigError, match="threads"):
        start("provider.threads=2", text=text)


@pytest.mark.parametrize("override", ["max_batch_size=2", "max_batch_tokens=4096", "full_models=1"])
def test_how_much_a_local_model_computes_at_a_time_may_change(start, override):
    assert [change.key for change in start(f"provider.{override}", text=LOCAL)] == [
        f"provider.{override.partition('=')[0]}"
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [job("failed")],
        [job("cancelled"), job("succeeded", 2)],
        [*all_jobs("succeeded")[1:], job("failed")],
        all_jobs("succeeded"),
        [*all_jobs("skipped")[1:], job("succeeded")],
        [*all_jobs("succeeded"), job("failed", iteration=2)],
        [job("failed", settings=None), *all_jobs("succeeded")[1:]],
        all_jobs("skipped"),
        [job("running"), job("intent", 2)],
    ],
    ids=lambda rows: f"{len(rows)}-{'-'.join(sorted({row.status for row in rows}))}",
)
def test_finetune_may_change_where_a_training_lies_ahead(start, rows):
    assert [change.key for change in start(RATE, rows=rows, text=LOCAL)] == [
        "finetune.learning_rate"
    ]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([job("running")], "training of iteration 1 has begun, 6 of its 6"),
        ([job("intent"), *all_jobs("succeeded")[1:]], "1 of its 6 jobs are not over"),
        ([*all_jobs("succeeded"), *all_jobs("succeeded", 2)], "training is over"),
        (
            [*all_jobs("succeeded"), *all_jobs("skipped", 2)[1:], job("submitted", iteration=2)],
            "training of iteration 2 has begun",
        ),
        ([job("succeeded", settings=None), *all_jobs("succeeded")[1:]], "an earlier version"),
        (
            [
                *all_jobs("succeeded", 2)[1:],
                job("failed", iteration=2),
                job("skipped", iteration=2, name="run-a1-generator-it2-kept"),
                *all_jobs("succeeded"),
            ],
            "training is over",
        ),
    ],
)
def test_finetune_may_not_change_where_jobs_have_it_already(start, rows, why):
    with pytest.raises(ConfigError, match=why) as refusal:
        start("finetune.batch_size=8", rows=rows)
    assert "finetune.batch_size: stored 16, now 8" in str(refusal.value)


def test_once_evaluated_skipped_jobs_are_final(start):
    rows = [*all_jobs("skipped"), *all_jobs("skipped", 2), EVALUATED]
    start("finetune.on_failure='keep'", rows=rows, text=LOCAL)
    twice = [*rows, Turn(**{**_fields(EVALUATED), "iteration": 2})]
    with pytest.raises(ConfigError, match="training is over"):
        start(RATE, rows=twice[-1:], text=LOCAL)


@pytest.mark.parametrize("override", ["lora_rank=8", "lora_alpha=8", 'method="full"'])
def test_the_shape_of_adapters_that_are_trained_on_stays(start, override):
    rows = all_jobs("succeeded")
    with pytest.raises(ConfigError, match="trained further, have this shape"):
        start(f"finetune.{override}", rows=rows, text=LOCAL)
    start(f"finetune.{override}", 'finetune.init="fresh"', text=LOCAL)


def test_batches_that_are_at_the_vendor_keep_the_evaluation_in_batches(start):
    text = REMOTE.replace("[task]", "evaluation.batch = true\n[task]")
    start("evaluation.batch=false", text=text)
    batch = Batch("d", "openai+http://127.0.0.1:1/v1:m", "[]", "batch_1")
    with pytest.raises(ConfigError, match="asked, and paid for, again"):
        start("evaluation.batch=false", rows=[batch], text=text)


def test_what_has_changed_is_said_and_earlier_jobs_keep_what_they_were_made_with(
    tmp_path, experiment, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    def run(*overrides):
        options = [part for override in overrides for part in ("--set", override)]
        done = CliRunner().invoke(app, ["run", str(experiment), "--name=r", "--no-live", *options])
        return done.exit_code, done.output

    assert run()[0] == 0
    status, said = run("finetune.generator_epochs=3")
    assert status == 2
    assert "finetune.generator_epochs: stored 2, now 3 (the training is over" in said
    status, said = run("finetune.generator_epochs=3", "iterations=3")
    assert status == 0, said
    assert "finetune.generator_epochs was 2, and is 3 now" in said
    with Store.open(tmp_path / "runs/r/run.duckdb", read_only=True) as store:
        assert store.rows(
            "SELECT DISTINCT iteration, settings->>'$.hyperparameters.epochs' FROM jobs "
            "WHERE role = 'generator' ORDER BY ALL"
        ) == [(1, "2"), (2, "2"), (3, "3")]


def _fields(turn):
    return {
        f: getattr(turn, f) for f in turn.__dataclass_fields__ if f not in ("turn_id", "sha256")
    }
