"""What a run stores and says of its trainings in this process."""

import asyncio
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers.errors import InvalidSettings
from society.cli import app
from society.config import load as experiments
from society.method.experiment import resolve
from society.method.progress import Note
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
questions = 16
[evaluation]
questions = 2
decodings = ["sampled"]
[finetune]
generator_epochs = 2
learning_rate = 1e-6
validation_share = 0.3
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "fits.toml"
    path.write_text(EXPERIMENT)
    return path


def run(path: Path, *overrides: str) -> tuple[Store, list[str]]:
    folder = folders.locate_run(path.parent / "runs", "run")
    config, notes = experiments.load_config(str(path), overrides), []

    def observe(event: object) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, observe))
    return Store.open(folder.database, read_only=True), notes


def test_a_fit_that_moves_nothing_is_said_before_and_after_it(experiment):
    said = CliRunner().invoke(app, ["doctor", str(experiment)]).output
    assert "optimizer steps at a learning rate of 1e-06 hardly move an adapter" in said
    store, notes = run(experiment)
    with store:
        jobs = [job for job in store.jobs() if job.status == "succeeded"]
        assert jobs
        # Held-out questions were measured after each epoch.
        for job in jobs:
            assert 0 <= job.base_kl < 1e-3
            assert job.left_out == 0
            points = store.checkpoints(job.job_id)
            assert len(points) == 2
            assert [point.model for point in points] == [None, job.job_id]
            assert all(0 < point.loss < 20 for point in points)
    warnings = [note for note in notes if "nearly the base" in note]
    assert len(warnings) == len(jobs)
    assert any("hardly move an adapter" in note for note in notes)
    assert any("LoRA is put on layers with 100.0%" in note for note in notes)


def test_layers_that_the_model_lacks_are_refused_before_anything_is_asked(experiment):
    before = set(threading.enumerate())
    with pytest.raises(InvalidSettings, match="no linear layer 'qproj'"):
        run(experiment, 'finetune.target_modules=["qproj"]')
    database = folders.locate_run(experiment.parent / "runs", "run").database
    with Store.open(database, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns") == [(0,)]
    # The model that was tried is given back too.
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name == "local-model"]
