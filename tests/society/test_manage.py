"""`society list` and `society compare` on scripted runs whose right and wrong answers are known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.tasks.arithmetic import create
from society.cli import app
from tests.society.whole_run import start

QUESTIONS = 20
HOLD = """
import sys
from store.ledger import Store
with Store.open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def write_experiment(folder, name, wrong):
    """An experiment of one agent that answers those questions wrong which stand in `wrong`."""
    lines = []
    for place, question in enumerate(create({}).questions("eval", 0, QUESTIONS)):
        answer = int(question.gold) + (place in wrong)
        key = f"eval/{question.question_id}/a1/r1/answer"
        lines.append(json.dumps({"key": key, "text": f"\\boxed{{{answer}}}"}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    path = folder / f"{name}.toml"
    path.write_text(
        f"""
        model = "scripted:{folder / f"{name}.jsonl"}"
        iterations = 0
        [task]
        name = "arithmetic"
        [society]
        agents = 1
        rounds = 1
        [train]
        questions = 4
        [evaluation]
        questions = {QUESTIONS}
        decodings = ["sampled"]
        """
    )
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the runs good, good-s1 (the same with another seed) and bad, and a broken one.

    good is right on 16 questions, bad on 10; 8 only good answers right, 2 only bad.
    """
    folder = tmp_path_factory.mktemp("home")
    good = write_experiment(folder, "good", wrong=range(4))
    bad = write_experiment(folder, "bad", wrong=range(2, 12))
    start(folder, good, name="good")
    start(folder, good, "seed=1", name="good-s1")
    start(folder, bad, name="bad")
    (folder / "runs/broken").mkdir()
    (folder / "runs/broken/run.duckdb").write_bytes(b"no database")
    return folder


def call(home, *arguments, status=0):
    done = CliRunner().invoke(app, [*arguments, "--runs", str(home / "runs")])
    assert done.exit_code == status, done.output
    return done


def test_every_run_is_listed_with_its_best_accuracy(home):
    found = json.loads(call(home, "list", "--json").stdout)
    lines = {line["name"]: line for line in found["runs"]}
    assert list(lines) == ["bad", "broken", "good", "good-s1"]
    best = lines["good"]["best"]
    assert (best["iteration"], best["accuracy"]["value"]) == (0, 0.8)
    assert best["accuracy"]["low"] < 0.8 < best["accuracy"]["high"]
    assert lines["bad"]["best"]["accuracy"]["value"] == 0.5
    assert lines["good"]["state"] == "finished"
    assert lines["good"]["usd"] == 0.0
    assert lines["good"]["bytes"] > (home / "runs/good/run.duckdb").stat().st_size
    assert lines["broken"]["state"] == "unreadable"
    told = call(home, "list").stdout
    assert "80.0 58–92" in told
    assert "broken: " in told


def test_a_run_that_another_process_holds_is_running(home):
    command = [sys.executable, "-c", HOLD, str(home / "runs/bad/run.duckdb")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as held:
        assert held.stdout.readline() == b"open\n"
        found = json.loads(call(home, "list", "--json").stdout)
        held.stdin.close()
    assert {line["name"]: line["state"] for line in found["runs"]}["bad"] == "running"


def test_a_folder_without_runs_says_how_to_begin(tmp_path):
    assert "society run demo" in call(tmp_path, "list").stdout


def test_two_runs_are_paired_on_their_questions(home):
    found = json.loads(call(home, "compare", "good", "bad", "--json").stdout)
    vote = next(each for each in found["differences"] if each["measure"] == "consensus")
    assert (vote["first"], vote["other"], vote["total"]) == ("good", "bad", QUESTIONS)
    assert vote["difference"] == pytest.approx(0.3)
    assert (vote["gained"], vote["lost"]) == (8, 2)
    # Exact McNemar: 2 * (1 + 10 + 45) / 2**10.
    assert vote["p_value"] == pytest.approx(0.109375)
    # The interval leaves out zero and the test does not: the report claims nothing then either.
    assert 0 < vote["low"] < 0.3 < vote["high"]
    assert vote["outcome"] == "unclear"
    assert [each["name"] for each in found["contestants"]] == ["good", "bad"]
    told = call(home, "compare", "good", "bad").stdout
    assert "consensus: +30.0 points (95 % interval" in told
    assert "8 gained, 2 lost, McNemar p = 0.11; unclear" in told
    assert "model" in told


def test_runs_of_several_seeds_count_as_one(home):
    found = json.loads(call(home, "compare", "bad", "good", "good-s1", "--json").stdout)
    assert [len(each["runs"]) for each in found["contestants"]] == [1, 2]
    assert "good-s1" in found["notes"][0]
    # Nothing but seeds: then they are compared with each other.
    found = json.loads(call(home, "compare", "good", "good-s1", "--json").stdout)
    assert all(each["difference"] == 0 for each in found["differences"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["good"], "needs two runs"),
        (["good", "nothing"], "no run 'nothing'"),
        (["good", "bad", "--iteration", "3"], "has evaluated no such society"),
        (["good", "bad", "--arm", "star"], "the arm 'star' (arms: multiagent)"),
        (["good", "bad", "--decoding", "greedy"], "questions with gold"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(home, arguments, said):
    assert said in call(home, "compare", *arguments, status=2).output


def test_the_shell_completes_the_names_of_runs(home):
    asked = {"_SOCIETY_COMPLETE": "complete_bash", "COMP_WORDS": "society status go"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("society"))],
        env={**os.environ, **asked, "COMP_CWORD": "2"},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["good", "good-s1"], done.stderr


def test_reading_commands_answer_programs(home):
    read = CliRunner().invoke(
        app, ["read", "so \\boxed{5}", "--answer", "number", "--gold", "5", "--json"]
    )
    assert json.loads(read.stdout)["right"] is True
    keys = CliRunner().invoke(app, ["config", "society.agents", "--json"])
    assert json.loads(keys.stdout)["keys"][0]["default"] == "3"
    ready = CliRunner().invoke(app, ["doctor", str(home / "good.toml"), "--json"])
    assert json.loads(ready.stdout)["ready"] is True, ready.output
    rows = call(home, "sql", "good", "SELECT count(*) AS n FROM votes", "--json")
    assert json.loads(rows.stdout) == [{"n": QUESTIONS}]
