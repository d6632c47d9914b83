"""Write the fixture of a schema version: `schemaN.duckdb.gz`, and `schemaN.json` with its answers.

    python tests/store/make_fixture.py [--out FOLDER]

It runs the scripted experiment of tests/society/conftest.py with the software that is imported, so
an earlier version is made in a checkout of its time: PYTHONPATH=CHECKOUT python …/make_fixture.py
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
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
    name = f"schema{schema.migrations()[-1][0]}"
    with tempfile.TemporaryDirectory() as folder:
        database = run(Path(folder), name)
        (out / f"{name}.json").write_text(answers(database), encoding="utf-8")
        # Without a time in the header, the same database gives the same file.
        content = gzip.compress(database.read_bytes(), mtime=0)
        (out / f"{name}.duckdb.gz").write_bytes(content)
    print(out / f"{name}.duckdb.gz", out / f"{name}.json", sep="\n")
    return 0


def run(folder: Path, name: str) -> Path:
    """The database of the finished experiment; the paths in it are relative."""
    scripted = _scripted()
    scripted.write_script(folder / "script.jsonl", iterations=2)
    sizes = {"agents": scripted.AGENTS, "train": scripted.TRAIN, "held_out": scripted.EVAL}
    (folder / f"{name}.toml").write_text(EXPERIMENT.format(**sizes), encoding="utf-8")
    command = "from society import cli; cli.main()"
    subprocess.run(
        [sys.executable, "-c", command, "run", f"{name}.toml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_root())},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder / "runs" / name / "run.duckdb"


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
