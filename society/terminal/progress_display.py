"""Progress of a running run: a bar that updates on a terminal, plain lines in a pipe or file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from society.method.progress import (
    Event,
    Note,
    Observer,
    StageAdvanced,
    StageFinished,
    StageStarted,
)
from society.terminal.output import Screen, escape_invisible, one_line, write_line

Clock = Callable[[], float]


@contextmanager
def show_progress(stream: TextIO, iterations: int) -> Iterator[Observer]:
    """The observer that suits `stream`; `iterations` is the total of the run.

    with show_progress(sys.stderr, config.iterations) as observer:
        asyncio.run(loop.run(folder, config, store, observer))
    """
    console = Screen(stream)
    if not console.is_terminal:
        yield PlainLines(stream, iterations)
        return
    # Transient: finished stages are printed as lines, and the bar leaves nothing behind.
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[numbers]}", markup=False),
        console=console,
        transient=True,
    ) as progress:
        yield ProgressDisplay(progress, iterations)


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
        self, stream: TextIO, iterations: int, every_s: float = 10.0, clock: Clock = time.monotonic
    ) -> None:
        self._stream = stream
        self._iterations = iterations
        self._every_s = every_s
        self._clock = clock
        self._pace: Pace | None = None
        self._last_line = 0.0

    def __call__(self, event: Event) -> None:
        now = self._clock()
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
                self._write(
                    f"{name_stage(self._pace.stage, self._iterations)}: {self._pace.numbers}"
                )
        else:
            self._write(format_ending(self._pace.stage, event, self._iterations))
            self._pace = None

    def _write(self, line: str) -> None:
        write_line(self._stream, one_line(line))


class ProgressDisplay:
    """A bar for the running stage; a finished stage becomes a line above it."""

    def __init__(self, progress: Progress, iterations: int, clock: Clock = time.monotonic) -> None:
        self._progress = progress
        self._iterations = iterations
        self._clock = clock
        self._pace: Pace | None = None
        self._bar: TaskID | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self._print(event.text, "yellow")
        elif isinstance(event, StageStarted):
            self._clear()
            self._pace = Pace.start(event, self._clock())
            self._bar = self._progress.add_task(
                name_stage(event, self._iterations),
                total=event.total,
                completed=event.done,
                numbers=self._pace.numbers,
            )
        elif self._pace is None or self._bar is None:
            return
        elif isinstance(event, StageAdvanced):
            self._pace.advance(event, self._clock())
            self._progress.update(
                self._bar, completed=event.done, numbers=escape_invisible(self._pace.numbers)
            )
        else:
            self._print(format_ending(self._pace.stage, event, self._iterations), "green")
            self._clear()

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


def format_beginning(stage: StageStarted) -> str:
    """How much there is to do, and how much an earlier start has done."""
    already = f", {stage.done} of them done before" if stage.done else ""
    return f"{stage.total} {stage.unit}{already}"


def format_ending(stage: StageStarted, event: StageFinished, iterations: int) -> str:
    took = format_duration(event.seconds)
    return f"{name_stage(stage, iterations)}: {stage.total} {stage.unit} in {took}"


def format_duration(seconds: float) -> str:
    """A duration in two units at most: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
