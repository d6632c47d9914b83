"""SECURITY.md: every line that protects something names its tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
LINES = dict(re.findall(r"^- \*\*(\w+)\*\* (.*?)(?=^- |^#|^\S|\Z)", TEXT, re.MULTILINE | re.DOTALL))
THREATS = (ROOT / "tests" / "society" / "test_threats.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LINES)
def test_every_line_is_held_by_tests(name):
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", LINES[name])
    assert named, f"line {name} names no test"
    for file, test in named:
        code = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {test}\(", code, re.MULTILINE), f"{file} has no {test}"


def test_every_threat_is_a_line():
    for test, line in re.findall(r"^def (test_([a-z]\d)_\w+)\(", THREATS, re.MULTILINE):
        assert f"tests/society/test_threats.py::{test}" in LINES[line.upper()]


def test_no_two_lines_have_one_name():
    names = re.findall(r"^- \*\*(\w+)\*\*", TEXT, re.MULTILINE)
    assert sorted(LINES) == sorted(names)
    assert len(names) > 15
