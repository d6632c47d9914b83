"""What is read from responses as models write them: `readings/*.jsonl`, a response a line."""

import json
from pathlib import Path

import pytest

from evals.answers import load_kind

READINGS = Path(__file__).with_name("readings")
ROWS = [
    (path.stem, number, json.loads(line))
    for path in sorted(READINGS.glob("*.jsonl"))
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
]


@pytest.mark.parametrize("name", sorted({name for name, _, _ in ROWS}))
def test_every_response_is_read_as_its_line_says(name: str) -> None:
    wrong = []
    for file, number, row in ROWS:
        if file == name:
            answers = load_kind(row["kind"], row.get("options", {}))
            reading = answers.explain(row["response"])
            assert answers.read(row["response"]) == reading.answer
            if reading.answer != row["answer"]:
                wrong.append((number, row["response"], row["answer"], reading))
    assert wrong == []


def test_the_readings_are_many_and_distinct() -> None:
    assert len(ROWS) >= 800
    assert len({(row["kind"], row["response"]) for _, _, row in ROWS}) == len(ROWS)


RULED_OUT = [
    row["response"]
    for _, _, row in ROWS
    if row["kind"] == "choice" and row["answer"] is None and "Option B" in row["response"]
]


@pytest.mark.parametrize("letter", ["A", "C", "D", "F", "K", "Q", "X", "Z"])
def test_no_ruled_out_letter_is_read_whatever_it_is(letter: str) -> None:
    letters = load_kind("choice", {"choices": 26})
    assert len(RULED_OUT) >= 10
    for response in RULED_OUT:
        assert letters.read(response.replace("Option B", f"Option {letter}")) is None
