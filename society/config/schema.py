"""An experiment as data: the keys at the top of the file, and all its sections.

Nothing here reads a file, a question or a model: a config is checked value by value. What several
values mean together is checked by `society.method.experiment.resolve`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from providers.pricing import PriceOverride
from society.config.arm import ArmSection, merge_sections
from society.config.cluster import ClusterSection
from society.config.debates import ConsensusSection, SocietySection
from society.config.files import PromptsSection
from society.config.questions import (
    EvaluationSection,
    LeakageSection,
    TrainedTaskSection,
    TrainSection,
    ZeroShotSection,
)
from society.config.sampling import SamplingSection
from society.config.serving import ServingSection
from society.config.training import DatasetsSection, FinetuneSection
from society.config.values import MOST_ITERATIONS, Count, Section
from society.prompts import Wording
from store.measures import DiversityMeasure
from store.records import Decoding


class DiversitySection(Section):
    """How different the agents are, measured after every evaluation; see `evals.diversity`."""

    measures: tuple[DiversityMeasure, ...] = Field(default=(), strict=False)
    """What is measured. By default nothing, since the measures `nll` and the divergences need more
    model calls, which may cost money."""
    encoder: str = "minilm"
    """What embeds answers: `minilm`, a model folder, or a name on the hub."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """Where the encoder runs: `auto`, `cpu`, `mps`, `cuda` or `cuda:1`."""
    questions: Count = 100
    """The most evaluation questions that are measured."""
    decodings: tuple[Decoding, ...] = Field(default=("sampled",), min_length=1, strict=False)
    """Which answers are measured."""


class TelemetrySection(Section):
    """Spans of debates for OpenTelemetry ([tracking.md](tracking.md#opentelemetry))."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    """The collector's address for OTLP over HTTP, such as `http://127.0.0.1:4318`. By default that
    of OTEL_EXPORTER_OTLP_ENDPOINT, without which there are no spans."""


TrackerName = Literal["trackio", "wandb", "mlflow", "tensorboard"]


def _tell_arm(entry: object) -> str:
    return "name" if isinstance(entry, str) else "table"


# Told apart by their type, so that a fault is reported for the one that was meant.
ArmEntry = Annotated[
    Annotated[str, Tag("name")] | Annotated[ArmSection, Tag("table")], Discriminator(_tell_arm)
]


class Config(Section):
    """A whole experiment, as the file gives it.

    >>> Config.model_validate({"model": "embedded:", "task": {"name": "arithmetic"}}).society.agents
    3
    """

    added = frozenset({"prompts", "stop", "cluster", "tracking", "tracking_project", "telemetry"})
    model: str
    """The base model, as SCHEME:NAME, such as `embedded:` or `local:./my-model`."""
    iterations: Annotated[int, Field(ge=0, le=MOST_ITERATIONS)] = 1
    """How often the society learns from itself; 0 evaluates the untuned society only. It may grow
    later."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides the sampling, the order of training and the choice of examples; not the questions,
    which follow from `task.seed`."""
    task: TrainedTaskSection
    society: SocietySection = SocietySection()
    sampling: SamplingSection = SamplingSection()
    prompts: PromptsSection = PromptsSection()
    train: TrainSection = TrainSection()
    evaluation: EvaluationSection = EvaluationSection()
    zero_shot: tuple[ZeroShotSection, ...] = Field(default=(), strict=False)
    arms: tuple[ArmEntry, ...] = Field(("multiagent",), strict=False)
    """What is compared on the same questions, by name or as a table `[[arms]]`
    ([arms.md](arms.md)). It may grow later."""
    leakage: LeakageSection = LeakageSection()
    consensus: ConsensusSection = ConsensusSection()
    datasets: DatasetsSection = DatasetsSection()
    finetune: FinetuneSection = FinetuneSection()
    diversity: DiversitySection = DiversitySection()
    # Checked by the provider, which alone knows its keys.
    provider: dict[str, Any] = Field(default_factory=dict)
    """Settings of the provider of `model`; its keys follow below."""
    providers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings by model address or scheme, if agents have models of several providers or the file
    moves between them: `[providers."local:./b"]`, `[providers.local]`."""
    serving: ServingSection | None = None
    cluster: ClusterSection | None = None
    telemetry: TelemetrySection = TelemetrySection()
    stop: Literal["never", "labels"] = "never"
    """Whether an arm ends by itself when its votes get worse, and chooses its best society, without
    gold answers ([stopping.md](stopping.md))."""
    stop_if_unread: Annotated[int, Field(ge=0)] = 20
    """Stop a stage if none of its first answers can be read, after so many of them; 0 never
    stops."""
    budget_usd: Annotated[float, Field(gt=0.0, allow_inf_nan=False, strict=False)] | None = None
    """A cap on spending, in US dollars: what would exceed it is not sent. It may change on a stored
    run."""
    tracking: tuple[TrackerName, ...] = Field(default=(), strict=False)
    """Where the run's figures are logged too, each with the extra of its name
    ([tracking.md](tracking.md)). It may change on a stored run."""
    tracking_project: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,99}$")] = "society"
    """The project at Trackio and W&B, the experiment at MLflow; WANDB_PROJECT and
    MLFLOW_EXPERIMENT_NAME override it."""
    prices: dict[str, PriceOverride] = Field(default_factory=dict)
    """Prices of your own, by model: `[prices."MODEL"]` ([costs.md](costs.md))."""

    @model_validator(mode="after")
    def _have_valid_arms(self) -> Config:
        if not self.arms:
            raise ValueError('arms = [] leaves nothing to run; name one, such as "multiagent"')
        for entry in self.arms:
            if isinstance(entry, ArmSection):
                merge_sections(self, entry)
        return self

    def for_arm(self, name: str) -> Config:
        """The config with the values that the arm `name` has of its own.

        >>> load_config("demo").for_arm("multiagent") == load_config("demo")
        True
        """
        for entry in self.arms:
            if isinstance(entry, ArmSection) and entry.name == name and entry.settings:
                return self.model_copy(update=merge_sections(self, entry))
        return self

    @property
    def by_arm(self) -> tuple[Config, ...]:
        """The config of every arm, in their order."""
        names = (entry if isinstance(entry, str) else entry.name for entry in self.arms)
        return tuple(self.for_arm(name) for name in names)

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
        """The provider settings of a model: `providers."ADDRESS"`, else `providers.SCHEME` such as
        `providers.gemini`, else `provider` if the address has the scheme of `model`."""
        scheme = get_scheme(address)
        # A local model beside a vendor's must not get the vendor's settings, which it would refuse.
        usual = self.provider if scheme == get_scheme(self.model) else {}
        return self.providers.get(address, self.providers.get(scheme, usual))

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The config that a run has stored.

        Runs that were stored before a rule existed keep the rule they began with: labels from a
        single voter before there were quorums, and samples of the critics' conversations.
        """
        # The defaults of today would give a resumed run other labels and datasets.
        stored = json.loads(text)
        for section, key, before in _EARLIER_RULES:
            stored[section] = {key: before, **stored.get(section, {})}
        return cls.model_validate_json(json.dumps(stored))

    def to_json(self) -> str:
        """Canonical text, which a run stores and compares with that of its next start."""
        # Sorted, since texts are compared: the order of keys in the user's file must not matter.
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)


_EARLIER_RULES = (("consensus", "quorum", 1), ("datasets", "critics", "sample"))
"""The rules of runs that were stored before the key existed, each with its section."""


def base_address(bases: Sequence[str], agent: int) -> str:
    """The address of the base of agent `agent` (from 1), given `bases` in the agents' order.

    Agents beyond those, and the model that all agents share (agent 0), have the first agent's.
    """
    return bases[agent - 1 if 1 <= agent <= len(bases) else 0]


def get_scheme(address: str) -> str:
    """The kind of provider an address names: "openai" for "openai+http://host/v1:m"."""
    return address.partition(":")[0].partition("+")[0]
