"""Artifacts appear whole or not at all; a broken-off fit ends as if it had never been broken."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from providers.artifact import MANIFEST, Trained, load_trained, publish, weights_sha256
from providers.errors import StorageFailed
from providers.local.train import TrainingStopped
from tests.providers.training_fixtures import (
    fit,
    make_examples,
    make_model,
    make_spec,
    with_adapter,
)

ROOT = Path(__file__).parents[2]
EXAMPLES = make_examples(10)
SPEC = make_spec(EXAMPLES, epochs=2, batch_size=2, lora_dropout=0.1)
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.providers.test_checkpoint import SPEC, model
from tests.providers.training_fixtures import fit

def kill(point, progress):
    if point.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)

fit(model(), SPEC, Path(sys.argv[1]), on_point=kill, checkpoint_seconds=0)
"""


def model():
    return with_adapter(make_model(), dropout=0.1)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return fit(model(), SPEC, tmp_path_factory.mktemp("unbroken") / "a")


def weights(trained):
    return (trained.artifact / "adapter_model.safetensors").read_bytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def stop_after(step, out):
    stop = threading.Event()

    def listen(point, progress):
        if point.step == step:
            stop.set()

    with pytest.raises(TrainingStopped, match=f"after step {step} of 10"):
        fit(model(), SPEC, out, on_point=listen, stop=stop)


def test_a_stopped_fit_resumes_bit_equal(tmp_path, unbroken):
    stop_after(3, tmp_path / "a")
    assert names(tmp_path) == [".a.checkpoint"]
    stop_after(7, tmp_path / "a")
    seen = []
    resumed = fit(
        model(), SPEC, tmp_path / "a", on_point=lambda point, progress: seen.append(point)
    )
    assert weights(resumed) == weights(unbroken)
    assert resumed.points == unbroken.points == tuple(seen)
    assert resumed.trained_tokens == unbroken.trained_tokens
    assert names(tmp_path) == ["a"]


def test_a_killed_fit_resumes_at_its_last_checkpoint_bit_equal(tmp_path, unbroken):
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "a")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert names(tmp_path) == [".a.checkpoint"]
    stop_after(6, tmp_path / "a")
    resumed = fit(model(), SPEC, tmp_path / "a")
    assert weights(resumed) == weights(unbroken)
    assert resumed.points == unbroken.points


def test_a_checkpoint_of_another_spec_is_not_resumed(tmp_path, unbroken):
    stop_after(4, tmp_path / "a")
    other = replace(SPEC, dataset_sha256="e" * 64)
    trained = fit(model(), other, tmp_path / "a")
    assert len(trained.points) == 10
    assert trained.points == unbroken.points
    assert names(tmp_path) == ["a"]


def cut_off(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def overwritten(content):
    return b"not a checkpoint at all"


def flipped_in_a_tensor(content):
    """One bit of a weight: torch reads such a file without a word."""
    fields = torch.load(io.BytesIO(content), weights_only=True)
    largest = max(fields["weights"].values(), key=torch.numel)
    place = content.index(largest.numpy().tobytes())
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def of_another_kind(content):
    buffer = io.BytesIO()
    torch.save([1, 2, 3], buffer)
    return buffer.getvalue()


def lacking_a_field(content):
    fields = torch.load(io.BytesIO(content), weights_only=True)
    del fields["optimizer"]
    buffer = io.BytesIO()
    torch.save(fields, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [cut_off, emptied, overwritten, flipped_in_a_tensor, of_another_kind, lacking_a_field],
)
def test_a_damaged_checkpoint_is_named_and_set_aside(tmp_path, unbroken, damage, caplog):
    stop_after(3, tmp_path / "a")
    checkpoint = tmp_path / ".a.checkpoint"
    damaged = damage(checkpoint.read_bytes())
    checkpoint.write_bytes(damaged)
    stop_after(1, tmp_path / "a")
    assert (tmp_path / ".a.checkpoint.damaged").read_bytes() == damaged
    assert str(checkpoint) in caplog.text
    assert ".a.checkpoint.damaged" in caplog.text
    trained = fit(model(), SPEC, tmp_path / "a")
    assert weights(trained) == weights(unbroken)
    assert names(tmp_path) == ["a"]


def test_a_finished_artifact_is_not_trained_again(tmp_path, unbroken):
    again = fit(None, SPEC, unbroken.artifact)
    assert again == unbroken
    assert load_trained(unbroken.artifact, SPEC.digest) == unbroken


def test_the_manifest_tells_where_the_weights_come_from(unbroken):
    manifest = json.loads((unbroken.artifact / MANIFEST).read_text())
    assert manifest["digest"] == SPEC.digest
    assert manifest["sha256"] == unbroken.sha256 == weights_sha256(unbroken.artifact)
    assert manifest["base"] == "local:org/base"
    assert manifest["start"] == {
        "model_id": "base",
        "address": "local:org/base",
        "artifact": None,
    }
    assert manifest["examples"] == 10
    assert manifest["hyperparameters"]["batch_size"] == 2
    assert manifest["trained_tokens"] == unbroken.trained_tokens
    assert set(manifest["versions"]) == {"torch", "transformers", "peft"}
    assert len(manifest["points"]) == 10


def test_what_is_not_finished(tmp_path, unbroken):
    assert load_trained(unbroken.artifact, "0" * 64) is None
    assert load_trained(tmp_path / "nothing", SPEC.digest) is None
    out = tmp_path / "a"
    out.mkdir()
    (out / MANIFEST).write_text("{")
    assert load_trained(out, SPEC.digest) is None
    (out / MANIFEST).write_text((unbroken.artifact / MANIFEST).read_text())
    assert load_trained(out, SPEC.digest) is None
    (out / "adapter_model.safetensors").write_bytes(weights(unbroken)[:-1])
    assert load_trained(out, SPEC.digest) is None
    (out / "adapter_config.json").write_bytes(
        (unbroken.artifact / "adapter_config.json").read_bytes()
    )
    (out / "adapter_model.safetensors").write_bytes(weights(unbroken))
    assert load_trained(out, SPEC.digest) is not None


def test_what_is_in_the_place_of_an_artifact_is_set_aside(tmp_path, unbroken, caplog):
    out = tmp_path / "a"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert weights(fit(model(), SPEC, out)) == weights(unbroken)
    assert (tmp_path / ".a.damaged" / "notes.txt").read_text() == "mine"
    assert str(out) in caplog.text


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def fill(folder):
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        publish(tmp_path / "a", SPEC, fill, Trained(tmp_path / "a", "", (), 0))
    assert names(tmp_path) == []


def test_leftovers_of_a_crash_while_publishing_are_replaced(tmp_path, unbroken):
    partial = tmp_path / ".a.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".a.checkpoint.partial").write_bytes(b"half")
    trained = fit(model(), SPEC, tmp_path / "a")
    assert trained.sha256 == unbroken.sha256
    assert names(tmp_path) == ["a"]


def test_a_disk_that_refuses_is_no_fault_of_the_training(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageFailed, match="cannot be written"):
        fit(model(), SPEC, blocked / "a", checkpoint_seconds=0)
