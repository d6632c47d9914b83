"""`society export` on a scripted run, read back by the tools the files are for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import duckdb
import pytest
from typer.testing import CliRunner

from society.cli import app
from store.ledger import Store

LOAD = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
folder, *names = sys.argv[1:]
found = {"default": load_dataset(folder), **{name: load_dataset(folder, name) for name in names}}
print(json.dumps({
    "configs": get_dataset_config_names(folder),
    "rows": {name: {split: len(rows) for split, rows in d.items()} for name, d in found.items()},
    "first": {name: d["train"][0] for name, d in found.items()},
}, default=str))
"""


HOLD = """
import sys
from store.ledger import Store
from store.snapshots import answer_snapshot_requests
with Store.open(sys.argv[1]) as store, answer_snapshot_requests(store):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scripted):
    """A folder with the runs of a scripted experiment of two iterations."""
    folder = tmp_path_factory.mktemp("finished")
    done = CliRunner().invoke(
        app, ["run", str(scripted(folder)), "--name", "small", "--runs", str(folder / "runs")]
    )
    assert done.exit_code == 0, done.output
    return folder / "runs"


@pytest.fixture
def export(finished, tmp_path, monkeypatch):
    """Call the command in an empty folder with the run; gives status, and what it said."""
    shutil.copytree(finished, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["export", "small", *arguments])
        return done.exit_code, done.output

    return call


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


DATASETS = [
    f"multiagent-a{agent}-{role}-it{iteration}"
    for agent in (1, 2, 3)
    for role in ("critic", "generator")
    for iteration in (1, 2)
]


def test_everything_goes_into_the_runs_own_folder(export, tmp_path):
    status, output = export()
    assert status == 0, output
    assert names(tmp_path / "runs/small/export") == [
        *(f"datasets/{name}.parquet" for name in sorted(DATASETS)),
        *("debates.parquet", "models.parquet", "questions.parquet", "turns.parquet"),
        *("verdicts.parquet", "votes.parquet"),
    ]
    with Store.open(tmp_path / "runs/small/run.duckdb", read_only=True) as store:
        for relation in ("turns", "verdicts", "votes", "questions"):
            [(stored,)] = store.rows(f"SELECT count(*) FROM {relation}")
            file = f"runs/small/export/{relation}.parquet"
            assert duckdb.read_parquet(file).count("*").fetchone() == (stored,)
            assert f"{stored:,} rows  {file}" in output


def test_one_file_of_one_dataset(export, tmp_path):
    picked = ["--agent", "2", "--role", "critic", "--iteration", "2", "--format", "chat"]
    status, output = export(*picked, "--out", "critic.jsonl")
    assert status == 0, output
    lines = [json.loads(line) for line in (tmp_path / "critic.jsonl").read_text().splitlines()]
    with Store.open(tmp_path / "runs/small/run.duckdb", read_only=True) as store:
        dataset = store.dataset("multiagent-a2-critic-it2")
        turns = store.rows(
            "SELECT messages::VARCHAR, response FROM dataset_examples JOIN turns USING (turn_id) "
            "WHERE dataset_id = 'multiagent-a2-critic-it2' ORDER BY position"
        )
    assert len(lines) == dataset.examples > 0
    for line, (messages, response) in zip(lines, turns, strict=True):
        *prompt, last = line["messages"]
        assert last == {"role": "assistant", "content": response, "weight": 1}
        assert [{"role": m["role"], "content": m["content"]} for m in prompt] == json.loads(
            messages
        )


def test_a_shape_without_weights_says_so(export, tmp_path):
    status, output = export("--format", "sharegpt", "--role", "critic", "--out", "sg")
    assert status == 0
    assert "put the loss on the last turn" in output
    status, output = export("--format", "sharegpt", "--role", "generator", "--out", "sg2")
    assert "note" not in output
    assert len(names(tmp_path / "sg2")) == 6


def test_a_folder_that_datasets_loads_offline(export, tmp_path):
    status, output = export("--format", "hf", "--out", "hub")
    assert status == 0, output
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    critic = "multiagent-a1-critic-it1"
    done = subprocess.run(
        [sys.executable, "-c", LOAD, "hub", "turns", "models", critic],
        capture_output=True,
        text=True,
        env={**os.environ, **offline},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["configs"]) == {
        *("questions", "turns", "verdicts", "votes", "debates", "models"),
        *DATASETS,
    }
    assert found["rows"]["default"] == {"train": 8, "eval": 18}
    assert found["rows"]["turns"] == {"train": 72, "eval": 162}
    assert found["rows"]["models"] == {"train": 13}
    assert len(found["first"]["default"]["turns"]) == 6
    assert found["first"]["turns"]["messages"][0]["role"] == "user"
    assert [m["weight"] for m in found["first"][critic]["messages"]] == [None, 0, None, 1]


def test_the_card_says_how_it_was_made_and_leaves_the_licence_open(export, tmp_path):
    export("--format", "hf", "--out", "hub")
    text = (tmp_path / "hub/README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    assert "license" not in front
    assert "- config_name: debates\n  default: true\n" in front
    with Store.open(tmp_path / "runs/small/run.duckdb", read_only=True) as store:
        run = store.run()
        assert run.config_sha256 in body
        for model in store.models():
            dataset = store.dataset(model.dataset_id) if model.dataset_id else None
            cells = [model.model_id, model.parent_id or "", model.dataset_id or ""]
            cells += [str(dataset.examples), dataset.sha256[:12]] if dataset else ["", ""]
            assert f"| {' | '.join(cells)} |" in body


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--arm", "star"], "no arm star in this run; there: multiagent"),
        (["--agent", "9"], "no agent 9 in this run; there: 1, 2, 3"),
        (["--what", "votes", "--agent", "1"], "agent = 1 selects none"),
        (["--what", "turns", "--format", "chat"], "use --what datasets instead of turns"),
        (["--split", "eval", "--what", "datasets"], "no such dataset"),
        (["--split", "train", "--iteration", "0"], "no row of this run fits"),
        (["--out", "x.parquet"], "is one file, and the export has 18"),
        (["--what", "votes", "--out", "x.csv"], "does not end in .parquet"),
        (["--out", "taken"], "is a file; name a folder"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(export, tmp_path, arguments, reason):
    (tmp_path / "taken").write_text("mine")
    before = names(tmp_path)
    status, output = export(*arguments)
    assert status == 2
    assert reason in output
    assert names(tmp_path) == before


def test_files_that_are_there_stay_unless_forced(export, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/votes.parquet").write_text("mine")
    (tmp_path / "out/notes.txt").write_text("mine too")
    status, output = export("--out", "out")
    assert status == 2
    assert "out/votes.parquet exist(s)" in output
    assert names(tmp_path / "out") == ["notes.txt", "votes.parquet"]
    assert export("--out", "out", "--what", "votes", "--what", "models", "--force")[0] == 0
    assert names(tmp_path / "out") == ["models.parquet", "notes.txt", "votes.parquet"]
    assert duckdb.read_parquet(str(tmp_path / "out/votes.parquet")).fetchall()
    assert export("--out", "out", "--what", "votes", "--format", "csv")[0] == 0


def test_an_export_that_fails_halfway_leaves_nothing(export, tmp_path):
    with Store.open(tmp_path / "runs/small/run.duckdb") as store:
        store.transact(
            lambda connection: connection.execute(
                "DELETE FROM turns WHERE turn_id = (SELECT max(turn_id) FROM dataset_examples "
                "WHERE dataset_id = 'multiagent-a3-critic-it2')"
            )
        )
    before = names(tmp_path)
    status, output = export("--out", "out")
    assert status == 2
    assert "dataset multiagent-a3-critic-it2 has" in output
    assert names(tmp_path) == before


def test_a_place_that_cannot_be_written_is_named(export, tmp_path):
    (tmp_path / "file").write_text("")
    status, output = export("--out", "file/out")
    assert status == 1
    assert "cannot write to file/out" in output


def test_a_run_that_is_going_on_is_exported_from_a_snapshot(export, tmp_path):
    database = tmp_path / "runs/small/run.duckdb"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout.readline() == b"open\n"
        status, output = export("--what", "votes", "--out", "votes.parquet")
        running.stdin.close()
    assert status == 0, output
    assert duckdb.read_parquet(str(tmp_path / "votes.parquet")).count("*").fetchone() == (52,)
    assert list(database.parent.glob(".snapshot*")) == []
