"""What a sweep looks like while it runs: a line per member on a terminal, plain ones elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.live import Live
from rich.table import Table
from rich.text import Text

from society.runs.status import read_notice
from society.sweeps.processes import Running, State
from society.terminal.output import Screen, one_line, write_line

_MARKS: dict[State, tuple[str, str]] = {
    "waiting": ("·", "dim"),
    "running": ("▸", "bold"),
    "finished": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "stopped": ("■", "yellow"),
}
_MARGIN = 3


@contextmanager
def watch(stream: TextIO, members: Sequence[Running]) -> Iterator[Callable[[], None]]:
    """A function that shows how far the members are; to be called every now and then."""
    console = Screen(stream)
    if not console.is_terminal:
        yield PlainLines(stream, members)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda: live.update(overview(members, console.height - _MARGIN), refresh=True)


class PlainLines:
    """Every line that a member prints, and its beginning and end, behind the member's name."""

    def __init__(self, stream: TextIO, members: Sequence[Running]) -> None:
        self._stream = stream
        self._members = members
        self._told: dict[str, State] = {}

    def __call__(self) -> None:
        for running in self._members:
            name = running.member.short
            if running.state == "waiting":
                # What an earlier start has left in its log is no news.
                continue
            if name not in self._told:
                self._tell(name, "started")
                self._told[name] = "running"
            # Nothing may follow the line that says how it ended.
            state = running.state
            for line in running.news():
                self._tell(name, line)
            if state != "running" and self._told[name] != state:
                self._tell(name, state)
                self._told[name] = state

    def _tell(self, name: str, line: str) -> None:
        write_line(self._stream, f"{name}: {line}")


def overview(members: Sequence[Running], height: int) -> Table:
    """A line for each member; where they are too many, for those that run, and a count."""
    shown: Sequence[Running] = members
    if len(members) > height:
        shown = [running for running in members if running.state == "running"][: max(1, height)]
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for running in shown:
        mark, style = _MARKS[running.state]
        table.add_row(
            Text(mark, style), Text(running.member.short, style), Text(_line(running), "dim")
        )
    counts = {state: sum(r.state == state for r in members) for state in _MARKS}
    table.add_row("", "", Text(", ".join(f"{n} {s}" for s, n in counts.items() if n)))
    return table


def _line(running: Running) -> str:
    if running.state == "failed":
        return one_line(running.error().split("\n")[0])
    if running.state != "running":
        return running.state
    notice = read_notice(running.member.folder)
    return "starting" if notice is None else one_line(notice.line)
