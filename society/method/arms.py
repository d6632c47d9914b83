"""The arms of an experiment: the society itself, its baselines and its ablations.

All arms run through the same engine, on the same questions and with the same noise, so that they
can be compared question by question. What the kinds of arm are, and how reports show them, stands
in `evals.arm_kinds`; this module gives an arm the sizes of an experiment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from evals.arm_kinds import ARM_KINDS, ArmKind, Data, MatchedTo, OtherResponses
from evals.stored_run import choose_main_arm
from society.config.arm import ArmSection, OwnValues
from society.config.debates import SocietySection
from society.config.schema import Config
from society.method.agents import ROLES
from store import records
from store.ledger import Store
from store.records import AgentRole, Decoding, Labels, Split

# Means over the debates of the untuned society: tokens of a whole debate, and of one first answer.
_TOKENS = """
SELECT
    sum(prompt_tokens + completion_tokens) / count(DISTINCT question_id),
    avg(prompt_tokens + completion_tokens) FILTER (WHERE round = 1 AND finish_reason <> 'error')
FROM turns
WHERE arm = ? AND iteration = 0 AND split = 'eval' AND decoding = 'sampled'
    AND question_id IN (SELECT question_id FROM questions WHERE NOT is_extra)
"""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of an experiment: every setting that distinguishes it from the others.

    `agents` answer in evaluation, `train_agents` in training debates. `labels` says what a training
    answer must agree with, see `store.records.Labels`; None where nothing is trained.
    `label_samples` first answers of each agent vote on that. `tuned` are the roles that are
    trained; the others stay the base. `data`: each agent's model learns from its "own" turns; or
    all agents share one model that learns from the turns of all ("pooled"), or from as many of
    those as one agent would have ("matched").
    `matched_to` says what the number of agents of a compute-matched vote is derived from. `own` are
    the keys of the experiment's sections that the arm has values of its own for. `early_end` says
    in which debates no round follows one in which all agents agree, `skip_rounds` whether labels
    may come from round 1 in place of the last. `distills`: beside the agents' models, one learns
    from the first answers of all agents, and every training of the next iteration starts from it.
    """

    name: str
    kind: str
    position: int
    agents: int
    train_agents: int
    rounds: int
    others: OtherResponses
    iterations: int
    labels: Labels | None
    tuned: tuple[AgentRole, ...]
    data: Data | None
    w: float | None
    matched_to: MatchedTo | None = None
    own: Mapping[str, OwnValues] = field(default_factory=dict, hash=False)
    early_end: bool | Split = False
    label_samples: int = 1
    skip_rounds: bool = False
    distills: bool = False

    @property
    def trained(self) -> bool:
        """Whether any of its models are fine-tuned."""
        return self.iterations > 0

    @property
    def shares_models(self) -> bool:
        """Whether all agents use one generator and one critic."""
        return self.data in ("pooled", "matched")

    @property
    def lag(self) -> int | None:
        """How many iterations before the debating society the labelling one is, if it is an earlier
        one."""
        name, _, iterations = (self.labels or "").partition(":")
        return int(iterations) if name == "lagged" else None

    @property
    def asks_others(self) -> bool:
        """Whether another society than the debating one labels."""
        return self.labels == "average" or self.lag is not None

    @property
    def samples(self) -> range:
        """The numbers of the first answers that are asked of each agent to vote on labels only."""
        return range(1, self.label_samples + 1 if self.asks_others else self.label_samples)

    def trained_in(self, iteration: int) -> bool:
        """Whether the arm has an iteration `iteration` (from 1)."""
        return iteration <= self.iterations

    def decodings(self, asked: Sequence[Decoding]) -> Sequence[Decoding]:
        """Those of `asked` that the arm is evaluated with: not greedily, if it is a vote over many
        samples of one model, whose greedy answers are all the same."""
        return [d for d in asked if d == "sampled"] if self.matched_to else asked

    def ends_early(self, split: Split) -> bool:
        """Whether its debates of this split end once all agents agree."""
        return self.rounds > 1 and self.early_end in (True, split)

    @property
    def may_skip_rounds(self) -> bool:
        """Whether its labels may come from round 1 in an iteration, though they are those of the
        last round."""
        from_debates = self.labels == "final" and self.label_samples == 1
        return self.skip_rounds and self.trained and from_debates and self.rounds > 1

    def calls(self, agents: int | None = None) -> int:
        """Answers and summaries of one debate of `agents`, by default as in evaluation; the most,
        if debates may end early."""
        agents = self.agents if agents is None else agents
        return agents + (self.rounds - 1) * self.calls_of_later_round(agents)

    def calls_of_later_round(self, agents: int) -> int:
        """Answers and summaries of `agents` in one of the rounds after the first."""
        return agents * (2 if self.others == "summarized" else 1)

    def record(self) -> records.StoredArm:
        """The arm as it is stored."""
        settings: dict[str, object] = {
            "agents": self.agents,
            "train_agents": self.train_agents if self.iterations else None,
            "rounds": self.rounds,
            "others": self.others if self.rounds > 1 else None,
            "iterations": self.iterations,
            "labels": self.labels,
            "roles": list(self.tuned),
            "models": "shared" if self.shares_models else "own",
            "data": self.data,
            "w": self.w if "critic" in self.tuned else None,
            "matched_to": self.matched_to,
            "samples": self.agents if self.matched_to else None,
        }
        if self.own:
            settings["own"] = dict(self.own)
        if self.early_end and self.rounds > 1:
            settings["early_end"] = self.early_end
        if self.label_samples > 1:
            settings["label_samples"] = self.label_samples
        if self.may_skip_rounds:
            settings["skip_rounds"] = True
        if self.distills:
            settings["distills"] = True
        return records.StoredArm(
            self.name, self.position, self.kind, self.labels, json.dumps(settings)
        )


def build_arms(config: Config) -> tuple[Arm, ...]:
    """The arms that an experiment file lists, in its order.

    Raises ValueError for an unknown kind, a name that is taken, and for settings that exclude each
    other.

    >>> [arm.name for arm in build_arms(load_config("demo", ["arms=['star', 'debate']"]))]
    ['star', 'debate']
    """
    made: dict[str, Arm] = {}
    for position, entry in enumerate(config.arms):
        name, kind = (entry, entry) if isinstance(entry, str) else (entry.name, entry.like)
        if kind not in ARM_KINDS:
            raise ValueError(
                f"arms: {kind!r} is no arm; there are {', '.join(ARM_KINDS)}, and variants of "
                'them: {name = "five-agents", like = "multiagent", agents = 5}'
            )
        if name in made:
            raise ValueError(f"arms: {name!r} is there twice; give a variant a name of its own")
        if not isinstance(entry, str) and name in ARM_KINDS and name != kind:
            raise ValueError(f"arms: {name!r} is the name of another kind; choose another name")
        arm = _build_kind(name, kind, position, config)
        if not isinstance(entry, str):
            arm = _build_variant(arm, entry)
        made[name] = _take_label_samples(arm, entry, config)
    # Some checks need the other arms, so all are built before any is checked.
    for arm in made.values():
        _check_arm(arm, made, config.society)
    return tuple(made.values())


def main_arm(config: Config) -> Arm:
    """The experiment's main arm; the rule is that of `evals.stored_run.choose_main_arm`."""
    return choose_main_arm(build_arms(config))


def is_tuned(config: Config, address: str) -> bool:
    """Whether models are tuned from the base at `address`; the summarizer's model never is."""
    return address in config.agent_models and any(arm.iterations for arm in build_arms(config))


def _build_kind(name: str, kind: str, position: int, config: Config) -> Arm:
    """An arm of this kind with the sizes of the experiment."""
    society, known = config.society, ARM_KINDS[kind]
    rounds = known.rounds or society.rounds
    tuned: tuple[AgentRole, ...] = ()
    if known.trained:
        # With one round only generators speak, so there are no critics to train.
        tuned = ROLES if known.tunes_critics and rounds > 1 else ROLES[:1]
    agents = society.calls if known.matched_to else known.agents or society.agents
    return Arm(
        name=name,
        kind=kind,
        position=position,
        agents=agents,
        train_agents=known.train_agents or society.agents,
        rounds=rounds,
        others=known.others or society.others,
        iterations=config.iterations if known.trained else 0,
        labels=_choose_labels(known, config),
        tuned=tuned,
        data=known.data,
        w=config.for_arm(name).datasets.w,
        matched_to=known.matched_to,
        early_end=config.for_arm(name).society.early_end,
        skip_rounds=config.for_arm(name).society.skip_rounds,
        distills=known.distills,
    )


def _choose_labels(known: ArmKind, config: Config) -> Labels | None:
    asked = config.consensus.labels
    if asked == "gold":
        raise ValueError(
            "consensus.labels = 'gold' is for the arm star alone, which needs no setting; all "
            "others learn without gold answers"
        )
    # The other kinds are what their labels make them.
    own = known.labels != "final" or known.rounds == 1
    return known.labels if asked is None or own else asked


def _take_label_samples(arm: Arm, entry: str | ArmSection, config: Config) -> Arm:
    """The arm with the number of first answers that vote on its labels."""
    section = config.for_arm(arm.name).consensus
    samples = section.label_samples
    if samples == 1 or arm.labels in (None, "gold"):
        return arm
    if arm.labels != "final":
        return replace(arm, label_samples=samples)
    given = None if isinstance(entry, str) else entry.labels
    if "final" in (given, section.labels) and arm.rounds > 1:
        raise ValueError(
            f"arms: {arm.name!r} takes its labels from the last round (labels = 'final'), and "
            f"consensus.label_samples = {samples} first answers of each agent cannot vote there; "
            "set consensus.labels = 'round1', or label_samples = 1"
        )
    return replace(arm, labels="round1", label_samples=samples)


def _build_variant(arm: Arm, entry: ArmSection) -> Arm:
    if entry.w is not None and "w" in (entry.datasets or {}):
        raise ValueError(f"arms: {arm.name!r} has w twice; remove datasets.w or w")
    own = {"name", "like", "society", "consensus", "datasets", "finetune"}
    changes = entry.model_dump(exclude=own, exclude_none=True)
    tune = changes.pop("tune", None)
    if labels := (entry.consensus or {}).get("labels"):
        if "labels" in changes:
            raise ValueError(f"arms: {arm.name!r} has labels twice; remove one of them")
        changes["labels"] = labels
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
    # Only keys of the entry that were given are changes, so they replace the kind's own values.
    varied = replace(arm, own=entry.settings, **changes)
    if "agents" in changes and arm.train_agents == arm.agents:
        varied = replace(varied, train_agents=varied.agents)
    if arm.data is not None:
        roles = ROLES if varied.rounds > 1 and (len(arm.tuned) > 1 or tune == "both") else ROLES[:1]
        varied = replace(varied, tuned=ROLES[:1] if tune == "generators" else roles)
    return varied


def _check_arm(arm: Arm, made: Mapping[str, Arm], society: SocietySection) -> None:
    if arm.agents == 1 and arm.rounds > 1:
        raise ValueError(
            f"arms: {arm.name!r} has one agent, and a debate takes two; set rounds = 1"
        )
    if arm.data == "own" and arm.train_agents != arm.agents:
        raise ValueError(
            f"arms: {arm.name!r} has {arm.agents} models of their own to train and "
            f'{arm.train_agents} agent(s) in training; set data = "pooled"'
        )
    if arm.distills and arm.data != "own":
        raise ValueError(
            f"arms: {arm.name!r} distills the models of its agents, and data = {arm.data!r} gives "
            'them one model already; leave data out, or set like = "single-agent"'
        )
    if arm.matched_to == "tokens" and find_reference(made.values(), society) is None:
        raise ValueError(
            f"arms: {arm.name!r} is matched to the tokens of the untuned society's debate, which "
            "no arm of this experiment holds; add 'debate' or 'multiagent'"
        )
    mixed = society.models is not None and len(set(society.models)) > 1
    if mixed and (arm.shares_models or arm.matched_to or arm.distills):
        raise ValueError(
            f"arms: {arm.name!r} has one model for all agents, and society.models names several; "
            "leave the arm out"
        )
    if society.personas and arm.agents > len(society.personas) and not arm.matched_to:
        raise ValueError(
            f"arms: {arm.name!r} has {arm.agents} agents, society.personas names "
            f"{len(society.personas)}; name one for each"
        )
    if mixed and arm.agents > society.agents:
        raise ValueError(
            f"arms: {arm.name!r} has {arm.agents} agents, society.models names "
            f"{len(society.models or ())}; name one for each"
        )


def find_reference(among: Iterable[Arm], society: SocietySection) -> Arm | None:
    """The arm whose untuned debate a compute-matched vote is matched to."""
    shape = (society.agents, society.rounds, society.others)
    # Untuned, all arms of the society's own shape hold the same debate, whatever they train later.
    fitting = (arm for arm in among if (arm.agents, arm.rounds, arm.others) == shape)
    return next((arm for arm in fitting if arm.matched_to is None), None)


def order_by_reference(arms: Sequence[Arm]) -> list[Arm]:
    """The arms in the order of the first evaluation: an arm matched in tokens comes after the arm
    whose tokens it is matched to."""
    return sorted(arms, key=lambda arm: arm.matched_to == "tokens")


def count_samples(store: Store, arm: str) -> int | None:
    """How many single answers cost as many tokens as one debate of the untuned society.

    Prompt and response tokens together, means over the sampled evaluation of the run's own task,
    rounded up. None if the provider reported no token counts.
    """
    [(debate, sample)] = store.rows(_TOKENS, [arm])
    return max(1, ceil(float(debate) / float(sample))) if debate and sample else None
