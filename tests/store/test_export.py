from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from contextlib import closing

import duckdb
import pytest

from store import export
from store.content import messages_json
from store.dataset_export import export_dataset, export_examples
from store.errors import InvalidQuery, StoreBroken, WriteFailed
from store.export import export_part, export_relation
from store.records import Dataset, DatasetExample, Model, Question, Verdict, Vote
from store.selection import Selection

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


CONVERSATION = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": TEXT},
    {"role": "assistant", "content": "first"},
    {"role": "user", "content": "others"},
]


@pytest.fixture
def dataset(store, make_turn):
    """Makes a critic's dataset "d" of three rows, the last turn first."""

    def make(learn="final", weights=(1.0, 1.0, 1.0)):
        messages = messages_json(CONVERSATION)
        turns = [
            make_turn(f"q{n}", round=2, messages=messages, response=f"final {n}") for n in range(3)
        ]
        examples = [
            DatasetExample("d", turn.turn_id, turn.question_id, 2 - n, weights[n])
            for n, turn in enumerate(turns)
        ]
        store.write(*turns, Dataset("d", 1, "multiagent", 1, "critic", 3, "ff", learn, 0))
        store.write(*examples)
        return turns

    return make


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.mark.parametrize(("learn", "weight"), [("final", 0), ("all", 1)])
def test_a_dataset_as_chat_fine_tuning_lines(store, dataset, tmp_path, learn, weight):
    dataset(learn)
    target = tmp_path / "d.jsonl"
    assert export_dataset(store, "d", target) == 3
    lines = lines_of(target)
    assert [line["messages"][-1]["content"] for line in lines] == ["final 2", "final 1", "final 0"]
    assert lines[0]["messages"] == [
        *CONVERSATION[:2],
        {"role": "assistant", "content": "first", "weight": weight},
        CONVERSATION[3],
        {"role": "assistant", "content": "final 2", "weight": 1},
    ]


@pytest.mark.parametrize("shape", ["chat", "sharegpt"])
def test_a_line_says_what_its_conversation_weighs(store, dataset, tmp_path, shape):
    dataset(weights=(0.25, 1.0, 5.5))
    export_dataset(store, "d", tmp_path / "d.jsonl", shape)
    weights = [line.get("weight") for line in lines_of(tmp_path / "d.jsonl")]
    assert weights == [5.5, None, 0.25]


def test_preferences_as_lines_that_trainers_read(store, make_turn, tmp_path):
    asked, later = CONVERSATION[:2], CONVERSATION
    first = make_turn("q", round=1, messages=messages_json(asked), response="first")
    last = make_turn("q", round=2, messages=messages_json(later), response="last")
    store.write(first, last)
    pair = {"rejected_turn_id": first.turn_id}
    for role, name in (("generator", "g"), ("critic", "c")):
        store.write(Dataset(name, 1, "multiagent", 1, role, 1, "ff", "final", 0))
        store.write(DatasetExample(name, last.turn_id, "q", 0, **pair))
    store.write(Dataset("k", 1, "multiagent", 1, "critic", 1, "ff", "final", 0))
    store.write(DatasetExample("k", last.turn_id, "q", 0, wanted=False))
    target = tmp_path / "d.jsonl"
    read = {}
    for name in "gck":
        for shape in ("chat", "sharegpt"):
            export_dataset(store, name, target, shape)
            [read[name, shape]] = lines_of(target)
    answers = {
        "chosen": [{"role": "assistant", "content": "last"}],
        "rejected": [{"role": "assistant", "content": "first"}],
    }
    assert read["g", "chat"] == {"prompt": asked, **answers}
    assert read["c", "chat"] == {"prompt": later, **answers}
    assert read["k", "chat"] == {"prompt": later, "completion": answers["chosen"], "label": False}
    spoken = [{"from": "system", "value": "s"}, {"from": "human", "value": TEXT}]
    assert read["g", "sharegpt"] == {
        "conversations": spoken,
        "chosen": {"from": "gpt", "value": "last"},
        "rejected": {"from": "gpt", "value": "first"},
    }
    assert read["k", "sharegpt"]["kto_tag"] is False
    assert read["k", "sharegpt"]["conversations"][-1] == {"from": "gpt", "value": "last"}
    export_examples(store, "c", target, "jsonl")
    [row] = lines_of(target)
    assert [message["content"] for message in row["messages"]][-2:] == ["others", "last"]
    assert (row["rejected_turn_id"], row["rejected"], row["wanted"]) == (
        first.turn_id,
        "first",
        None,
    )


def test_a_dataset_as_sharegpt_lines(store, dataset, tmp_path):
    dataset()
    assert export_dataset(store, "d", tmp_path / "d.jsonl", "sharegpt") == 3
    assert lines_of(tmp_path / "d.jsonl")[0] == {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": TEXT},
            {"from": "gpt", "value": "first"},
            {"from": "human", "value": "others"},
            {"from": "gpt", "value": "final 2"},
        ]
    }


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_a_datasets_rows_say_what_is_learnt_and_where_it_comes_from(
    store, dataset, tmp_path, format
):
    turns = dataset()
    target = tmp_path / f"d.{format}"
    assert export_examples(store, "d", target, format) == 3
    read = {"parquet": duckdb.read_parquet, "jsonl": duckdb.read_json, "csv": duckdb.read_csv}
    found = read[format](str(target))
    assert found.columns == [
        *("dataset_id", "iteration", "arm", "agent", "role"),
        *("position", "turn_id", "question_id", "weight"),
        *("rejected_turn_id", "rejected", "wanted", "messages"),
    ]
    rows = found.fetchall()
    assert [row[5:8] for row in rows] == [
        (place, turn.turn_id, turn.question_id) for place, turn in enumerate(reversed(turns))
    ]
    messages = json.loads(rows[0][-1]) if format == "csv" else rows[0][-1]
    assert messages == [
        *({**message, "weight": None} for message in CONVERSATION[:2]),
        {"role": "assistant", "content": "first", "weight": 0},
        {**CONVERSATION[3], "weight": None},
        {"role": "assistant", "content": "final 2", "weight": 1},
    ]


def test_a_dataset_whose_turns_are_gone_is_not_exported_in_part(store, dataset, tmp_path):
    [turn, *_] = dataset()
    store.transact(
        lambda connection: connection.execute("DELETE FROM turns WHERE turn_id = ?", [turn.turn_id])
    )
    for write in (export_dataset, lambda *a: export_examples(*a, "parquet")):
        with pytest.raises(StoreBroken, match="has 3 rows and 2 of their turns"):
            write(store, "d", tmp_path / "d")
    assert list(tmp_path.glob("d*")) == []


@pytest.fixture
def debated(store, make_turn):
    """Two debates of two agents and two rounds, one of them held out, and one that is not over."""
    turns = [
        make_turn(q, agent=agent, round=round, split=split, iteration=iteration)
        for q, split, iteration in [("q1", "train", 1), ("q2", "eval", 0), ("q3", "train", 1)]
        for agent in (2, 1)
        for round in (2, 1)
    ]
    summary = make_turn("q1", agent=1, round=2, kind="summary", answer=None)
    store.write(
        *(Question(q, "sums", s, f"{q}?", "4") for q, s in [("q1", "train"), ("q2", "eval")]),
        *turns,
        summary,
        *(Verdict(turn.turn_id, True, True) for turn in turns if turn.question_id != "q3"),
        *(
            Vote(iteration, split, "multiagent", "sampled", q, round, "4", round, 2, False, True)
            for q, split, iteration in [("q1", "train", 1), ("q2", "eval", 0)]
            for round in (1, 2)
        ),
        Model("base", "embedded:"),
        Model("m", "embedded:", "base", "x", arm="multiagent", iteration=1, agent=1, role="critic"),
    )
    return turns


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_debates_are_rows_with_all_their_answers(store, debated, tmp_path, format):
    target = tmp_path / f"d.{format}"
    assert export_part(store, "debates", target, format, Selection()) == 2
    read = {"parquet": duckdb.read_parquet, "jsonl": duckdb.read_json, "csv": duckdb.read_csv}
    found = read[format](str(target))
    [row] = found.filter("question_id = 'q2'").fetchall()
    facts = dict(zip(found.columns, row, strict=True))
    turns = json.loads(facts["turns"]) if format == "csv" else facts["turns"]
    assert [(turn["round"], turn["agent"]) for turn in turns] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert turns[0]["response"] == "q2: \\boxed{4}"
    assert turns[0]["agrees"] is True
    assert (facts["split"], facts["task"], facts["question"]) == ("eval", "sums", "q2?")
    assert (facts["rounds"], facts["votes"], facts["voters"]) == (2, 2, 2)
    left = {path.name for path in tmp_path.iterdir()} - {"run.duckdb", "run.duckdb.wal"}
    assert left == {target.name}


def test_debates_are_put_together_in_stretches(store, debated, tmp_path):
    with closing(store.cursor()) as cursor:
        path = tmp_path / "d.parquet"
        assert (
            export.write_debates(cursor, "true", {}, path, "FORMAT parquet", flat=False, at_once=1)
            == 2
        )
    found = duckdb.read_parquet(str(tmp_path / "d.parquet"))
    assert found.project("question_id, len(turns)").fetchall() == [("q1", 4), ("q2", 4)]


@pytest.mark.parametrize(
    ("part", "selection", "rows"),
    [
        ("turns", Selection(), 13),
        ("turns", Selection(split="train", agent=2), 4),
        ("turns", Selection(role="generator"), 6),
        ("turns", Selection(role="critic", iteration=1), 4),
        ("turns", Selection(role="summarizer"), 1),
        ("turns", Selection(arm="other"), 0),
        ("verdicts", Selection(iteration=0), 4),
        ("votes", Selection(split="train"), 2),
        ("debates", Selection(iteration=0), 1),
        ("debates", Selection(arm="other"), 0),
        ("questions", Selection(split="eval"), 1),
        ("models", Selection(), 2),
        ("models", Selection(agent=1, role="critic"), 2),
        ("models", Selection(agent=2), 1),
    ],
)
def test_a_part_of_the_run_is_selected(store, debated, tmp_path, part, selection, rows):
    target = tmp_path / "part.parquet"
    assert export_part(store, part, target, "parquet", selection) == rows
    assert len(duckdb.read_parquet(str(target)).fetchall()) == rows


@pytest.mark.parametrize("part", ["votes", "debates"])
def test_one_agents_debates_are_refused(store, debated, tmp_path, part):
    with pytest.raises(InvalidQuery, match="agent = 2 selects none"):
        export_part(store, part, tmp_path / "x", "csv", Selection(agent=2))


def test_a_value_that_is_not_there_is_named_with_those_that_are(store, debated):
    Selection("multiagent", 1, "train", 2, "critic").check(store)
    for selection in (Selection(arm="x"), Selection(iteration=4), Selection(agent=7)):
        with pytest.raises(InvalidQuery, match=r"in this run; there: (multiagent|0, 1|1, 2)$"):
            selection.check(store)


def test_jsonl_is_json_also_where_a_number_is_none(store, tmp_path):
    def define(connection):
        connection.execute(
            "CREATE VIEW odd AS SELECT 'nan'::DOUBLE AS a, '-inf'::FLOAT AS b, "
            "[1.5, 'inf'::DOUBLE] AS c, {'x': ['nan'::DOUBLE]} AS d, "
            "'a \"NaN\": Infinity, \\' AS text"
        )

    def refuse(word):
        raise AssertionError(word)

    store.transact(define)
    target = tmp_path / "odd.jsonl"
    assert export_relation(store, "odd", target, "jsonl") == 1
    assert json.loads(target.read_text(encoding="utf-8"), parse_constant=refuse) == {
        "a": None,
        "b": None,
        "c": [1.5, None],
        "d": {"x": [None]},
        "text": 'a "NaN": Infinity, \\',
    }
    assert [entry.name for entry in tmp_path.glob("*odd*")] == ["odd.jsonl"]


def test_parts_that_killed_exports_left_are_removed(store, tmp_path):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout.strip()
    other = tmp_path / f".other.csv.{gone}.part"
    running = tmp_path / f".turns.csv.{os.getppid()}.part"
    left = [tmp_path / f".turns.csv.{gone}.part", tmp_path / f".turns.csv.{gone}.part.json"]
    for path in (other, running, *left):
        path.touch()
    folder = tmp_path / f".turns.csv.{gone}.part.d"
    folder.mkdir()
    (folder / "0.parquet").touch()
    export_relation(store, "turns", tmp_path / "turns.csv", "csv")
    assert {path.name for path in tmp_path.glob(".*")} == {other.name, running.name}
