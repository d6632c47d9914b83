"""Against the published solutions and verdicts of four models (Cobbe et al. 2021)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.answers import load_kind

DATA = Path(
    os.environ.get("SOCIETY_DATA") or Path(__file__).resolve().parents[3] / "../shared/data"
)
NUMBER = load_kind("number", {})


def rows(name: str) -> Iterator[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set SOCIETY_DATA to the folder that holds it")
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def test_all_published_verdicts_are_reproduced() -> None:
    agreed, differing = 0, []
    for row in rows("gsm8k_model_solutions.jsonl"):
        gold = NUMBER.read_gold(row["ground_truth"])
        for model, given in row.items():
            if not isinstance(given, dict):
                continue
            answer = NUMBER.read(given["solution"])
            if (answer is not None and NUMBER.same(answer, gold)) == given["is_correct"]:
                agreed += 1
            else:
                differing.append((model, answer, gold, given["solution"][-80:]))
    assert differing == []
    assert agreed == 5276


@pytest.mark.parametrize(
    ("name", "count"), [("gsm8k_train.jsonl", 7473), ("gsm8k_test.jsonl", 1319)]
)
def test_every_gold_answer_is_what_stands_behind_the_hashes(name: str, count: int) -> None:
    golds = [
        (NUMBER.read_gold(row["answer"]), row["answer"].rpartition("#### ")[2].replace(",", ""))
        for row in rows(name)
    ]
    assert len(golds) == count
    assert [pair for pair in golds if pair[0] != pair[1]] == []
