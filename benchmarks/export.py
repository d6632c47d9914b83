"""How fast a run of a million debates is exported, and how much memory that takes.

    python benchmarks/export.py [--debates N] [--fresh] [--only KIND]

`society export` of turns, debates and a dataset, against reading the same rows into Python and
writing them as JSON lines, measured on a part and extrapolated; processor time, of all cores
together, is compared, since it does not depend on what else runs. Memory is the whole process's.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from population import database

from society.exporting import Kind, Output, export_run
from store.ledger import Store
from store.selection import Selection

MEMORY_GOAL_GB = 3.0
CRITIC = Selection(arm="multiagent", iteration=1, agent=2, role="critic")
CASES: tuple[tuple[Kind, Output, Selection], ...] = (
    ("turns", "parquet", Selection()),
    ("turns", "jsonl", Selection()),
    ("debates", "parquet", Selection()),
    ("datasets", "chat", CRITIC),
)
PLAIN_TURNS = 50_000


def main() -> int:
    """Print a line per export; 1 where one takes more memory than the goal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--debates", type=int, default=1_000_000, help="six turns each")
    parser.add_argument("--fresh", action="store_true", help="make the run anew")
    parser.add_argument("--only", choices=[kind for kind, _, _ in CASES], help="one kind")
    options = parser.parse_args()
    path = database(options.debates, fresh=options.fresh)
    per_turn = _plainly(path)
    worst = 0.0
    print(f"{options.debates:,} debates, {path.stat().st_size / 1e9:.1f} GB")
    print(f"{'':20} {'rows':>10} {'s':>7} {'s CPU':>7} {'GB':>6} {'peak GB':>8}   to plain Python")
    for kind, output, selection in CASES:
        if options.only not in (None, kind):
            continue
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            begun, cpu = time.perf_counter(), time.process_time()
            with _peak_memory() as peak:
                done = export_run(path, Path(folder) / "out", [kind], output, selection)
            seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
            rows = sum(file.rows or 0 for file in done.files)
            size = sum(file.path.stat().st_size for file in done.files) / 1e9
        worst = max(worst, peak[0])
        turns = rows * (6 if kind == "debates" else 1)
        print(
            f"{kind + ' ' + output:20} {rows:>10,} {seconds:>7.1f} {cpu:>7.1f} {size:>6.2f} "
            f"{peak[0]:>8.2f}   {turns * per_turn / cpu:.1f} x",
            flush=True,
        )
    print(f"peak {worst:.2f} GB, goal {MEMORY_GOAL_GB:.0f} GB")
    return 1 if worst > MEMORY_GOAL_GB else 0


def _plainly(path: Path) -> float:
    """Processor seconds per turn of the straightforward way: rows into Python, out as lines."""
    with Store.open(path, read_only=True) as store, tempfile.TemporaryFile("w") as file:
        begun = time.process_time()
        rows = store.rows("SELECT * FROM turns LIMIT ?", [PLAIN_TURNS])
        for row in rows:
            file.write(json.dumps(row, default=str, ensure_ascii=False) + "\n")
        return (time.process_time() - begun) / len(rows)


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Peak resident memory of this process in GB meanwhile."""
    peak = [0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            peak[0] = max(peak[0], pages * os.sysconf("SC_PAGE_SIZE") / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


if __name__ == "__main__":
    raise SystemExit(main())
