"""Runs with several arms and seeds that nobody has run, in the built-in model's words."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evals import report
from evals.tasks.arithmetic import Arithmetic
from providers.embedded import corpus
from society.method.voting import agrees, count_votes
from store import measures, records, tables
from store.ledger import Store

TASK = Arithmetic()
START = datetime(2026, 3, 1, tzinfo=UTC)
CONFIG = {
    "model": "embedded:",
    "iterations": 2,
    "seed": 0,
    "task": {"name": "arithmetic"},
    "zero_shot": [{"name": "arithmetic", "label": "harder"}],
    "society": {"agents": 3, "rounds": 2, "others": "summarized"},
    "sampling": {"temperature": 0.6, "top_p": 1.0, "max_tokens": 112},
    "datasets": {"w": 0.2},
}


@dataclass(frozen=True)
class Recipe:
    """How an arm of a given kind behaves: how often it still has its bad habit after `i` passes."""

    kind: str
    habit: tuple[float, ...]
    rounds: int = 2
    agents: int = 3
    labels: str | None = "final"
    models: str = "own"
    data: str | None = "own"
    roles: tuple[str, ...] = ("generator", "critic")
    quoted: bool = False

    @property
    def trained(self) -> bool:
        return self.data is not None

    def settings(self, iterations: int) -> str:
        told: dict[str, object] = {
            "agents": self.agents,
            "rounds": self.rounds,
            "others": "quoted" if self.quoted else "summarized",
            "iterations": iterations if self.trained else 0,
            "labels": self.labels,
            "roles": list(self.roles) if self.trained else [],
            "models": self.models,
            "data": self.data,
            "w": 0.2 if self.trained else None,
        }
        if self.kind.startswith("compute-matched"):
            told |= {"matched_to": "multiagent", "samples": self.agents}
        return json.dumps(told)


def _untuned(kind: str, agents: int, rounds: int) -> Recipe:
    return Recipe(kind, (0.5,), rounds, agents, None, "shared", None, ())


RECIPES = (
    Recipe("multiagent", (0.5, 0.25, 0.1, 0.05)),
    Recipe("single-agent", (0.5, 0.3, 0.28, 0.4), models="shared", data="pooled"),
    Recipe("single-agent-matched", (0.5, 0.35, 0.3, 0.35), models="shared", data="matched"),
    Recipe("no-critic", (0.5, 0.3, 0.2, 0.15), roles=("generator",)),
    Recipe("round1-labels", (0.5, 0.28, 0.15, 0.1), labels="round1"),
    Recipe("no-summary", (0.5, 0.3, 0.2, 0.2), quoted=True),
    Recipe("star", (0.5, 0.3, 0.25, 0.2), 1, 3, "gold", "shared", "pooled", ("generator",)),
    Recipe("majority-ft", (0.5, 0.35, 0.3), 1, 3, "final", "shared", "pooled", ("generator",)),
    _untuned("base", 1, 1),
    _untuned("majority", 3, 1),
    _untuned("debate", 3, 2),
    _untuned("compute-matched-calls", 9, 1),
    _untuned("compute-matched-tokens", 5, 1),
)


@pytest.fixture(scope="session")
def arms_of() -> Callable[..., Iterator[tables.Record]]:
    """`rows_of` itself."""
    return rows_of


@pytest.fixture
def society_store(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Opened stores of runs made by `rows_of`, each in a folder of its own."""
    opened: list[Store] = []

    def build(**options: object) -> Store:
        seed = options.get("seed", 0)
        folder = tmp_path / str(options.get("name", f"arms-s{seed}"))
        folder.mkdir()
        store = Store.open(folder / "run.duckdb")
        opened.append(store)
        store.write(*rows_of(**options))
        return store

    yield build
    for store in opened:
        store.close()


def rows_of(
    seed: int = 0,
    iterations: int = 2,
    questions: int = 24,
    kinds: tuple[str, ...] = ("multiagent", "single-agent", "majority"),
    name: str | None = None,
    spoken: str | None = None,
    finished: bool = True,
    changed: dict[str, object] | None = None,
    diverse: bool = True,
) -> Iterator[tables.Record]:
    """All rows of one run. `spoken` is added to every response, `changed` to the config; `diverse`
    runs have measured diversity."""
    rng = random.Random(seed)
    config = CONFIG | {"iterations": iterations, "seed": seed} | (changed or {})
    yield records.Run(
        name or f"arms-s{seed}", json.dumps(config), f"{seed:064}", seed,
        json.dumps({"python": "3.11"}), created_at=START,
        finished_at=START + timedelta(days=1) if finished else None,
    )  # fmt: skip
    asked = {split: TASK.questions(split, 0, questions) for split in ("train", "eval")}
    for split, found in asked.items():
        for position, q in enumerate(found):
            yield records.Question(
                q.question_id, "arithmetic", split, q.text, q.gold, None, position
            )
    unseen = [
        (f"harder:{q.question_id}", q) for q in TASK.questions("eval", 7, max(2, questions // 2))
    ]
    for position, (own, q) in enumerate(unseen):
        yield records.Question(own, "harder", "eval", q.text, q.gold, None, position, None, True)
    for position, kind in enumerate(kinds):
        recipe = next(recipe for recipe in RECIPES if recipe.kind == kind)
        yield records.StoredArm(kind, position, kind, recipe.labels, recipe.settings(iterations))
        yield from _arm(
            rng, recipe, iterations if recipe.trained else 0,
            [(q.question_id, q) for q in asked["train"]],
            [(q.question_id, q) for q in asked["eval"]], unseen, spoken, diverse,
        )  # fmt: skip


def _arm(rng, recipe, iterations, train, own, unseen, spoken, diverse):
    for iteration in range(iterations + 1):
        if iteration:
            yield from _debates(rng, recipe, iteration, "train", "sampled", train, spoken)
            yield from _tuning(rng, recipe, iteration)
        for decoding in ("sampled", "greedy"):
            asked = [*own, *(unseen if decoding == "sampled" else ())]
            yield from _debates(rng, recipe, iteration, "eval", decoding, asked, spoken)
        if diverse:
            yield from _diversity(rng, recipe, iteration)


def _debates(rng, recipe, iteration, split, decoding, asked, spoken):
    habit = recipe.habit[min(iteration - (split == "train"), len(recipe.habit) - 1)]
    for number, (question_id, question) in enumerate(asked):
        turns, right = [], {}
        when = START + timedelta(hours=iteration, seconds=number)
        for round_ in range(1, recipe.rounds + 1):
            for agent in range(1, recipe.agents + 1):
                text = _response(rng, question, habit, right.get(agent, False), spoken)
                common = (recipe.kind, iteration, split, decoding, question_id, agent, round_)
                if round_ > 1 and not recipe.quoted:
                    yield _turn(*common, "Solution 1: the answer is 10.", when, "summary")
                turn = _turn(*common, text, when, "answer")
                yield turn
                turns.append(turn)
                right[agent] = turn.answer == question.gold
        tallies = [
            count_votes([t.answer for t in turns if t.round == r], TASK.equivalent)
            for r in range(1, recipe.rounds + 1)
        ]
        dropped = tallies[-1].answer is None or (tallies[-1].tie and split == "train")
        for turn in turns:
            agreeing = None if dropped else agrees(turn.answer, tallies[-1], TASK.equivalent)
            yield records.Verdict(turn.turn_id, agreeing, turn.answer == question.gold)
        for round_, tally in enumerate(tallies, start=1):
            answer = None if tally.tie and split == "train" else tally.answer
            yield records.Vote(
                iteration, split, recipe.kind, decoding, question_id, round_, answer,
                tally.votes, tally.voters, tally.tie, answer == question.gold,
            )  # fmt: skip


def _response(rng, question, habit, was_right, spoken):
    operands = [int(n) for n in "".join(
        c if c.isdigit() else " " for c in question.question_id).split()]  # fmt: skip
    terse = rng.random() < habit
    style = "terse" if terse else rng.choice(corpus.GOOD_STYLES)
    slips = (0.8 if terse else 0.2) * (0.25 if was_right else 1)
    text = corpus.solve(corpus.Problem(*operands), style, rng, slips).text
    return text if spoken is None else f"{text}\n{spoken}"


def _turn(arm, iteration, split, decoding, question_id, agent, round_, text, when, kind):
    return records.Turn(
        iteration=iteration, split=split, arm=arm, decoding=decoding, question_id=question_id,
        agent=agent, round=round_, kind=kind,
        model_id="base" if iteration == 0 else f"{arm}-a{agent}-it{iteration}",
        messages='[{"role": "user", "content": "?"}]', response=text,
        answer=TASK.extract(text) if kind == "answer" else None, finish_reason="stop",
        prompt_tokens=60, completion_tokens=len(text) // 2, latency_ms=150.0,
        shared_turn_id=1 if iteration == 0 and arm != "multiagent" and split == "eval" else None,
        created_at=when + timedelta(milliseconds=agent + 100 * round_),
    )  # fmt: skip


def _tuning(rng, recipe, iteration):
    begun = START + timedelta(hours=iteration, minutes=20)
    agents = range(1, recipe.agents + 1) if recipe.models == "own" else [0]
    for agent in agents:
        for role in recipe.roles:
            job = f"{recipe.kind}-a{agent}-{role}-it{iteration}"
            examples = rng.randint(80, 100) * (3 if recipe.data == "pooled" else 1)
            yield records.Dataset(
                job, iteration, recipe.kind, agent, role, examples, "0" * 64, "final", 0,
                created_at=begun,
            )  # fmt: skip
            yield records.Job(
                job, iteration, recipe.kind, agent, role, job, "0" * 64, "succeeded",
                trained_tokens=examples * 90, created_at=begun,
                finished_at=begun + timedelta(seconds=10),
            )  # fmt: skip
            for step in range(1, examples // 8 + 1):
                loss = 0.3 / iteration + 0.4 / step + rng.random() / 15
                yield records.TrainingPoint(job, step, loss, 1e-3)


def _diversity(rng, recipe, iteration):
    if recipe.agents == 1:
        return
    for role in ("generator", "critic")[: recipe.rounds]:
        for responses in ("all", "agreeing"):
            value = 0.24 - (0.04 if recipe.models == "shared" else 0.01) * iteration
            value = value * (0.8 if responses == "agreeing" else 1) + rng.uniform(-0.01, 0.01)
            yield measures.Diversity(
                iteration, recipe.kind, "eval", "arithmetic", "sampled", role, "embedding",
                responses, "minilm", value, value - 0.015, value + 0.015, 20, 60, created_at=START,
            )  # fmt: skip
        yield measures.Diversity(
            iteration, recipe.kind, "eval", "arithmetic", "sampled", role, "kl", "all", "",
            None, None, None, 0, 0, "the provider gives no log-probabilities", START,
        )  # fmt: skip


SEVERAL = (
    "multiagent",
    "single-agent",
    "single-agent-matched",
    "no-critic",
    "star",
    "majority",
    "base",
)


@pytest.fixture(scope="session")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Store]]:
    """Three seeds of one experiment with several arms, opened for reading."""
    opened = []
    for seed in range(3):
        path = tmp_path_factory.mktemp(f"arms-s{seed}-") / "run.duckdb"
        with Store.open(path) as store:
            store.write(*rows_of(seed=seed, kinds=SEVERAL, questions=16))
        opened.append(Store.open(path, read_only=True))
    yield opened
    for store in opened:
        store.close()


@pytest.fixture(scope="session")
def seeds_page(three_seeds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their page."""
    out = tmp_path_factory.mktemp("seeds") / "report.html"
    report.write_report(three_seeds, out)
    return out
