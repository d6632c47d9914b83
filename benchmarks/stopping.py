"""What `stop = "labels"` would have chosen in stored runs, beside what gold says of it.

    python benchmarks/stopping.py RUN…      # folders of runs, or their run.duckdb

For every trained arm: which society the signs choose, knowing one iteration after the other, and
when they stop; its accuracy on the held-out questions (last vote, sampled), that of the best
iteration up to the last stored one, and that of the last. Gold is looked at after the choice only.
The runs are read, and not changed; they need no `stop` of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from evals import stopping, tasks
from evals.ballots import read_ballots
from evals.metrics import read_society_accuracies
from evals.stored_run import load_run, read_arms
from society.config.schema import Config
from society.terminal.output import Screen
from society.terminal.table import make_table
from store.ledger import Store

CLOSE = 0.01
"""How far from the best iteration a choice may be to count as close."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One arm of one run: what the rule chooses, and the accuracies by iteration."""

    run: str
    arm: str
    chosen: int
    seen: int
    accuracies: tuple[float, ...]
    supports: tuple[float, ...]

    @property
    def lost(self) -> float:
        """How much less accurate than the best iteration the chosen one is."""
        return max(self.accuracies) - self.accuracies[self.chosen]


def read_rates(store: Store, arm: str) -> dict[int, float]:
    """The accuracy of every society that has answered all questions, by iteration."""
    found = {
        each.iteration: each.consensus
        for each in read_society_accuracies(store, arm)
        if each.decoding == "sampled"
    }
    most = max((rate.total for rate in found.values()), default=0)
    return {k: rate.value for k, rate in sorted(found.items()) if rate.total == most}


def replay_run(path: Path) -> Iterator[Replay]:
    """The rule's way through every trained arm of a stored run that has gold answers."""
    database = path / "run.duckdb" if path.is_dir() else path
    with Store.open(database, read_only=True) as store:
        run = load_run(store)
        section = Config.from_json(run.config).task
        task = tasks.load_task(section.name, section.options)
        for arm in (each for each in read_arms(store) if each.trained):
            rates = read_rates(store, arm.name)
            if len(rates) < 2:
                continue
            there = list(rates)
            signs = stopping.read_signs(read_ballots(store, arm.name, there[-1], task.equivalent))
            decision, seen = stopping.decide(signs[:2]), 1
            while seen < there[-1] and not decision.stops:
                seen += 1
                decision = stopping.decide(signs[: seen + 1])
            yield Replay(
                run.name, arm.name, decision.chosen, seen,
                tuple(rates[k] for k in there), tuple(each.support for each in signs),
            )  # fmt: skip


def show_replays(found: list[Replay]) -> None:
    """Print the table, and how many choices are close to the best iteration."""
    table = make_table("What the signs choose; accuracy of the last vote, sampled, in %")
    for heading in ("run", "arm"):
        table.add_column(heading)
    headings = ("chosen", "after", "accuracy", "best", "its accuracy", "lost", "last", "untuned")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("support by iteration, %")
    for each in found:
        rates = each.accuracies
        best = rates.index(max(rates))
        shown = (rates[each.chosen], rates[best], each.lost, rates[-1], rates[0])
        chosen, top, lost, last, untuned = (f"{100 * value:.1f}" for value in shown)
        supports = " ".join(f"{100 * value:.1f}" for value in each.supports)
        table.add_row(
            each.run, each.arm, str(each.chosen), str(each.seen), chosen, str(best), top, lost,
            last, untuned, supports,
        )  # fmt: skip
    screen = Screen(sys.stdout)
    screen.draw(table)
    close = sum(each.lost <= CLOSE + 1e-9 for each in found)
    lost_at_end = [max(each.accuracies) - each.accuracies[-1] for each in found]
    screen.print(
        f"{close} of {len(found)} choices are within {100 * CLOSE:.0f} point of the best "
        f"iteration; mean loss {100 * fmean(each.lost for each in found):.1f} points, that of the "
        f"last iteration {100 * fmean(lost_at_end):.1f}"
    )


def main(paths: list[str]) -> None:
    """Replay the rule in all these runs."""
    found = [replay for path in paths for replay in replay_run(Path(path))]
    if not found:
        sys.exit("no run named has a trained arm with gold answers; usage: stopping.py RUN…")
    show_replays(found)


if __name__ == "__main__":
    main(sys.argv[1:])
