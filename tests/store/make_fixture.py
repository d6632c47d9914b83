"""Write the fixtures of a schema version: `schemaN.duckdb.gz`, and `schemaN.json` with its answers.

    python tests/store/make_fixture.py [--out FOLDER]

`schemaN-half.duckdb.gz` is the same run, killed when its first fine-tuning began.

It runs the scripted experiment of tests/society/conftest.py with the software that is imported, so
an earlier version is made in a checkout of its time: PYTHONPATH=CHECKOUT python …/make_fixture.py
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import society
from store import schema
from store.ledger import Store

FIXTURES = Path(__file__).parent / "fixtures"
# Long texts are there by their hash; the versions of packages are not the schema's.
OMITTED = {"messages", "response", "config", "config_sha256", "versions"}
EXPERIMENT = """
model = "scripted:script.jsonl"
iterations = 2
[task]
name = "arithmetic"
[society]
agents = {agents}
[train]
questions = {train}
[evaluation]
questions = {held_out}
"""


def main() -> int:
    """Write both files; prints their paths."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=FIXTURES, help="folder of the fixtures")
    out = parser.parse_args().out
    name = f"schema{schema.read_migrations()[-1][0]}"
    with tempfile.TemporaryDirectory() as folder:
        database = run(Path(folder), name)
        (out / f"{name}.json").write_text(answers(database), encoding="utf-8")
        # Without a time in the header, the same database gives the same file.
        content = gzip.compress(database.read_bytes(), mtime=0)
        (out / f"{name}.duckdb.gz").write_bytes(content)
    with tempfile.TemporaryDirectory() as folder:
        content = gzip.compress(run(Path(folder), name, whole=False).read_bytes(), mtime=0)
        (out / f"{name}-half.duckdb.gz").write_bytes(content)
    print(*(out / f"{name}{end}" for end in (".duckdb.gz", ".json", "-half.duckdb.gz")), sep="\n")
    return 0


def run(folder: Path, name: str, *, whole: bool = True) -> Path:
    """The database of the experiment; the paths in it are relative.

    Unless it is to be `whole`, the run is killed when its first fine-tuning begins.
    """
    scripted = _scripted()
    scripted.write_script(folder / "script.jsonl", iterations=2)
    sizes = {"agents": scripted.AGENTS, "train": scripted.TRAIN, "held_out": scripted.EVAL}
    (folder / f"{name}.toml").write_text(EXPERIMENT.format(**sizes), encoding="utf-8")
    command = "from society import cli; cli.main()"
    database = folder / "runs" / name / "run.duckdb"
    with subprocess.Popen(
        [sys.executable, "-c", command, "run", f"{name}.toml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_root())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if not whole and line.startswith("iteration 1/2 · finetune"):
                process.kill()
                break
        process.stderr.read()
    if process.returncode != (0 if whole else -signal.SIGKILL):
        raise RuntimeError(f"the run ended with {process.returncode}")
    # What the killed run left in the log moves into the file.
    Store.open(database).close()
    return database


def answers(database: Path) -> str:
    """What every relation says, as JSON: relation → columns and rows."""
    said: dict[str, dict[str, object]] = {}
    with Store.open(database, read_only=True) as store:
        relations = store.rows(
            "SELECT table_name, list(column_name ORDER BY ordinal_position) "
            "FROM information_schema.columns WHERE table_name <> 'schema_migrations' "
            "GROUP BY table_name ORDER BY table_name"
        )
        for relation, names in relations:
            columns = [column for column in names if column not in OMITTED]
            rows = store.rows(f"SELECT {', '.join(columns)} FROM {relation} ORDER BY ALL")
            if rows:
                said[relation] = {"columns": columns, "rows": rows}
    return json.dumps(said, default=str, separators=(",", ":")) + "\n"


def _root() -> Path:
    return Path(str(society.__file__)).parents[1]


def _scripted() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "scripted_experiment", _root() / "tests" / "society" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    raise SystemExit(main())
