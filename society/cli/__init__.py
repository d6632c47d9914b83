"""The command `society`.

Exit status: 0 done, 1 failed, 2 wrong use or wrong config, 130 stopped by Ctrl-C or another signal.
Every command imports its heavy packages when it runs, so that help is instant.
"""

from __future__ import annotations

from society.terminal import signals, streams

# Importing a module registers its commands; their order is that of the help.
from society.cli import init  # isort: skip
from society.cli import run  # isort: skip
from society.cli import distill  # isort: skip
from society.cli import check  # isort: skip
from society.cli import inspect  # isort: skip
from society.cli import ask  # isort: skip
from society.cli import manage  # isort: skip
from society.cli import sql  # isort: skip
from society.cli import view  # isort: skip
from society.cli import serve  # isort: skip
from society.cli import data  # isort: skip
from society.cli.app import app

__all__ = [
    "app",
    "ask",
    "check",
    "data",
    "distill",
    "init",
    "inspect",
    "main",
    "manage",
    "run",
    "serve",
    "sql",
    "view",
]


def main() -> None:
    """Entry point of the command."""
    with streams.guard_standard_streams(), signals.handle_signals():
        app()
