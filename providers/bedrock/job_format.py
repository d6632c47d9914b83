"""Customization jobs in Bedrock's format: the request that creates one, its data, and its state.

    FinetuneSpec ── build_job_request ── CustomizationRequest ── CreateModelCustomizationJob
    GetModelCustomizationJob, metrics files ── build_job_state ── JobState

The data are those of Nova, schema "bedrock-conversation-2024":
https://docs.aws.amazon.com/nova/latest/userguide/fine-tune-prepare-data-understanding.html
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from providers.bedrock.conversation import convert_messages
from providers.bedrock.nova import MAX_EPOCHS, MAX_RATE, MIN_RATE, RESERVED, NovaModel
from providers.errors import BadRequest, InvalidSettings, InvalidTrainingData
from providers.training_file import require_no_judgement, require_trained_answers
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    JobStatus,
    TrainingCheckpoint,
    TrainingStep,
)

SCHEMA = "bedrock-conversation-2024"
MAX_NAME = 63

_MARK = 16
_MOST_STEPS = 2**31 - 1
_DEFAULTS = Hyperparameters()
_SENT = frozenset({"method", "epochs", "learning_rate", "objective"})
_STATUS: Mapping[str, JobStatus] = {
    "InProgress": "running",
    "Completed": "succeeded",
    "Failed": "failed",
    "Stopping": "running",
    "Stopped": "cancelled",
}
_STAGES = (("validationDetails", 0.02), ("dataProcessingDetails", 0.1), ("trainingDetails", 0.99))
_REMEDIES = (
    (
        ("access", "permission", "assume", "role", "denied"),
        "let the role read and write the bucket",
    ),
    (("sample", "record", "examples"), "train on more questions, or fewer"),
    (("format", "json", "keyword", "token", "schema", "valid"), "look at the file in the bucket"),
    (("hyperparam", "epoch", "learning"), "change it under [finetune]"),
    (("quota", "limit", "capacity"), "have the quota raised, or start again later"),
)


@dataclass(frozen=True, slots=True)
class CustomizationRequest:
    """What is sent to create a job, except where its data are. `name` is the job's and the model's;
    it ends with the beginning of the digest, which is the request's token too.
    """

    name: str
    token: str
    base: str
    hyperparameters: Mapping[str, str]


def build_job_request(spec: FinetuneSpec, model: NovaModel) -> CustomizationRequest:
    """The request for `spec`, which starts from `model` or from a model tuned from it.

    Raises `InvalidSettings` for a hyperparameter that Bedrock cannot honor, and
    `InvalidTrainingData` for a number of examples that it does not take.
    """
    if refused := find_unsupported(spec.hyperparameters):
        raise InvalidSettings("; ".join(refused))
    count, least, most = len(spec.examples), model.min_examples, model.max_examples
    if not least <= count <= most:
        raise InvalidTrainingData(
            f"job {spec.name} has {count:,} examples, and {model.chat_id} takes {least:,} to "
            f"{most:,}; train on {'more' if count < least else 'fewer'} questions"
        )
    chosen = {
        "epochCount": str(spec.hyperparameters.epochs),
        "learningRate": f"{spec.hyperparameters.learning_rate:.10f}".rstrip("0"),
    }
    if (warmup := model.choose_warmup(count)) is not None:
        chosen["learningRateWarmupSteps"] = str(warmup)
    return CustomizationRequest(
        build_name(spec), spec.digest, spec.start.artifact or model.tuning_id, chosen
    )


def build_name(spec: FinetuneSpec) -> str:
    """The name of the job and of its model: the end of the job's name and part of its digest.

    It has letters, digits and single dashes only, which jobs and models both take.
    """
    mark = spec.digest[:_MARK]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", spec.name)[-(MAX_NAME - 1 - len(mark)) :].strip("-")
    return f"{readable}-{mark}" if readable else mark


def find_unsupported(hyperparameters: Hyperparameters) -> tuple[str, ...]:
    """The hyperparameters that Bedrock cannot honor, each with its remedy.

    It takes epochs and a learning rate. Any other hyperparameter must have its default, which
    stands for "the vendor's choice".
    """
    problems = [
        f"finetune.{name} = {value!r} cannot be passed on: Bedrock chooses it; remove the setting"
        f"{', use finetune.learning_rate' if name == 'learning_rate_multiplier' else ''}"
        for name, value in _list_values(hyperparameters).items()
        if name not in _SENT and value != getattr(_DEFAULTS, name)
    ]
    if hyperparameters.method != "lora":
        problems.append(
            f"finetune.method = {hyperparameters.method!r} cannot be asked for: Bedrock tunes Nova "
            'parameter-efficiently; set "lora"'
        )
    if hyperparameters.objective != "sft":
        problems.append(
            f"finetune.objective = {hyperparameters.objective!r} cannot be asked for: Bedrock's "
            'jobs have "sft" only; set it, or train on this machine'
        )
    if hyperparameters.epochs > MAX_EPOCHS:
        problems.append(f"{hyperparameters.epochs} epochs; Bedrock takes at most {MAX_EPOCHS}")
    if not MIN_RATE <= hyperparameters.learning_rate <= MAX_RATE:
        problems.append(
            f"finetune.learning_rate = {hyperparameters.learning_rate:g}; Bedrock takes "
            f"{MIN_RATE:g} to {MAX_RATE:g}"
        )
    return tuple(problems)


def _list_values(hyperparameters: Hyperparameters) -> dict[str, object]:
    return {field.name: getattr(hyperparameters, field.name) for field in fields(hyperparameters)}


def format_example(example: Example, number: int) -> Mapping[str, object]:
    """The line of a training file for an example. Raises `InvalidTrainingData` for what would fail
    the job."""
    where = f"training example {number}"
    require_no_judgement(example, number)
    require_trained_answers(example, number)
    try:
        conversation = convert_messages(example.messages)
    except BadRequest as error:
        raise InvalidTrainingData(f"{where}: {error}") from error
    if example.messages[-1].role != "assistant":
        raise InvalidTrainingData(f"{where} does not end with an answer, as Nova's data must")
    _refuse_reserved(example, where)
    # Every assistant message is trained on: the data cannot mark those that are context only.
    answers = [n for n, message in enumerate(example.messages) if message.role == "assistant"]
    if answers != sorted(example.loss_on):
        raise InvalidTrainingData(
            f"{where} is to be trained on some of its answers only, and Nova's data cannot say so; "
            'set datasets.critic_loss = "all"'
        )
    system = {"system": conversation.system} if conversation.system else {}
    return {"schemaVersion": SCHEMA, **system, "messages": conversation.messages}


def _refuse_reserved(example: Example, where: str) -> None:
    for message in example.messages:
        lowered = message.content.lower()
        word = next((word for word in RESERVED if word.lower() in lowered), None)
        if word is not None:
            raise InvalidTrainingData(
                f"{where} contains {word!r} ({message.role}), which Nova's jobs refuse wherever it "
                "stands; change the prompts ([prompts]), or leave out such questions"
            )


def map_status(raw: object) -> JobStatus:
    """Our status for Bedrock's. An unknown one counts as running, so that the job is polled on and
    never submitted again."""
    return _STATUS.get(str(raw), "running")


def estimate_progress(job: Mapping[str, Any]) -> float:
    """The share of a job that is done, by the stages that it reports."""
    details = job.get("statusDetails") or {}
    done = 0.0
    for name, share in _STAGES:
        if (details.get(name) or {}).get("status") == "Completed":
            done = share
    return done


def explain_failure(job: Mapping[str, Any]) -> str:
    """Why a job failed, in Bedrock's words, and what to do if the reason is a known one."""
    text = str(job.get("failureMessage") or "Bedrock gives no reason").rstrip(".")
    data = (job.get("trainingDataConfig") or {}).get("s3Uri", "unknown")
    lowered = text.lower()
    found = (remedy for words, remedy in _REMEDIES if any(word in lowered for word in words))
    remedy = next(found, None)
    return f"{text}{f'; {remedy}' if remedy else ''} [training file {data}]"


def parse_losses(text: str) -> tuple[TrainingStep, ...]:
    """The points of step_wise_training_metrics.csv, one per step; rows without numbers are skipped.

    >>> parse_losses("step_number,epoch_number,training_loss\\n0,0,1.5\\n")
    (TrainingStep(step=0, loss=1.5, learning_rate=nan, reward_margin=None, reward_accuracy=None),)
    """
    found = dict(_read_columns(text, "training_loss"))
    return tuple(TrainingStep(step, found[step], math.nan) for step in sorted(found))


def parse_validation(text: str) -> tuple[TrainingCheckpoint, ...]:
    """The losses of validation_metrics.csv, by step."""
    found = dict(_read_columns(text, "validation_loss"))
    return tuple(TrainingCheckpoint(step, None, found[step]) for step in sorted(found))


def _read_columns(text: str, column: str) -> Iterator[tuple[int, float]]:
    for row in csv.DictReader(io.StringIO(text)):
        try:
            step, loss = int(float(row["step_number"] or "")), float(row[column] or "")
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(loss) and 0 <= step <= _MOST_STEPS:
            yield step, loss
