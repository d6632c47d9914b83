"""A vendor's job object, with its events and checkpoints, as a `JobState`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from providers.base import Checkpoint, JobState, JobStatus, ModelRef
from providers.openai.training_log import MOST_STEPS, TrainingLog, number

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

_REMEDIES = (
    (("n_examples",), "train on more questions, so that more answers can be learnt"),
    (("invalid_training_file", "invalid_file", "file_format"), "look at the file at the vendor"),
    (("hyperparam", "batch_size", "n_epochs"), "change it under [finetune]"),
    (("moderation", "policy", "unsafe"), "the vendor's moderation refuses texts of this dataset"),
    (("model_not", "not_available", "deprecat"), "choose a model that can still be fine-tuned"),
)

_CREDIT_CODES = ("quota", "billing", "credit", "spend_limit", "balance", "payment")
_CREDIT = re.compile(
    r"quota|billing|spend(ing)?[ _]limit|payment required|out of (credit|fund)"
    r"|(insufficient|not enough|no)[ _](account )?(credit|balance|fund)",
    re.IGNORECASE,
)
_CREDIT_REMEDY = "add credit to the account"
_MOST_TOKENS = 2**63 - 1

# A moment before the end that no estimate can pass.
_NEARLY = 0.99


def status_of(raw: object) -> JobStatus:
    """Our word for the vendor's; an unknown one means that the job is still on its way."""
    return _STATUS.get(str(raw).lower(), "running")


def job_state(
    job: FineTuningJob,
    log: TrainingLog,
    checkpoints: Sequence[FineTuningJobCheckpoint],
    *,
    name: str,
    address: str,
) -> JobState:
    """The state of `job`; a job that succeeded without naming its model yet counts as running."""
    status = status_of(job.status)
    artifact = _text(job.fine_tuned_model) or log.model if status == "succeeded" else None
    if status == "succeeded" and artifact is None:
        status = "running"
    return JobState(
        status=status,
        raw_status=str(job.status),
        progress=1.0 if status == "succeeded" else _progress(job, log, status),
        model=None if artifact is None else ModelRef(name, address, artifact),
        points=log.points,
        trained_tokens=_tokens(job.trained_tokens),
        error=reason(job, log) if status == "failed" else None,
        checkpoints=tuple(sorted(_readable(checkpoints), key=lambda point: point.step)),
        fatal=status == "failed" and _lacks_credit(job, log),
    )


def reason(job: FineTuningJob, log: TrainingLog) -> str:
    """Why a job failed, in the vendor's words, and what to do where the words are known."""
    text = _said(job, log)
    if _lacks_credit(job, log):
        return f"{text}; {_CREDIT_REMEDY}"
    for words, remedy in _REMEDIES:
        if any(word in text.lower() for word in words):
            return f"{text}; {remedy}"
    return text


def _said(job: FineTuningJob, log: TrainingLog) -> str:
    # A healthy job may bear `error: {}`, which the openai package turns into an object without
    # any of its fields; some servers have a plain text there.
    error: object = job.error
    code, param = getattr(error, "code", None), getattr(error, "param", None)
    message = getattr(error, "message", None) or _text(error) or log.complaint
    text = str(message or "the vendor gives no reason").rstrip(".")
    facts = ", ".join(str(fact) for fact in (code, param) if fact)
    return f"{text} ({facts})" if facts else text


def _lacks_credit(job: FineTuningJob, log: TrainingLog) -> bool:
    """Whether the account could not pay, which says nothing about the training."""
    code = str(getattr(job.error, "code", None) or "").lower()
    return any(word in code for word in _CREDIT_CODES) or bool(_CREDIT.search(_said(job, log)))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _tokens(value: object) -> int | None:
    count = number(value)
    return int(count) if count is not None and 0 <= count < _MOST_TOKENS else None


def _progress(job: FineTuningJob, log: TrainingLog, status: JobStatus) -> float:
    if log.progress:
        return min(_NEARLY, log.progress)
    begun, ends = number(job.created_at), number(job.estimated_finish)
    if status != "running" or not begun or not ends or ends <= begun:
        return 0.0
    return max(0.0, min(_NEARLY, (time.time() - begun) / (ends - begun)))


def _readable(checkpoints: Sequence[FineTuningJobCheckpoint]) -> Iterator[Checkpoint]:
    """Those that name their model and their step."""
    for checkpoint in checkpoints:
        step, model = number(checkpoint.step_number), _text(checkpoint.fine_tuned_model_checkpoint)
        if step is None or not 0 <= step <= MOST_STEPS or model is None:
            continue
        names = ("full_valid_loss", "valid_loss", "train_loss")
        losses = (getattr(checkpoint.metrics, name, None) for name in names)
        yield Checkpoint(int(step), model, number(*losses))
