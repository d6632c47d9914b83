"""What readers cost a run that is going on: turns stored per second with them and without.

    python benchmarks/live.py [--readers N] [--pause S] [--answer S] [--phases N] [--seconds S]

One process holds debates as a run does, 16 at once: every answer takes `--answer` seconds, every
turn is stored as soon as it exists, the last one with votes and verdicts. With 0.1 s that is up to
480 turns a second, more than almost any model gives; 0 stores as fast as the disk takes it.
Processes of their own ask in turns for its accuracy, its progress and its latest turns, each
waiting `--pause` seconds between two queries. They are stopped and woken in alternate phases of one
run, in an order that favours neither, so that whatever else the machine does meets both alike. The
CPU time of the writing process per turn, with what it answers, does not depend on that at all.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from store import sql_server
from store.content import messages_json
from store.ledger import Store
from store.records import Question, Turn, Verdict, Vote

GOAL = 0.9
AGENTS, ROUNDS = 3, 2
AT_ONCE = 16
READER = """
import sys, time
from store.reader import open_reader
QUERIES = (
    "SELECT * FROM accuracy WHERE measure = 'consensus'",
    "SELECT * FROM progress",
    "SELECT question_id, agent, answer, response FROM turns ORDER BY created_at DESC LIMIT 50",
)
pause, number = float(sys.argv[2]), int(sys.argv[3])
with open_reader(sys.argv[1]) as reader:
    assert reader.running
    print("ready", flush=True)
    while True:
        started = time.perf_counter()
        reader.rows(QUERIES[number % len(QUERIES)])
        print(number % len(QUERIES), time.perf_counter() - started, flush=True)
        number += 1
        time.sleep(pause)
"""


def main() -> int:
    """Print both rates, their ratio, and how long the readers waited; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--readers", type=int, default=5)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two queries")
    parser.add_argument("--answer", type=float, default=0.1, help="seconds a model takes")
    parser.add_argument("--phases", type=int, default=8, help="pairs of phases")
    parser.add_argument("--seconds", type=float, default=2.5, help="length of a phase")
    parser.add_argument("--folder", type=Path, help="where the database goes for the moment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        ratio = measure(Path(folder) / "run.duckdb", options)
    return 0 if ratio >= GOAL else 1


def measure(database: Path, options: argparse.Namespace) -> float:
    """Turns per second with readers ÷ turns per second without."""
    with Store.open(database) as store, sql_server.serve_readers(store):
        debates = Debates(store, options.answer)
        asyncio.run(debates.hold(options.seconds))  # something to read
        readers = [_reader(database, options.pause, number) for number in range(options.readers)]
        _tell(readers, signal.SIGSTOP)
        rates: dict[bool, list[float]] = {False: [], True: []}
        cpu: dict[bool, list[float]] = {False: [], True: []}
        for number in range(options.phases):
            for reading in (False, True) if number % 2 else (True, False):
                if reading:
                    _tell(readers, signal.SIGCONT)
                before = time.process_time(), debates.stored
                rates[reading].append(asyncio.run(debates.hold(options.seconds)))
                spent, stored = time.process_time() - before[0], debates.stored - before[1]
                cpu[reading].append(spent / stored * 1000)
                _tell(readers, signal.SIGSTOP)
        _tell(readers, signal.SIGKILL)
        waits = [wait for reader in readers for wait in _waits(reader)]
        stored = debates.stored
    without, with_them = statistics.mean(rates[False]), statistics.mean(rates[True])
    print(
        f"{stored:,} turns stored; {options.readers} readers, a query {options.pause:g} s after "
        f"the last; {options.phases} phases of {options.seconds:g} s each way"
    )
    for name, rate, used in (
        ("without readers", without, statistics.mean(cpu[False])),
        ("with readers", with_them, statistics.mean(cpu[True])),
    ):
        print(f"  {name:16} {rate:8,.0f} turns/s, {used:.2f} ms of CPU for each")
    pairs = [w / o for o, w in zip(rates[False], rates[True], strict=True)]
    print(
        f"  {len(waits)} answers to readers, median {statistics.median(waits) * 1000:.0f} ms, "
        f"slowest {max(waits) * 1000:.0f} ms"
    )
    ratio = with_them / without
    print(f"  ratio {ratio:.2f} (pairs {min(pairs):.2f} to {max(pairs):.2f}); goal {GOAL}")
    return ratio


class Debates:
    """Debates of three agents and two rounds, many at once, stored as the engine stores them."""

    def __init__(self, store: Store, answer_s: float) -> None:
        self._store = store
        self._answer_s = answer_s
        self._numbers = itertools.count()
        self.stored = 0

    async def hold(self, seconds: float) -> float:
        """Hold debates for so long; the turns stored per second."""
        before, started = self.stored, time.perf_counter()
        until = started + seconds
        await asyncio.gather(*(self._one_after_the_other(until) for _ in range(AT_ONCE)))
        return (self.stored - before) / (time.perf_counter() - started)

    async def _one_after_the_other(self, until: float) -> None:
        while time.perf_counter() < until:
            await self._debate(f"q{next(self._numbers)}")

    async def _debate(self, question: str) -> None:
        await self._store.append(Question(question, "sums", "eval", f"{question}?", gold="4"))
        rounds = [
            [_turn(question, agent, round_) for agent in range(1, AGENTS + 1)]
            for round_ in range(1, ROUNDS + 1)
        ]
        for turns in rounds[:-1]:
            await asyncio.gather(*map(self._speak, turns))
        *early, last = rounds[-1]
        await asyncio.gather(*map(self._speak, early), asyncio.sleep(self._answer_s))
        votes = [
            Vote(0, "eval", "multiagent", "sampled", question, round_, "4", 3, 3, False, True)
            for round_ in range(1, ROUNDS + 1)
        ]
        verdicts = [Verdict(turn.turn_id, True, True) for turns in rounds for turn in turns]
        await self._store.append(last, *votes, *verdicts)
        self.stored += 1

    async def _speak(self, turn: Turn) -> None:
        await asyncio.sleep(self._answer_s)
        await self._store.append(turn)
        self.stored += 1


def _turn(question: str, agent: int, round_: int) -> Turn:
    return Turn(
        iteration=0,
        split="eval",
        arm="multiagent",
        decoding="sampled",
        question_id=question,
        agent=agent,
        round=round_,
        kind="answer",
        model_id="base",
        messages=messages_json([{"role": "user", "content": f"What is {question}? " * 20}]),
        response=f"{question}: multiply first, then add. " * 10,
        answer="4",
        finish_reason="stop",
        prompt_tokens=300,
        completion_tokens=120,
        latency_ms=12.5,
    )


def _reader(database: Path, pause: float, number: int) -> subprocess.Popen[str]:
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(database), str(pause), str(number)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    return reader


def _tell(readers: Sequence[subprocess.Popen[str]], what: signal.Signals) -> None:
    for reader in readers:
        reader.send_signal(what)


def _waits(reader: subprocess.Popen[str]) -> list[float]:
    assert reader.stdout is not None
    lines = reader.stdout.read().split("\n")[:-1]
    reader.wait()
    return [float(line.split()[1]) for line in lines]


if __name__ == "__main__":
    raise SystemExit(main())
