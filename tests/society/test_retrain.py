"""A tuned model whose files are damaged is named, never used, and retrained on request."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers.artifact import verify, weights_sha256
from providers.errors import ModelDamaged, ModelNotFound
from society.cli import app
from society.runs.retrain import find_damaged
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
others = "quoted"
[sampling]
temperature = 1.0
top_p = 1.0
max_tokens = 64
[train]
questions = 8
[evaluation]
questions = 2
decodings = ["sampled"]
[finetune]
learning_rate = 1e-3
batch_size = 4
"""


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run "r" of one iteration."""
    home = tmp_path_factory.mktemp("finished")
    (home / "x.toml").write_text(EXPERIMENT)
    done = invoke("run", home / "x.toml", "--name", "r", "--runs", home / "runs", "--no-live")
    assert done.exit_code == 0, done.output
    return home


@pytest.fixture
def home(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def adapters(home):
    return sorted(path.parent for path in home.glob("runs/r/models/*/manifest.json"))


def weights_of(folder):
    return folder / "adapter_model.safetensors"


def flip(folder):
    content = bytearray(weights_of(folder).read_bytes())
    for place in range(len(content) - 64, len(content)):
        content[place] ^= 255
    weights_of(folder).write_bytes(content)


def truncate(folder):
    weights_of(folder).write_bytes(weights_of(folder).read_bytes()[:1000])


def delete_weights(folder):
    weights_of(folder).unlink()


def delete_folder(folder):
    shutil.rmtree(folder)


def scale_up(folder):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 512}))


def swap_weights(folder):
    (other,) = [f for f in folder.parent.iterdir() if f.name != folder.name and f.is_dir()][:1]
    a, b = weights_of(folder).read_bytes(), weights_of(other).read_bytes()
    weights_of(folder).write_bytes(b)
    weights_of(other).write_bytes(a)


def swap_folders(folder):
    other = next(f for f in sorted(folder.parent.iterdir()) if f.is_dir() and f.name > folder.name)
    aside = folder.with_name("aside")
    folder.rename(aside)
    other.rename(folder)
    aside.rename(other)


def lose_the_manifest(folder):
    (folder / "manifest.json").unlink()


def another_training(folder):
    """Consistent in itself, as copied from a run of the same name on another machine."""
    flip(folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    changed = hashlib.sha256(weights_of(folder).read_bytes()).hexdigest()
    manifest["files"]["adapter_model.safetensors"] = changed
    manifest["sha256"] = weights_sha256(folder)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (flip, "adapter_model.safetensors has changed"),
        (truncate, "adapter_model.safetensors has changed"),
        (delete_weights, "adapter_model.safetensors is missing"),
        (delete_folder, "cleaned"),
        (scale_up, "adapter_config.json has changed"),
        (swap_weights, "adapter_model.safetensors has changed"),
        (swap_folders, "it holds the model"),
        (lose_the_manifest, "manifest.json cannot be read"),
        (another_training, "not those that this run has trained"),
    ],
)
def test_damage_is_found_and_named(home, damage, named):
    folder = adapters(home)[0]
    with Store.open(home / "runs/r/run.duckdb", read_only=True) as store:
        assert find_damaged(store, folder.parent) == []
        damage(folder)
        (model, *_) = (m for m in find_damaged(store, folder.parent) if m.artifact == folder.name)
    with pytest.raises((ModelDamaged, ModelNotFound), match=named) as caught:
        verify(folder, model.sha256)
    assert folder.name in str(caught.value)
    assert "--retrain" in str(caught.value)


def test_a_damaged_model_is_not_asked(home):
    folder = adapters(home)[0]
    scale_up(folder)
    asked = invoke("ask", "r", "1+2*3+4-5*6?", "--runs", home / "runs")
    assert asked.exit_code == 1
    assert f"{folder}' is not as it was trained" in " ".join(asked.output.split())


def test_damaged_models_are_trained_again_bit_for_bit(home):
    folders = adapters(home)
    before = {folder.name: weights_of(folder).read_bytes() for folder in folders}
    flip(folders[0])
    damaged = weights_of(folders[0]).read_bytes()
    delete_folder(folders[1])
    with Store.open(home / "runs/r/run.duckdb", read_only=True) as store:
        models, turns = store.models(), store.rows("SELECT * FROM turns ORDER BY turn_id")
    again = ("run", home / "x.toml", "--name", "r", "--runs", home / "runs", "--no-live")
    done = invoke(*again, "--retrain")
    assert done.exit_code == 0, done.output
    assert done.output.count("the same bits as before") == 2
    assert {
        f.name: weights_of(f).read_bytes() for f in adapters(home) if f.name[0] != "."
    } == before
    aside = folders[0].with_name(f".{folders[0].name}.damaged")
    assert weights_of(aside).read_bytes() == damaged
    with Store.open(home / "runs/r/run.duckdb", read_only=True) as store:
        assert store.models() == models
        assert store.rows("SELECT * FROM turns ORDER BY turn_id") == turns
    nothing = invoke(*again, "--retrain")
    assert "none is retrained" in nothing.output
    assert invoke("ask", "r", "1+2*3+4-5*6?", "--runs", home / "runs").exit_code == 0


def test_a_model_that_cannot_be_described_any_more_is_said_before_anything_is_moved(home):
    folder = adapters(home)[0]
    flip(folder)
    with Store.open(home / "runs/r/run.duckdb") as store:
        store.transact(lambda connection: connection.execute("DELETE FROM jobs"))
    done = invoke(
        "run", home / "x.toml", "--name", "r", "--runs", home / "runs", "--no-live", "--retrain"
    )
    assert done.exit_code == 2
    assert "cannot be retrained" in " ".join(done.output.split())
    assert folder.exists()


def test_a_file_of_several_runs_is_refused(home):
    path = Path(home / "x.toml")
    path.write_text("seeds = [0, 1]\n" + path.read_text())
    done = invoke("run", path, "--runs", home / "runs", "--retrain")
    assert done.exit_code == 2
    assert "--retrain works on one" in " ".join(done.output.split())


@pytest.mark.long
def test_an_averaged_model_is_made_again_after_its_parts(tmp_path):
    changes = (
        ("iterations = 1", "iterations = 3"),
        ("[train]", '[consensus]\nlabels = "average"\n[train]'),
    )
    text = EXPERIMENT
    for before, after in changes:
        text = text.replace(before, after)
    (tmp_path / "x.toml").write_text(text)
    run = ("run", tmp_path / "x.toml", "--name", "r", "--runs", tmp_path / "runs", "--no-live")
    done = invoke(*run)
    assert done.exit_code == 0, done.output
    with Store.open(tmp_path / "runs/r/run.duckdb", read_only=True) as store:
        found = store.rows(
            "SELECT m.model_id, m.sha256, truncation, list(a.parent_id ORDER BY weight) "
            "FROM models AS m JOIN averages AS a USING (model_id) GROUP BY ALL ORDER BY ALL"
        )
        said = store.rows(
            "SELECT DISTINCT model_id FROM turns WHERE split = 'label' AND iteration = 3"
        )
    assert [len(parts) for *_, parts in found] == [2, 2]
    assert all(0 < truncation < 1 for _, _, truncation, _ in found)
    assert {model for (model,) in said} == {model for model, *_ in found}
    models = tmp_path / "runs/r/models"
    flip(models / found[0][0])
    truncate(models / found[0][3][-1])
    shutil.rmtree(models / found[1][0])
    done = invoke(*run, "--retrain")
    assert done.exit_code == 0, done.output
    assert f"model {found[0][0]} is averaged again, with the same bits as before" in done.output
    assert f"model {found[1][0]} is averaged again, with the same bits as before" in done.output
    for model, sha256, *_ in found:
        verify(models / model, sha256)
