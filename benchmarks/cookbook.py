"""How long every query of docs/queries.md takes on a run of a million debates.

    python benchmarks/cookbook.py [--debates N] [--fresh] [--only TEXT]

Each is asked the way `society sql` asks it, twice, and the better time counts: the first may have
to read the file. The processor time, of all cores together, stands beside it, since on a busy
machine it says more, and a goal is met when either time meets it. The ratio is to one plain count
over all turns.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path

from population import database

from store.reader import open_reader

DOC = Path(__file__).parents[1] / "docs" / "queries.md"
GOAL_S = 2.0
PLAIN = "SELECT arm, split, iteration, agent, round, count(*) FROM turns GROUP BY ALL"


def main() -> int:
    """Print a line per query; 1 where one is slower than the goal or gives an error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--debates", type=int, default=1_000_000, help="six turns each")
    parser.add_argument("--fresh", action="store_true", help="make the run anew")
    parser.add_argument("--only", default="", help="questions that contain this text")
    options = parser.parse_args()
    path = database(options.debates, fresh=options.fresh)
    found = re.findall(
        r"^### (.+?)\n.*?```sql\n(.*?)```", DOC.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    print(f"{options.debates:,} debates; load before: {os.getloadavg()[0]:.1f}")
    plain, _, _ = _best(path, PLAIN)
    slow = 0
    for title, sql in found:
        if options.only in title:
            seconds, cpu, rows = _best(path, sql)
            is_slow = min(seconds, cpu) > GOAL_S
            slow += is_slow
            mark = "slow" if is_slow else ""
            print(
                f"{seconds:6.2f} s {cpu:6.2f} s CPU {seconds / plain:6.1f} x "
                f"{rows:4d} rows  {title} {mark}".rstrip()
            )
    print(f"{slow} of {len(found)} slower than {GOAL_S:.0f} s; a plain count took {plain:.2f} s")
    return 1 if slow else 0


def _best(path: Path, sql: str) -> tuple[float, float, int]:
    """Seconds, seconds of processor time and rows of the better of two."""
    runs = []
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        with open_reader(path, sealed=True) as reader:
            rows = len(reader.query(sql).rows)
        runs.append((time.perf_counter() - wall, time.process_time() - cpu, rows))
    return min(runs)


if __name__ == "__main__":
    raise SystemExit(main())
