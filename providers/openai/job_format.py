"""Fine-tuning jobs in the vendor's format: the request that creates one, and its state.

FinetuneSpec ── build_job_request ── JobRequest ── server
job object, events (TrainingLog), checkpoints ── build_job_state ── JobState
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from openai.types.fine_tuning import (
    DpoHyperparametersParam,
    FineTuningJob,
    FineTuningJobEvent,
    SupervisedHyperparametersParam,
)
from openai.types.fine_tuning.job_create_params import Method
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from providers.errors import InvalidSettings
from providers.types import (
    FinetuneSpec,
    Hyperparameters,
    JobState,
    JobStatus,
    ModelRef,
    Objective,
    TrainingCheckpoint,
    TrainingStep,
)

DIGEST_KEY = "digest"
# OpenAI accepts 64 characters now; servers that follow its earlier documents refuse more than 40.
MAX_SUFFIX = 40
MAX_EPOCHS = 50
MAX_BATCH = 256
MOST_STEPS = 2**31 - 1

_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512
OBJECTIVES: frozenset[Objective] = frozenset({"sft", "dpo"})
MAX_BETA = 2.0
_SENT = frozenset({"method", "epochs", "batch_size", "learning_rate_multiplier", "objective"})
_DEFAULTS = Hyperparameters()
# OpenAI's statuses, and the words of other servers with the same API.
_STATUS: dict[str, JobStatus] = {
    "validating_files": "queued",
    "queued": "queued",
    "pending": "queued",
    "created": "queued",
    "running": "running",
    "pausing": "running",
    "paused": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
}
# By words of the vendor's code or message; the first match counts.
_REMEDIES = (
    (("n_examples",), "train on more questions, so that there are more answers to train on"),
    (("invalid_training_file", "invalid_file", "file_format"), "look at the file at the vendor"),
    (("hyperparam", "batch_size", "n_epochs"), "change it under [finetune]"),
    (("moderation", "policy", "unsafe"), "the vendor's moderation refuses texts of this dataset"),
    (("model_not", "not_available", "deprecat"), "choose a model that can still be fine-tuned"),
)
# Vendors report missing credit as a failed job, which must not count as a failed training.
_CREDIT_CODES = ("quota", "billing", "credit", "spend_limit", "balance", "payment")
_CREDIT = re.compile(
    r"quota|billing|spend(ing)?[ _]limit|payment required|out of (credit|fund)"
    r"|(insufficient|not enough|no)[ _](account )?(credit|balance|fund)",
    re.IGNORECASE,
)
_CREDIT_REMEDY = "add credit to the account"
_MOST_TOKENS = 2**63 - 1
# An estimate never says that the job has ended.
_MOST_PROGRESS = 0.99
_STEP = re.compile(r"\bstep (\d+)(?:\s*(?:/|of)\s*(\d+))?", re.IGNORECASE)
_LOSS = re.compile(r"\b(?:train(?:ing)?[ _])?loss\b\s*[=:]?\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", re.I)
_CREATED = re.compile(r"model created: (\S+)")


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What is sent to create a job, except the ids of the files.

    The files are uploaded as `file_name` and `validation_name`; these two and `suffix` are unique
    to this job. `content` and `validation_content` are the parts of the file names that depend on
    the data alone.
    """

    model: str
    suffix: str
    seed: int
    method: Method
    metadata: Mapping[str, str]
    file_name: str
    validation_name: str
    content: str
    validation_content: str


def build_job_request(spec: FinetuneSpec, base: str) -> JobRequest:
    """The request for `spec`; `base` is the name of the untuned model.

    Raises `InvalidSettings` for a hyperparameter that the vendor's API cannot express.

        build_job_request(spec, "gpt-4.1-mini-2025-04-14").suffix
    """
    refused = find_unsupported(spec.hyperparameters)
    if refused:
        raise InvalidSettings("; ".join(refused))
    # A file's name is all that some servers keep of a job, so it has the digest too.
    stem, mark = re.sub(r"[^A-Za-z0-9_.-]", "-", spec.name), spec.digest[:16]
    content, measured = _hash_content(spec, "training"), _hash_content(spec, "validation")
    return JobRequest(
        model=spec.start.artifact or base,
        suffix=build_suffix(spec),
        seed=spec.seed % 2**31,
        method=_build_method(spec.hyperparameters),
        metadata=_build_metadata(spec),
        file_name=f"{stem}{content}{mark}.jsonl",
        validation_name=f"{stem}{measured}{mark}-validation.jsonl",
        content=content,
        validation_content=measured,
    )


def _build_method(chosen: Hyperparameters) -> Method:
    if chosen.objective == "dpo":
        preferred = DpoHyperparametersParam(
            n_epochs=chosen.epochs, batch_size=chosen.batch_size, beta=chosen.beta
        )
        if chosen.learning_rate_multiplier is not None:
            preferred["learning_rate_multiplier"] = chosen.learning_rate_multiplier
        return {"type": "dpo", "dpo": {"hyperparameters": preferred}}
    supervised = SupervisedHyperparametersParam(
        n_epochs=chosen.epochs, batch_size=chosen.batch_size
    )
    if chosen.learning_rate_multiplier is not None:
        supervised["learning_rate_multiplier"] = chosen.learning_rate_multiplier
    return {"type": "supervised", "supervised": {"hyperparameters": supervised}}


def _hash_content(spec: FinetuneSpec, kind: str) -> str:
    """The same for all jobs with the same data: files whose names share this part, and which have
    the same size, have the same examples."""
    data = f"{kind}\n{spec.dataset_sha256}\n{spec.validation_sha256}"
    return f"-{hashlib.sha256(data.encode()).hexdigest()[:16]}-"


def build_suffix(spec: FinetuneSpec) -> str:
    """The part of the tuned model's name that we choose.

    It is the end of the job's name, which has agent, role and iteration, and the digest, which
    makes it unique.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", spec.name).lower()
    mark = spec.digest[:8]
    return f"{readable[-(MAX_SUFFIX - 1 - len(mark)) :].strip('-')}-{mark}"


def find_unsupported(hyperparameters: Hyperparameters) -> tuple[str, ...]:
    """The hyperparameters that a vendor cannot honor, each with its remedy.

    A vendor accepts epochs, batch size and a multiplier of its own learning rate, and with DPO its
    beta. Any other hyperparameter must have its default, which stands for "the vendor's choice".
    """
    sent = _SENT | ({"beta"} if hyperparameters.objective == "dpo" else frozenset())
    problems = [
        f"finetune.{name} = {value!r} cannot be passed on: the vendor chooses it; remove the "
        f"setting{', use finetune.learning_rate_multiplier' if name == 'learning_rate' else ''}"
        for name, value in _list_values(hyperparameters).items()
        if name not in sent and value != getattr(_DEFAULTS, name)
    ]
    if hyperparameters.method != "lora":
        problems.append(
            f"finetune.method = {hyperparameters.method!r} cannot be asked for: the vendor chooses "
            "how it tunes; remove the setting"
        )
    if hyperparameters.objective not in OBJECTIVES:
        problems.append(
            f"finetune.objective = {hyperparameters.objective!r} cannot be asked for: the vendor "
            'has "sft" and "dpo"; set one of them, or train on this machine'
        )
    if hyperparameters.objective == "dpo" and not 0 < hyperparameters.beta <= MAX_BETA:
        problems.append(
            f"finetune.beta = {hyperparameters.beta}; the vendor takes more than 0 and at most "
            f"{MAX_BETA:g}"
        )
    if hyperparameters.epochs > MAX_EPOCHS:
        problems.append(f"{hyperparameters.epochs} epochs; the most is {MAX_EPOCHS}")
    if hyperparameters.batch_size > MAX_BATCH:
        problems.append(
            f"finetune.batch_size = {hyperparameters.batch_size}; the most is {MAX_BATCH}"
        )
    return tuple(problems)


def _list_values(hyperparameters: Hyperparameters) -> dict[str, object]:
    return {field.name: getattr(hyperparameters, field.name) for field in fields(hyperparameters)}


def _build_metadata(spec: FinetuneSpec) -> dict[str, str]:
    # The digest comes first, since servers take 16 pairs only, and a user's pair cannot replace it.
    pairs = {DIGEST_KEY: spec.digest, "name": spec.name, **spec.metadata}
    pairs[DIGEST_KEY] = spec.digest
    return {key[:_MAX_KEY]: value[:_MAX_VALUE] for key, value in list(pairs.items())[:_MAX_PAIRS]}


def map_status(raw: object) -> JobStatus:
    """Our status for the vendor's. An unknown one counts as running, so that the job is polled on
    and never submitted again."""
    return _STATUS.get(str(raw).lower(), "running")


def build_job_state(
    job: FineTuningJob,
    log: TrainingLog,
    checkpoints: Sequence[FineTuningJobCheckpoint],
    *,
    name: str,
    address: str,
) -> JobState:
    """The state of `job`. A job that succeeded but names no model yet counts as running."""
    status = map_status(job.status)
    # Some servers name the model only in an event.
    artifact = _parse_text(job.fine_tuned_model) or log.model if status == "succeeded" else None
    if status == "succeeded" and artifact is None:
        status = "running"
    return JobState(
        status=status,
        raw_status=str(job.status),
        progress=1.0 if status == "succeeded" else _estimate_progress(job, log, status),
        model=None if artifact is None else ModelRef(name, address, artifact),
        points=log.points,
        trained_tokens=_parse_tokens(job.trained_tokens),
        error=explain_failure(job, log) if status == "failed" else None,
        checkpoints=tuple(sorted(_convert_checkpoints(checkpoints), key=lambda point: point.step)),
        fatal=status == "failed" and _lacks_credit(job, log),
    )


def explain_failure(job: FineTuningJob, log: TrainingLog) -> str:
    """Why a job failed, in the vendor's words, and what to do if the reason is a known one."""
    text = _quote_vendor(job, log)
    if _lacks_credit(job, log):
        return f"{text}; {_CREDIT_REMEDY}"
    for words, remedy in _REMEDIES:
        if any(word in text.lower() for word in words):
            return f"{text}; {remedy}"
    return text


def _quote_vendor(job: FineTuningJob, log: TrainingLog) -> str:
    # A healthy job may have `error: {}`, which the openai package turns into an object without any
    # of its fields; some servers send plain text.
    error: object = job.error
    code, param = getattr(error, "code", None), getattr(error, "param", None)
    message = getattr(error, "message", None) or _parse_text(error) or log.complaint
    text = str(message or "the vendor gives no reason").rstrip(".")
    facts = ", ".join(str(fact) for fact in (code, param) if fact)
    return f"{text} ({facts})" if facts else text


def _lacks_credit(job: FineTuningJob, log: TrainingLog) -> bool:
    """Whether the job failed because the account could not pay. That ends the run, not the job."""
    code = str(getattr(job.error, "code", None) or "").lower()
    return any(word in code for word in _CREDIT_CODES) or bool(
        _CREDIT.search(_quote_vendor(job, log))
    )


def _parse_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _parse_tokens(value: object) -> int | None:
    count = parse_number(value)
    return int(count) if count is not None and 0 <= count < _MOST_TOKENS else None


def _estimate_progress(job: FineTuningJob, log: TrainingLog, status: JobStatus) -> float:
    if log.progress:
        return min(_MOST_PROGRESS, log.progress)
    begun, ends = parse_number(job.created_at), parse_number(job.estimated_finish)
    if status != "running" or not begun or not ends or ends <= begun:
        return 0.0
    return max(0.0, min(_MOST_PROGRESS, (time.time() - begun) / (ends - begun)))


def _convert_checkpoints(
    checkpoints: Sequence[FineTuningJobCheckpoint],
) -> Iterator[TrainingCheckpoint]:
    """The checkpoints that name their model and their step."""
    for checkpoint in checkpoints:
        step = parse_number(checkpoint.step_number)
        model = _parse_text(checkpoint.fine_tuned_model_checkpoint)
        if step is None or not 0 <= step <= MOST_STEPS or model is None:
            continue
        names = ("full_valid_loss", "valid_loss", "train_loss")
        losses = (getattr(checkpoint.metrics, name, None) for name in names)
        yield TrainingCheckpoint(int(step), model, parse_number(*losses))


class TrainingLog:
    """What the events of one job say: losses, progress, errors, the tuned model's name.

    Events may be added in any order and more than once; each counts once.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._steps: set[int] = set()
        self._last_step = 0
        self._total_steps = 0
        self._points: list[TrainingStep] = []
        self._complaint: tuple[float, str] | None = None
        self.model: str | None = None

    @property
    def points(self) -> tuple[TrainingStep, ...]:
        """One point per step. Points only ever appear at the end, sorted within one addition."""
        return tuple(self._points)

    @property
    def progress(self) -> float:
        """The share of the steps that is done; 0 if the server does not report it."""
        if not self._total_steps:
            return 0.0
        return min(1.0, self._last_step / self._total_steps)

    @property
    def complaint(self) -> str | None:
        """The latest event of level "error"."""
        return None if self._complaint is None else self._complaint[1]

    def has_event(self, event: FineTuningJobEvent) -> bool:
        """Whether this event was added before."""
        return _event_key(event) in self._seen

    def add_events(self, events: Iterable[FineTuningJobEvent]) -> None:
        """Add events; known ones change nothing."""
        fresh: list[TrainingStep] = []
        for event in events:
            if self.has_event(event):
                continue
            self._seen.add(_event_key(event))
            point = self._read_event(event)
            if point is not None and point.step not in self._steps:
                self._steps.add(point.step)
                fresh.append(point)
        self._points += sorted(fresh, key=lambda point: point.step)

    def _read_event(self, event: FineTuningJobEvent) -> TrainingStep | None:
        message = event.message if isinstance(event.message, str) else ""
        if event.level == "error" and message:
            when = parse_number(event.created_at) or 0.0
            if self._complaint is None or when >= self._complaint[0]:
                self._complaint = (when, message)
        created = _CREATED.search(message)
        if created is not None:
            self.model = created[1]
        data = event.data if isinstance(event.data, Mapping) else {}
        named = _STEP.search(message)
        step = parse_number(data.get("step"), named and named[1])
        total = parse_number(data.get("total_steps"), named and named[2])
        if total is not None and total <= MOST_STEPS:
            self._total_steps = max(self._total_steps, int(total))
        if step is None or not 0 <= step <= MOST_STEPS:
            return None
        self._last_step = max(self._last_step, int(step))
        # Some servers write the numbers only into the message.
        match = _LOSS.search(message)
        loss = parse_number(data.get("train_loss"), data.get("training_loss"), match and match[1])
        if loss is None:
            return None
        rate = parse_number(data.get("learning_rate"))
        return TrainingStep(int(step), loss, math.nan if rate is None else rate)


def _event_key(event: FineTuningJobEvent) -> str:
    return event.id or f"{event.created_at} {event.message}"


def parse_number(*candidates: object) -> float | None:
    """The first candidate that is a finite number or the text of one."""
    for candidate in candidates:
        if isinstance(candidate, bool) or not isinstance(candidate, int | float | str):
            continue
        try:
            value = float(candidate)
        except (ValueError, OverflowError):
            continue
        if math.isfinite(value):
            return value
    return None
