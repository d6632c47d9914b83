"""The data that passes between callers and providers: conversations, completions, scores, jobs.

The operations are in `providers.base`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from providers.hyperparameters import Hyperparameters as Hyperparameters
from providers.hyperparameters import Objective as Objective

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "filtered", "refused", "error"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as it is sent."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn. `temperature` 0 is greedy; `max_tokens` counts new tokens.

    `top_k` likeliest tokens are kept (0: all), then those that have `top_p` of the probability
    together, then those of at least `min_p` times the greatest probability. `repetition_penalty`
    divides the logits of tokens that prompt or answer have already (negative ones are multiplied);
    `frequency_penalty` and `presence_penalty`, of servers, are subtracted for tokens of the answer.
    Penalties change greedy answers too. `stop` are texts that end an answer, which does not have
    them. `stated_off` names those of these settings that the user has switched off: a server is
    told so, since it may have a value of its own.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    stated_off: tuple[str, ...] = ()

    def list_extras(self) -> dict[str, int | float | tuple[str, ...]]:
        """The settings beside temperature, top-p, number of tokens and seed that are not off.

        >>> Sampling(top_k=20).list_extras()
        {'top_k': 20}
        """
        return {
            name: value
            for name, off in EXTRA_SETTINGS.items()
            if (value := getattr(self, name)) != off
        }


_NO_EXTRAS = ("temperature", "top_p", "max_tokens", "seed", "stated_off")
EXTRA_SETTINGS: Mapping[str, int | float | tuple[str, ...]] = MappingProxyType(
    {
        field.name: getattr(Sampling(), field.name)
        for field in fields(Sampling)
        if field.name not in _NO_EXTRAS
    }
)
"""The settings of `Sampling` that not every model takes, each with the value that is off."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that can be addressed.

    `address` is what `registry.connect` takes ("embedded:", "local:PATH", "openai:NAME") and names
    the provider and the base model. `artifact` is None for the bare base, otherwise what the
    provider needs to find the tuned weights again: an adapter folder or a tuned-model id.
    `sha256` is the hash of the weights, if they are files and it is known; a provider that loads
    the model refuses other weights. Two references that differ only in it are equal.
    """

    model_id: str
    address: str
    artifact: str | None = None
    sha256: str | None = field(default=None, compare=False)

    @property
    def identity(self) -> dict[str, str | None]:
        """The names of the model, for digests and records."""
        return {"model_id": self.model_id, "address": self.address, "artifact": self.artifact}


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be made.

    `key` names the request within the run. A provider that draws its own sampling noise draws it
    from (`sampling.seed`, `key`) and nothing else, so that neither batching nor order nor a resume
    changes what is sampled. `again`: it failed in an earlier start of the run, so another failure
    says nothing about the server.
    """

    model: ModelRef
    messages: tuple[Message, ...]
    sampling: Sampling
    key: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """What makes the text that a model reads of a conversation: a Jinja template, and the values of
    the variables that it names, as JSON has them."""

    text: str
    variables: Mapping[str, object]

    @property
    def sha256(self) -> str:
        """SHA-256 over both."""
        facts = [self.text, dict(self.variables)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to a `Request`. `finish_reason` "length" means truncated at `max_tokens`.

    `thought` is what the model thought, if it is not part of `text`. `error` says why there is no
    text, if the provider knows. `estimated`: the server did not report its tokens; these are the
    most that they can be.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    error: str | None = None
    estimated: bool = False
    thought: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probabilities of a given text.

    `logprobs[i]` is the natural log of the probability of `token_ids[i]` given the prompt and
    the tokens before it, at temperature 1. Shapes: both (tokens,).
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far one model's predictions are from another's along a given text.

    `nats[i]` is the Kullback-Leibler divergence D(p ‖ q), over the whole vocabulary and at
    temperature 1, of the two models' distributions of the token at the place of `token_ids[i]`,
    given the prompt and the tokens before it. Shapes: both (tokens,).
    """

    token_ids: tuple[int, ...]
    nats: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One training conversation; the loss is on the assistant messages at indices `loss_on`.

    The loss of each of its tokens is multiplied by `weight`. For preferences the last message is an
    answer to the others: `rejected` is a worse answer in its place, or `wanted` says whether it is
    one to give (True) or to avoid.
    """

    messages: tuple[Message, ...]
    loss_on: tuple[int, ...]
    weight: float = 1.0
    rejected: str | None = None
    wanted: bool | None = None


# Without slots: the cached digest is kept in the instance's dict.
@dataclass(frozen=True)
class FinetuneSpec:
    """A fine-tuning job, fully described before anything is submitted.

    `name` is unique for ever ("{run}-{arm}-a{agent}-{role}-it{k}-{sha8}"); `start` is the model the
    weights start from (the base itself for a fresh start). `dataset_sha256` stands for
    `examples` in the digest, so a spec can be recognised without its data, and `validation_sha256`
    for `validation`: conversations that are only measured, never trained on.
    """

    name: str
    start: ModelRef
    examples: Sequence[Example]
    dataset_sha256: str
    hyperparameters: Hyperparameters
    seed: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    validation: Sequence[Example] = ()
    validation_sha256: str | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that decides the result; equal digests mean the same job."""
        # The dataset's hash stands for the examples, so that a spec without them can be compared.
        facts: dict[str, object] = {
            "name": self.name,
            "start": self.start.identity,
            "dataset": self.dataset_sha256,
            "hyperparameters": self.hyperparameters.facts,
            "seed": self.seed,
        }
        # Only if there is validation data: the digests of jobs without any must not change.
        if self.validation_sha256 is not None:
            facts["validation"] = self.validation_sha256
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ModelShare:
    """A tuned model that an average is made of, and its weight."""

    model: ModelRef
    weight: float


@dataclass(frozen=True, slots=True)
class AverageSpec:
    """An average of models tuned from one base, fully described before it is made.

    `parts` are ordered from old to new; their weights sum to 1. `name` is unique for ever.
    """

    name: str
    parts: tuple[ModelShare, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides the result."""
        facts = [[part.model.identity, part.model.sha256, part.weight] for part in self.parts]
        return hashlib.sha256(json.dumps([self.name, facts]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class AveragedModel:
    """The model that an average has become. `truncation` is the share (0..1) of its change from the
    base, by Frobenius norm over all layers, that an adapter of the parts' rank cannot hold."""

    model: ModelRef
    truncation: float = 0.0


@dataclass(frozen=True, slots=True)
class JobHandle:
    """A submitted job. `job_id` is the provider's own name for it and survives a restart."""

    job_id: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One optimizer step: its mean loss, and the learning rate used.

    The loss is in nats per trained token; that of preferences is per pair or answer, with
    `reward_margin` and `reward_accuracy`: by how much the rewards β·log(π/π₀) of wanted answers are
    above those of the others, and in which share of the pairs they are. `learning_rate` is nan if
    the provider does not report it.
    """

    step: int
    loss: float
    learning_rate: float
    reward_margin: float | None = None
    reward_accuracy: float | None = None

    @property
    def values(self) -> tuple[float | None, ...]:
        """The fields, in order; without those of rewards if there are none."""
        rewards = (self.reward_margin, self.reward_accuracy)
        kept = () if rewards == (None, None) else rewards
        return (self.step, self.loss, self.learning_rate, *kept)


@dataclass(frozen=True, slots=True)
class TrainingCheckpoint:
    """Tuned weights as they were at `step`; `model` is their artifact, as in `ModelRef`, None if
    only their loss was kept.

    `loss` is on the validation data if there are any, else on the training data, in nats per
    trained token; None if the provider does not report it.
    """

    step: int
    model: str | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class JobState:
    """What is known about a job now. `raw_status` keeps the vendor's own word.

    `points` holds every point known so far, oldest first; a later state of the same connection
    only adds to its end. `progress` runs from 0 to 1; `checkpoints` are by step. `note` is what the
    user should know of a job that continues. `base_kl` is how far the tuned model is from the base,
    mean KL in nats per trained token; `left_out` counts examples that were too long, None if the
    provider leaves none out. `fatal`: the training lacks something that the whole
    run needs, such as credit, disk space or memory.
    """

    status: JobStatus
    raw_status: str
    progress: float = 0.0
    model: ModelRef | None = None
    artifact_sha256: str | None = None
    points: tuple[TrainingStep, ...] = ()
    trained_tokens: int | None = None
    error: str | None = None
    checkpoints: tuple[TrainingCheckpoint, ...] = ()
    note: str | None = None
    base_kl: float | None = None
    left_out: int | None = None
    fatal: bool = False

    @property
    def done(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do. Callers read this instead of trying.

    `finetune`: `submit`, `find`, `poll` and `cancel` work, with `min_examples` or more per job,
    `max_parallel_jobs` at once, polled at most every `poll_s` seconds. `validation`: a job measures
    validation data. `listing_lag_s`: for so many seconds `find` may miss a new job. `score`,
    `divergences`, `batches`, `adapter_server`, `averages`, `delete_model`: these methods work.
    `weights`: a job honors `Example.weight`. `objectives`: what a job can minimize.
    `sampling_seed`: one seed gives one answer, `repeatable`: so does temperature 0. `deployments`:
    `load_adapters` deploys tuned models, which answer then only. `tuned_starts`: a job may start
    from a tuned model, `context_answers`: get answers that are not trained on.
    """

    finetune: bool = False
    score: bool = False
    sampling_seed: bool = False
    min_examples: int = 1
    max_parallel_jobs: int = 1
    poll_s: float = 0.0
    validation: bool = False
    repeatable: bool = False
    divergences: bool = False
    listing_lag_s: float = 0.0
    batches: bool = False
    adapter_server: bool = False
    weights: bool = False
    averages: bool = False
    deployments: bool = False
    context_answers: bool = True
    tuned_starts: bool = True
    delete_model: bool = False
    objectives: frozenset[Objective] = frozenset({"sft"})


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch that is intended (`batch_id` None) or exists, and the requests in it."""

    digest: str
    custom_ids: tuple[str, ...]
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that a server has: its name there, and the folder on the server's disk."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Need:
    """What a run will ask of one provider, for `Provider.preflight`.

    `adapters` counts the tuned models that answer at the same time, `examples` is the most that a
    job can have. `batches`: evaluation goes out in batches. `deep`: a model of this process may be
    loaded and tried. `conversations` has one of every kind, `trains_all`: all answers of one are
    trained. `samplings`: how answers are drawn. `skip`: the `providers.preflight.CHECKS` to leave
    out. `trains_elsewhere`: not here but on a cluster. Announced ends are compared with `now`.
    """

    finetune: bool
    ends_at: datetime
    adapters: int = 0
    examples: int = 0
    score: bool = False
    sampling_seed: bool = False
    batches: bool = False
    deep: bool = False
    conversations: tuple[tuple[Message, ...], ...] = ()
    trains_all: bool = False
    skip: frozenset[str] = field(default_factory=frozenset)
    samplings: tuple[Sampling, ...] = ()
    trains_elsewhere: bool = False
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check before a run. An error stops the run; `remedy` says what to do.

    `check` is the name in `providers.preflight.CHECKS`, "" for what cannot be skipped.
    """

    level: Level
    text: str
    remedy: str = ""
    check: str = ""


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """What was found out about one provider before a run.

    `capabilities` is None if the provider could not be opened. `artifact_bytes` is about a tuned
    model's size, `token_seconds` about the time to read a token here; None if it is not known.
    """

    findings: tuple[Finding, ...]
    capabilities: Capabilities | None = None
    artifact_bytes: int | None = 0
    token_seconds: float | None = None
