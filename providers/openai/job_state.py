"""A vendor's job object, with its events and checkpoints, as a `JobState`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from providers.base import Checkpoint, JobState, JobStatus, ModelRef
from providers.openai.training_log import TrainingLog

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
    (("quota", "billing", "credit", "spend_limit"), "add credit to the account"),
    (("n_examples",), "train on more questions, so that more answers can be learnt"),
    (("invalid_training_file", "invalid_file", "file_format"), "look at the file at the vendor"),
    (("hyperparam", "batch_size", "n_epochs"), "change it under [finetune]"),
    (("moderation", "policy", "unsafe"), "the vendor's moderation refuses texts of this dataset"),
    (("model_not", "not_available", "deprecat"), "choose a model that can still be fine-tuned"),
)

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
    artifact = job.fine_tuned_model or log.model if status == "succeeded" else None
    if status == "succeeded" and artifact is None:
        status = "running"
    return JobState(
        status=status,
        raw_status=str(job.status),
        progress=1.0 if status == "succeeded" else _progress(job, log, status),
        model=None if artifact is None else ModelRef(name, address, artifact),
        points=log.points,
        trained_tokens=job.trained_tokens,
        error=reason(job, log) if status == "failed" else None,
        checkpoints=tuple(sorted(map(_checkpoint, checkpoints), key=lambda point: point.step)),
    )


def reason(job: FineTuningJob, log: TrainingLog) -> str:
    """Why a job failed, in the vendor's words, and what to do where the words are known."""
    # A healthy job may bear `error: {}`, which the openai package turns into an object without
    # any of its fields.
    code = getattr(job.error, "code", None)
    message = getattr(job.error, "message", None) or log.complaint
    param = getattr(job.error, "param", None)
    text = str(message or "the vendor gives no reason").rstrip(".")
    facts = ", ".join(str(fact) for fact in (code, param) if fact)
    if facts:
        text += f" ({facts})"
    said = f"{code or ''} {text}".lower()
    for words, remedy in _REMEDIES:
        if any(word in said for word in words):
            return f"{text}; {remedy}"
    return text


def _progress(job: FineTuningJob, log: TrainingLog, status: JobStatus) -> float:
    if log.progress:
        return min(_NEARLY, log.progress)
    if status != "running" or not job.estimated_finish or not job.created_at:
        return 0.0
    length = job.estimated_finish - job.created_at
    if length <= 0:
        return 0.0
    return max(0.0, min(_NEARLY, (time.time() - job.created_at) / length))


def _checkpoint(checkpoint: FineTuningJobCheckpoint) -> Checkpoint:
    metrics = checkpoint.metrics
    for name in ("full_valid_loss", "valid_loss", "train_loss"):
        loss = getattr(metrics, name, None)
        if isinstance(loss, int | float) and math.isfinite(loss):
            return Checkpoint(
                checkpoint.step_number, checkpoint.fine_tuned_model_checkpoint, float(loss)
            )
    return Checkpoint(checkpoint.step_number, checkpoint.fine_tuned_model_checkpoint, None)
