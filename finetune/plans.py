"""What `tune` is asked for, what it reports meanwhile, and what it gives back."""

from __future__ import annotations

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
"""The end of the name of a job that says that the old model stays for good."""


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """One model to be tuned: whose it is, where it starts, what it learns and how.

    `validation_share` of the dataset's questions are measured during training and not learnt.
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
        """For messages: who is tuned, and when."""
        return f"agent {self.agent}, {self.role}, iteration {self.iteration} of {self.arm}"

    @property
    def training(self) -> tuple[object, ...]:
        """What decides the outcome and whose it is: plans of several arms that agree in this have
        one job. Agents of one arm always have jobs of their own."""
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
        """What the model starts from and how it is trained, as a job's row keeps it."""
        found = {
            "start": asdict(self.start),
            "hyperparameters": asdict(self.hyperparameters),
            "seed": self.seed,
            "validation_share": self.validation_share,
        }
        return json.dumps(found, sort_keys=True)

    def with_settings(self, settings: str) -> TuningPlan:
        """The plan with what `settings` of another one says."""
        found = json.loads(settings)
        start = ModelRef(**found["start"])
        return replace(
            self,
            # Trained again from its files, a model has another hash and is the same one.
            start=self.start if start.identity == self.start.identity else start,
            hyperparameters=Hyperparameters(**found["hyperparameters"]),
            seed=found["seed"],
            validation_share=found["validation_share"],
        )

    def spec(self, store: Store, attempt: int = 1) -> FinetuneSpec:
        """The job. Attempts after the first are jobs of their own, with a name of their own."""
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
    """News of one job. `progress` runs from 0 to 1; `loss` is the latest, in nats per token.

    Status "skipped": no job, the old model stays, for `reason`. `note` is what else is to be said.
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


@dataclass(frozen=True, slots=True)
class Polling:
    """How often to ask. The wait grows from `first_s` to `longest_s` while nothing changes.

    `patience` bounds passing errors in a row. After a submission of unknown outcome the job is
    looked for that often at least, at last every `look_s`, and submitted `submissions` times at
    most.
    """

    first_s: float = 0.1
    longest_s: float = 20.0
    growth: float = 1.05
    patience: int = 5
    look_s: float = 5.0
    submissions: int = 3


@dataclass(frozen=True, slots=True)
class KeptModel:
    """An agent's role that keeps its old model, and why."""

    agent: int
    role: AgentRole
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class TunedModels(Mapping[Owner, ModelRef]):
    """The models after tuning by (agent, role); those in `kept` are the old ones."""

    models: Mapping[Owner, ModelRef]
    kept: tuple[KeptModel, ...] = ()

    def __getitem__(self, owner: Owner) -> ModelRef:
        return self.models[owner]

    def __iter__(self) -> Iterator[Owner]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)
