"""`society init`: a file that fits the user's questions and model, and what it says of both."""

import csv
import json
import os
import pty
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers.embedded import MODEL_DIR
from society.cli import app
from society.config.load import ConfigError, load_config
from society.config.question_data import inspect_data
from society.method.experiment import load_experiment


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["init", *arguments])


def write_csv(name: str, rows: list[dict[str, object]]) -> str:
    with open(name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return name


def write_lines(name: str, rows: list[dict[str, object]]) -> str:
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return name


def sums(count: int = 40) -> list[dict[str, object]]:
    return [
        {"id": k, "q": f"What is {k} + {k * k}?", "reply": f"{k + k * k}"} for k in range(count)
    ]


def test_thirty_rows_become_an_experiment_that_loads():
    result = invoke("own.toml", "--yes", "--task", write_csv("sums.csv", sums(30)))
    assert result.exit_code == 0, result.output
    assert "gold answers in the field 'reply', of the kind 'number': 30 of 30" in result.stdout
    assert "the built-in model knows sums only" in result.stdout
    assert result.stdout.endswith("society run own.toml\n")
    table = tomllib.loads(Path("own.toml").read_text("utf-8"))
    assert table["task"] == {
        "name": "file",
        "path": "sums.csv",
        "question": "q",
        "answer": "number",
        "gold": "reply",
        "eval_share": 0.4,
    }
    experiment = load_experiment("own.toml")
    asked = len(experiment.questions.all_training_questions())
    assert asked + experiment.config.evaluation.questions == 30
    assert not experiment.config.train.fresh


def test_many_rows_are_divided_among_the_iterations():
    write_csv("sums.csv", sums(4000))
    assert invoke("own.toml", "--yes", "--task", "sums.csv").exit_code == 0
    config = load_config("own.toml")
    assert (config.train.questions, config.train.fresh) == (500, True)
    assert 400 < config.evaluation.questions <= 500


CHOICES = [["red", "blue", "green"], ["one", "two", "six"], ["yes", "no", "maybe"]]


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (
            [{"stem": f"Which {k}?", "options": CHOICES[k % 3], "answer": k % 3} for k in range(9)],
            {"choices": "options", "first_choice": 0, "question": "stem", "choice_count": 3},
        ),
        (
            [
                {"question": f"Which {k}?", "A": "x", "B": "y", "C": "z", "right": "BC"[k % 2]}
                for k in range(9)
            ],
            {"choices": ["A", "B", "C"], "gold": "right", "answer": "choice"},
        ),
        (
            [
                {"prompt": f"Which {k}?", "choice1": "x", "choice2": "y", "choice3": "z", "n": 3}
                for k in range(9)
            ],
            {"choices": ["choice1", "choice2", "choice3"], "gold": "n", "first_choice": 1},
        ),
        (
            [{"q": f"Expand {k}", "solution": f"x^2 + {k}x - \\sqrt{{2}}"} for k in range(9)],
            {"answer": "math", "gold": "solution"},
        ),
        (
            [
                {"q": f"Where is {k}?", "target": f"Paris {75000 + k} by the Seine"}
                for k in range(9)
            ],
            {"answer": "text", "gold": "target"},
        ),
        (
            [{"problem": f"Pick A or B: {k}", "label": "AB"[k % 2]} for k in range(9)],
            {"answer": "choice", "gold": "label"},
        ),
        ([{"question": f"And {k}?"} for k in range(9)], {"answer": "text"}),
        ([{"b": f"How many are {k} eggs, in words?", "n": k} for k in range(9)], {"question": "b"}),
        (
            [{"question": f"And {k}?", "answer": f"{k} + 1 = <<>> #### {k + 1}"} for k in range(9)],
            {"name": "gsm8k"},
        ),
    ],
)
def test_fields_and_kinds_are_recognized(rows, options):
    write_lines("own.jsonl", rows)
    found = inspect_data("own.jsonl")
    given = json.loads(json.dumps(found.options))
    assert {key: given.get(key) for key in options} == options
    assert found.train + found.evaluation == len(rows)
    # The options are those of a task that reads every row.
    assert invoke("own.toml", "--yes", "--task", "own.jsonl").exit_code == 0
    experiment = load_experiment("own.toml")
    golds = [q.gold for q in experiment.questions.all_training_questions()]
    assert all(gold is not None for gold in golds) == ("gold" in given or "gsm8k" in str(given))


def test_gold_answers_that_cannot_be_read_are_shown_with_their_place():
    rows = sums(40)
    rows[7]["reply"] = "about a dozen"
    result = invoke("own.toml", "--yes", "--task", write_csv("sums.csv", rows))
    assert "of the kind 'number': 39 of 40 can be read" in result.stdout
    assert "mend or remove: sums.csv, line 9: 'about a dozen' is no number" in result.stdout
    assert "correct own.toml, then check it again" in result.stdout


def test_a_folder_with_a_file_for_each_split():
    Path("data").mkdir()
    write_lines("data/train.jsonl", sums(12))
    write_lines("data/test.jsonl", [{**row, "q": f"Again: {row['q']}"} for row in sums(7)])
    found = inspect_data("data")
    assert (found.train, found.evaluation) == (12, 7)
    assert "eval_share" not in found.options
    assert found.options["id"] == ""


def test_a_model_may_be_given_without_a_scheme():
    assert invoke("a.toml", "--yes", "--model", "Some/Model").exit_code == 0
    assert load_config("a.toml").model == "local:Some/Model"
    paid = invoke("b.toml", "--yes", "--model", "openai:gpt-4.1-mini", "--budget", "3")
    assert paid.exit_code == 0
    assert load_config("b.toml").budget_usd == 3
    served = "openai+http://127.0.0.1:9/v1:m"
    assert invoke("c.toml", "--yes", "--model", "embedded:", "--server", served).exit_code == 0
    serving = load_config("c.toml").serving
    assert serving is not None
    assert serving.address == served


def test_answers_fit_the_context_and_the_thoughts_of_a_model_on_this_disk():
    shutil.copytree(MODEL_DIR, "thinker")
    config = json.loads(Path("thinker/config.json").read_text())
    Path("thinker/config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    plain = invoke("plain.toml", "--yes", "--model", "./thinker")
    assert "reads and writes at most 8,192 tokens at once" in plain.stdout
    assert load_config("plain.toml").sampling.max_tokens == 512
    template = Path("thinker/chat_template.jinja")
    template.write_text(f"{{# <think> #}}{template.read_text()}")
    thinking = invoke("thinking.toml", "--yes", "--model", "./thinker")
    assert "chat template knows thoughts" in thinking.stdout
    assert load_config("thinking.toml").sampling.max_tokens == 8192 // 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["own.txt"], "'own.txt' is no .toml file"),
        (["there.toml"], "there.toml is there already; remove it, or name another file"),
        (["a.toml", "--model", "nope:x"], "--model model address 'nope:x' has the unknown scheme"),
        (["a.toml", "--task", "none.csv"], "none.csv does not exist"),
        (["a.toml", "--task", "empty.csv"], "empty.csv"),
        (["a.toml", "--task", "numbers.jsonl"], "no field has a text in every row"),
        (["a.toml", "--budget", "5"], "--budget 5: embedded: costs nothing"),
        (["no/such/a.toml"], "cannot write no/such/a.toml"),
    ],
)
def test_what_is_refused_writes_nothing(arguments, said):
    Path("there.toml").write_text("mine")
    Path("empty.csv").write_text("")
    write_lines("numbers.jsonl", [{"x": 1}, {"x": 2}])
    result = invoke("--yes", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert Path("there.toml").read_text() == "mine"
    assert not Path("a.toml").exists()


def test_a_bad_file_is_named():
    with pytest.raises(ConfigError, match=r"own\.xml: unknown kind of file"):
        inspect_data("own.xml")


def test_it_asks_on_a_terminal_for_what_is_not_said():
    write_csv("sums.csv", sums(20))
    pid, terminal = pty.fork()
    if pid == 0:
        code = "from society import cli; cli.main()"
        os.execv(sys.executable, [sys.executable, "-c", code, "init"])
    os.write(terminal, b"\nsums.csv\n")
    said = b""
    try:
        while chunk := os.read(terminal, 4096):
            said += chunk
    except OSError:  # the other end is closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert b"Base model (SCHEME:NAME, a folder, .gguf file or hub name) [embedded:]: " in said
    assert load_config("experiment.toml").task.options["path"] == "sums.csv"


def test_a_budget_without_prices_gets_room_for_them():
    model = "openai+http://127.0.0.1:1/v1:gpt-9"
    result = invoke("own.toml", "--yes", "--model", model, "--budget", "5")
    assert '[prices."gpt-9"]' in result.stdout
    text = Path("own.toml").read_text("utf-8")
    lines = text.partition("0 for a server of your own.\n")[2].splitlines()
    assert lines[0] == '# [prices."gpt-9"]'
    filled = "\n".join(line.removeprefix("# ") + "0.5" * line.endswith("= ") for line in lines)
    Path("own.toml").write_text(f"{text}\n{filled}\n", "utf-8")
    assert load_experiment("own.toml").config.prices["gpt-9"].training_usd == 0.5


def test_what_it_writes_runs():
    assert invoke("own.toml", "--yes").exit_code == 0
    small = ("iterations=1", "train.questions=6", "evaluation.questions=4")
    settings = [part for each in small for part in ("--set", each)]
    result = CliRunner().invoke(app, ["run", "own.toml", "--no-live", *settings])
    assert result.exit_code == 0, result.output
