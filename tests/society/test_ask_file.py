"""`society ask --questions`: a file's answers become a run, which resumes and refuses others."""

import asyncio
import contextlib
import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from society.cli import app
from society.method.progress import StageAdvanced
from society.runs.ask_file import ask_questions, open_answers, plan_questions
from society.runs.folder import find_run, locate_run
from society.runs.question_file import QuestionFile
from store.ledger import Store
from tests.society.view.conftest import served
from tests.society.whole_run import rows, start

CALL = CliRunner().invoke
PAGE = (Path(__file__).parents[2] / "docs" / "ask.md").read_text("utf-8")
SUM = "What is the result of {0}+2*3+4-5*6?"
# What the three agents say first and last, to six sums; None: nothing that can be read.
SAID = {
    "agreed": ((80, 80, 81), (80, 80, 80)),
    "most": ((180, 180, 181), (180, 180, 181)),
    "tied": ((1, 2, None), (1, 2, None)),
    "unread": ((None, None, None), (None, None, None)),
    "wrong": ((7, 7, 7), (7, 7, 7)),
    "no-gold": ((480, 480, 480), (480, 480, 480)),
}
ROWS = [
    {"id": name, "question": SUM.format(100 * (place + 1)), "answer": gold}
    for place, (name, gold) in enumerate(
        zip(SAID, ("80", "180", "1", "380", "#### 8", ""), strict=True)
    )
]


def say(answer):
    return "I cannot tell." if answer is None else f"\\boxed{{{answer}}}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scripted):
    """A folder with a run of two iterations, a file of questions, and a script for them."""
    home = tmp_path_factory.mktemp("finished")
    path = scripted(home)
    (home / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with (home / "script.jsonl").open("a") as script:
        for row in ROWS:
            for number, answers in enumerate(SAID[row["id"]], start=1):
                for agent, answer in enumerate(answers, start=1):
                    stem = f"eval/asked:{row['id']}/a{agent}/r{number}"
                    for part, text in (("answer", say(answer)), ("summary", "a summary")):
                        script.write(json.dumps({"key": f"{stem}/{part}", "text": text}) + "\n")
        for agent in (1, 2, 3):
            for key in ("r1/answer", "r2/summary", "r2/answer"):
                line = {"key": f"eval/asked/a{agent}/{key}", "text": say(-27)}
                script.write(json.dumps(line) + "\n")
    start(home, path, name="demo")
    return home


@pytest.fixture
def home(finished, tmp_path):
    shutil.copytree(finished / "runs", tmp_path / "runs")
    shutil.copy(finished / "more.jsonl", tmp_path)
    return tmp_path


def ask(home, *options, file="more.jsonl", name="demo"):
    given = [name, "--questions", str(home / file), "--runs", str(home / "runs"), *options]
    return CALL(app, ["ask", *given])


def refused(home, *options, **where):
    done = ask(home, *options, **where)
    assert done.exit_code == 2, done.output
    return done.stderr


def test_the_questions_of_a_file_become_a_run(home):
    done = ask(home, "--store", "mine")
    assert done.exit_code == 0, done.output
    said = done.stdout.splitlines()
    assert said[0] == (
        "6 questions: the agents agree on 3, most agree on 1, 1 tied, 1 unreadable; "
        "accuracy 60.0 % (23.1–88.2) on 5 with gold; no cost"
    )
    assert f"society view mine --runs {home / 'runs'}" in said[-1]
    assert "gold answers are from the field 'answer'" in done.stderr
    assert "iteration 2/2 · ask: 54 turns" in done.stderr
    folder = find_run(home / "runs", "mine")
    assert rows(folder, "SELECT correct, total FROM accuracy WHERE measure = 'consensus'") == [
        (3, 5)
    ]
    stored = rows(folder, "SELECT question_id, gold FROM questions ORDER BY position")
    assert stored == [
        ("asked:agreed", "80"),
        ("asked:most", "180"),
        ("asked:tied", "1"),
        ("asked:unread", "380"),
        ("asked:wrong", "8"),
        ("asked:no-gold", None),
    ]
    for command in ("status", "report", "list"):
        shown = CALL(app, [command, *["mine"][: command != "list"], "--runs", str(home / "runs")])
        assert shown.exit_code == 0, shown.output
    assert (folder.path / "report.html").is_file()
    with served(home / "runs") as site:
        stage = "iteration=2&split=eval&arm=multiagent&decoding=sampled"
        pages = ("", "/debates", "/models", f"/debate?question=asked:tied&{stage}")
        assert [site.get(f"/runs/mine{page}")[0] for page in pages] == [200] * 4
    # The run that was asked is as it was.
    assert rows(find_run(home / "runs", "demo"), "SELECT count(*) FROM questions") == [(7,)]


def test_programs_get_every_answer(home):
    done = ask(home, "--store", "mine", "--json", "--quiet", "--iteration", "0")
    found = json.loads(done.stdout)
    assert (found["of"], found["iteration"], found["questions"]) == ("demo", 0, 6)
    counts = [found[name] for name in ("unanimous", "majority", "tied", "unreadable")]
    assert counts == [3, 1, 1, 1]
    assert found["accuracy"]["value"] == 0.6
    first, *_, last = found["answers"]
    assert (first["question_id"], first["answer"], first["correct"]) == ("asked:agreed", "80", True)
    assert (last["votes"], last["gold"], last["correct"]) == (3, None, None)


class Stopped(Exception):
    pass


def stop_early(event):
    if isinstance(event, StageAdvanced) and event.done >= 20:
        raise Stopped


def test_the_same_command_asks_nothing_twice(home):
    plan = plan_questions(find_run(home / "runs", "demo"), QuestionFile(home / "more.jsonl"))
    folder = locate_run(home / "runs", "mine")
    with open_answers(folder, plan, print) as store, pytest.raises(Stopped):
        asyncio.run(ask_questions(folder, store, plan, stop_early))
    with Store.open(folder.database, read_only=True) as store:
        before = read_turns(store)
    assert 20 <= len(before) < 54
    done = ask(home, "--store", "mine", "--json", "--quiet")
    with Store.open(folder.database, read_only=True) as store:
        after = read_turns(store)
    assert len(after) == 54
    assert {turn: after[turn] for turn in before} == before
    # Once more: all is there, and nothing changes.
    assert ask(home, "--store", "mine", "--json", "--quiet").stdout == done.stdout
    with Store.open(folder.database, read_only=True) as store:
        assert read_turns(store) == after


def read_turns(store):
    return dict(store.rows("SELECT turn_id, created_at FROM turns"))


def test_a_run_of_another_making_is_refused(home):
    assert "is a run of its own" in refused(home, "--store", "demo")
    assert ask(home, "--store", "mine").exit_code == 0
    said = refused(home, "--store", "mine", "--iteration", "1")
    assert "it has the answers of the society of iteration 2 of run demo to 6 questions" in said
    (home / "other.txt").write_text("1+2*3+4-5*6\n")
    assert "to 1 questions would be asked" in refused(home, "--store", "mine", file="other.txt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--questions needs --store NEW"),
        (["--store", "a", "--gold", "right"], "has no field 'right' with gold answers"),
        (["--store", "a", "--field", "no"], "the field 'no' is missing"),
        (["--store", "a", "--iteration", "9"], "--iteration 9: no such society"),
        (["--store", "../a"], "is not usable"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(home, options, said):
    assert said in refused(home, *options)
    assert [path.name for path in (home / "runs").iterdir()] == ["demo"]


def test_one_question_or_many(home):
    runs = ["--runs", str(home / "runs")]
    done = CALL(app, ["ask", "demo", *runs])
    assert (done.exit_code, "give a question, or --questions FILE" in done.stderr) == (2, True)
    done = CALL(app, ["ask", "demo", "1+1", "--store", "mine", *runs])
    assert (done.exit_code, "--store belongs to --questions" in done.stderr) == (2, True)


def test_the_price_is_told_and_nothing_asked(home):
    done = ask(home, "--cost", "--json")
    assert done.exit_code == 0, done.output
    lines = json.loads(done.stdout)
    assert {line["stage"] for line in lines} == {"evaluate"}
    assert {line["role"]: line["calls"] for line in lines} == {
        "generator": 18,
        "critic": 18,
        "summarizer": 18,
    }
    assert [path.name for path in (home / "runs").iterdir()] == ["demo"]


def test_the_commands_of_the_page_run(home):
    with (home / "sums.csv").open("w", newline="") as file:
        sums = csv.DictWriter(file, ROWS[0])
        sums.writeheader()
        sums.writerows(ROWS)
    shown = []
    with contextlib.chdir(home):
        [block] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
        for line in block.splitlines():
            done = CALL(app, shlex.split(line.removeprefix("$ society ")))
            assert done.exit_code == 0, f"{line}\n{done.output}"
            shown.append(done.output)
    assert "consensus -27  (3 of 3 agents)" in shown[0]
    assert SUM.format(100) in shown[3]
