"""A whole run through Tinker's wire against the stand-in: unattended, resumed, pulled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("tinker")

from providers.embedded import MODEL_DIR
from society.cli import app
from tests.providers.tinker_server import TinkerServer, serving_tinker
from tests.society.whole_run import rows, start

CONFIG = """
model = "tinker+{url}:embedded"
iterations = 1
budget_usd = 1.0
task = {{ name = "arithmetic" }}
society = {{ agents = 2, rounds = 2 }}
sampling = {{ top_p = 1.0, max_tokens = 48 }}
train = {{ questions = 12 }}
evaluation = {{ questions = 4, decodings = ["sampled"] }}
finetune = {{ batch_size = 4, lora_rank = 4, learning_rate = 1e-3, max_grad_norm = 0.0 }}
[prices.embedded]
input_usd = 0.13
output_usd = 0.4
tuned_input_usd = 0.13
tuned_output_usd = 0.4
training_usd = 0.4
[provider]
tokenizer = "{tokenizer}"
loss_reduction = "mean"
save_every = 2
"""


@pytest.fixture
def server(tmp_path):
    with serving_tinker(tmp_path / "server") as server:
        yield server


def write(server: TinkerServer, folder: Path) -> Path:
    path = folder / "tinker.toml"
    path.write_text(CONFIG.format(url=server.url, tokenizer=MODEL_DIR))
    return path


def test_a_run_of_two_agents_finishes_unattended_and_is_pulled(server, tmp_path):
    folder = start(tmp_path, write(server, tmp_path), name="run")
    tuned = rows(
        folder, "SELECT model_id, artifact, parent_id, job_id FROM models WHERE artifact <> ''"
    )
    saved = server.state()["saved"]
    assert len(tuned) == 4
    assert {artifact for _, artifact, _, _ in tuned} == set(saved)
    assert all(parent and job for _, _, parent, job in tuned)
    # Every step that a training has is in its adapter once.
    points = dict(rows(folder, "SELECT job_id, count(*) FROM training_points GROUP BY ALL"))
    for _, artifact, _, job in tuned:
        history = saved[artifact]["history"]
        assert len(history) == points[job]
        assert max(Counter(history).values()) == 1
    assert server.state()["slots"]["in_use"] == []
    [(usd, tokens)] = rows(folder, "SELECT sum(usd), sum(trained_tokens) FROM spend")
    assert usd > 0
    assert tokens > 0
    runs = ["--runs", str(folder.path.parent)]
    pulled = CliRunner().invoke(app, ["pull", "run", *runs])
    assert pulled.exit_code == 0, pulled.output
    names = sorted(path.name for path in (folder.path / "adapters").iterdir())
    assert names == sorted(model for model, *_ in tuned)
    for name in names:
        assert (folder.path / "adapters" / name / "adapter_model.safetensors").is_file()
    again = CliRunner().invoke(app, ["pull", "run", *runs])
    assert "4 already there" in again.output
