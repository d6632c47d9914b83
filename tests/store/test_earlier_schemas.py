"""Databases of earlier schema versions: opened, brought forward, same answers.

`fixtures/schemaN.duckdb.gz` was written by the software that had schema version N, from the
scripted experiment of tests/society/conftest.py; `schemaN.json` holds what its relations said then.
`schemaN-half.duckdb.gz` is that run, killed when its first fine-tuning began;
`tests/society/test_provenance.py` goes on with it.
`make_fixture.py` makes both. Version 2 was never in use: it came together with version 3.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from store import schema
from store.errors import StoreOutdated
from store.ledger import Store

# The versions that were in use. Version 11 is the last one before columns were renamed.
USED = {1, 3, 4, 5, 11}
FIXTURES = Path(__file__).parent / "fixtures"
# What means something else since: intervals are clustered by question, tied votes counted apart.
REDEFINED = {
    "accuracy": {"standard_error", "ci_low", "ci_high"},
    "dissent": {"answers", "dissenting", "dissent_rate", "right_dissents", "right_rate"},
}
NAMES = sorted(path.name.removesuffix(".duckdb.gz") for path in FIXTURES.glob("*.duckdb.gz"))
VERSIONS = [name for name in NAMES if not name.endswith("-half")]
HALF = [name for name in NAMES if name.endswith("-half")]


@pytest.fixture(params=VERSIONS)
def earlier(request, path):
    """The name of an earlier version, with its database at `path`."""
    path.write_bytes(gzip.decompress((FIXTURES / f"{request.param}.duckdb.gz").read_bytes()))
    return request.param


def test_every_version_that_was_in_use_is_here():
    there = {int(version.removeprefix("schema")) for version in VERSIONS}
    assert there == USED
    assert schema.read_migrations()[-1][0] >= max(USED)
    assert all((FIXTURES / f"{version}.json").is_file() for version in VERSIONS)
    assert [f"{version}-half" for version in VERSIONS] == HALF


@pytest.mark.long
def test_a_fixture_of_this_version_can_be_made(tmp_path, path):
    script = Path(__file__).with_name("make_fixture.py")
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True, capture_output=True)
    name = f"schema{schema.read_migrations()[-1][0]}"
    path.write_bytes(gzip.decompress((tmp_path / f"{name}.duckdb.gz").read_bytes()))
    said = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert set(schema.VIEWS) <= set(said)
    with Store.open(path, read_only=True) as store:
        for relation, then in said.items():
            assert store.rows(f"SELECT count(*) FROM {relation}") == [(len(then["rows"]),)]
    path.write_bytes(gzip.decompress((tmp_path / f"{name}-half.duckdb.gz").read_bytes()))
    with Store.open(path, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns WHERE iteration = 1") != [(0,)]
        assert store.rows("SELECT count(*) FROM turns WHERE split = 'eval' AND iteration = 1") == [
            (0,)
        ]


def test_an_earlier_database_answers_as_it_did(earlier, path):
    expected = json.loads((FIXTURES / f"{earlier}.json").read_text(encoding="utf-8"))
    with Store.open(path) as store:
        for relation, then in expected.items():
            kept = [c for c in then["columns"] if c not in REDEFINED.get(relation, ())]
            places = [then["columns"].index(column) for column in kept]
            said = [[row[place] for place in places] for row in then["rows"]]
            now = store.rows(f"SELECT {', '.join(kept)} FROM {relation}")
            assert _in_order(json.loads(json.dumps(now, default=str))) == _in_order(said), relation


def _in_order(rows: list[list[object]]) -> list[list[object]]:
    return sorted(rows, key=json.dumps)


def test_an_earlier_database_takes_new_rows_after_the_migration(earlier, path, make_turn):
    with Store.open(path) as store:
        store.write(make_turn("one more question"))
    with Store.open(path, read_only=True) as store:
        assert store.rows("SELECT max(version) FROM schema_migrations") == [
            (schema.read_migrations()[-1][0],)
        ]
        assert store.rows("SELECT count(*) FROM turns WHERE question_id = 'one more question'") == [
            (1,)
        ]


def test_reading_an_earlier_database_says_what_to_do(earlier, path):
    with pytest.raises(StoreOutdated, match="open it once for writing"):
        Store.open(path, read_only=True)
