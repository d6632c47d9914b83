"""A stored run: its row, its arms, and which arm is the main one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from evals.arm_kinds import DISTILLED, MULTIAGENT, STORED_KINDS
from store.binding import Params
from store.ledger import Store
from store.records import CurriculumStep, Run

_ARMS = "select arm, position, kind, labels, settings::varchar from arms order by position, arm"
# A left join, since runs from before there were arms have votes but no rows in `arms`.
_EVALUATED = """
    select votes.arm
    from votes left join arms using (arm)
    where split = 'eval'
    group by votes.arm, position
    order by position, votes.arm
"""
_STEPS = """
    select iteration, curriculum_stage, task, arm, agreement from curriculum_steps
    order by iteration
"""


class NothingStored(ValueError):
    """The database holds no run yet."""


class Queryable(Protocol):
    """What answers SQL: an open `Store`, or a `Reader` of a database that another process may
    have open."""

    def rows(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]: ...


class TrainableArm(Protocol):
    """An arm, stored or still to be run, as far as the choice of the main one needs it."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def trained(self) -> bool: ...


A = TypeVar("A", bound=TrainableArm)


@dataclass(frozen=True, slots=True)
class ArmSettings:
    """One arm as its run stored it; a setting that the run did not store is None.

    `agents` debate the evaluation questions, `train_agents` the training questions. `samples` and
    `matched_to` are set for the compute-matched arms only. `early_end`: debates end once all agents
    agree; in one split, if it is a text.
    """

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
    early_end: bool | str = False
    label_samples: int = 1

    @property
    def trained(self) -> bool:
        known = STORED_KINDS.get(self.kind)
        # A kind that this version does not know is taken as trained, unless it has no iterations.
        return (known is None or known.trained) and self.iterations != 0

    @property
    def is_ablation(self) -> bool:
        # A run that a later version wrote may have kinds of arm that this one does not know.
        known = STORED_KINDS.get(self.kind)
        return known is not None and known.ablation

    @property
    def description(self) -> str:
        known = STORED_KINDS.get(self.kind)
        return known.title if known else self.kind


def load_run(store: Store) -> Run:
    """The run a database belongs to. Raises `NothingStored`."""
    run = store.run()
    if run is None:
        raise NothingStored(f"{store.path} holds no run yet; start one with `society run`")
    return run


def read_arms(source: Queryable) -> list[ArmSettings]:
    """The arms of a run in the order of its config; a run from before there were arms has one.

    Empty for a database that holds no run.
    """
    found = source.rows(_ARMS)
    if found:
        return [
            _parse_arm(str(name), int(position), str(kind), labels, json.loads(settings))
            for name, position, kind, labels, settings in found
        ]
    configs = source.rows("select config::varchar from runs")
    return [_only_arm(json.loads(config)) for (config,) in configs[:1]]


def list_evaluated_arms(source: Queryable) -> list[str]:
    """The names of the arms that have answered evaluation questions, in the experiment's order."""
    return [str(arm) for (arm,) in source.rows(_EVALUATED)]


def read_curriculum_steps(source: Queryable) -> list[CurriculumStep]:
    """The stages that the iterations have entered, in order; none if no votes decide them."""
    return [CurriculumStep(*row) for row in source.rows(_STEPS)]


def choose_main_arm(arms: Sequence[A]) -> A:
    """The main arm: the one that tables and `society ask` speak of, and that a report compares
    with the others.

    It is the arm named multiagent, or else one of that kind, if it is trained; otherwise the first
    arm that is trained; otherwise the first. A distilled model is no society, so it is never the
    main arm. Raises IndexError for no arms.

    >>> choose_main_arm(read_arms(store)).name  # of a run with arms star, multiagent, majority
    'multiagent'
    """
    trained = [arm for arm in arms if arm.trained and arm.kind != DISTILLED.name]
    societies = [arm for arm in trained if arm.kind == MULTIAGENT]
    named = [arm for arm in societies if arm.name == MULTIAGENT]
    return (named or societies or trained or arms)[0]


def find_main_arm(source: Queryable) -> str:
    """The name of a stored run's main arm; see `choose_main_arm`."""
    arms = read_arms(source)
    return choose_main_arm(arms).name if arms else MULTIAGENT


def find_untuned_twin(arms: Sequence[ArmSettings]) -> ArmSettings | None:
    """The arm that is the main one before any tuning, if the run has such an arm."""
    main = choose_main_arm(arms)
    # Another number of agents or rounds would be a different society, not this one untuned.
    shape = (main.agents, main.rounds, main.others)
    for arm in arms:
        if arm.kind == "debate" and (arm.agents, arm.rounds, arm.others) == shape:
            return arm
    return None


def _parse_arm(
    name: str, position: int, kind: str, labels: str | None, settings: dict[str, Any]
) -> ArmSettings:
    return ArmSettings(
        name,
        position,
        kind,
        labels,
        agents=settings.get("agents"),
        rounds=settings.get("rounds"),
        others=settings.get("others"),
        iterations=settings.get("iterations"),
        roles=tuple(settings.get("roles") or ()),
        models=settings.get("models"),
        data=settings.get("data"),
        w=settings.get("w"),
        train_agents=settings.get("train_agents"),
        matched_to=settings.get("matched_to"),
        samples=settings.get("samples"),
        early_end=settings.get("early_end", False),
        label_samples=settings.get("label_samples", 1),
    )


# Runs from before there were arms had the society only, with its settings in the config.
def _only_arm(config: dict[str, Any]) -> ArmSettings:
    society = config.get("society", {})
    iterations = int(config.get("iterations", 0))
    agents, rounds = int(society.get("agents", 1)), int(society.get("rounds", 1))
    critics = rounds > 1
    return ArmSettings(
        MULTIAGENT,
        0,
        MULTIAGENT,
        "final" if iterations else None,
        agents=agents,
        rounds=rounds,
        others=society.get("others"),
        iterations=iterations,
        roles=("generator", "critic") if critics else ("generator",),
        models="own",
        data="own",
        w=config.get("datasets", {}).get("w", 0.5) if critics else None,
        train_agents=agents if iterations else None,
    )
