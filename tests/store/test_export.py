from __future__ import annotations

import csv
import json

import duckdb
import pytest

from store.errors import InvalidQuery, WriteFailed
from store.export import export_dataset, export_relation
from store.records import Dataset, DatasetExample, messages_json

TEXT = 'é 😀 "quoted",\nnext\x00 line'


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_a_relation_as_a_file(store, make_turn, tmp_path, format):
    turns = [make_turn(response=TEXT), make_turn(round=2, answer=None)]
    store.write(*turns)
    target = tmp_path / f"it's a turn.{format}"
    target.write_text("old")
    assert export_relation(store, "turns", target, format) == 2
    if format == "parquet":
        found = duckdb.read_parquet(str(target)).order("round")
        assert found.project("response, answer").fetchall() == [
            (TEXT, "4"),
            (turns[1].response, None),
        ]
    elif format == "jsonl":
        rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
        assert [row["response"] for row in rows] == [TEXT, turns[1].response]
        assert rows[0]["messages"] == json.loads(turns[0].messages)
        assert rows[1]["answer"] is None
    else:
        with target.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["response"] for row in rows] == [TEXT, turns[1].response]
    assert [file.name for file in tmp_path.iterdir() if ".part" in file.name] == []


def test_views_are_exported_too(store, tmp_path):
    assert export_relation(store, "accuracy", tmp_path / "a.csv", "csv") == 0


def test_unknown_names_are_refused(store, tmp_path):
    with pytest.raises(InvalidQuery, match="accuracy"):
        export_relation(store, 'turns" UNION SELECT 1 --', tmp_path / "x", "csv")
    with pytest.raises(InvalidQuery, match="parquet"):
        export_relation(store, "turns", tmp_path / "x", "xlsx")
    with pytest.raises(InvalidQuery, match="nothing"):
        export_dataset(store, "nothing", tmp_path / "x")
    assert list(tmp_path.glob("x*")) == []


def test_a_missing_folder_is_named(store, tmp_path):
    with pytest.raises(WriteFailed, match="nowhere"):
        export_relation(store, "turns", tmp_path / "nowhere" / "x.csv", "csv")


@pytest.mark.parametrize(("learn", "weight"), [("final", 0), ("all", 1)])
def test_a_dataset_as_chat_fine_tuning_lines(store, make_turn, tmp_path, learn, weight):
    conversation = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "others"},
    ]
    turns = [
        make_turn(f"q{n}", round=2, messages=messages_json(conversation), response=f"final {n}")
        for n in range(3)
    ]
    dataset = Dataset("d", 1, "multiagent", 1, "critic", 3, "ff", learn, 0)
    examples = [
        DatasetExample("d", turn.turn_id, turn.question_id, 2 - n) for n, turn in enumerate(turns)
    ]
    store.write(*turns, dataset, *examples)
    target = tmp_path / "d.jsonl"
    assert export_dataset(store, "d", target) == 3
    lines = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [line["messages"][-1]["content"] for line in lines] == ["final 2", "final 1", "final 0"]
    assert lines[0]["messages"] == [
        *conversation[:2],
        {"role": "assistant", "content": "first", "weight": weight},
        conversation[3],
        {"role": "assistant", "content": "final 2", "weight": 1},
    ]
