"""An experiment as data: every section of the file, with its defaults and bounds.

Nothing here reads a file, a question or a model: a config is checked value by value. What several
values mean together is checked by `society.method.experiment.resolve`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
)

from evals.arm_kinds import Data, OtherResponses
from finetune.selection import TrainingSelection
from providers.hyperparameters import (
    ALL_LINEAR,
    LORA_CHOICES,
    TRAINING_CHOICES,
    Hyperparameters,
    InitLoraWeights,
)
from providers.pricing import PriceOverride
from providers.split import AnswerServer
from providers.types import EXTRA_SETTINGS, Sampling
from society.config.files import PromptsSection, SelectionFile
from society.config.values import (
    Count,
    LoraNames,
    NotNegative,
    Penalty,
    Positive,
    Section,
    Share,
    StopStrings,
    TopP,
    Whole,
    Words,
)
from society.prompts import ShownThoughts, Wording
from store.records import AgentRole, Decoding, DiversityMeasure, Labels


class SocietySection(Section):
    """Who debates, and how.

    `models` gives each agent a base model of its own; by default all agents have `model`, which
    also writes the summaries. `system_prompt` is sent to all agents, `personas` has one more for
    each. `thoughts` says whether the other agents and the summarizer see an agent's thoughts.
    """

    added = frozenset({"system_prompt", "personas", "thoughts"})
    agents: Count = 3
    rounds: Count = 2
    others: OtherResponses = "summarized"
    models: tuple[str, ...] | None = Field(default=None, strict=False)
    system_prompt: Words | None = None
    personas: tuple[Words, ...] | None = Field(default=None, strict=False)
    thoughts: ShownThoughts = "hidden"

    @property
    def system_prompts(self) -> tuple[str, ...]:
        """What opens the agents' conversations, in the agents' order; one for all, or none."""
        common = [self.system_prompt] if self.system_prompt else []
        if self.personas is None:
            return tuple(common)
        return tuple("\n\n".join([*common, persona]) for persona in self.personas)

    @property
    def calls(self) -> int:
        """Answers and summaries of one debate."""
        summaries = self.rounds - 1 if self.others == "summarized" else 0
        return self.agents * (self.rounds + summaries)


class ArmSection(Section):
    """A variant of an arm of `society.method.arms`: `like` names it, the rest is what differs.

    `tune` says which models are trained. Keys that are left out keep the value of that arm.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    like: str
    agents: Count | None = None
    rounds: Count | None = None
    others: OtherResponses | None = None
    w: Share | None = None
    labels: Labels | None = None
    data: Data | None = None
    tune: Literal["both", "generators"] | None = None


class AgentSampling(Section):
    """What one agent has of its own in [sampling]."""

    added = frozenset({"temperature", "top_p", "max_tokens", *EXTRA_SETTINGS})
    temperature: NotNegative | None = None
    top_p: TopP | None = None
    max_tokens: Count | None = None
    top_k: Whole | None = None
    min_p: Share | None = None
    repetition_penalty: Positive | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: StopStrings | None = None


class SamplingSection(Section):
    """How answers are drawn. The paper's released code: temperature 1, top_p 0.9, 2,048 tokens.

    `agents` gives each agent settings of its own; keys that an entry leaves out are those of all.
    What the others do is said in `providers.types.Sampling`.
    """

    added = frozenset({"agents", *EXTRA_SETTINGS})
    temperature: NotNegative = 1.0
    top_p: TopP = 0.9
    max_tokens: Count = 2048
    summary_max_tokens: Count = 512
    top_k: Whole = 0
    min_p: Share = 0.0
    repetition_penalty: Positive = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    stop: StopStrings = ()
    agents: tuple[AgentSampling, ...] = Field(default=(), strict=False)

    @property
    def by_agent(self) -> tuple[SamplingSection, ...]:
        """The settings of every agent, in the agents' order; () if all have the same."""
        return tuple(
            self.model_copy(update={**own.model_dump(), "agents": ()}) for own in self.agents
        )

    def build_sampling(self, decoding: Decoding, seed: int) -> Sampling:
        """The section in the terms of `providers`."""
        return Sampling(
            temperature=self.temperature if decoding == "sampled" else 0.0,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=seed,
            **{name: getattr(self, name) for name in EXTRA_SETTINGS},
        )

    @property
    def draws_from_the_model(self) -> bool:
        """Whether answers are drawn from the model's own distributions."""
        extras = self.build_sampling("sampled", 0).list_extras()
        return self.temperature == self.top_p == 1.0 and extras.keys() <= {"stop"}

    def describe(self) -> str:
        """How answers are drawn: "temperature 0.7, top_p 0.95, top_k 20"."""
        extras = self.build_sampling("sampled", 0).list_extras()
        drawn = {"temperature": self.temperature, "top_p": self.top_p, **extras}
        return ", ".join(
            f"{name} {value:g}" for name, value in drawn.items() if isinstance(value, int | float)
        )

    @property
    def longest(self) -> int:
        """The most tokens that any agent's answer may have."""
        return max((self.max_tokens, *(each.max_tokens for each in self.by_agent)))


class TaskSection(Section):
    """Which task, and its own options; the task checks them."""

    # Extra keys pass: tasks can be the user's own classes, and only a task knows its options.
    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def options(self) -> dict[str, object]:
        return dict(self.model_extra or {})


class TrainedTaskSection(TaskSection):
    """The run's own task. `curriculum` changes its options for training: the first entry for
    iteration 1, the second for iteration 2, and so on; the last one stays."""

    added = frozenset({"curriculum"})
    curriculum: tuple[dict[str, Any], ...] = Field(default=(), strict=False)


class ZeroShotSection(TaskSection):
    """A task the societies are evaluated on and never trained on, with its own options.

    `label` names it in the store and the report, by default the task's name; `questions` are as
    many as in `evaluation` by default.
    """

    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    questions: Count | None = None


class LeakageSection(Section):
    """`threshold`: how similar (0 to 1) two questions must be to count as the same; 1: equal."""

    threshold: Annotated[float, Field(gt=0.0, le=1.0, strict=False)] = 0.95


class TrainSection(Section):
    """Unlabelled questions of one iteration. `fresh` draws new ones each time, else the same."""

    questions: Count = 500
    fresh: bool = False


class EvaluationSection(Section):
    """Held-out questions, debated by the untuned society and after every iteration.

    `batch` sends each round's calls as one batch if the provider has batches: slower and cheaper.
    """

    questions: Count = 500
    batch: bool = False
    decodings: tuple[Decoding, ...] = Field(
        default=("sampled", "greedy"), min_length=1, strict=False
    )


class ConsensusSection(Section):
    """When a vote in training is a label.

    `ties`: `drop` leaves a tied question out, `first` takes the answer of the lowest agent number.
    `quorum` is how many agents must have a readable answer, by default more than half of them.
    """

    ties: Literal["drop", "first"] = "drop"
    quorum: Count | None = None


class DatasetsSection(Section):
    """`w` is the fraction of critic examples that corrected themselves; the rest, 1 − w, were right
    in round 1 and at the end, by the vote.

    `generation` and `critic` name files with the user's own selection, see docs/datasets.md.
    """

    w: Share = 0.5
    critic_loss: Literal["final", "all"] = "final"
    max_examples: Count | None = None
    generation: SelectionFile | None = None
    critic: SelectionFile | None = None

    @property
    def selections(self) -> dict[AgentRole, TrainingSelection]:
        """The user's own selections, by the role whose rows they choose."""
        files: dict[AgentRole, SelectionFile | None] = {
            "generator": self.generation,
            "critic": self.critic,
        }
        return {role: file.selection for role, file in files.items() if file is not None}


_BY_ROLE = ("epochs", "learning_rate")
"""The settings that generators and critics may have their own of."""


class FinetuneSection(Section):
    """Fine-tuning of every agent's generator and critic.

    `on_failure` says what a failed job does: stop before the next iteration, or keep the old model.
    `validation_share` of the questions are held out of training; the provider measures their loss.
    `learning_rate` holds for the roles that have none of their own.
    """

    added = frozenset(
        {*LORA_CHOICES, "generator_learning_rate", "critic_learning_rate", *TRAINING_CHOICES}
    )
    init: Literal["continue", "fresh"] = "continue"
    on_failure: Literal["stop", "keep"] = "stop"
    validation_share: Annotated[float, Field(ge=0.0, lt=1.0, strict=False)] = 0.0
    method: Literal["lora", "full"] = "lora"
    generator_epochs: Count = 2
    critic_epochs: Count = 2
    batch_size: Count = 16
    learning_rate: Positive = 1e-4
    learning_rate_multiplier: Positive | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    lora_rank: Count = 16
    lora_alpha: Count = 32
    lora_dropout: Share = 0.0
    target_modules: LoraNames | str = ALL_LINEAR
    lora_experts: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: InitLoraWeights = True
    generator_learning_rate: Positive | None = None
    critic_learning_rate: Positive | None = None
    max_example_tokens: Count | None = None
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    neftune_alpha: Positive | None = None

    def hyperparameters(self, role: AgentRole) -> Hyperparameters:
        """The settings of one job: the same for all agents; epochs and rate may differ by role."""
        # Every other field has the name of one of Hyperparameters, so a new setting needs no line
        # here.
        ours = {"init", "on_failure", "validation_share", "learning_rate"}
        by_role = {f"{r}_{key}" for r in ("generator", "critic") for key in _BY_ROLE}
        # The text leaves out younger keys at their default, which `Hyperparameters` has too.
        shared = self.model_dump(exclude=ours | by_role)
        epochs, rate = (getattr(self, f"{role}_{key}") for key in _BY_ROLE)
        return Hyperparameters(epochs=epochs, learning_rate=rate or self.learning_rate, **shared)


class DiversitySection(Section):
    """How different the agents are, measured after every evaluation; see `evals.diversity`.

    Off by default, since `nll` and the divergences need more model calls, which may cost money.
    `encoder` is "minilm", a model folder or a hub name, and runs on `device`. `questions` bounds
    how many of the evaluation questions are measured.
    """

    measures: tuple[DiversityMeasure, ...] = Field(default=(), strict=False)
    encoder: str = "minilm"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    questions: Count = 100
    decodings: tuple[Decoding, ...] = Field(default=("sampled",), min_length=1, strict=False)


class ServingSection(Section):
    """A server that answers for `model`: adapters are trained on this machine and loaded by it.

    `settings` are those of the server's provider. `path_map` translates local folders into those
    that the server sees: {"/data/runs" = "/mnt/runs"}.
    """

    address: str
    settings: dict[str, Any] = Field(default_factory=dict)
    path_map: dict[str, str] = Field(default_factory=dict)

    def answer_server(self) -> AnswerServer:
        """The section in the terms of `providers`."""
        return AnswerServer(self.address, self.settings, self.path_map)


class Config(Section):
    """A whole experiment, as the file gives it.

    >>> Config.model_validate({"model": "embedded:", "task": {"name": "arithmetic"}}).society.agents
    3
    """

    added = frozenset({"prompts"})
    model: str
    iterations: Annotated[int, Field(ge=0, lt=2**31)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    task: TrainedTaskSection
    society: SocietySection = SocietySection()
    sampling: SamplingSection = SamplingSection()
    prompts: PromptsSection = PromptsSection()
    train: TrainSection = TrainSection()
    evaluation: EvaluationSection = EvaluationSection()
    zero_shot: tuple[ZeroShotSection, ...] = Field(default=(), strict=False)
    arms: tuple[str | ArmSection, ...] = Field(("multiagent",), min_length=1, strict=False)
    leakage: LeakageSection = LeakageSection()
    consensus: ConsensusSection = ConsensusSection()
    datasets: DatasetsSection = DatasetsSection()
    finetune: FinetuneSection = FinetuneSection()
    diversity: DiversitySection = DiversitySection()
    provider: dict[str, Any] = Field(default_factory=dict)
    providers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    serving: ServingSection | None = None
    stop_if_unread: Annotated[int, Field(ge=0)] = 20
    budget_usd: Annotated[float, Field(gt=0.0, allow_inf_nan=False, strict=False)] | None = None
    prices: dict[str, PriceOverride] = Field(default_factory=dict)

    def base_address(self, agent: int) -> str:
        """The address of an agent's base, in any arm; see the function `base_address` below."""
        return base_address(self.agent_models, agent)

    @property
    def wording(self) -> Wording:
        """The words of the society's prompts."""
        own = {name: file.text.rstrip("\n") for name, file in self.prompts.files.items()}
        return Wording(self.society.thoughts, self.society.system_prompts, own)

    @property
    def agent_models(self) -> tuple[str, ...]:
        """The address of every agent's base model, in the agents' order."""
        return self.society.models or (self.model,) * self.society.agents

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every distinct model address of the experiment, that of `model` first."""
        return tuple(dict.fromkeys((self.model, *self.agent_models)))

    def settings_of(self, address: str) -> dict[str, Any]:
        """The provider settings of a model: `providers."ADDRESS"` if the file has it; else
        `provider`, if the address has the scheme of `model`."""
        # A local model beside a vendor's must not get the vendor's settings, which it would refuse.
        if address in self.providers:
            return self.providers[address]
        return self.provider if get_scheme(address) == get_scheme(self.model) else {}

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The config that a run has stored.

        Runs that were stored before quorums existed took labels from a single voter, and keep
        doing so.
        """
        # The default of today would give a resumed run labels by another rule than it began with.
        stored = json.loads(text)
        if "quorum" not in stored.get("consensus", {}):
            stored["consensus"] = {**stored.get("consensus", {}), "quorum": 1}
            text = json.dumps(stored)
        return cls.model_validate_json(text)

    def to_json(self) -> str:
        """Canonical text, which a run stores and compares with that of its next start."""
        # Sorted, since texts are compared: the order of keys in the user's file must not matter.
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)


def base_address(bases: Sequence[str], agent: int) -> str:
    """The address of the base of agent `agent` (from 1), given `bases` in the agents' order.

    Agents beyond those, and the model that all agents share (agent 0), have the first agent's.
    """
    return bases[agent - 1 if 1 <= agent <= len(bases) else 0]


def get_scheme(address: str) -> str:
    """The kind of provider an address names: "openai" for "openai+http://host/v1:m"."""
    return address.partition(":")[0].partition("+")[0]
