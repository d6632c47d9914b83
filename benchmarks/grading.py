"""How fast responses to the MATH test questions are graded, hostile ones included.

    python benchmarks/grading.py [--responses N] [--data PATH] [--sample N]

Right answers in varied wordings, wrong ones (other questions' answers), unreadable ones, and a few
that run forever or whose worker is killed, against math-verify called for every single response.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from evals.answers.math.comparison import same
from evals.answers.math.kind import MathKind
from evals.answers.math.structure import read_structure
from evals.judge.pool import Judge

GOAL_S = 60.0
CRASHES = 3
WORKERS = 2
ENDLESS = (
    *(r"9^{9^{9^9}}", "10!!!!!", r"10^{10^{10}}!", r"\sum_{n=1}^{10^{9}} n^n", r"2^{3^{4^{5^6}}}"),
    *(r"\binom{10^{9}}{10^{8}}", r"(1+\gcd(10^{10^8},3))!!", r"\prod_{n=1}^{10^{12}} n"),
)
WORDINGS = (
    r"{work} So the answer is $\boxed{{{answer}}}$.",
    r"{work} \[\boxed{{ {answer} }}.\]",
    r"{work} Final Answer: The final answer is ${answer}$. I hope it is correct.",
    r"First I thought \boxed{{0.123}}. {work} Therefore, **\boxed{{{answer}}}**",
    r"{work} The answer is ${answer}$.",
)


@dataclass(frozen=True, slots=True)
class Item:
    """A response to grade. `expected` is None where either verdict is acceptable."""

    response: str
    gold: str
    expected: bool | None


@dataclass(frozen=True, slots=True)
class Grade:
    """What a response answers (None: nothing that can be read) and whether that is right."""

    answer: str | None
    correct: bool


def main() -> int:
    """Print the measurement; 1 where the goal or a verdict is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--sample", type=int, default=300, help="responses for the baseline")
    parser.add_argument("--data", type=Path, default=_data())
    options = parser.parse_args()
    items = make(options.data / "math_test.jsonl", options.responses)
    seconds, wrong = measure(items)
    plain = baseline(items, options.sample)
    print(f"  ratio {plain / seconds:,.0f} x; goal {GOAL_S:.0f} s and no wrong verdict")
    return 0 if seconds <= GOAL_S and not wrong else 1


def make(path: Path, count: int) -> list[Item]:
    """`count` responses spread over all questions, the same at every call."""
    with path.open(encoding="utf-8") as lines:
        solutions = [json.loads(line)["solution"] for line in lines]
    golds = [MathKind().read_gold(solution) for solution in solutions]
    draw = random.Random(7)
    items = []
    for number in range(count):
        place = number % len(golds)
        work = solutions[place].partition(r"\boxed")[0][:600].rpartition(".")[0] + ".\n"
        turn = number // len(golds) % 20
        if turn < 12:
            answer, expected = _varied(golds[place], draw), True
        elif turn < 19:
            answer = draw.choice(golds)
            expected = same(
                read_structure(answer), read_structure(golds[place]), lambda a, b: False
            )
        else:
            items.append(Item(work, golds[place], False))
            continue
        response = draw.choice(WORDINGS).format(work=work, answer=answer)
        items.append(Item(response, golds[place], expected))
    for number, answer in enumerate(ENDLESS):
        place = (number + 1) * len(items) // (len(ENDLESS) + 1)
        gold = items[place].gold
        items[place] = Item(rf"So it is \boxed{{{answer}}}.", gold, False)
    return items


def measure(items: list[Item]) -> tuple[float, int]:
    """Seconds to grade everything, with workers being killed meanwhile; how many are wrong."""
    print(f"grading: {len(items):,} responses, {len(ENDLESS)} of them without an end")
    before = _cpu()
    start = time.perf_counter()
    judge = Judge(workers=WORKERS)
    done = threading.Event()
    killer = threading.Thread(target=_kill_workers, args=(done,))
    killer.start()
    kind = MathKind(ask=judge)
    grades = grade(kind, items)
    seconds = time.perf_counter() - start
    done.set()
    killer.join()
    reasons = Counter(one.reason for one in judge.list_given_up())
    judge.close()
    _report("in total", f"{seconds:.1f} s", f"{_cpu() - before:.1f} s CPU")
    return seconds, _summarise(items, grades, judge.decided, reasons)


def grade(kind: MathKind, items: Iterable[Item]) -> list[Grade]:
    """The grade of every response: each is read once, each distinct pair compared once."""
    read = [(kind.read(item.response), item.gold) for item in items]
    pairs = list({(answer, gold) for answer, gold in read if answer is not None})
    # As many threads as workers, so that one endless pair does not hold up the others.
    with ThreadPoolExecutor(WORKERS) as threads:
        verdicts = threads.map(lambda pair: kind.same(*pair), pairs)
        same = dict(zip(pairs, verdicts, strict=True))
    return [Grade(answer, answer is not None and same[answer, gold]) for answer, gold in read]


def _summarise(items: list[Item], grades: list[Grade], judged: int, reasons: Counter[str]) -> int:
    read = sum(grade.answer is not None for grade in grades)
    distinct = {(g.answer, i.gold) for g, i in zip(grades, items, strict=True) if g.answer}
    wrong = [
        (item, grade)
        for item, grade in zip(items, grades, strict=True)
        if item.expected is not None and item.expected is not grade.correct
    ]
    for item, given in wrong[:5]:
        print(f"    {given.answer!r} for {item.gold!r} is graded {given.correct}")
    _report("not readable", f"{len(items) - read:,}", "")
    _report("pairs known from before", f"{read - len(distinct):,}", "")
    _report("pairs decided by structure, value", f"{len(distinct) - judged:,}", "")
    _report("pairs decided by workers", f"{judged:,}", "")
    _report("  of which out of time", f"{reasons['SIGPROF'] + reasons['SIGALRM']:,}", "")
    _report("  of which crashed", f"{reasons['SIGSEGV']:,}", "")
    _report("verdicts that are wrong", f"{len(wrong):,}", "")
    return len(wrong)


def baseline(items: list[Item], count: int) -> float:
    """math-verify for every response, measured on a sample without the endless ones."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    sample = random.Random(3).sample([i for i in items if len(i.response) > 60], count)
    wrong = 0
    start = time.perf_counter()
    for item in sample:
        verdict = verify(parse(f"${item.gold}$"), parse(item.response))
        wrong += item.expected is not None and verdict is not item.expected
    seconds = (time.perf_counter() - start) / count
    total = seconds * len(items)
    print("math-verify for every response")
    _report("in total, extrapolated", f"{total:,.0f} s", f"measured on {count:,} responses")
    _report("verdicts that are wrong", f"{wrong / count:.1%}", f"{wrong} of {count:,}")
    return total


def _varied(answer: str, draw: random.Random) -> str:
    """The same answer in other clothes."""
    return draw.choice(
        (
            answer,
            answer.replace(r"\frac", r"\dfrac"),
            answer.replace("(", r"\left(").replace(")", r"\right)").replace(r"\\left", r"\left"),
            answer.replace(",", ", ") if answer.startswith("(") else f" {answer} ",
            answer.replace(r"\text", r"\mathrm"),
            answer.replace("-", "−"),
            answer.replace(r"\pi", "π"),
            f"{answer}.",
        )
    )


def _kill_workers(done: threading.Event) -> None:
    """End some workers the hard way while they work."""
    killed = 0
    while killed < CRASHES and not done.wait(0.2):
        for server in psutil.Process().children():
            for worker in server.children():
                if killed < CRASHES and worker.cpu_times().user > 0.5:
                    worker.send_signal(signal.SIGSEGV)
                    killed += 1


def _data() -> Path:
    shared = Path(__file__).parents[2] / "shared" / "data"
    return Path(os.environ.get("SOCIETY_DATA", shared))


def _cpu() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _report(name: str, figure: str, note: str) -> None:
    print(f"  {name:<34} {figure:>12}   {note}".rstrip())


if __name__ == "__main__":
    raise SystemExit(main())
