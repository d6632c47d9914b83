"""How fast turns are stored, and how fast datasets are derived from a million debates.

    python benchmarks/transcripts.py [--turns N] [--questions N] [--folder PATH]

(1) Turns per second committed in batches, against one `executemany` with the same rows.
(2) Seconds and memory to derive all 2N datasets of three agents and two rounds, against the same
derivation in plain Python on a tenth of the debates or fewer, per debate.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from functools import partial
from pathlib import Path

import duckdb

from finetune.datasets import DatasetRules, derive_datasets
from finetune.mixture import sample_mixture
from store.content import messages_json
from store.ledger import Store
from store.records import Turn
from store.schema import read_migrations
from store.tables import TABLES

ARM = "multiagent"
AGENTS = (1, 2, 3)
BATCH = 1000
APPEND_GOAL = 20_000
DERIVE_GOAL_S = 30.0
MEMORY_GOAL_GB = 8.0

# Four of five answers are right in round 1 and nearly nine of ten in round 2; one of fifty is
# truncated. A right answer is "0", wrong ones are spread over six.
_TURNS = """
INSERT INTO turns (turn_id, iteration, arm, split, decoding, question_id, agent, round, kind,
    model_id, messages, response, answer, finish_reason, prompt_tokens, completion_tokens,
    latency_ms, created_at, sha256)
WITH drawn AS (
    SELECT q, agent, round, hash(q, agent, round, 'id') >> 1 AS turn_id,
        hash(q, agent, round) % 100 AS luck, 'arithmetic-' || q AS question_id
    FROM range($first, $last) AS questions (q), unnest([1, 2, 3]) AS agents (agent),
        unnest([1, 2]) AS rounds (round)
),
spoken AS (
    SELECT *,
        '[{"role": "user", "content": "' || repeat('What is ' || q || ' + 7 * 3 - 2? ', 25) || '"}]'
            AS messages,
        repeat('Step ' || luck || ': multiply first. ', 12) AS response
    FROM drawn
)
SELECT turn_id, 1, 'multiagent', 'train', 'sampled', question_id, agent, round, 'answer',
    'model-' || agent, messages, response,
    CASE WHEN luck < 2 THEN NULL WHEN luck < if(round = 1, 20, 12) THEN (luck % 6 + 1)::VARCHAR
        ELSE '0' END,
    if(luck < 2, 'length', 'stop'), 300, 120, 12.5, TIMESTAMP '2026-01-01',
    sha256(question_id || '/' || agent || '/' || round)
FROM spoken
"""
_LABELS = """
CREATE TEMP TABLE labels AS
WITH counted AS (
    SELECT question_id, answer, count(*) AS votes, min(agent) AS first
    FROM turns WHERE round = 2 AND answer IS NOT NULL GROUP BY ALL
)
SELECT question_id, if(count_if(votes = most) > 1, NULL, arg_max(answer, votes)) AS label
FROM (SELECT *, max(votes) OVER (PARTITION BY question_id) AS most FROM counted)
GROUP BY question_id
"""
_VERDICTS = """
INSERT INTO verdicts
SELECT turn_id, if(label IS NULL, NULL, coalesce(answer = label, false)),
    coalesce(answer = '0', false)
FROM turns LEFT JOIN labels USING (question_id)
"""


def main() -> int:
    """Print both measurements; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=60_000, help="turns to append")
    parser.add_argument("--questions", type=int, default=1_000_000, help="debates to derive from")
    parser.add_argument("--folder", type=Path, help="where the databases go for the moment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        good = measure_append(Path(folder), options.turns)
        good &= measure_derivation(Path(folder), options.questions)
    return 0 if good else 1


def measure_append(folder: Path, count: int) -> bool:
    """Batches of turns through the store, and the same rows through `executemany`."""
    turns = [_turn(number) for number in range(count)]
    size = sum(len(turn.messages) + len(turn.response) for turn in turns) / count
    print(f"append: {count:,} turns of {size:,.0f} characters, {BATCH:,} to a batch")
    with Store.open(folder / "append.duckdb") as store, _Clock() as ours:
        for start in range(0, count, BATCH):
            store.write(*turns[start : start + BATCH])
    few = turns[: max(BATCH, count // 60)]
    with _plain_table(folder / "plain.duckdb") as connection, _Clock() as plain:
        connection.execute("BEGIN")
        columns = TABLES[Turn].columns
        connection.executemany(
            f"INSERT INTO turns ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            [_naive(turn) for turn in few],
        )
        connection.execute("COMMIT")
    rate, baseline = count / ours.seconds, len(few) / plain.seconds
    _report("store, committed in batches", f"{rate:,.0f} turns/s", f"{ours.cpu:.1f} s CPU")
    _report("executemany, one transaction", f"{baseline:,.0f} turns/s", f"{len(few):,} rows")
    print(f"  ratio {rate / baseline:,.1f} x; goal {APPEND_GOAL:,} turns/s\n")
    return rate >= APPEND_GOAL


def measure_derivation(folder: Path, questions: int) -> bool:
    """All six datasets in SQL over every debate, and in plain Python over a part of them."""
    path = folder / "derive.duckdb"
    with Store.open(path) as store, _Clock() as made:
        _generate(store, questions)
    size = path.stat().st_size / 1e9
    print(f"derive: {questions:,} questions x 3 agents x 2 rounds ({size:.1f} GB)")
    _report("(making them)", f"{made.seconds:,.0f} s", "")
    owners = [(agent, role) for role in ("generator", "critic") for agent in AGENTS]
    with Store.open(path, memory_limit="6GB") as store:
        with _Clock() as ours, _peak_memory() as peak:
            built = derive_datasets(store, 1, ARM, owners, DatasetRules(critics="sample", seed=1))  # type: ignore[arg-type]
        part = min(questions, max(1000, questions // 10))
        with _Clock() as plain:
            counts = _derive_plainly(store, part)
        rows = sum(dataset.examples for dataset in built.values())
        if part == questions:
            assert counts == {owner: dataset.examples for owner, dataset in built.items()}
    per_debate = plain.seconds / part * questions
    _report("store", f"{ours.seconds:.1f} s", f"{rows:,} rows, {ours.cpu:.1f} s CPU")
    _report("peak memory of the process", f"{peak[0]:.1f} GB", "")
    _report("plain Python, extrapolated", f"{per_debate:.1f} s", f"measured on {part:,} debates")
    print(f"  ratio {per_debate / ours.seconds:.1f} x; ", end="")
    print(f"goal {DERIVE_GOAL_S:.0f} s and {MEMORY_GOAL_GB:.0f} GB\n")
    return ours.seconds <= DERIVE_GOAL_S and peak[0] <= MEMORY_GOAL_GB


def _turn(number: int) -> Turn:
    content = f"Question {number}: what is {number} + 7 * 3 - 2? Answer in a box. " * 8
    conversation = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": f"Multiply first. \\boxed{{{number + 19}}} " * 6},
        {"role": "user", "content": f"Others say \\boxed{{{number}}}. Think again. " * 6},
    ]
    return Turn(
        iteration=1,
        split="train",
        arm=ARM,
        decoding="sampled",
        question_id=f"arithmetic-{number // 3}",
        agent=number % 3 + 1,
        round=2,
        kind="answer",
        model_id=f"model-{number % 3}",
        messages=messages_json(conversation),
        response=f"7 * 3 = 21, so it is \\boxed{{{number + 19}}}. " * 6,
        answer=str(number + 19),
        finish_reason="stop",
        prompt_tokens=300,
        completion_tokens=120,
        latency_ms=12.5,
    )


def _naive(turn: Turn) -> tuple[object, ...]:
    return tuple(
        value.replace(tzinfo=None) if name == "created_at" else value
        for name, value in zip(type(turn).__dataclass_fields__, astuple(turn), strict=True)
    )


@contextmanager
def _plain_table(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(path)) as connection:
        for _, _, sql in read_migrations():
            connection.execute(sql)
        yield connection


def _generate(store: Store, questions: int) -> None:
    step = 50_000
    for first in range(0, questions, step):
        bounds = {"first": first, "last": min(questions, first + step)}
        store.transact(partial(_execute, _TURNS, bounds))
    for sql in (_LABELS, _VERDICTS):
        store.transact(partial(_execute, sql, {}))


def _execute(sql: str, params: dict[str, int], connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(sql, params)


def _derive_plainly(store: Store, questions: int) -> dict[tuple[int, str], int]:
    names = [f"arithmetic-{number}" for number in range(questions)]
    rows = store.rows(
        "SELECT question_id, agent, round, turn_id, sha256, agrees FROM turns "
        "JOIN verdicts USING (turn_id) WHERE question_id IN (SELECT unnest(string_split($1, ',')))",
        [",".join(names)],
    )
    marks: dict[tuple[object, object], dict[object, tuple[object, ...]]] = defaultdict(dict)
    for question_id, agent, round, turn_id, sha256, agrees in rows:
        marks[question_id, agent][round] = (turn_id, sha256, agrees)
    sides: dict[tuple[object, str], list[tuple[object, ...]]] = defaultdict(list)
    for (question_id, agent), turns in marks.items():
        if turns[1][2]:
            sides[agent, "generator"].append((str(question_id), *turns[1][:2]))
        if turns[2][2]:
            side = "kept" if turns[1][2] else "corrected"
            sides[agent, side].append((str(question_id), *turns[2][:2]))
    counts: Counter[tuple[int, str]] = Counter()
    for agent in AGENTS:
        mixture = sample_mixture(len(sides[agent, "corrected"]), len(sides[agent, "kept"]), 0.5)
        generator = sorted(sides[agent, "generator"])
        critic = sorted(
            _drawn(sides[agent, "corrected"], mixture.corrected)
            + _drawn(sides[agent, "kept"], mixture.kept)
        )
        for role, chosen in (("generator", generator), ("critic", critic)):
            hashlib.sha256("\n".join(str(row[2]) for row in chosen).encode()).hexdigest()
            counts[agent, role] = len(chosen)
    return dict(counts)


def _drawn(rows: list[tuple[object, ...]], count: int) -> list[tuple[object, ...]]:
    return sorted(rows, key=lambda row: hashlib.sha256(f"1:{row[0]}".encode()).digest())[:count]


class _Clock:
    seconds = 0.0
    cpu = 0.0

    def __enter__(self) -> _Clock:
        self._wall, self._process = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._process


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Peak resident memory in GB meanwhile; the process's own peak where that is hidden."""
    peak = [0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], _resident_gb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def _resident_gb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def _report(name: str, figure: str, note: str) -> None:
    print(f"  {name:<32} {figure:>18}   {note}".rstrip())


if __name__ == "__main__":
    raise SystemExit(main())
