"""The curves and the table of `means-embedded`, from the tables of its report.

    society report means-embedded --out REPORT
    python benchmarks/means.py REPORT docs/means-embedded.svg > table.md

One panel for each group of settings: the vote on the held-out questions by iteration, mean of the
seeds (lines) and single seeds (dots), with the plain society in every panel. The table has the
difference to the plain society after the last iteration, paired over all questions and seeds.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt

PLAIN = "multiagent"
GROUPS = {
    "rate and steps": ("rate-half", "rate-double", "epochs-3"),
    "where an iteration starts": ("fresh", "fresh-replay", "replay", "anchor"),
    "labels": ("labels-round1", "labels-lagged", "labels-average", "label-samples-3"),
    "examples": ("no-unanimous", "unanimous-only", "margin-weights", "novelty"),
    "critics": (
        *("critics-sample", "critic-first-answers"),
        *("critic-from-base", "critic-from-generator"),
    ),
    "preferences": ("dpo", "ipo", "kto"),
    "rounds": ("early-end", "early-end-samples-2", "skip-rounds"),
}
COLORS = ("#0072b2", "#c94f00", "#008a65", "#a8508b")
GREY = "#767b83"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_curves(tables: Path) -> dict[str, dict[int, dict[str, str]]]:
    """The rows of accuracy.csv (sampled) by arm and iteration; the untuned society is 0."""
    curves: dict[str, dict[int, dict[str, str]]] = defaultdict(dict)
    for row in read_csv(tables / "accuracy.csv"):
        if row["decoding"] == "sampled":
            number = re.search(r"\d+", row["iteration"])
            curves[row["arm"]][int(number[0]) if number else 0] = row
    return curves


def read_seeds(row: dict[str, str]) -> list[float]:
    return [float(each) for each in row["consensus_by_seed"].split(",")]


def draw_curves(curves: dict[str, dict[int, dict[str, str]]], out: Path) -> None:
    """One panel for each group that has arms in these tables."""
    groups = {title: [n for n in names if n in curves] for title, names in GROUPS.items()}
    groups = {title: names for title, names in groups.items() if names}
    rows = -(-len(groups) // 2)
    figure, grid = plt.subplots(
        rows, 2, figsize=(9, 2.6 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    for axes, (title, names) in zip(grid.flat, groups.items(), strict=False):
        for name, color in ((PLAIN, GREY), *zip(names, COLORS, strict=False)):
            points = sorted(curves[name].items())
            axes.plot(
                [k for k, _ in points],
                [float(row["consensus"]) for _, row in points],
                color=color, label=name, lw=2.4 if name == PLAIN else 1.5,
            )  # fmt: skip
            for k, row in points:
                seeds = read_seeds(row)
                axes.plot([k] * len(seeds), seeds, ".", color=color, ms=3, alpha=0.6)
        axes.set_title(title, fontsize=10, loc="left")
        axes.legend(fontsize=7.5, frameon=False, loc="lower right")
        axes.grid(axis="y", color="#dcdcd7", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("iteration", fontsize=8)
        axes.set_ylabel("vote, %", fontsize=8)
        axes.tick_params(labelsize=8)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=130)


def list_rows(
    curves: dict[str, dict[int, dict[str, str]]], comparisons: list[dict[str, str]]
) -> Iterator[str]:
    """The lines of a Markdown table: vote by iteration, and the difference to the plain society."""
    last = max(curves[PLAIN])
    against = {
        (row["measure"], row["against"]): row
        for row in comparisons
        if row["iteration"] == f"iteration {last}" and row["against_iteration"] == row["iteration"]
    }
    head = " | ".join(str(k) for k in range(1, last + 1))
    yield f"| arm | {head} | minus {PLAIN} (95 %) | by seed | p, Holm | single answers minus its |"
    yield "|---" * (last + 5) + "|"
    for title, names in ((PLAIN, (PLAIN,)), *GROUPS.items()):
        there = [name for name in names if name in curves]
        if title != PLAIN and there:
            yield f"| *{title}* |" + " |" * (last + 4)
        for name in there:
            votes = " | ".join(
                f"{float(curves[name][k]['consensus']):.1f}" for k in range(1, last + 1)
            )
            yield f"| {name} | {votes} | {_compare(against, name)} |"


def _compare(against: dict[tuple[str, str], dict[str, str]], name: str) -> str:
    vote, single = (against.get((f"{m}, sampled", name)) for m in ("vote", "single agent"))
    if vote is None:
        return " | | | "
    # The report subtracts the other arm from the society; this table has it the other way round.
    seeds = [-float(each.replace("−", "-")) for each in vote["by_seed"].strip("'").split(",")]
    shown = ", ".join(_write_points(each, "+") for each in seeds)
    return (
        f"{_write_change(vote)} | {shown} | {float(vote['p']):.2g} | "
        f"{'' if single is None else _write_change(single)}"
    )


def _write_change(row: dict[str, str]) -> str:
    mean, low, high = (
        -float(row[key]) for key in ("difference", "difference_high", "difference_low")
    )
    return f"{_write_points(mean, '+')} ({_write_points(low)} to {_write_points(high)})"


def _write_points(value: float, sign: str = "") -> str:
    # Rounded first: −0.04 is shown as 0.0.
    return f"{round(value, 1) + 0.0:{sign}.1f}".replace("-", "−").replace("+0.0", "0.0")


def main() -> None:
    report, out = Path(sys.argv[1]), Path(sys.argv[2])
    curves = read_curves(report / "tables")
    draw_curves(curves, out)
    print("\n".join(list_rows(curves, read_csv(report / "tables" / "comparisons.csv"))))


if __name__ == "__main__":
    main()
