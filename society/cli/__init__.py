"""The command `society`.

Exit status: 0 done, 1 failed, 2 wrong use or wrong config, 130 stopped by Ctrl-C or another signal.
Whatever is heavy is imported inside the command that needs it, so that help is instant.
"""

from __future__ import annotations

from society.terminal import signals

# Importing a module registers its commands; their order is that of the help.
from society.cli import running  # isort: skip
from society.cli import sweeping  # isort: skip
from society.cli import preparing  # isort: skip
from society.cli import reading  # isort: skip
from society.cli import querying  # isort: skip
from society.cli import answering  # isort: skip
from society.cli import diversity  # isort: skip
from society.cli import viewing  # isort: skip
from society.cli import exporting  # isort: skip
from society.terminal import streams  # isort: skip
from society.cli.app import app

__all__ = [
    "answering",
    "app",
    "diversity",
    "exporting",
    "main",
    "preparing",
    "querying",
    "reading",
    "running",
    "sweeping",
    "viewing",
]


def main() -> None:
    """Entry point of the command."""
    with streams.standard(), signals.handled():
        app()
