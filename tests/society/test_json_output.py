"""What commands print for programs, and how little `--quiet` prints."""

import json

import pytest
from typer.testing import CliRunner

from society.cli import app

CALL = CliRunner().invoke


@pytest.fixture(scope="module")
def home(tmp_path_factory, scripted):
    """A folder with a finished run `first`, and what the run said."""
    folder = tmp_path_factory.mktemp("home")
    scripted(folder)
    return folder


@pytest.fixture(scope="module")
def said(home):
    return CALL(app, ["run", str(home / "scripted.toml"), *where(home), "--json"])


def where(home):
    return ["--name", "first", "--runs", str(home / "runs")]


def read(home, command, *options):
    done = CALL(app, [command, "first", "--runs", str(home / "runs"), *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_run_ends_with_one_object(home, said):
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert (found["run"], found["state"]) == ("first", "finished")
    assert found["report"] == str(home / "runs/first/report.html")
    last = found["societies"][-1]
    assert last["arm"] == "multiagent"
    assert last["iteration"] == 2
    assert last["consensus"]["value"] == 1.0
    assert last["unread"] == last["cut"] == 0.0
    assert {"iteration", "stage", "done", "of"} <= set(found["stages"][0])
    assert "untuned society · evaluate sampled" in said.stderr


def test_status_says_the_same_and_report_names_its_page(home, said):
    state = json.loads(read(home, "status", "--json"))
    assert state == json.loads(said.stdout)
    written = json.loads(read(home, "report", "--json"))
    assert written == {"report": str(home / "runs/first/report.html"), "runs": [state]}


def test_a_cost_is_a_list_of_lines(home):
    done = CALL(app, ["cost", str(home / "scripted.toml"), "--json"])
    assert {line["stage"] for line in json.loads(done.stdout)} >= {"debate", "finetune"}


def test_quiet_says_where_the_report_is_and_no_more(home, said):
    again = CALL(app, ["run", str(home / "scripted.toml"), *where(home), "--quiet"])
    assert again.exit_code == 0, again.output
    assert again.stdout == f"report: {home / 'runs/first/report.html'}\n"
    assert "turns" not in again.stderr


def test_a_run_says_in_one_line_how_it_is_looked_at(home, said):
    lines = [line for line in said.stderr.splitlines() if "society view" in line]
    assert lines == [f"look at it while it runs: society view first --runs {home / 'runs'}"]
    assert "curl" not in said.stderr


def test_the_ways_to_read_a_run_are_told_when_asked_for(home, said):
    ways = read(home, "sql", "--how")
    assert f"society sql first --runs {home / 'runs'}" in ways
    assert f"duckdb -readonly {home / 'runs/first/run.duckdb'}" in ways
    assert "society.open_run('first')" in ways


def test_several_runs_have_no_single_object(home):
    done = CALL(app, ["run", str(home / "scripted.toml"), "--set", "seeds=[0,1]", "--json"])
    assert done.exit_code == 2
    assert "--json works on one" in done.stderr
