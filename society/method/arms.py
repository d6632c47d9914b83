"""The arms of an experiment: the society itself, its baselines and its ablations.

All arms run through the same engine, on the same questions and with the same noise, so that they
can be compared question by question. What each one is follows sections 3 and 4 of arXiv 2501.05707;
the compute-matched votes are this project's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Literal, get_args

from evals.stored_run import choose_main_arm
from society.method.agents import ROLES, AgentRole
from store import records
from store.ledger import Store
from store.records import Decoding, Labels

if TYPE_CHECKING:
    from society.config.schema import ArmSection, Config, SocietySection

Kind = Literal[
    "multiagent",
    "single-agent",
    "single-agent-matched",
    "no-critic",
    "round1-labels",
    "no-summary",
    "star",
    "majority-ft",
    "base",
    "majority",
    "debate",
    "compute-matched-calls",
    "compute-matched-tokens",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Data = Literal["own", "pooled", "matched"]
Matched = Literal["calls", "tokens"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm, every setting that distinguishes it.

    `agents` answer in evaluation, `train_agents` in training debates. `labels` says what a training
    answer must agree with: the vote of the last round, of round 1, or gold (STaR only); None where
    nothing is trained. `tuned` are the roles that are trained; the others stay the base. `data`:
    each agent's model learns from its "own" turns; or all agents share one model that learns from
    the turns of all ("pooled"), or from as many of those as one agent would have ("matched").
    `matched_to` says what the number of agents of a compute-matched vote is derived from.
    """

    name: str
    kind: Kind
    position: int
    agents: int
    train_agents: int
    rounds: int
    others: Literal["summarized", "quoted"]
    iterations: int
    labels: Labels | None
    tuned: tuple[AgentRole, ...]
    data: Data | None
    w: float
    matched_to: Matched | None = None

    @property
    def trained(self) -> bool:
        return self.iterations > 0

    @property
    def shared(self) -> bool:
        """Whether all agents use one generator and one critic."""
        return self.data in ("pooled", "matched")

    def trained_in(self, iteration: int) -> bool:
        """Whether the arm has an iteration `iteration` (from 1)."""
        return iteration <= self.iterations

    def decodings(self, asked: Sequence[Decoding]) -> Sequence[Decoding]:
        """Those of `asked` that say something: many greedy answers of one model are one answer."""
        return [d for d in asked if d == "sampled"] if self.matched_to else asked

    def calls(self, agents: int | None = None) -> int:
        """Answers and summaries of one debate of `agents`, by default as in evaluation."""
        summaries = self.rounds - 1 if self.others == "summarized" else 0
        return (self.agents if agents is None else agents) * (self.rounds + summaries)

    def record(self) -> records.Arm:
        """The arm as it is stored."""
        settings: dict[str, object] = {
            "agents": self.agents,
            "train_agents": self.train_agents if self.iterations else None,
            "rounds": self.rounds,
            "others": self.others if self.rounds > 1 else None,
            "iterations": self.iterations,
            "labels": self.labels,
            "roles": list(self.tuned),
            "models": "shared" if self.shared else "own",
            "data": self.data,
            "w": self.w if "critic" in self.tuned else None,
            "matched_to": self.matched_to,
            "samples": self.agents if self.matched_to else None,
        }
        return records.Arm(self.name, self.position, self.kind, self.labels, json.dumps(settings))


def build_arms(config: Config) -> tuple[Arm, ...]:
    """The arms that an experiment file asks for, in its order.

    Raises ValueError for an unknown kind, a name that is taken, and for what an arm cannot be.
    """
    made: dict[str, Arm] = {}
    for position, entry in enumerate(config.arms):
        name, kind = (entry, entry) if isinstance(entry, str) else (entry.name, entry.like)
        if kind not in KINDS:
            raise ValueError(
                f"arms: {kind!r} is no arm; there are {', '.join(KINDS)}, and variants of them: "
                '{name = "five-agents", like = "multiagent", agents = 5}'
            )
        if name in made:
            raise ValueError(f"arms: {name!r} is there twice; give a variant a name of its own")
        if not isinstance(entry, str) and name in KINDS and name != kind:
            raise ValueError(f"arms: {name!r} is the name of another kind; choose another name")
        arm = _build_kind(name, kind, position, config)
        made[name] = arm if isinstance(entry, str) else _build_variant(arm, entry)
    for arm in made.values():
        _check_arm(arm, made, config.society)
    return tuple(made.values())


def main_arm(config: Config) -> Arm:
    """The experiment's main arm; the rule is that of `evals.stored_run.choose_main_arm`."""
    return choose_main_arm(build_arms(config))


def is_tuned(config: Config, address: str) -> bool:
    """Whether models are tuned from the base at `address`; the summarizer's model never is."""
    return address in config.agent_models and any(arm.iterations for arm in build_arms(config))


def _build_kind(name: str, kind: Kind, position: int, config: Config) -> Arm:
    society = config.society
    both = ROLES if society.rounds > 1 else ROLES[:1]
    whole = Arm(
        name=name,
        kind=kind,
        position=position,
        agents=society.agents,
        train_agents=society.agents,
        rounds=society.rounds,
        others=society.others,
        iterations=config.iterations,
        labels="final",
        tuned=both,
        data="own",
        w=config.datasets.w,
    )
    alone = replace(whole, rounds=1, tuned=ROLES[:1], data="pooled")
    untuned = replace(whole, iterations=0, labels=None, tuned=(), data=None)
    samples = replace(untuned, rounds=1)
    variants: Mapping[Kind, Arm] = {
        "multiagent": whole,
        "single-agent": replace(whole, data="pooled"),
        "single-agent-matched": replace(whole, data="matched"),
        "no-critic": replace(whole, tuned=ROLES[:1]),
        "round1-labels": replace(whole, labels="round1"),
        "no-summary": replace(whole, others="quoted"),
        "star": replace(alone, train_agents=1, labels="gold"),
        "majority-ft": alone,
        "base": replace(samples, agents=1),
        "majority": samples,
        "debate": untuned,
        "compute-matched-calls": replace(samples, agents=society.calls, matched_to="calls"),
        "compute-matched-tokens": replace(samples, agents=society.calls, matched_to="tokens"),
    }
    return variants[kind]


def _build_variant(arm: Arm, entry: ArmSection) -> Arm:
    changes = entry.model_dump(exclude={"name", "like"}, exclude_none=True)
    tune = changes.pop("tune", None)
    if arm.matched_to and "agents" in changes:
        raise ValueError(f"arms: {arm.name!r}: agents follow from what the arm is matched to")
    if arm.data is None and (tune or changes.keys() & {"w", "labels", "data"}):
        raise ValueError(f"arms: {arm.name!r} is like {arm.kind!r}, which is not trained")
    if changes.get("labels") == "gold":
        raise ValueError(
            f"arms: {arm.name!r}: labels = 'gold' is for the arm star alone; all others learn "
            "without gold answers"
        )
    if arm.labels == "gold" and "labels" in changes:
        raise ValueError(f"arms: {arm.name!r}: star learns from gold answers; like = another kind")
    varied = replace(arm, **changes)
    if "agents" in changes and arm.train_agents == arm.agents:
        varied = replace(varied, train_agents=varied.agents)
    if arm.data is not None:
        roles = ROLES if varied.rounds > 1 and (len(arm.tuned) > 1 or tune == "both") else ROLES[:1]
        varied = replace(varied, tuned=ROLES[:1] if tune == "generators" else roles)
    return varied


def _check_arm(arm: Arm, made: Mapping[str, Arm], society: SocietySection) -> None:
    if arm.agents == 1 and arm.rounds > 1:
        raise ValueError(f"arms: {arm.name!r} has one agent and nobody to debate with; rounds = 1")
    if arm.data == "own" and arm.train_agents != arm.agents:
        raise ValueError(
            f"arms: {arm.name!r} has {arm.agents} models of their own to train and "
            f'{arm.train_agents} agent(s) in training; set data = "pooled"'
        )
    if arm.matched_to == "tokens" and find_reference(made.values(), society) is None:
        raise ValueError(
            f"arms: {arm.name!r} is matched to the tokens of the untuned society's debate, which "
            "no arm here measures; add 'debate' or 'multiagent'"
        )
    mixed = society.models is not None and len(set(society.models)) > 1
    if mixed and (arm.shared or arm.matched_to):
        raise ValueError(
            f"arms: {arm.name!r} has one model for all agents, and society.models names several; "
            "leave the arm out"
        )
    if mixed and arm.agents > society.agents:
        raise ValueError(
            f"arms: {arm.name!r} has {arm.agents} agents, society.models names "
            f"{len(society.models or ())}; name one for each"
        )


def find_reference(among: Iterable[Arm], society: SocietySection) -> Arm | None:
    """The arm whose untuned debate is what a compute-matched vote is matched to."""
    shape = (society.agents, society.rounds, society.others)
    fitting = (arm for arm in among if (arm.agents, arm.rounds, arm.others) == shape)
    return next((arm for arm in fitting if arm.matched_to is None), None)


# MERGED DOCSTRING of society.method.arms:
# """How many samples cost as much as a debate: votes that are matched in compute to the society."""

_TOKENS = """
SELECT
    sum(prompt_tokens + completion_tokens) / count(DISTINCT question_id),
    avg(prompt_tokens + completion_tokens) FILTER (WHERE round = 1 AND finish_reason <> 'error')
FROM turns
WHERE arm = ? AND iteration = 0 AND split = 'eval' AND decoding = 'sampled'
    AND question_id IN (SELECT question_id FROM questions WHERE NOT zero_shot)
"""


def order_by_reference(arms: Sequence[Arm]) -> list[Arm]:
    """The arms as they are evaluated first: what others are matched to comes before them."""
    return sorted(arms, key=lambda arm: arm.matched_to == "tokens")


def count_samples(store: Store, arm: str) -> int | None:
    """How many single answers cost as many tokens as one debate of the untuned society.

    Prompt and response tokens together, means over the sampled evaluation of the run's own task,
    rounded up. None where no answer tells its tokens.
    """
    [(debate, sample)] = store.rows(_TOKENS, [arm])
    return max(1, ceil(float(debate) / float(sample))) if debate and sample else None
