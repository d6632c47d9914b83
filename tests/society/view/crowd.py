r"""Runs of every shape for the eyes: many arms, many agents, no gold, cut answers, formulas."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from store.ledger import Store
from store.records import Dataset, Job, Model, Question, Run, StoredArm, TrainingPoint
from store.spending import Price
from tests.society.view.conftest import START, debate

KINDS = ("multiagent", "single-finetune", "star", "majority", "no-critics", "no-summaries")
ASKED = (
    r"Let \(f(x) = \frac{x^2 + %d}{\sqrt{x + 1}}\). What is $f(3)$ to the nearest whole number?",
    "A ticket costs $%d and a return ticket $6 more. How many dollars do two of each cost?",
    r"Compute \[\sum_{i=1}^{%d} i^2.\]",
)


def _say(random: Random) -> Callable[[int, int, str | None], str]:
    def say(agent: int, number: int, answer: str | None) -> str:
        begun = (
            f"**Round {number}.** We put \\(x = {agent}\\) into "
            f"\\(\\frac{{x^2 + 1}}{{2}}\\):\n\\[\\begin{{aligned}} f(x) &= \\sqrt{{x+1}} \\\\ "
            f"&\\approx {random.randint(1, 99)}.5 \\end{{aligned}}\\]\n"
        )
        return begun + ("and so on" if answer is None else f"So it is \\boxed{{{answer}}}.")

    return say


def _answers(
    random: Random, agents: int, rounds: int, right: float, cut: float
) -> list[list[str | None]]:
    def one(chance: float) -> str | None:
        if random.random() < cut:
            return None
        return "4" if random.random() < chance else random.choice(("5", r"\frac{13}{2}", "12"))

    return [[one(right + 0.1 * number) for _ in range(agents)] for number in range(rounds)]


def _tuned(arm: str, iteration: int, agents: int, random: Random) -> Iterator[object]:
    for agent in range(1, agents + 1):
        for role in ("generator", "critic"):
            name = f"{arm}-a{agent}-{role}-it{iteration}"
            yield Dataset(
                name, iteration, arm, agent, role, 40, "a" * 64, "final", 1,
                *((20, 20, 0.5) if role == "critic" else (None, None, None)), created_at=START,
            )  # fmt: skip
            yield Job(
                job_id=f"job-{name}", iteration=iteration, arm=arm, agent=agent, role=role,
                dataset_id=name, digest=name, status="succeeded",
            )  # fmt: skip
            parent = "base" if iteration == 1 else f"{arm}-a{agent}-{role}-it{iteration - 1}"
            path = f"models/{name}"
            yield Model(
                name, "local:smol/SmolLM2-135M-Instruct", parent, path, "c" * 64, name,
                f"job-{name}", iteration, arm, agent, role,
            )  # fmt: skip
            low = 0.3 + random.random()
            for step in range(1, 41):
                loss = low + 1.5 / step + random.random() / 10
                yield TrainingPoint(f"job-{name}", step, loss, 0.0002)


def write_crowd(
    path: Path,
    *,
    arms: int = 1,
    agents: int = 3,
    iterations: int = 2,
    questions: int = 12,
    gold: bool = True,
    cut: float = 0.02,
    paid: bool = False,
    seed: int = 0,
) -> None:
    """A finished run whose societies get a little better by iteration."""
    random = Random(seed)
    names = [*KINDS, *(f"rounds-{n}" for n in range(1, 20))][:arms]
    config = {
        "model": "local:smol/SmolLM2-135M-Instruct",
        "iterations": iterations,
        "seed": seed,
        "task": {"name": "algebra"},
        "society": {"agents": agents, "rounds": 2},
    }
    rows: list[object] = [
        Run(path.parent.name, json.dumps(config), "0" * 64, seed, "{}", START, START),
        *(
            StoredArm(arm, place, "multiagent" if not place else "variant", "final", "{}")
            for place, arm in enumerate(names)
        ),
        Model("base", "local:smol/SmolLM2-135M-Instruct"),
    ]
    known = "4" if gold else None
    asked = [(f"q{n:03}", ASKED[n % 3] % (n + 1)) for n in range(questions)]
    rows += [Question(q, "algebra", "eval", t, known, None, n) for n, (q, t) in enumerate(asked)]
    for place, arm in enumerate(names):
        for iteration in range(iterations + 1):
            right = 0.45 + 0.08 * iteration - 0.02 * place
            for question_id, _ in asked:
                given = _answers(random, agents, 2, right, cut)
                stage = (iteration, "eval", arm, "sampled")
                rows += debate(stage, question_id, known, given, _say(random), "base")
            if iteration:
                rows += _tuned(arm, iteration, agents, random)
    with Store.open(path) as store:
        store.write(*rows)  # type: ignore[arg-type]
        if paid:
            address = "local:smol/SmolLM2-135M-Instruct"
            store.write(*(Price(address, tuned, 1.5, 6.0, "a list", training_usd=4.0)
                          for tuned in (False, True)))  # fmt: skip
            store.transact(lambda connection: connection.execute(_SPREAD_OVER_TIME))


# The societies one after the other, with a long rest behind the first.
_SPREAD_OVER_TIME = """
    UPDATE turns SET created_at = created_at
        + to_minutes(40 * iteration + if(iteration > 0, 150, 0)) + to_seconds(hash(turn_id) % 1500)
"""


def write_shapes(runs: Path) -> None:
    """A folder with one run of every shape, and a sweep of three seeds with twelve arms."""
    shapes: dict[str, dict[str, object]] = {
        "one-arm": {},
        "eight-agents": {"agents": 8},
        "no-gold": {"gold": False},
        "mostly-cut": {"cut": 0.6},
        "paid": {"paid": True, "questions": 40},
        **{f"arms.seed-{seed}": {"arms": 12, "seed": seed, "questions": 6} for seed in range(3)},
    }
    for name, shape in shapes.items():
        (runs / name).mkdir(parents=True)
        write_crowd(runs / name / "run.duckdb", **shape)  # type: ignore[arg-type]
    members = [
        {"run": f"arms.seed-{seed}", "point": "", "seed": seed, "settings": {}} for seed in range(3)
    ]
    (runs / "arms").mkdir()
    record = {"version": 1, "experiment": "demo", "members": members}
    (runs / "arms" / "sweep.json").write_text(json.dumps(record))
