"""Sweeps as a user runs them: the members are real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from society import cli
from society.runs import folder as folders
from society.runs.folder import RunFolder
from society.sweeps import execution, processes
from society.sweeps.axes import SweepOptions, SweepSource
from society.sweeps.definition import load_sweep
from society.sweeps.processes import RunningMember
from store.ledger import Store

TASK = """
import os
import time
from evals.tasks.base import TaskQuestion


class Words:
    name = "words"
    answer_form = "End with one word."

    def __init__(self, options):
        self.word = options.get("word", "fine")

    def questions(self, split, start, count):
        places = range(start, start + count)
        return [TaskQuestion(f"words:{split}{n}", f"{split} word {n}?", "yes") for n in places]

    def prompt(self, text):
        return text

    def extract(self, response):
        if self.word == "bad" and os.path.exists("broken"):
            raise RuntimeError("this word is broken")
        if self.word == "slow":
            time.sleep(0.05)
        return response

    def equivalent(self, a, b):
        return a == b

    def style(self, response):
        return None
"""
ARM = ["multiagent", "sampled", "untuned"]
RATES = 3 * ["50.0", "50.0–50.0"]
FILE = """
model = "scripted:script.jsonl"
iterations = 0
{seeds}
[task]
name = "sweepwords:Words"
[society]
agents = 2
rounds = 1
[train]
questions = 1
[evaluation]
questions = {questions}
decodings = ["sampled"]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an experiment of one's own task, in which agent 1 is right half of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "sweepwords.py").write_text(TASK)
    lines = [
        {"key": f"eval/words:eval{n}/a{agent}/r1/answer", "text": "no" if n % 2 else "yes"}
        for n in range(4)
        for agent in (1, 2)
    ]
    script = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "script.jsonl").write_text(script)
    (tmp_path / "words.toml").write_text(FILE.format(seeds="", questions=4))
    yield tmp_path
    sys.modules.pop("sweepwords", None)


@pytest.fixture
def society(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Call the command in this process; gives status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["society", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(end.value.code or 0), out, err

    return call


@pytest.mark.long
def test_a_sweep_from_its_start_to_more_seeds(society, home):
    status, out, err = society("sweep", "words.toml", "--grid", "consensus.ties=drop,first")
    assert status == 0, err
    assert "sweep words: 2 runs; 1 at a time" in err
    assert "ties-drop.seed-0: untuned society · evaluate sampled: 8 turns" in err
    assert err.index("ties-drop.seed-0: finished") < err.index("ties-first.seed-0: started")
    lines = [line.split() for line in out.splitlines()]
    assert ["ties-drop", *ARM, "1", *RATES] in lines
    assert sorted(p.name for p in (home / "runs").iterdir()) == [
        "words",
        "words.ties-drop.seed-0",
        "words.ties-first.seed-0",
    ]

    status, out, err = society(
        "sweep", "words.toml", "--grid", "consensus.ties=drop", "--seeds", "0,4", "--jobs", "2"
    )
    assert status == 0, err
    assert "sweep words: 2 runs, 1 of them done before; 2 at a time" in err
    assert "ties-drop.seed-0: " not in err
    lines = [line.split() for line in out.splitlines()]
    # What the first start has asked for is still part of the sweep.
    assert ["ties-drop", *ARM, "2", *RATES] in lines
    assert any(line[:1] == ["ties-first"] for line in lines)
    assert out.endswith("report: runs/words/report.html\n")

    questions = []
    for seed in (0, 4):
        with Store.open(f"runs/words.ties-drop.seed-{seed}/run.duckdb", read_only=True) as store:
            assert store.rows("SELECT name, seed FROM runs") == [
                (f"words.ties-drop.seed-{seed}", seed)
            ]
            questions.append(store.rows("SELECT * FROM questions ORDER BY ALL"))
    assert questions[0] == questions[1]

    status, out, _ = society("status", "words")
    assert status == 0
    assert "sweep words: 3 of 3 runs finished" in out
    assert "words.ties-drop.seed-4" in out
    status, out, _ = society("status", "words.ties-drop.seed-4")
    assert "run words.ties-drop.seed-4: finished" in out
    status, _, err = society("sql", "words", "SELECT 1")
    assert status == 2
    assert "'words' is a sweep; name one of its runs: words.ties-drop.seed-0, words." in err
    status, out, _ = society("cancel", "words")
    assert status == 0
    assert "run words.ties-drop.seed-4:\nno fine-tuning job" in out
    page = (home / "runs/words/report.html").read_text(encoding="utf-8")
    assert "words.ties-drop.seed-4" in page
    assert "words.ties-first.seed-0" in page
    status, out, _ = society("report", "words", "--out", "page.html")
    assert (status, out) == (0, "page.html\n")
    assert society("run", "words.toml")[0] == 2


def test_run_carries_out_the_seeds_of_a_file(society, home):
    (home / "words.toml").write_text(FILE.format(seeds="seeds = [3, 5]", questions=4))
    status, out, err = society("run", "words.toml", "--name", "two")
    assert status == 0, err
    assert {p.name for p in (home / "runs").iterdir()} == {"two", "two.seed-3", "two.seed-5"}
    assert "point" not in out
    assert (home / "runs/two.seed-3/report.html").is_file()
    status, _, err = society("run", "words.toml", "--name", "two")
    assert status == 0
    assert "sweep two: 2 runs, 2 of them done before\n" in err


@pytest.mark.long
def test_a_member_that_fails_stops_no_other_and_is_run_again(society, home):
    (home / "broken").touch()
    sweep = ("sweep", "words.toml", "--grid", "task.word=bad,fine")
    status, _, err = society(*sweep)
    assert status == 1
    assert "word-bad.seed-0: failed" in err
    assert "word-fine.seed-0: finished" in err
    assert "words.word-bad.seed-0 failed: RuntimeError: this word is broken" in err
    assert "its whole output is in runs/words.word-bad.seed-0/output.log" in err
    assert "society: 1 of 2 runs failed; the same command runs only what is missing" in err
    assert re.search(r"word-bad.seed-0 +stopped before its end", society("status", "words")[1])
    (home / "broken").unlink()
    status, _, err = society(*sweep)
    assert status == 0, err
    assert "word-fine" not in err
    assert "sweep words: 2 runs, 1 of them done before" in err


@pytest.mark.parametrize(
    "kill", [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_stopping_a_sweep_stops_its_members(society, home, kill):
    slow = FILE.format(seeds="seeds = [0, 1, 2]", questions=3000)
    (home / "words.toml").write_text(slow.replace(':Words"', ':Words"\nword = "slow"'))
    command = [sys.executable, "-m", "society", "sweep", "words.toml", "--jobs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    notices = [Path(f"runs/words.seed-{seed}/progress.json") for seed in (0, 1)]
    _wait_until(lambda: all(notice.exists() for notice in notices))
    if kill == signal.SIGINT:
        status, _, err = society("sweep", "words.toml")
        assert status == 2
        assert "run 'words.seed-0' is running in another process" in err
    process.send_signal(kill)
    _, err = process.communicate()
    if kill != signal.SIGKILL:
        assert process.returncode == 130
        assert err.endswith("society: stopped\nresume with: society sweep words.toml --jobs 2\n")
        assert "seed-1: stopped" in err
        assert "seed-2" not in err
        assert "Traceback" not in err
    # A member takes its notice down when it stops, as it does after Ctrl-C.
    _wait_until(lambda: not any(notice.exists() for notice in notices))
    logs = [notice.with_name("output.log") for notice in notices]
    _wait_until(lambda: all("society: stopped" in log.read_text() for log in logs))
    for notice in notices:
        Store.open(notice.with_name("run.duckdb")).close()


def _wait_until(true, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)


def test_a_member_whose_stored_config_differs_is_refused(society, home):
    assert society("run", "words.toml", "--name", "words.seed-1", "--set", "seed=1")[0] == 0
    status, _, err = society("sweep", "words.toml", "--seeds=1,2", "--set=evaluation.questions=3")
    assert status == 2
    assert "run 'words.seed-1' was started with another config" in err
    assert "evaluation.questions: stored 4, now 3" in err
    assert not (home / "runs/words").exists()
    assert not (home / "runs/words.seed-2").exists()
    # A run of one's own under a member's name, with the same settings, becomes a member.
    status, _, err = society("sweep", "words.toml", "--seeds=1,2")
    assert status == 0, err
    assert "2 runs, 1 of them done before" in err


def test_the_name_of_a_run_is_refused(society, home):
    assert society("run", "words.toml")[0] == 0
    status, _, err = society("sweep", "words.toml", "--seeds=0,1")
    assert status == 2
    assert "'words' is a run; give the sweep another name with --name" in err


def test_questions_that_leak_in_one_member_are_refused(society, home):
    (home / "train.jsonl").write_text(_rows("What is {0}+{0}?", 0))
    (home / "eval.jsonl").write_text(_rows("What is {0}+{0}?", 50))
    (home / "same.jsonl").write_text(_rows("What is {0}+{0}?", 5))
    (home / "own.toml").write_text(
        'model = "scripted:script.jsonl"\niterations = 1\nevaluation.questions = 9\n'
        'train.questions = 9\n[task]\nname = "file"\nanswer = "number"\n'
        'train_path = "train.jsonl"\neval_path = "eval.jsonl"\n'
    )
    grid = ("--grid", "task.eval_path=eval.jsonl,same.jsonl")
    status, _, err = society("sweep", "own.toml", *grid)
    assert status == 2
    assert "same" in err
    assert "are the same as training questions" in err
    assert not (home / "runs").exists()
    status, out, _ = society("doctor", "own.toml", *grid)
    assert status == 2
    assert "ok       a sweep of 2 runs: 2 point(s) of the grid, 1 seed(s)" in out
    assert "eval_path-eval.jsonl: no evaluation question is trained on" in out
    assert re.search(r"error +eval_path-same\.jsonl: \d evaluation question\(s\) are the same", out)


def _rows(text: str, start: int) -> str:
    lines = (f'{{"question": "{text.format(n)}"}}\n' for n in range(start, start + 10))
    return "".join(lines)


def test_cost_is_the_sum_and_the_cap_holds_for_each_run(society, home):
    model = "--set=model=openai:gpt-4.1-mini"
    cap = "--set=budget_usd=2.5"
    grid = ("--grid", "evaluation.questions=2,4", "--seeds", "0,1,2")
    status, out, err = society("cost", "words.toml", model, cap, *grid, "--format", "csv")
    assert status == 0, err
    rows = [line.split(",") for line in out.splitlines()]
    assert [row[:3] for row in rows[1:]] == [
        ["questions-2", "3", "12"],
        ["questions-4", "3", "24"],
    ]
    status, out, _ = society("cost", "words.toml", model, cap, *grid)
    assert "budget_usd holds for each run on its own, together at most 15.00 USD." in out
    one = society("cost", "words.toml", model, "--set=evaluation.questions=4", "--format=csv")[1]
    expected = float(one.splitlines()[-1].split(",")[-2])
    assert float(rows[2][-2]) == pytest.approx(3 * expected)


def test_one_more_at_a_time_than_cores_for_the_built_in_model_only(home):
    def jobs(*overrides: str) -> int:
        source = SweepSource("words.toml", overrides, SweepOptions(seeds="0,1,2,3,4,5,6,7"))
        return processes.choose_jobs(load_sweep(source, home / "runs", "words").members)

    assert jobs() == 1
    assert jobs('model="embedded:"') == min(8, len(os.sched_getaffinity(0)) + 1)
    assert jobs('model="embedded:"', 'society.models=["embedded:", "scripted:script.jsonl"]') == 1


def test_a_terminal_shows_a_line_for_each_member(home):
    source = SweepSource("words.toml", (), SweepOptions(seeds="0,1,2"))
    members = [RunningMember(m) for m in load_sweep(source, home / "runs", "words").members]
    members[0].state, members[1].state = "finished", "running"
    folder: RunFolder = members[1].member.folder
    folders.prepare_run(folder, members[1].member.config)
    shown = execution.draw_members(members, height=10)
    assert [str(cell) for cell in shown.columns[2].cells] == [
        "finished",
        "starting",
        "waiting",
        "1 waiting, 1 running, 1 finished",
    ]
    (folder.path / "progress.json").write_text(
        '{"process": 1, "line": "iteration 1/3 · debate: 5/9 turns", '
        '"updated_at": "2026-01-01T00:00:00Z"}'
    )
    few = execution.draw_members(members, height=2)
    assert str(next(iter(few.columns[2].cells))) == "iteration 1/3 · debate: 5/9 turns"
