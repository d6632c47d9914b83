"""The command that shows how a response is read."""

import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from society import cli

DOC = (Path(__file__).parents[2] / "docs/answers.md").read_text(encoding="utf-8")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Call `society read` in this process; gives status, lines of stdout by title, and stderr."""

    def call(*arguments: str, stdin: str = "") -> tuple[int, dict[str, str], str]:
        monkeypatch.setattr(sys, "argv", ["society", "read", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(end.value.code or 0), dict(line.split(None, 1) for line in out.splitlines()), err

    return call


def test_the_documented_call_prints_what_the_page_shows(read) -> None:
    [block] = re.findall(r"```console\n\$ society read (.*?)\n(.*?)```", DOC, re.DOTALL)
    status, lines, _ = read(*shlex.split(block[0]))
    assert status == 0
    assert lines == dict(line.split(None, 1) for line in block[1].splitlines())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--answer", "math", r"$x=\boxed{4}$ or $x=\boxed{-9}$", "--gold", "-9, 4"),
            {"read": "4, -9", "rule": "the last box", "verdict": "right"},
        ),
        (
            ("--answer", "number", r"<think>\boxed{17}</think> It is 15.", "--gold", "17"),
            {"read": "15", "rule": "the last number of the last line, after the thought",
             "stated": "nothing", "verdict": "wrong"},
        ),
        (
            ("--answer", "number", "<think>It is 17"),
            {"read": "nothing", "rule": "the response ends within its thought"},
        ),
        (
            ("--answer", "number", "3244047.1", "--gold", "3244047.0999999996",
             "--tolerance", "1e-6"),
            {"meaning": "3244047.1", "verdict": "right"},
        ),
        (
            ("--answer", "choice", "The answer is E", "--choices", "5"),
            {"read": "E", "rule": "the last phrase that states an answer"},
        ),
        (
            ("--answer", "text", "The answer is Paris.", "--case", "ignore"),
            {"read": "Paris", "meaning": "paris"},
        ),
        (
            ("--answer", "regex", "<think>verdict: no</think>verdict: yes",
             "--pattern", r"verdict: (\w+)"),
            {"read": "yes", "rule": "the last match of the pattern"},
        ),
        (
            ("--answer", "math", r"\boxed{x \ne 3}"),
            {"meaning": r"in any order: ( -\infty , 3 ) | ( 3 , \infty )"},
        ),
        (
            ("--answer", "math", r"\boxed{x=\frac56 \approx 0.83}"),
            {"meaning": "the number 5/6, or the number 83/100 as its approximation, named x"},
        ),
    ],
)  # fmt: skip
def test_what_is_read_and_why(read, arguments, expected) -> None:
    status, lines, err = read(*arguments)
    assert (status, err) == (0, "")
    assert {title: lines[title] for title in expected} == expected


def test_a_response_may_come_from_stdin_and_may_hide_nothing(read) -> None:
    _, lines, _ = read("--answer", "text", "-", stdin="The answer is \x1b[31mred\u202e.\n[bold]")
    assert "\x1b" not in lines["read"]
    assert "red" in lines["read"]
    assert "\u202e" not in "".join(lines.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--answer", "number", "5", "--choices", "4"), "unknown option 'choices' .* number"),
        (("--answer", "choice", "B", "--choices", "99"), "'choices' .*got 99"),
        (("--answer", "regex", "5"), "option 'pattern' of the answer kind regex is missing"),
        (("--answer", "number", "5", "--gold", "many"), "no gold number in 'many'"),
        (("--answer", "number", "5", "--tolerance", "-1"), "'tolerance' .*got -1"),
        (("--answer", "poem", "5"), "'poem' is not one of"),
        (("5",), "--answer"),
    ],
)
def test_wrong_use_is_named(read, arguments, message) -> None:
    status, lines, err = read(*arguments)
    assert status == 2
    assert lines == {}
    assert re.search(message, err)
