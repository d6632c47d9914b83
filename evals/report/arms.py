"""The arms of a run, as the report shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evals.metrics import ARM
from store.ledger import Store
from store.records import Run

UNTUNED = ("base", "majority", "debate", "compute-matched-calls", "compute-matched-tokens")
"""Kinds of arm that train nothing; they are evaluated once, at iteration 0."""

DESCRIPTIONS = {
    "multiagent": "every agent's generator and critic tuned on that agent's own debate data",
    "single-agent": "one generator and one critic for all agents, tuned on the pooled data",
    "single-agent-matched": "the same, with as many examples and steps as one agent has",
    "no-critic": "generators tuned, critics stay untuned",
    "round1-labels": "labels from the vote of the first round",
    "no-summary": "the others' responses quoted, not summarized",
    "star": "one model tuned on its answers that match gold (STaR)",
    "majority-ft": "one model tuned on its answers that match the vote of its own samples",
    "base": "one untuned model, one answer",
    "majority": "vote of samples of the untuned model",
    "debate": "the untuned society",
    "compute-matched-calls": "vote of as many untuned samples as the society makes calls",
    "compute-matched-tokens": "vote of as many untuned samples as the society spends tokens",
}

_ARMS = "select arm, position, kind, labels, settings from arms order by position, arm"


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm. What a run has not told is None. `train_agents` debate the training questions,
    `agents` the others; `samples` and `matched_to` are set for the compute-matched arms only."""

    name: str
    position: int
    kind: str
    labels: str | None
    agents: int | None
    rounds: int | None
    others: str | None
    iterations: int | None
    roles: tuple[str, ...]
    models: str | None
    data: str | None
    w: float | None
    train_agents: int | None = None
    matched_to: str | None = None
    samples: float | None = None

    @property
    def trained(self) -> bool:
        return self.kind not in UNTUNED and self.iterations != 0

    @property
    def description(self) -> str:
        return DESCRIPTIONS.get(self.kind, self.kind)


def read(store: Store, run: Run) -> list[Arm]:
    """The arms of a run in the order of its config; a run from before there were arms has one."""
    found = store.rows(_ARMS)
    if not found:
        return [_only(json.loads(run.config))]
    return [
        _arm(str(name), int(position), str(kind), labels, json.loads(settings))
        for name, position, kind, labels, settings in found
    ]


def main(arms: Sequence[Arm]) -> Arm:
    """The arm that the others are compared with: the society itself, where there is one."""
    for chosen in (
        [arm for arm in arms if arm.name == ARM],
        [arm for arm in arms if arm.kind == "multiagent"],
        [arm for arm in arms if arm.trained],
    ):
        if chosen:
            return chosen[0]
    return arms[0]


def untuned(arms: Sequence[Arm]) -> Arm | None:
    """The arm that is the main one before any tuning, where the run has it as an arm of its own."""
    society = main(arms)
    for arm in arms:
        alike = (arm.agents, arm.rounds, arm.others)
        if arm.kind == "debate" and alike == (
            society.agents,
            society.rounds,
            society.others,
        ):
            return arm
    return None


def _arm(name: str, position: int, kind: str, labels: str | None, told: dict[str, Any]) -> Arm:
    return Arm(
        name,
        position,
        kind,
        labels,
        agents=told.get("agents"),
        rounds=told.get("rounds"),
        others=told.get("others"),
        iterations=told.get("iterations"),
        roles=tuple(told.get("roles") or ()),
        models=told.get("models"),
        data=told.get("data"),
        w=told.get("w"),
        train_agents=told.get("train_agents"),
        matched_to=told.get("matched_to"),
        samples=told.get("samples"),
    )


def _only(config: dict[str, Any]) -> Arm:
    society = config["society"]
    iterations = int(config.get("iterations", 0))
    critics = int(society["rounds"]) > 1
    return Arm(
        ARM,
        0,
        ARM,
        "final" if iterations else None,
        agents=int(society["agents"]),
        rounds=int(society["rounds"]),
        others=society.get("others"),
        iterations=iterations,
        roles=("generator", "critic") if critics else ("generator",),
        models="own",
        data="own",
        w=config.get("datasets", {}).get("w", 0.5) if critics else None,
        train_agents=int(society["agents"]) if iterations else None,
    )
