import csv
import io
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.tasks.arithmetic import Arithmetic
from society import cli
from store.ledger import Store

AGENTS, ROUNDS, HELD_OUT = 3, 2, 6


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a script, an experiment, and its finished run."""
    folder = tmp_path_factory.mktemp("workshop")
    write_experiment(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(sys, "argv", ["society", "run", "small.toml"])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A new experiment in this test's own folder."""
    return write_experiment(tmp_path)


@pytest.fixture
def ran(workshop: Path, tmp_path: Path) -> Path:
    """The experiment of a run that lies finished in this test's own folder."""
    shutil.copytree(workshop / "runs", tmp_path / "runs")
    return workshop / "small.toml"


def write_experiment(folder: Path) -> Path:
    (folder / "script.jsonl").write_text("\n".join(script_lines()), encoding="utf-8")
    config = folder / "small.toml"
    config.write_text(
        f"""
        model = "scripted:{folder / "script.jsonl"}"
        iterations = 0
        task.name = "arithmetic"
        society = {{ agents = {AGENTS}, rounds = {ROUNDS}, others = "quoted" }}
        train = {{ questions = 4 }}
        evaluation = {{ questions = {HELD_OUT} }}
        """,
        encoding="utf-8",
    )
    return config


def script_lines() -> Iterator[str]:
    """Every agent is wrong first on every other question, and right in the end."""
    asked = [
        *(("eval", q) for q in Arithmetic().questions("eval", 0, HELD_OUT)),
        *(("train1", q) for q in Arithmetic().questions("train", 0, 4)),
    ]
    for agent, round_ in itertools.product(range(1, AGENTS + 1), range(1, ROUNDS + 1)):
        for number, (place, question) in enumerate(asked):
            answer = f"{number}00" if round_ == 1 and number % 2 else question.gold
            key = f"{place}/{question.question_id}/a{agent}/r{round_}/answer"
            yield json.dumps({"key": key, "text": f"[bold]so[/bold] \\boxed{{{answer}}}"})
        key = f"eval/asked/a{agent}/r{round_}/answer"
        yield json.dumps({"key": key, "text": f"agent {agent} says \x1b[31m\\boxed{{-27}}"})


@pytest.fixture
def society(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Call the command in this process; gives status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["society", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(end.value.code or 0), out, err

    return call


def test_run_ends_with_the_table_and_the_report(society, config: Path, tmp_path: Path) -> None:
    status, out, err = society("run", config)
    assert status == 0, err
    assert "Accuracy on held-out questions" in out
    assert "100.0" in out
    assert "report: runs/small/report.html" in out
    assert (tmp_path / "runs/small/report.html").is_file()
    assert not (tmp_path / "runs/small/progress.json").exists()
    assert not (tmp_path / "runs/small/live.json").exists()
    assert "look at it while it runs: society view small" in err


def test_a_run_that_is_not_to_be_read_meanwhile(society, ran: Path) -> None:
    status, _, err = society("run", ran, "--no-live")
    assert status == 0
    assert "while it runs" not in err


def test_a_run_that_is_not_watched_by_a_terminal_gives_plain_lines(society, config: Path) -> None:
    _, out, err = society("run", config)
    assert "untuned society · evaluate sampled: 36 turns" in err
    assert "\x1b" not in out + err
    assert "\r" not in out + err


def test_a_finished_run_can_be_run_again(society, ran: Path) -> None:
    status, out, err = society("run", ran)
    assert status == 0
    assert "Accuracy on held-out questions" in out
    assert "6 of them done before" in err


def test_a_run_with_a_whole_iteration(society, config: Path) -> None:
    status, out, err = society("run", config, "--set", "iterations=1", "--name", "whole")
    assert status == 0, err
    assert "From iteration 0 to 1" in out
    assert "iteration 1/1 · finetune" in err
    assert "report: runs/whole/report.html" in out


def test_status_tells_how_far_a_run_is(society, ran: Path) -> None:
    status, out, _ = society("status", "small")
    assert status == 0
    assert "run small: finished" in out
    assert "evaluate greedy" in out


def test_a_broken_script_is_named_before_anything_is_made(society, config, tmp_path) -> None:
    (tmp_path / "script.jsonl").write_text("not JSON", encoding="utf-8")
    status, _, err = society("run", config)
    assert status == 2
    assert "script.jsonl:1" in err
    assert not (tmp_path / "runs").exists()


def test_report_goes_where_it_is_asked_to(society, ran: Path, tmp_path: Path) -> None:
    status, out, _ = society("report", "small", "--out", tmp_path / "page.html")
    assert status == 0
    assert out.strip() == str(tmp_path / "page.html")
    assert "<!doctype html>" in (tmp_path / "page.html").read_text()


def test_report_into_a_missing_folder_is_one_message(society, ran: Path) -> None:
    status, _, err = society("report", "small", "--out", "none/page.html")
    assert status == 1
    assert "none" in err


def test_sql_as_table_csv_and_json(society, ran: Path) -> None:
    query = "select decoding, count(*) as turns, null as nothing from turns group by 1 order by 1"
    status, out, _ = society("sql", "small", query)
    assert status == 0
    assert "greedy" in out
    _, out, _ = society("sql", "small", query, "--format", "csv")
    assert list(csv.reader(io.StringIO(out))) == [
        ["decoding", "turns", "nothing"],
        ["greedy", "36", ""],
        ["sampled", "36", ""],
    ]
    _, out, _ = society("sql", "small", query, "--format", "json")
    assert json.loads(out)[0] == {"decoding": "greedy", "turns": 36, "nothing": None}


def test_sql_table_neither_cuts_nor_interprets_what_models_said(society, ran: Path) -> None:
    _, out, _ = society("sql", "small", "select messages::varchar, response from turns limit 1")
    assert "[bold]so[/bold]" in out
    assert "Work step by step and put the final answer in" in out


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select * from tunrs", "tunrs"),
        ("delete from turns", "only queries that read"),
        ("select 1; select 2", "one query at a time"),
        ("select * from read_csv('/etc/passwd')", "read_csv reads files"),
    ],
)
def test_sql_refuses_what_is_no_reading(society, ran: Path, query: str, message: str) -> None:
    status, _, err = society("sql", "small", query)
    assert status == 2
    assert message in err


def test_ask_shows_every_turn_and_the_consensus(society, ran: Path, tmp_path: Path) -> None:
    status, out, err = society("ask", "small", "3+4*5+6-7*8")
    assert status == 0, err
    assert "the untuned society of run small debates: 3+4*5+6-7*8" in out
    for agent in (1, 2, 3):
        assert f"round 2 · agent {agent}" in out
        assert f"agent {agent} says [ESC[31m]\\boxed{{-27}}" in out
    assert "consensus -27  (3 of 3 agents)" in out
    assert "\x1b" not in out
    with Store.open(tmp_path / "runs/small/run.duckdb", read_only=True) as store:
        assert store.rows("select count(*) from turns where question_id = 'asked'") == [(0,)]


@pytest.mark.parametrize("command", ["status", "report", "sql", "ask"])
def test_an_unknown_run_is_named(society, ran: Path, command: str) -> None:
    status, _, err = society(command, "smal", *(["select 1"] if command in ("sql", "ask") else []))
    assert status == 2
    assert "no run 'smal' in runs/ (runs there: small)" in err


@pytest.mark.parametrize("name", ["../other", "a/b", "", "-x"])
def test_a_run_name_with_a_path_is_refused(society, config: Path, name: str) -> None:
    status, _, err = society("run", config, f"--name={name}")
    assert status == 2
    assert f"{name!r} is not usable" in err


def test_another_config_under_the_same_name_names_what_differs(society, ran: Path) -> None:
    status, _, err = society("run", ran, "--set", "seed=7")
    assert status == 2
    assert "seed: stored 0, now 7" in err


def test_a_broken_database_is_named(society, ran: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/small/run.duckdb").write_bytes(b"no database" * 500)
    for command in (["run", ran], ["status", "small"], ["sql", "small", "select 1"]):
        status, _, err = society(*command)
        assert status == 2
        assert "run.duckdb" in err


def test_a_database_from_a_newer_version_is_named(society, ran: Path, tmp_path: Path) -> None:
    database = tmp_path / "runs/small/run.duckdb"
    with Store.open(database) as store:
        store.transact(lambda connection: _from_the_future(connection))
    for command in (["run", ran], ["status", "small"]):
        status, _, err = society(*command)
        assert status == 2
        assert "newer" in err


def _from_the_future(connection) -> None:
    [(table,)] = connection.execute(
        "select table_name from information_schema.tables where table_name like '%migration%'"
    ).fetchall()
    connection.execute(
        f"insert into {table} select * replace (999 as version) from {table} limit 1"
    )


def test_a_run_in_use_says_so(society, ran: Path, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, duckdb\n"
            "held = duckdb.connect(sys.argv[1])\n"
            "print('open', flush=True)\n"
            "input()",
            str(tmp_path / "runs/small/run.duckdb"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        status, _, err = society("sql", "small", "select 1")
        assert status == 2
        assert str(holder.pid) in err
        (tmp_path / "runs/small/progress.json").write_text(
            '{"process": 42, "line": "iteration 1/3 · debate: 5/9 questions", '
            '"updated_at": "2026-01-01T00:00:00Z"}'
        )
        status, out, _ = society("status", "small")
        assert status == 0
        assert "running, process 42" in out
        assert "iteration 1/3 · debate: 5/9 questions" in out
    finally:
        holder.communicate("\n")


def test_ctrl_c_ends_cleanly_and_says_how_to_resume(society, config, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, threading, time\n"
        "from society import cli\n"
        "sys.argv = ['society', 'run', sys.argv[1]]\n"
        "def press():\n"
        "    while not os.path.exists('runs/small/progress.json'): time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=press, daemon=True).start()\n"
        "cli.main()\n"
    )
    config.write_text(config.read_text().replace(f"questions = {HELD_OUT}", "questions = 3000"))
    done = subprocess.run(
        [sys.executable, "-c", code, str(config)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith(f"society: stopped\nresume with: society run {config}\n")
    assert "Traceback" not in done.stderr
    status, out, _ = society("status", "small")
    assert status == 0
    assert "run small: stopped before its end; resume it with" in out
    assert "society run runs/small/config.toml --name small --runs runs" in out


def test_a_report_that_cannot_be_written_is_one_message(society, ran, tmp_path) -> None:
    (tmp_path / "runs/small/report.html").unlink()
    (tmp_path / "runs/small/report.html").mkdir()
    status, _, err = society("run", ran)
    assert status == 1
    assert "resume with: society run" in err


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; import society.cli; sys.argv = ['society', '--help']\n"
        "try: society.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'openai', 'duckdb', 'pydantic', 'rich', 'numpy'}\n"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("run", "status", "report", "sql", "ask"):
        assert command in done.stdout


def test_every_command_and_parameter_is_documented() -> None:
    import typer

    page = (Path(__file__).parents[2] / "docs/commands.md").read_text("utf-8")

    for name, command in typer.main.get_command(cli.app).commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"
        assert f"\n| `society {name}` |" in page, f"docs/commands.md lacks {name}"
