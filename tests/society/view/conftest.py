"""Runs with known debates, and the pages on them served on 127.0.0.1."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
import uvicorn

from society.view.access import PageAccess
from society.view.asking import AskingDesk
from society.view.catalog import Library
from society.view.web import create_app
from store.content import messages_json
from store.ledger import Store
from store.records import (
    Dataset,
    DatasetExample,
    Job,
    Model,
    Question,
    Run,
    StoredArm,
    TrainingPoint,
    Turn,
    Verdict,
    Vote,
)

HOSTILE = (
    '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'
    '<a href="javascript:window.hacked=1">a</a> </pre></textarea> {{ 7 * 7 }} '
    "\x1b[31mred\x1b[0m \x9b31m \u202eesrever\u202c \u2066x\u2069 \u200b \x00 "
)
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ARM = "multiagent"

# Question: gold, and the answers of three agents in either round.
DEBATES: dict[str, tuple[str | None, list[list[str | None]]]] = {
    "turned-right": ("4", [["5", "5", "4"], ["4", "4", "4"]]),
    "turned-wrong": ("4", [["4", "4", "5"], ["5", "5", "4"]]),
    "tied": ("4", [["4", "5", "6"], ["4", "5", None]]),
    "other-wrong": ("4", [["5", "5", "5"], ["6", "6", "6"]]),
    "rewritten": ("4", [["1/2", "1/2", "1/2"], ["0.5", "0.5", "0.5"]]),
    "dissent": ("4", [["4", "4", "4"], ["4", "9", "4"]]),
    "no-gold": (None, [["7", "7", "8"], ["7", "7", "8"]]),
    "no-answer": ("4", [[None, None, None], [None, None, None]]),
    **{f"plain-{n:02}": ("4", [["4", "4", "4"], ["4", "4", "4"]]) for n in range(52)},
}


def _same(one: str | None, other: str | None) -> bool:
    if one is None or other is None or "\\" in one + other:
        return one is not None and one == other
    return Fraction(one) == Fraction(other)


def _vote(answers: list[str | None]) -> tuple[str | None, int, int, bool]:
    """Label, votes, voters, tie; of tied answers the first wins, as in evaluation."""
    given = [answer for answer in answers if answer is not None]
    if not given:
        return None, 0, 0, False
    counts = [sum(_same(answer, other) for other in given) for answer in given]
    most = max(counts)
    best = [answer for answer, count in zip(given, counts, strict=True) if count == most]
    return best[0], most, len(given), not all(_same(best[0], answer) for answer in best)


def debate(
    stage: tuple[int, str, str, str],
    question_id: str,
    gold: str | None,
    rounds: list[list[str | None]],
    say: Callable[[int, int, str | None], str] = lambda agent, number, answer: (
        f"Agent {agent} thinks about it in round {number}.\nIt is \\boxed{{{answer}}}."
    ),
    model: str = "base",
) -> list[object]:
    """The rows of one complete debate."""
    final = _vote(rounds[-1])[0]
    rows: list[object] = []
    for number, answers in enumerate(rounds, start=1):
        label, votes, voters, tie = _vote(answers)
        right = None if gold is None else _same(label, gold)
        rows.append(Vote(*stage, question_id, number, label, votes, voters, tie, right))
        for agent, answer in enumerate(answers, start=1):
            sent = [{"role": "user", "content": f"Prompt of {question_id}"}]
            turn = Turn(
                *stage,
                question_id,
                agent,
                number,
                "answer",
                model,
                messages_json(sent),
                say(agent, number, answer),
                answer,
                "stop" if answer else "length",
                11,
                22,
                33.0,
                created_at=START + timedelta(seconds=number),
            )
            agrees = None if final is None else _same(answer, final)
            correct = None if gold is None else _same(answer, gold)
            rows += [turn, Verdict(turn.turn_id, agrees, correct)]
    return rows


def _run(name: str) -> Run:
    config = {
        "model": "scripted:x",
        "iterations": 1,
        "seed": 3,
        "task": {"name": "sums"},
        "society": {"agents": 3, "rounds": 2},
        "train": {"questions": 2},
        "evaluation": {"questions": len(DEBATES)},
    }
    finished = START + timedelta(minutes=5)
    return Run(name, json.dumps(config), "0" * 64, 3, "{}", START, finished)


def write_sums(path: Path) -> None:
    """Evaluation of two societies, one training pass, its datasets, jobs and models."""
    rows: list[object] = [
        _run("sums"),
        StoredArm(ARM, 0, ARM, "final", "{}"),
        Model("base", "scripted:x"),
    ]
    for position, (question_id, (gold, rounds)) in enumerate(DEBATES.items()):
        rows.append(
            Question(question_id, "sums", "eval", f"What is {question_id}?", gold, None, position)
        )
        rows += debate((0, "eval", ARM, "sampled"), question_id, gold, rounds)
    for question_id in ("turned-right", "plain-00"):
        gold, rounds = DEBATES[question_id]
        stage = (1, "eval", ARM, "sampled")
        rows += debate(stage, question_id, gold, [rounds[1], rounds[1]], model="tuned-critic")
    for position, question_id in enumerate(("learn-a", "learn-b")):
        rows.append(Question(question_id, "sums", "train", "2 + 2?", "4", 1, position))
        answers: list[list[str | None]] = [["5", "4", "4"], ["4", "4", "4"]]
        rows += debate((1, "train", ARM, "sampled"), question_id, "4", answers)
    learnt = [row for row in rows if isinstance(row, Turn) and row.split == "train"]
    critic = [turn for turn in learnt if turn.agent == 1 and turn.round == 2]
    made = {"iteration": 1, "arm": ARM, "agent": 1, "role": "critic"}
    rows += [
        Dataset("d1", 1, ARM, 1, "critic", 2, "a" * 64, "final", 3, 2, 0, 0.5, created_at=START),
        *(DatasetExample("d1", t.turn_id, t.question_id, n) for n, t in enumerate(critic)),
        Job(**made, job_id="j1", dataset_id="d1", digest="b", status="succeeded"),  # type: ignore[arg-type]
        Model("tuned-critic", "scripted:x", "base", "w", "c" * 64, "d1", "j1", 1, ARM, 1, "critic"),
        Model("child", "scripted:x", "tuned-critic", "w2"),
        *(TrainingPoint("j1", step, 2.0 / step, 0.1) for step in range(1, 9)),
    ]
    with Store.open(path) as store:
        store.write(*rows)  # type: ignore[arg-type]


def write_hostile(path: Path) -> None:
    """One debate whose every text wants to be markup, script or terminal control."""
    huge = "<b>word</b> and more\n" * 30_000

    def say(agent: int, number: int, answer: str | None) -> str:
        return huge if (agent, number) == (3, 2) else f"{HOSTILE} round {number} {answer}"

    stage = (0, "eval", ARM, "sampled")
    hostile = f"q\"'<script>window.hacked=1</script>{HOSTILE.strip()}"
    with Store.open(path) as store:
        store.write(
            _run("hostile"),
            Model(HOSTILE, "scripted:x"),
            Question(hostile, HOSTILE, "eval", HOSTILE, "4", None, 0),
            *debate(stage, hostile, "4", [["5", "4", "4"], ["4", "4", "4"]], say, HOSTILE),
        )  # type: ignore[arg-type]


@dataclass(frozen=True)
class Site:
    """The pages, served."""

    runs: Path
    port: int
    token: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        """Status, text and headers of a page."""
        request = urllib.request.Request(self.url + path, headers=headers)
        return _answer(request)

    def send(self, request: urllib.request.Request) -> tuple[int, str, dict[str, str]]:
        """The same of a request that is made already; a redirect is not followed."""
        return _answer(request)

    def ask(self, method: str, path: str) -> tuple[int, str, dict[str, str]]:
        """The same by another method."""
        return _answer(urllib.request.Request(self.url + path, method=method))


class _Staying(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


def _answer(request: urllib.request.Request) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.build_opener(_Staying).open(request, timeout=60) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


@contextmanager
def served(
    runs: Path,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    desk: AskingDesk | None = None,
) -> Iterator[Site]:
    """The pages on `runs` while the block runs; with a `desk`, questions can be asked."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        app = create_app(Library(runs), PageAccess(host, port, token), desk=desk)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Site(runs, port, token)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A folder with a run, a hostile one and a broken one."""
    folder = tmp_path_factory.mktemp("view") / "runs"
    for name, write in (("sums", write_sums), ("hostile", write_hostile)):
        (folder / name).mkdir(parents=True)
        write(folder / name / "run.duckdb")
    (folder / "broken").mkdir()
    (folder / "broken" / "run.duckdb").write_text("not a database")
    return folder


@pytest.fixture(scope="session")
def site(runs) -> Iterator[Site]:
    with served(runs) as site:
        yield site


@pytest.fixture
def serve() -> Callable[..., object]:
    """`served`, for tests that want a server of their own."""
    return served


@pytest.fixture(scope="session", name="write_sums")
def sums_writer() -> Callable[[Path], None]:
    return write_sums


@pytest.fixture(scope="session")
def make_debate() -> Callable[..., list[object]]:
    return debate
