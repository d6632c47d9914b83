"""Progress of a running run: bars that update on a terminal, plain lines in a pipe or file.

Both tell how long the stage will take, and the whole run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from providers.opening import OpeningStep, listen_to_openings
from society.method.progress import (
    Event,
    Note,
    Observer,
    PlannedWork,
    StageAdvanced,
    StageFinished,
    StageStarted,
)
from society.terminal.duration import format_duration
from society.terminal.opening_display import describe_step
from society.terminal.output import Screen, escape_invisible, one_line, write_line
from society.terminal.run_clock import RunClock

# A terminal narrower than this has a shorter bar, and the numbers take several lines.
_WIDE = 110
Clock = Callable[[], float]


@contextmanager
def show_progress(
    stream: TextIO, iterations: int, plan: Sequence[PlannedWork] = (), *, quiet: bool = False
) -> Iterator[Observer]:
    """The observer that suits `stream`; `iterations` is the total of the run.

    With a `plan` it tells how long the whole run will take. If `quiet`, only notes are printed.

    with show_progress(sys.stderr, config.iterations, plan_work(experiment)) as observer:
        asyncio.run(loop.run(folder, config, store, observer))
    """
    console = Screen(stream)
    if quiet:
        yield Notes(stream)
        return
    clock = RunClock(plan)
    if not console.is_terminal:
        lines = PlainLines(stream, iterations, clock=clock)
        with listen_to_openings(lines.show_opening):
            yield lines
        return
    wide = console.width >= _WIDE
    # Transient: finished stages are printed as lines, and the bars leave nothing behind.
    with Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        BarColumn(bar_width=24 if wide else 8),
        TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(overflow="fold")),
        console=console,
        transient=True,
    ) as progress:
        display = ProgressDisplay(progress, iterations, clock)
        with listen_to_openings(display.show_opening):
            yield display


class Notes:
    """Prints what the user should know, and no progress."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            write_line(self._stream, one_line(event.text))


@dataclass(slots=True)
class Pace:
    """Progress of one stage: what is done, how fast, and how long the rest will take."""

    stage: StageStarted
    started: float
    now: float
    done: float
    tokens: int = 0
    detail: str = ""

    @classmethod
    def start(cls, stage: StageStarted, now: float) -> Pace:
        return cls(stage, now, now, stage.done)

    def advance(self, event: StageAdvanced, now: float) -> None:
        self.done, self.tokens, self.detail, self.now = event.done, event.tokens, event.detail, now

    @property
    def numbers(self) -> str:
        """Done of total, units and tokens per second, time left, what is running."""
        parts = [f"{int(self.done)}/{self.stage.total} {self.stage.unit}"]
        elapsed = self.now - self.started
        fresh = self.done - self.stage.done
        # What an earlier start did must not count as speed.
        if elapsed > 0 and fresh > 0:
            # Slow stages, such as training, are easier to read per minute.
            rate = fresh / elapsed
            parts.append(f"{rate:.1f}/s" if rate >= 0.1 else f"{rate * 60:.1f}/min")
            if self.tokens:
                parts.append(f"{self.tokens / elapsed:,.0f} tokens/s")
            if self.done < self.stage.total:
                parts.append(f"{format_duration((self.stage.total - self.done) / rate)} left")
        if self.detail:
            parts.append(self.detail)
        return " · ".join(parts)


class PlainLines:
    """One line when a stage starts and ends, and at most one every `every_s` seconds between."""

    def __init__(
        self,
        stream: TextIO,
        iterations: int,
        every_s: float = 10.0,
        now: Clock = time.monotonic,
        clock: RunClock | None = None,
    ) -> None:
        self._stream = stream
        self._iterations = iterations
        self._every_s = every_s
        self._now = now
        self._clock = clock or RunClock(())
        self._pace: Pace | None = None
        self._last_line = 0.0

    def __call__(self, event: Event) -> None:
        now = self._now()
        self._clock(event)
        if isinstance(event, Note):
            self._write(event.text)
        elif isinstance(event, StageStarted):
            self._pace, self._last_line = Pace.start(event, now), now
            self._write(f"{name_stage(event, self._iterations)}: {format_beginning(event)}")
        elif self._pace is None:
            return
        elif isinstance(event, StageAdvanced):
            self._pace.advance(event, now)
            if now - self._last_line >= self._every_s:
                self._last_line = now
                self._write(describe_moment(self._pace, self._iterations, self._clock))
        elif isinstance(event, StageFinished):
            self._write(format_ending(self._pace.stage, event, self._iterations))
            self._pace = None

    def show_opening(self, step: OpeningStep | None) -> None:
        """Tell which step of opening a model begins; from any thread."""
        if step is not None:
            self._write(describe_step(step))

    def _write(self, line: str) -> None:
        write_line(self._stream, one_line(line))


class ProgressDisplay:
    """Bars for the running stage and the whole run; a finished stage becomes a line above them."""

    def __init__(
        self,
        progress: Progress,
        iterations: int,
        clock: RunClock | None = None,
        now: Clock = time.monotonic,
    ) -> None:
        self._progress = progress
        self._iterations = iterations
        self._clock = clock or RunClock(())
        self._now = now
        self._whole: TaskID | None = None
        self._pace: Pace | None = None
        self._bar: TaskID | None = None
        self._opening: TaskID | None = None

    def __call__(self, event: Event) -> None:
        self._clock(event)
        if isinstance(event, Note):
            self._print(event.text, "yellow")
        elif isinstance(event, StageStarted):
            self._clear()
            self._pace = Pace.start(event, self._now())
            self._bar = self._progress.add_task(
                name_stage(event, self._iterations),
                total=event.total,
                completed=event.done,
                numbers=self._pace.numbers,
            )
        elif self._pace is None or self._bar is None:
            return
        elif isinstance(event, StageAdvanced):
            self._pace.advance(event, self._now())
            self._progress.update(
                self._bar, completed=event.done, numbers=escape_invisible(self._pace.numbers)
            )
            self._show_whole()
        elif isinstance(event, StageFinished):
            self._print(format_ending(self._pace.stage, event, self._iterations), "green")
            self._clear()

    def show_opening(self, step: OpeningStep | None) -> None:
        """A bar of its own for opening a model, while that lasts; from any thread."""
        if self._opening is not None:
            self._progress.remove_task(self._opening)
            self._opening = None
        if step is not None:
            # Steps take unequal times, so the bar only says that something goes on.
            self._opening = self._progress.add_task(describe_step(step), total=None, numbers="")

    def _show_whole(self) -> None:
        """A second bar, once something is known of the whole run; those of stages come below it."""
        left = self._clock.estimate()
        if left is None:
            return
        if self._whole is not None:
            self._progress.update(self._whole, completed=round(100 * left.share), numbers=str(left))
            return
        self._whole = self._progress.add_task(
            "whole run", total=100, completed=round(100 * left.share), numbers=str(left)
        )

    def _print(self, line: str, style: str) -> None:
        self._progress.console.print(Text(escape_invisible(line), style=style))

    def _clear(self) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._pace = self._bar = None


def name_stage(stage: StageStarted, iterations: int) -> str:
    """Which stage of which iteration; iteration 0 is the untuned society."""
    where = f"iteration {stage.iteration}/{iterations}" if stage.iteration else "untuned society"
    return f"{where} · {stage.stage}"


def describe_moment(pace: Pace, iterations: int, clock: RunClock) -> str:
    """One line: the stage, how far it is, and how long the whole run will take."""
    left = clock.estimate()
    whole = "" if left is None else f" · whole run: {left.share:.0%}, {left}"
    return f"{name_stage(pace.stage, iterations)}: {pace.numbers}{whole}"


def format_beginning(stage: StageStarted) -> str:
    """How much there is to do, and how much an earlier start has done."""
    already = f", {stage.done} of them done before" if stage.done else ""
    return f"{stage.total} {stage.unit}{already}"


def format_ending(stage: StageStarted, event: StageFinished, iterations: int) -> str:
    took = format_duration(event.seconds)
    return f"{name_stage(stage, iterations)}: {stage.total} {stage.unit} in {took}"
