"""The table at the end of a run, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from evals.comparison import compare_all, last_iteration
from evals.intervals import PairedDifference, Rate
from evals.metrics import (
    MEASURES,
    Decoding,
    Measure,
    Row,
    apart,
    comparison,
    table,
    zero_shot_tasks,
)
from evals.reading import evaluated_arms, main_arm
from society.terminal import Screen, one_line
from store.ledger import Store

NAMES: dict[Measure, str] = {
    "single": "single agent",
    "majority": "round-1 majority",
    "consensus": "consensus",
}


def show(store: Store, stream: TextIO) -> None:
    """Print accuracy per iteration with 95 % intervals and what changed from first to last; of
    several arms also where each has come to, and how far the main one is from the others."""
    arm = main_arm(store)
    rows = table(store, arm)
    console = Screen(stream)
    if not rows:
        console.print("no evaluation debate is complete yet")
        return
    others = [other for other in evaluated_arms(store) if other != arm]
    whose = f" of {one_line(arm)}" if others else ""
    title = f"Accuracy{whose} on held-out questions, % with 95 % interval"
    console.print(accuracy_table(rows, title))
    for line in changes(store, rows, arm):
        console.print(line, soft_wrap=True)
    if others:
        console.print(arms_table(store, [arm, *others]))
        for line in differences(store, arm, others):
            console.print(line, soft_wrap=True)
    for task in zero_shot_tasks(store):
        if unseen := table(store, arm, task):
            console.print(accuracy_table(unseen, apart(one_line(task))))
            for line in changes(store, unseen, arm, task):
                console.print(line, soft_wrap=True)


def arms_table(store: Store, arms: Sequence[str]) -> Table:
    """One line per arm: its last society."""
    drawn = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=Text("Every arm's last society, % with 95 % interval"),
        title_justify="left",
    )
    for heading in ("arm", "iteration"):
        drawn.add_column(heading, no_wrap=True)
    for heading in ("single agent\ngreedy", "single agent\nsampled", "vote\nsampled"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for arm in arms:
        rows = table(store, arm)
        last = {row.decoding: row for row in rows if row.iteration == rows[-1].iteration}
        greedy, sampled = last.get("greedy"), last.get("sampled")
        drawn.add_row(
            one_line(arm),
            "untuned" if rows[-1].iteration == 0 else str(rows[-1].iteration),
            percent(greedy.single) if greedy else "",
            percent(sampled.single) if sampled else "",
            percent(sampled.consensus) if sampled else "",
        )
    return drawn


def differences(store: Store, arm: str, others: Sequence[str]) -> list[str]:
    """One line per other arm: the main arm's vote minus its, both after their last iteration."""
    decoding: Decoding = "sampled"
    iterations = {other: last_iteration([store], other, decoding) for other in (arm, *others)}
    last = iterations.pop(arm)
    if last is None:
        return []
    known = {other: at for other, at in iterations.items() if at is not None}
    found = compare_all([store], arm, known, "consensus", decoding, last)
    if not found:
        return []
    lines = [f"The vote of {one_line(arm)} minus that of every other arm, sampled, paired:"]
    lines += [f"  {one_line(each.b.arm)}: {points(each.pooled)}" for each in found]
    return [*lines, "  Of one run; other seeds would differ. p is not corrected for several arms."]


def accuracy_table(rows: Iterable[Row], title: str) -> Table:
    """One line per society and decoding; accuracy in % with its 95 % interval.

    `agents agree` is the consensus rate: the mean share of agents with the plurality answer.
    """
    drawn = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=Text(title),
        title_justify="left",
    )
    for heading in ("iteration", "decoding"):
        drawn.add_column(heading, no_wrap=True)
    for heading in ("single\nagent", "round-1\nmajority", "consensus"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for heading in ("agents\nagree", "labels\nright"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    previous: int | None = None
    for row in rows:
        new = row.iteration != previous
        labels = row.labels.accuracy if row.labels and new else None
        drawn.add_row(
            ("untuned" if row.iteration == 0 else str(row.iteration)) if new else "",
            row.decoding,
            *(percent(row.rate(measure)) for measure in MEASURES),
            "" if row.consensus_rate is None else f"{100 * row.consensus_rate:.1f}",
            f"{100 * labels.value:.1f}" if labels else "",
        )
        previous = row.iteration
    return drawn


def changes(store: Store, rows: Sequence[Row], arm: str, task: str | None = None) -> list[str]:
    """One line per measure and decoding: last iteration minus the untuned society, paired."""
    first, last = rows[0].iteration, rows[-1].iteration
    if first == last:
        return []
    decodings: list[Decoding] = list(dict.fromkeys(row.decoding for row in rows))
    lines = [f"From iteration {first} to {last}, on the same questions:"]
    for measure in MEASURES:
        for decoding in decodings:
            change = comparison(store, measure, decoding, first, last, arm, task)
            if change is not None:
                lines.append(f"  {NAMES[measure]}, {decoding}: {points(change)}")
    return lines


def percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} {100 * rate.low:.0f}–{100 * rate.high:.0f}"


def points(change: PairedDifference) -> str:
    """The difference in percentage points, its interval, and McNemar's test where there is one."""
    text = (
        f"{100 * change.difference:+.1f} points "
        f"(95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f})"
    )
    if change.p_value is not None:
        text += f", {change.gained} gained, {change.lost} lost, McNemar p = {change.p_value:.2g}"
    return text
