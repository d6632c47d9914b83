"""The input of `jobs.tune_models`, its progress reports, and its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from finetune.examples import StoredExamples, split_dataset
from providers.types import FinetuneSpec, Hyperparameters, ModelRef
from store.ledger import Store
from store.records import AgentRole, Dataset, StoredJobStatus

Owner = tuple[int, AgentRole]
OnFailure = Literal["stop", "keep"]
KEPT_SUFFIX = "-kept"
"""How the name of a job ends that records that the old model stays for good."""


def derive_training_seed(seed: int, iteration: int, agent: int, role: AgentRole) -> int:
    """The seed of one training: 31 bits, the same on every machine, in range for every vendor.

    Each agent and role starts from random weights of its own and sees its examples in an order of
    its own: equal starts would make the agents alike. The arm does not count, since arms share
    equal trainings.

    >>> derive_training_seed(0, 1, 2, "critic")
    1144337767
    """
    digest = hashlib.sha256(f"training {seed}/{iteration}/{agent}/{role}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """One model to tune: whose it is, the model it starts from, its dataset and hyperparameters.

    `validation_share` of the dataset's questions are measured during training and not trained on.

    ```python
    plan = TuningPlan("demo", 1, "multiagent", 2, "critic", base, dataset, Hyperparameters())
    plan.spec(store).name  # "demo-multiagent-a2-critic-it1-0ba6748b"
    ```
    """

    run: str
    iteration: int
    arm: str
    agent: int
    role: AgentRole
    start: ModelRef
    dataset: Dataset
    hyperparameters: Hyperparameters
    seed: int = 0
    validation_share: float = 0.0

    @property
    def owner(self) -> Owner:
        """The (agent, role) whose model this is."""
        return self.agent, self.role

    @property
    def title(self) -> str:
        """Whose model and when, for messages."""
        return f"agent {self.agent}, {self.role}, iteration {self.iteration} of {self.arm}"

    @property
    def training_key(self) -> tuple[object, ...]:
        """What decides the outcome. Plans of several arms that agree in this share one job.

        It names the owner too, so that agents of one arm always have jobs of their own.
        """
        return (
            self.owner,
            self.iteration,
            self.start,
            self.dataset.sha256,
            self.hyperparameters,
            self.seed,
            self.validation_share,
        )

    @property
    def settings(self) -> str:
        """The start and the training settings as JSON, stored with the job."""
        found = {
            "start": asdict(self.start),
            "hyperparameters": self.hyperparameters.facts,
            "seed": self.seed,
            "validation_share": self.validation_share,
        }
        return json.dumps(found, sort_keys=True)

    def with_settings(self, settings: str) -> TuningPlan:
        """The plan with the start and the training settings of another plan's `settings`."""
        found = json.loads(settings)
        start = ModelRef(**found["start"])
        return replace(
            self,
            # A model that was trained again has another hash but the same identity.
            start=self.start if start.identity == self.start.identity else start,
            hyperparameters=Hyperparameters.from_facts(found["hyperparameters"]),
            seed=found["seed"],
            validation_share=found["validation_share"],
        )

    def spec(self, store: Store, attempt: int = 1) -> FinetuneSpec:
        """The job. Each attempt after the first is another job, with another name."""
        # The dataset's hash is part of the name, so that a job never passes for one of other data.
        name = (
            f"{self.run}-{self.arm}-a{self.agent}-{self.role}-it{self.iteration}"
            f"-{self.dataset.sha256[:8]}"
        )
        parts = (
            split_dataset(store, self.dataset, self.validation_share)
            if self.validation_share
            else None
        )
        return FinetuneSpec(
            name=name if attempt == 1 else f"{name}-try{attempt}",
            start=self.start,
            examples=parts.trained if parts else StoredExamples(store, self.dataset),
            dataset_sha256=self.dataset.sha256,
            hyperparameters=self.hyperparameters,
            seed=self.seed,
            metadata={
                "run": self.run,
                "arm": self.arm,
                "iteration": str(self.iteration),
                "agent": str(self.agent),
                "role": self.role,
                "dataset": self.dataset.dataset_id,
            },
            validation=parts.measured if parts else (),
            validation_sha256=parts.sha256 if parts else None,
        )


@dataclass(frozen=True, slots=True)
class TuningProgress:
    """A report on one job. `progress` runs from 0 to 1; `loss` is the latest, in nats per token.

    Status "skipped" means that there is no job and the old model stays, for `reason`. `note` is
    anything else the user should know. `base_kl` is how far the tuned model is from the base, mean
    KL in nats per trained token.
    """

    iteration: int
    arm: str
    agent: int
    role: AgentRole
    job_id: str
    status: StoredJobStatus
    progress: float = 0.0
    loss: float | None = None
    reason: str | None = None
    note: str | None = None
    base_kl: float | None = None


@dataclass(frozen=True, slots=True)
class Polling:
    """How often to ask for a job's state. The wait grows from `first_s` to `longest_s`.

    `patience` is how many retryable errors in a row are tolerated. After a submission of unknown
    outcome the job is looked for at least that often, the wait growing to `look_s`. It is submitted
    at most `submissions` times.
    """

    first_s: float = 0.1
    longest_s: float = 20.0
    growth: float = 1.05
    patience: int = 5
    look_s: float = 5.0
    submissions: int = 3


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A role of an agent that keeps its old model, and why."""

    agent: int
    role: AgentRole
    reason: str


# eq=False: equal as mappings are, whatever `kept` says.
@dataclass(frozen=True, slots=True, eq=False)
class TunedModels(Mapping[Owner, ModelRef]):
    """The models of one arm after tuning, by (agent, role); those in `kept` are the old ones."""

    models: Mapping[Owner, ModelRef]
    kept: tuple[KeptModel, ...] = ()

    def __getitem__(self, owner: Owner) -> ModelRef:
        return self.models[owner]

    def __iter__(self) -> Iterator[Owner]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)
