"""Trainings in this process that fail: whose fault it was, and how the run goes on."""

import asyncio

import pytest

from finetune.errors import TuningFailed, TuningStopped
from providers.errors import InvalidSettings
from society.config import load as experiments
from society.method.experiment import resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store

EXPERIMENT = """
model = "embedded:"
iterations = 1
[task]
name = "arithmetic"
low = 1
high = 6
[society]
agents = 2
rounds = 1
others = "quoted"
[sampling]
max_tokens = 96
[train]
questions = 10
[evaluation]
questions = 2
decodings = ["sampled"]
[finetune]
schedule = "constant"
max_grad_norm = 1e9
warmup = 0.0
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts the run with some settings, and returns its store's rows."""
    path = tmp_path / "fits.toml"
    path.write_text(EXPERIMENT)
    folder = folders.locate_run(tmp_path / "runs", "run")

    def run(*overrides: str) -> Store:
        config = experiments.load_config(str(path), overrides)
        with folders.start_run(folder, config) as store:
            asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
        return Store.open(folder.database, read_only=True)

    run.folder = folder
    return run


def test_layers_that_no_adapter_can_have_are_refused_before_the_first_debate(start):
    with pytest.raises(InvalidSettings, match=r"target_modules.*'nothing'"):
        start('finetune.target_modules=["nothing"]')
    with Store.open(start.folder.database, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns") == [(0,)]


def test_no_room_stops_and_a_fit_that_diverges_is_tried_again_with_another_rate(start):
    models = start.folder.models
    models.parent.mkdir(parents=True)
    models.write_text("in the way")
    with pytest.raises(TuningFailed, match=r"cannot be written to .*free some space") as stopped:
        start('finetune.on_failure="keep"')
    assert isinstance(stopped.value.__cause__, TuningStopped)
    models.unlink()

    with pytest.raises(TuningFailed, match=r"diverged.*: its loss .*lower the learning rate"):
        start("finetune.learning_rate=1e9")
    assert list(models.rglob("*.safetensors")) == []

    with start("finetune.learning_rate=1e-3") as store:
        jobs = store.jobs()
        ends = [job.job_id.rpartition("-")[2] for job in jobs if job.status == "succeeded"]
        assert ends == ["try3", "try3"]
        diverged = [job for job in jobs if "diverged" in (job.error or "")]
        assert {job.job_id.rpartition("-")[2] for job in diverged} == {"try2"}
        assert store.rows("SELECT count(*) FROM turns WHERE split = 'train'") == [(20,)]
        assert {change.key for change in store.setting_changes()} == {
            "finetune.on_failure",
            "finetune.learning_rate",
        }
    assert len(list(models.rglob("adapter_model.safetensors"))) == 2


def test_told_to_keep_the_old_model_a_fit_that_diverges_keeps_it(start):
    with start("finetune.learning_rate=1e9", 'finetune.on_failure="keep"') as store:
        assert store.rows("SELECT count(*) FROM models WHERE artifact IS NOT NULL") == [(0,)]
        assert store.rows(
            "SELECT DISTINCT error LIKE '%diverged%' FROM jobs WHERE status = 'skipped'"
        ) == [(True,)]
