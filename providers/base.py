"""The contract between the framework and the models: what a provider can be asked for.

A provider subclasses `Provider`; three members are required, every other operation is optional and
announced by `Capabilities`. A package registers a `ProviderFactory` for its address scheme. The
data that passes is defined in `providers.types` and importable from here, so that a provider needs
this one import; the errors are in `providers.errors`. Each method makes
one request: batching, limits and retries are the provider's own. Whether a request is an HTTP call
or a forward pass in this process is the provider's own decision, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from providers.adapter_server import AdapterServer
from providers.cluster.settings import ClusterPreflight, ClusterSettings
from providers.deployments import Deployment
from providers.errors import ProviderError, Unsupported
from providers.types import (
    AveragedModel,
    AverageSpec,
    BatchRecord,
    Capabilities,
    Completion,
    Divergence,
    Example,
    Finding,
    FinetuneSpec,
    Hyperparameters,
    JobHandle,
    JobState,
    LoadedAdapter,
    Message,
    ModelRef,
    Need,
    PreflightReport,
    PromptTemplate,
    Request,
    Sampling,
    Score,
    TrainingCheckpoint,
    TrainingStep,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "AdapterServer",
    "AverageSpec",
    "AveragedModel",
    "BaseOrigin",
    "BatchClient",
    "BatchRecord",
    "BatchRecords",
    "Capabilities",
    "Completion",
    "Deployment",
    "Divergence",
    "Example",
    "Finding",
    "FinetuneSpec",
    "Hyperparameters",
    "JobHandle",
    "JobState",
    "LoadedAdapter",
    "Message",
    "ModelRef",
    "Need",
    "PreflightReport",
    "PricedModel",
    "PromptTemplate",
    "Provider",
    "ProviderFactory",
    "ProviderInfo",
    "Request",
    "Sampling",
    "Score",
    "Settings",
    "TrainingCheckpoint",
    "TrainingStep",
]

# Not a pydantic model: every provider validates its own settings, in its own words.
Settings = Mapping[str, object]
"""The user's own `[provider]` options, not yet validated."""


class Provider(ABC):
    """A connection to one base model and to the models tuned from it.

    Raises only errors of `providers.errors`. Safe to call from many tasks of one event loop. An
    operation that a provider does not override raises `Unsupported`, or does nothing if nothing is
    a right answer. The shortest provider:

        class Echo(Provider):
            base = ModelRef("echo", "echo:")
            capabilities = Capabilities(sampling_seed=True)

            async def complete(self, request: Request) -> Completion:
                text = request.messages[-1].content
                return Completion(text, "stop", len(text), len(text), latency_ms=0.0)
    """

    @property
    @abstractmethod
    def base(self) -> ModelRef:
        """The untuned model this connection was opened for."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Which of the operations below work."""

    @abstractmethod
    async def complete(self, request: Request) -> Completion:
        """Answer one conversation."""

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        """What `complete` could not honor in it, each with its remedy.

        By default everything beside temperature, top-p and the number of tokens.
        """
        return [
            f"sampling.{name} = {value!r}: {self.base.address} does not take it; remove it"
            for name, value in sampling.list_extras().items()
        ]

    async def read_template(self) -> PromptTemplate | None:
        """How the model's prompts are written; None if that is a server's business."""
        return None

    def listen(self, tell: Callable[[str], None]) -> None:
        """Let `tell` have what the user should know of what happens behind the calls."""
        return

    # Likelihoods, announced by `Capabilities.score` and `Capabilities.divergences`.

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        """Log-probabilities of `text` as the assistant's answer to `messages`."""
        raise self._make_unsupported(
            "gives no log-probabilities of a given text; use a local model"
        )

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        """D(p ‖ q) for every q of `others`, in order, along `text` as the answer to `messages`.

        The end of the answer is no part of the text.
        """
        raise self._make_unsupported("does not show whole distributions; use a local model")

    # Fine-tuning, announced by `Capabilities.finetune`.

    def validate_hyperparameters(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        """What `submit` would refuse in them, each with its remedy."""
        return ()

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        """Start a job. The caller does not retry; an unknown outcome is `AmbiguousSubmission`."""
        raise self._make_unsupported(_NO_FINETUNING)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        """The job that was submitted for this very spec (same digest), or None."""
        raise self._make_unsupported(_NO_FINETUNING)

    async def poll(self, handle: JobHandle) -> JobState:
        """The job's state now."""
        raise self._make_unsupported(_NO_FINETUNING)

    async def cancel(self, handle: JobHandle) -> None:
        """Stop a job; does nothing if it has ended."""
        raise self._make_unsupported(_NO_FINETUNING)

    async def prepare_tuning(self, hyperparameters: Hyperparameters) -> None:
        """Make sure that models tuned like this can be made and can answer, as far as it can be
        tried without cost. Raises the error that would come later, before anything is spent.
        """
        return

    async def write_trial_adapter(self, hyperparameters: Hyperparameters, folder: Path) -> bool:
        """Write an untrained adapter as `submit` would make it, for a server to try.

        False, with nothing written, if models tuned like this are no LoRA adapters in folders.
        """
        return False

    # Averages of tuned models, announced by `Capabilities.averages`.

    def validate_averaging(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        """Why models tuned like this could not be averaged, each with its remedy."""
        return () if self.capabilities.averages else (CANNOT_AVERAGE,)

    async def average_models(self, spec: AverageSpec) -> AveragedModel:
        """Make an average of tuned models, or find the one that was made by the same spec."""
        raise Unsupported(f"{self.base.address}: {CANNOT_AVERAGE}")

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Make exactly these tuned models answerable, whatever was begun; returns when they are."""
        if tuned := [model.model_id for model in models if model.artifact is not None]:
            raise self._make_unsupported(
                f"has no tuned models, so not {tuned[0]!r}; start a new run"
            )

    async def download_model(self, model: ModelRef, folder: Path) -> None:
        """Write a tuned model into `folder`, made anew, as PEFT reads it."""
        raise self._make_unsupported(
            "keeps no tuned models that can be fetched; those of this machine are in the run's "
            "folder, and other vendors do not give theirs out"
        )

    async def merge_model(self, model: ModelRef, folder: Path) -> None:
        """Write the whole model that a tuned one is, base and change in one, into `folder`, which
        exists, with its tokenizer, as transformers reads it.
        """
        raise self._make_unsupported(
            "has no weights that could be merged on this machine; fetch its adapters with "
            "`society pull` if the server gives them out, and merge them into the base yourself"
        )

    async def delete_model(self, model: ModelRef) -> None:
        """Delete a tuned model at the vendor for good, with what it could be trained on from;
        does nothing if it is gone. Announced by `Capabilities.delete_model`.
        """
        raise self._make_unsupported(
            f"deletes no models through its API; delete {model.artifact!r} in the vendor's own list"
        )

    # Deployments, announced by `Capabilities.deployments`: a step between a job and its model.

    async def list_deployments(self, models: Sequence[ModelRef]) -> Sequence[Deployment]:
        """Those of these tuned models that the vendor keeps ready now; makes none ready."""
        return ()

    async def delete_deployment(self, deployment: Deployment) -> None:
        """End a deployment, not its model; does nothing if it has ended."""
        raise self._make_unsupported("has no deployments; nothing has to be deleted")

    # What only servers have, announced by `Capabilities.batches` and `Capabilities.adapter_server`.

    def batches(self, records: BatchRecords) -> BatchClient:
        """The batches of this model's account, remembered in `records`."""
        raise self._make_unsupported("has no batches; set evaluation.batch = false")

    def adapter_server(self) -> AdapterServer:
        """The administration of the adapters that this server has loaded."""
        raise self._make_unsupported(
            "is no server that adapters can be loaded into; use vLLM or SGLang"
        )

    def with_deadline(self, give_up_after_s: float) -> Provider:
        """A connection for a user who waits: it retries a failing call for so many seconds only and
        does not wait for models to become ready. The caller closes it; `self` does not change.
        """
        return self

    # Before and after a run.

    async def preflight(self, need: Need) -> Sequence[Finding]:
        """Findings about what a run needs, good ones too. Costs nothing and raises nothing."""
        return [Finding("ok", "can be opened"), *check_capabilities(self.capabilities, need)]

    async def close(self) -> None:
        """Release what the provider holds. Jobs at a server continue."""
        return

    def _make_unsupported(self, reason: str) -> Unsupported:
        return Unsupported(f"{self.base.address} {reason}")


CANNOT_AVERAGE = (
    "it cannot average models; set consensus.labels = 'round1' or 'lagged:1', or take a model that "
    "is trained on this machine"
)
_NO_FINETUNING = "cannot fine-tune; set iterations = 0, or choose another model"


def check_capabilities(capabilities: Capabilities, need: Need) -> list[Finding]:
    """What of `need` is missing in `capabilities`, for providers without checks of their own."""
    findings = []
    if need.sampling_seed and not capabilities.sampling_seed:
        text = "takes no sampling seed: a new run will give other transcripts"
        findings.append(Finding("warning", text, check="sampling"))
    if need.score and not capabilities.score:
        text = "gives no log-probabilities of a given text"
        remedy = "leave out what needs them, or use a local model"
        findings.append(Finding("error", text, remedy, "scores"))
    return findings


# Protocols: `BatchRecords` is implemented above this package, over the database of a run.


class BatchRecords(Protocol):
    """Where batches are remembered, so that a later run finds answers that are paid for."""

    async def all(self) -> Sequence[BatchRecord]:
        """Every record, oldest first."""

    async def save(self, record: BatchRecord) -> None:
        """Keep a record, in place of the earlier one of the same digest; returns when safe."""


class BatchClient(Protocol):
    """The batches of one account."""

    async def complete_batch(
        self, requests: Sequence[Request]
    ) -> Mapping[str, Completion | ProviderError]:
        """For every request, by its key: an answer, or why there never can be one."""

    async def cancel(self) -> int:
        """Cancel every recorded batch that has not ended; returns how many."""


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """What an address scheme needs and offers, known before a provider is opened.

    `packages`: the modules that must be importable; `extra`: the extra of this project that
    installs them, "" for packages of others. `in_process`: fine-tuning jobs end with this process.
    `free`: its models cost nothing. `batches`: its providers may have batches. `weights`: its jobs
    honor the weights of examples; for others, rows are repeated. `deployments`: some are deployed.
    """

    extra: str = ""
    packages: tuple[str, ...] = ()
    in_process: bool = False
    free: bool = False
    batches: bool = False
    weights: bool = False
    deployments: bool = False


@dataclass(frozen=True, slots=True)
class PricedModel:
    """How a price table names a model: the server's `host` (None: no server) and the `name` there.

    `tuned`: the address itself is that of a model fine-tuned from `name`.
    """

    name: str
    host: str | None = None
    tuned: bool = False


@dataclass(frozen=True, slots=True)
class BaseOrigin:
    """Where others get a base model: `name` is its name on the hub, or its folder if it is `local`.

    `license` is what its own card says, None if it says nothing or is not on this disk.
    """

    name: str
    local: bool = False
    revision: str | None = None
    license: str | None = None


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a model's own files say: the tokens that prompt and answer may have together (None: they
    do not say), and whether its chat template knows thoughts."""

    context_tokens: int | None = None
    thinks: bool = False


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """What a server of the same base model is started with: `name` is a folder's path or a name on
    the hub, `dtype` the number type that this project's own engine computes in on this machine.
    """

    name: str
    dtype: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderFactory:
    """What a package registers for its scheme. `target` is the address behind the scheme
    ("embedded:" has an empty one).

    `check(target, settings)` raises `InvalidSettings` or `ModelNotFound` and loads no model.
    `connect(target, settings, workdir)` opens the connection; artifacts made on this machine go
    under `workdir`. The rest has defaults: `output_settings` returns the settings that change
    answers, which a resumed run must not change (default: all); `gives_scores` says whether
    `Provider.score` works with these settings; `locate_price` says how price tables name the model;
    `price_deployment` is what one deployed tuned model costs, in USD an hour (default: unknown);
    `preflight` checks a model by its files, without a connection (default: connect and ask);
    `read_sampling` returns what its own files say of temperature, top_p, top_k, min_p and
    repetition_penalty (default: a server's files cannot be read); `read_facts` reads them for what
    an experiment has to fit (default: nothing is known). `settings` is the pydantic model of the
    `[provider]` table, from which `society config` explains its keys (default: they are not known);
    `locate_weights` says what a server of the same base is started with, and raises
    `InvalidSettings` if it could not answer alike (default: there are no files). `find_origin` says
    where others get the base (default: what the target names). `connect_cluster` is `connect` with
    a cluster that trains, and `preflight_cluster` says what would run where there.
    `write_trial_adapter` is that of `Provider`, without loading weights (default: there is none).
    """

    check: Callable[[str, Settings], None]
    connect: Callable[[str, Settings, Path], Provider]
    info: ProviderInfo = ProviderInfo()
    output_settings: Callable[[Settings], Settings] = lambda settings: settings
    gives_scores: Callable[[Settings], bool] = lambda settings: True
    locate_price: Callable[[str], PricedModel] = PricedModel
    price_deployment: Callable[[str, Settings], float | None] = lambda target, settings: None
    preflight: Callable[[str, Settings, Need, Hyperparameters], PreflightReport] | None = None
    read_sampling: Callable[[str, Settings], Mapping[str, object]] | None = None
    read_facts: Callable[[str, Settings], FileFacts] = lambda target, settings: FileFacts()
    settings: type[BaseModel] | None = None
    locate_weights: Callable[[str, Settings], BaseWeights] | None = None
    find_origin: Callable[[str, Settings], BaseOrigin] = lambda target, settings: BaseOrigin(target)
    connect_cluster: Callable[[str, Settings, Path, ClusterSettings], Provider] | None = None
    preflight_cluster: ClusterPreflight | None = None
    write_trial_adapter: Callable[[str, Settings, Hyperparameters, Path], None] | None = None
