"""Tuning jobs in Google's format: training lines, the request that creates a job, its state.

Under https://docs.cloud.google.com/gemini-enterprise-agent-platform/ (read 2026-11-28): data in
models/tuning/supervised-tuning/prepare-data and models/tuning/preference-tuning/prepare-data,
jobs in reference/models/tuning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields

from google.genai import types

from providers.errors import InvalidSettings
from providers.gemini.answers import name_role, split_messages
from providers.training_file import require_no_judgement, require_trained_answers
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    JobState,
    JobStatus,
    Message,
    ModelRef,
    Objective,
    TrainingCheckpoint,
)

DIGEST_LABEL = "society_digest"
MAX_BYTES = 10**9
MIN_EXAMPLES = 16
"""An early version of Google's page names it; the present one names none and advises 100."""
OBJECTIVES: frozenset[Objective] = frozenset({"sft", "dpo"})

_ADAPTER_SIZES: Mapping[int, types.AdapterSize] = {
    1: types.AdapterSize.ADAPTER_SIZE_ONE,
    2: types.AdapterSize.ADAPTER_SIZE_TWO,
    4: types.AdapterSize.ADAPTER_SIZE_FOUR,
    8: types.AdapterSize.ADAPTER_SIZE_EIGHT,
    16: types.AdapterSize.ADAPTER_SIZE_SIXTEEN,
    32: types.AdapterSize.ADAPTER_SIZE_THIRTY_TWO,
}
_SENT = frozenset({"method", "epochs", "learning_rate_multiplier", "objective", "lora_rank"})
_DEFAULTS = Hyperparameters()
# A label has 63 characters; half a SHA-256 tells jobs apart just as well.
_MARK, _LONGEST_LABEL, _LONGEST_NAME = 32, 63, 128
_STATES: Mapping[str, JobStatus] = {
    "JOB_STATE_UNSPECIFIED": "queued",
    "JOB_STATE_QUEUED": "queued",
    "JOB_STATE_PENDING": "queued",
    "JOB_STATE_RUNNING": "running",
    "JOB_STATE_PAUSED": "running",
    "JOB_STATE_UPDATING": "running",
    "JOB_STATE_CANCELLING": "running",
    "JOB_STATE_SUCCEEDED": "succeeded",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "succeeded",
    "JOB_STATE_FAILED": "failed",
    "JOB_STATE_EXPIRED": "failed",
    "JOB_STATE_CANCELLED": "cancelled",
}
# By words of Google's message; the first match counts.
_REMEDIES = (
    (("quota", "resource_exhausted"), "raise the quota of tuning jobs in the console"),
    (("billing",), "link a billing account to the project"),
    (("permission", "denied", "service agent"), "give the service agent access to the bucket"),
    (("dataset", "example", "jsonl", "row", "token"), "look at the file in the bucket"),
    (("adapter",), "set another finetune.lora_rank, which is the adapter size"),
    (("not supported", "not found", "deprecat"), "choose a model that can be tuned in the region"),
)
# Every other job would fail for the same reason.
_FATAL = ("quota", "resource_exhausted", "billing", "permission", "denied", "service agent")


def format_example(example: Example, number: int) -> dict[str, object]:
    """The line of one example.

    >>> example = Example((Message("user", "1+1?"), Message("assistant", "2")), (1,))
    >>> format_example(example, 1)["contents"][1]
    {'role': 'model', 'parts': [{'text': '2'}]}
    """
    require_no_judgement(example, number)
    if example.rejected is not None:
        return _format_pair(example, example.rejected)
    require_trained_answers(example, number)
    system, _ = split_messages(example.messages)
    # Only here: the lines of supervised tuning have camel case, those of preferences do not.
    instruction = {} if system is None else {"systemInstruction": _format_system(system)}
    return {**instruction, "contents": _format_contents(example.messages)}


def _format_pair(example: Example, rejected: str) -> dict[str, object]:
    *before, chosen = example.messages
    system, _ = split_messages(before)
    instruction = {} if system is None else {"system_instruction": _format_system(system)}
    answers = ((1, chosen), (0, Message("assistant", rejected)))
    completions = [{"score": score, "completion": _format_turn(turn)} for score, turn in answers]
    return {**instruction, "contents": _format_contents(before), "completions": completions}


def _format_contents(messages: list[Message] | tuple[Message, ...]) -> list[dict[str, object]]:
    first = next((n for n, m in enumerate(messages) if m.role != "system"), len(messages))
    return [_format_turn(message) for message in messages[first:]]


def _format_turn(message: Message) -> dict[str, object]:
    return {"role": name_role(message), "parts": [{"text": message.content}]}


def _format_system(text: str) -> dict[str, object]:
    return {"role": "system", "parts": [{"text": text}]}


def mark_digest(digest: str) -> str:
    """The part of a digest that a job's label has."""
    return digest[:_MARK]


def build_config(
    spec: FinetuneSpec, validation_uri: str | None, *, checkpoints: bool = False
) -> types.CreateTuningJobConfig:
    """What a request for a job has beside model and data. `checkpoints`: keep the models of the
    epochs before the last.

    Raises `InvalidSettings` for a hyperparameter that Google's API cannot express.
    """
    chosen = spec.hyperparameters
    if refused := find_unsupported(chosen):
        raise InvalidSettings("; ".join(refused))
    preferences = chosen.objective == "dpo"
    method = "PREFERENCE_TUNING" if preferences else "SUPERVISED_FINE_TUNING"
    measured = None
    if validation_uri is not None:
        measured = types.TuningValidationDataset(gcs_uri=validation_uri)
    return types.CreateTuningJobConfig(
        method=types.TuningMethod(method),
        validation_dataset=measured,
        # A name of its own makes a new model; without one a tuned start would get a new version.
        tuned_model_display_name=f"{spec.name[: _LONGEST_NAME - 9]}-{spec.digest[:8]}",
        description=spec.name,
        epoch_count=chosen.epochs,
        learning_rate_multiplier=chosen.learning_rate_multiplier,
        adapter_size=_choose_adapter_size(chosen),
        beta=chosen.beta if preferences else None,
        # The checkpoints between each get an endpoint, which nobody asks unless the user wants it.
        export_last_checkpoint_only=not checkpoints,
        labels=_build_labels(spec),
    )


def _choose_adapter_size(chosen: Hyperparameters) -> types.AdapterSize | None:
    # The default stands for Google's own choice, since models differ in what they take.
    if chosen.lora_rank == _DEFAULTS.lora_rank:
        return None
    return _ADAPTER_SIZES[chosen.lora_rank]


def _build_labels(spec: FinetuneSpec) -> dict[str, str]:
    labels = {
        _format_label(key): _format_label(value)
        for key, value in spec.metadata.items()
        if _format_label(key) and _format_label(value)
    }
    # Last, so that no pair of a user replaces it.
    return {**labels, DIGEST_LABEL: mark_digest(spec.digest)}


def _format_label(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:_LONGEST_LABEL].strip("-_")


def find_unsupported(hyperparameters: Hyperparameters) -> tuple[str, ...]:
    """The hyperparameters that Google cannot honor, each with its remedy.

    It takes epochs, a multiplier of its own learning rate, the adapter size (`lora_rank`), and for
    preferences the beta. Any other must have its default, which stands for Google's own choice.
    """
    sent = _SENT | ({"beta"} if hyperparameters.objective == "dpo" else frozenset())
    values = {field.name: getattr(hyperparameters, field.name) for field in fields(hyperparameters)}
    problems = [
        f"finetune.{name} = {value!r} cannot be passed on: Google chooses it; remove the "
        f"setting{', use finetune.learning_rate_multiplier' if name == 'learning_rate' else ''}"
        for name, value in values.items()
        if name not in sent and value != getattr(_DEFAULTS, name)
    ]
    if hyperparameters.method != "lora":
        problems.append(
            f"finetune.method = {hyperparameters.method!r} cannot be asked for: Gemini is tuned by "
            "adapters; remove the setting"
        )
    if hyperparameters.objective not in OBJECTIVES:
        problems.append(
            f"finetune.objective = {hyperparameters.objective!r} cannot be asked for: Google has "
            '"sft" and "dpo"; set one of them, or train on this machine'
        )
    if hyperparameters.lora_rank not in _ADAPTER_SIZES:
        sizes = ", ".join(map(str, _ADAPTER_SIZES))
        problems.append(
            f"finetune.lora_rank = {hyperparameters.lora_rank}; the adapter sizes are {sizes}"
        )
    return tuple(problems)


def map_state(job: types.TuningJob) -> JobStatus:
    """Our status for Google's. An unknown one counts as running, so that the job is polled on and
    never submitted again."""
    return _STATES.get(get_raw_state(job), "running")


def get_raw_state(job: types.TuningJob) -> str:
    """Google's own word, also one that this version of the package does not know."""
    return str(getattr(job.state, "value", None) or job.state or "JOB_STATE_UNSPECIFIED")


def build_job_state(job: types.TuningJob, *, name: str, address: str) -> JobState:
    """The state of `job`. One that succeeded and names no endpoint yet counts as running."""
    status = map_state(job)
    endpoint = job.tuned_model.endpoint if job.tuned_model else None
    if status == "succeeded" and not endpoint:
        status = "running"
    detail = str(getattr(job.tuning_job_state, "value", "") or "")
    waiting = "WAITING_FOR_QUOTA" in detail and status in ("queued", "running")
    return JobState(
        status=status,
        raw_status=get_raw_state(job),
        progress=1.0 if status == "succeeded" else 0.0,
        model=ModelRef(name, address, endpoint) if status == "succeeded" else None,
        trained_tokens=_count_tokens(job),
        error=explain_failure(job) if status == "failed" else None,
        checkpoints=tuple(_list_checkpoints(job)),
        note="the job waits for Google's quota of tuning jobs" if waiting else _find_curve(job),
        left_out=_count_left_out(job),
        fatal=status == "failed" and _is_fatal(job),
    )


def _find_curve(job: types.TuningJob) -> str | None:
    """Where Google keeps the losses of a job that has ended well, since its API gives none."""
    place = job.gcs_metrics_uri or job.experiment
    if not place or map_state(job) != "succeeded":
        return None
    return f"Google keeps its loss curve in {place}"


def explain_failure(job: types.TuningJob) -> str:
    """Why a job failed, in Google's words, and what to do if the reason is a known one."""
    text = _quote_google(job)
    for words, remedy in _REMEDIES:
        if any(word in text.lower() for word in words):
            return f"{text}; {remedy}"
    return text


def _quote_google(job: types.TuningJob) -> str:
    message = (job.error.message if job.error else None) or "Google gives no reason"
    code = job.error.code if job.error else None
    return f"{message.rstrip('.')} (code {code})" if code else message


def _is_fatal(job: types.TuningJob) -> bool:
    text = _quote_google(job).lower()
    return any(word in text for word in _FATAL)


def _count_tokens(job: types.TuningJob) -> int | None:
    """Tokens that are billed: those of the data, once for every epoch."""
    stats = job.tuning_data_stats
    if stats is None:
        return None
    found = stats.supervised_tuning_data_stats or stats.preference_optimization_data_stats
    tokens = found.total_billable_token_count if found else None
    spec = job.supervised_tuning_spec or job.preference_optimization_spec
    chosen = spec.hyper_parameters if spec else None
    if tokens is None or chosen is None or chosen.epoch_count is None:
        return None
    return int(tokens) * int(chosen.epoch_count)


def _count_left_out(job: types.TuningJob) -> int | None:
    stats = job.tuning_data_stats
    if stats is None:
        return None
    if stats.supervised_tuning_data_stats is not None:
        return stats.supervised_tuning_data_stats.total_truncated_example_count
    if stats.preference_optimization_data_stats is not None:
        return len(stats.preference_optimization_data_stats.dropped_example_indices or [])
    return None


def _list_checkpoints(job: types.TuningJob) -> Iterator[TrainingCheckpoint]:
    for checkpoint in (job.tuned_model.checkpoints if job.tuned_model else None) or []:
        if checkpoint.step is not None and checkpoint.endpoint:
            yield TrainingCheckpoint(int(checkpoint.step), checkpoint.endpoint, None)
