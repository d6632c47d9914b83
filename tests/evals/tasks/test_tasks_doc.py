"""The examples of docs/tasks.md load, as a user would copy them."""

import re
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from evals import tasks
from evals.answers import AnswerName, load_kind

DOC = (Path(__file__).parents[3] / "docs/tasks.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```toml\n# example: ([\w-]+)\n(.*?)```", DOC, re.DOTALL))
REAL = ("gsm8k", "math", "mmlu")
FILES = {
    "plants.jsonl": '{"question": "Which gas do plants take in?", "reply": "CO2"}\n',
    "quiz.csv": "q,a,b,c,right\nWhich?,x,y,z,2\n",
    "claims.csv": "claim,verdict\nWater is wet.,true\n",
    "claims_to_judge.csv": "claim,verdict\nFire is wet.,false\n",
}


def options(example):
    section = tomllib.loads(EXAMPLES[example])["task"]
    return section.pop("name"), section


def test_every_block_is_an_example():
    assert DOC.count("```toml") == len(EXAMPLES) == 8


@pytest.mark.parametrize("example", REAL)
def test_benchmark_examples_load_the_real_files(example, data, monkeypatch):
    monkeypatch.chdir(data)
    task = tasks.load_task(*options(example))
    assert task.questions("train", 0, 1)
    assert task.questions("eval", 0, 1)


@pytest.mark.parametrize("example", ["plants", "quiz", "verdicts"])
def test_examples_without_code_load(example, tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    task = tasks.load_task(*options(example))
    questions = [
        q for split in ("train", "eval") for q in task.questions(split, 0, task.size(split))
    ]
    assert questions
    assert all(q.gold is not None for q in questions)


def test_the_example_with_code_loads(tmp_path, monkeypatch):
    [code] = re.findall(r"```python\n(# riddles\.py\n.*?)```", DOC, re.DOTALL)
    (tmp_path / "riddles.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    task = tasks.load_task(*options("own"))
    sys.modules.pop("riddles")
    [train], [held_out] = task.questions("train", 0, 1), task.questions("eval", 0, 1)
    assert train.text == "What is a sphinx?"
    assert held_out.question_id == "riddles:sieve"
    assert task.extract("It is a Sieve.") == "sieve"
    assert task.extract("") is None


def test_every_kind_of_answer_is_named():
    [row] = re.findall(r"^\| `file` \|.*\|$", DOC, re.MULTILINE)
    kinds = row.split("|")[-2]
    assert re.findall(r"`(\w+)`", kinds) == list(get_args(AnswerName))
    with pytest.raises(ValueError, match=f"known kinds: {', '.join(get_args(AnswerName))}$"):
        load_kind("word", {})
