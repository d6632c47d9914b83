"""The examples of docs/import.md: the files are imported and the commands run as they stand."""

import re
import shlex
import sys
from pathlib import Path
from typing import get_args

import pytest

from evals.answers import OptionFreeAnswerName
from society import cli

TEXT = (Path(__file__).parents[2] / "docs/import.md").read_text(encoding="utf-8")


@pytest.fixture
def society(tmp_path, monkeypatch, capfd):
    """Call the command in this process; gives status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["society", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(end.value.code or 0), out, err

    return call


def write_files(folder):
    files = dict(re.findall(r"`(\S+\.jsonl?)`:\n\n```json\n(.*?)```", TEXT, re.DOTALL))
    assert set(files) == {"turns.jsonl", "debates.json"}
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")


def examples():
    """(arguments, lines that must be printed) of every command."""
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL):
        for part in block.split("$ society ")[1:]:
            command, *printed = part.strip().split("\n")
            yield shlex.split(command), [" ".join(line.split()) for line in printed]


def test_the_kinds_of_answers_are_those_that_need_no_option():
    [named] = re.findall(r"`--answers ([\w|]+)`", TEXT)
    assert tuple(named.split("|")) == get_args(OptionFreeAnswerName)


def test_the_documents_files_and_commands_do_what_it_says(society, tmp_path):
    write_files(tmp_path)
    for arguments, printed in examples():
        status, out, err = society(*arguments)
        assert status == 0, (arguments, out, err)
        lines = [" ".join(line.split()) for line in out.splitlines()]
        for line in printed:
            assert line in lines, (arguments, out)


def test_an_imported_run_has_a_status_a_report_and_views(society, tmp_path):
    write_files(tmp_path)
    society("import", "turns.jsonl", "--name", "mine", "--answers", "number")
    society("import", "debates.json", "--name", "training-only", "--task", "gsm8k")
    for name in ("mine", "training-only"):
        status, out, err = society("status", name)
        assert (status, err) == (0, "")
        assert f"run {name}: finished" in out
        status, out, err = society("report", name)
        assert (status, err) == (0, "")
        assert (tmp_path / "runs" / name / "report.html").is_file()
    status, out, _ = society("sql", "training-only", "select label_accuracy from pseudo_labels")
    assert status == 0
    assert "1" in out


def test_a_file_that_cannot_be_imported_ends_with_status_2_and_no_run(society, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"question": "1+1?", "agent": 0}\n')
    status, out, err = society("import", "bad.jsonl", "--name", "bad", "--answers", "number")
    assert (status, out) == (2, "")
    assert "line 1: agent: agents and rounds count from 1" in err
    assert "line 1: response is missing" in err
    assert not (tmp_path / "runs").exists()
    missing = society("import", "missing.jsonl", "--name", "bad", "--answers", "number")
    assert missing[0] == 2
    assert "missing.jsonl" in missing[2]
    assert society("import", "bad.jsonl", "--name", "bad")[0] == 2
    assert society("import", "bad.jsonl", "--name", "a/b", "--answers", "number")[0] == 2


def test_evaluation_debates_alone_can_be_replayed(society, tmp_path):
    line = '{"question": "1+1?", "agent": %d, "round": 1, "response": "2", "gold": 2}\n'
    (tmp_path / "held-out.jsonl").write_text("".join(line % agent for agent in (1, 2)))
    given = ("--split", "eval", "--answers", "number")
    assert society("import", "held-out.jsonl", "--name", "old", *given)[0] == 0
    status, out, err = society("run", "runs/old/config.toml", "--name", "new")
    assert status == 0, err
    assert "100.0" in out
    status, _, err = society("run", "runs/old/config.toml", "--name", "old")
    assert status == 2
    assert "into a run of another name" in err
    status, _, err = society("ask", "old", "2+2?")
    assert status == 1
    assert "holds no turn for the answer of agent 1 in round 1 on question 'asked'" in err
