"""Findings of the checks before a run, printed for people or for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from rich.text import Text

from providers.types import Finding, Level
from society.terminal.output import Screen, escape_invisible
from society.terminal.table import write_json

# Colors on a terminal; the level is printed as a word as well.
_STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}
_WIDTH = len("warning  ")


def show_findings(findings: Sequence[Finding], stream: TextIO, *, as_json: bool = False) -> bool:
    """Print findings with their remedies, in color on a terminal, or as one JSON object.

    Returns whether none of them is an error.
    """
    ready = all(found.level != "error" for found in findings)
    if as_json:
        write_json({"ready": ready, "findings": [asdict(found) for found in findings]}, stream)
        return ready
    console = Screen(stream, soft_wrap=True)
    indent = " " * _WIDTH
    for found in findings:
        text = escape_invisible(format_finding(found)).replace("\n", f"\n{indent}")
        console.print(Text(f"{found.level:<{_WIDTH}}", _STYLES[found.level]) + Text(text))
        if found.remedy:
            console.print(Text(f"{indent}→ {escape_invisible(found.remedy)}", "dim"))
    return ready


def format_finding(found: Finding) -> str:
    """The text of a finding; warnings and errors name their check."""
    return found.text if found.level == "ok" or not found.check else f"{found.text} [{found.check}]"
