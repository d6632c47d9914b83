"""The steps of opening a model, shown while the user waits for the first answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from providers.opening import OpeningStep, listen_to_openings
from society.terminal.output import Screen, one_line


@contextmanager
def show_openings(stream: TextIO, *, quiet: bool = False) -> Iterator[None]:
    """Show which step of which model is being done, on a terminal; nothing stays behind.

    For commands without a progress display; that of a run shows them itself. A file or pipe gets
    nothing, since what such a command prints is its answer.

    with show_openings(sys.stderr):
        ask.show_debate(folder, store, "What is 2+2?", sys.stdout)
    """
    screen = Screen(stream)
    if quiet or not screen.is_terminal:
        yield
        return
    shown: list[Progress] = []

    def show(step: OpeningStep | None) -> None:
        # One display for each opening, so that answers between them have the terminal.
        if step is None:
            while shown:
                shown.pop().stop()
            return
        if not shown:
            shown.append(_start_display(screen))
        [progress] = shown
        for task in list(progress.task_ids):
            progress.remove_task(task)
        progress.add_task(describe_step(step), total=None)

    try:
        with listen_to_openings(show):
            yield
    finally:
        show(None)


def describe_step(step: OpeningStep) -> str:
    """One line on a step, safe for a terminal."""
    return one_line(f"opening {step}")


def _start_display(screen: Screen) -> Progress:
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
        # Answers are printed by others meanwhile, as they are.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    progress.start()
    return progress
