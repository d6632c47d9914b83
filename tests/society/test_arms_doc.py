"""docs/arms.md against the arms there are, and its examples against the real thing."""

import re
import tomllib
from pathlib import Path

from evals.arm_kinds import ARM_KINDS
from society.config import load as experiments
from society.config.arm import ArmSection
from society.method.arms import build_arms
from store.ledger import Store

TEXT = (Path(__file__).parents[2] / "docs" / "arms.md").read_text(encoding="utf-8")


def test_every_arm_and_every_key_of_a_variant_is_described():
    told = re.findall(r"^\| `([a-z0-9-]+)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", TEXT, re.MULTILINE)
    assert sorted(told) == sorted(ARM_KINDS)
    keys = set(re.findall(r"`(\w+)`", TEXT.split("| key | meaning |")[1].split("\n\n")[0]))
    assert set(ArmSection.model_fields) - {"name", "like"} <= keys


def test_the_examples_are_experiments(experiment):
    found = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert len(found) == 3
    for text in found:
        table = tomllib.loads(experiment.read_text()) | tomllib.loads(text)
        assert len(build_arms(experiments.build_config(table, "docs/arms.md"))) >= 3


def test_the_query_runs(tmp_path):
    [sql] = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
    with Store.open(tmp_path / "run.duckdb") as store:
        assert store.rows(sql) == []
