"""A `FinetuneSpec` as the request that creates the job, or why there can be no such request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from openai.types.fine_tuning import SupervisedHyperparametersParam

from providers.base import FinetuneSpec, Hyperparameters
from providers.errors import InvalidSettings

DIGEST_KEY = "digest"
# OpenAI takes 64 characters by now; servers that follow its earlier documents refuse more than 40.
MAX_SUFFIX = 40
MAX_EPOCHS = 50
MAX_BATCH = 256

_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_SENT = frozenset({"method", "epochs", "batch_size", "learning_rate_multiplier"})
_DEFAULTS = Hyperparameters()


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What is sent to create a job, apart from the files' ids.

    `file_name` and `validation_name` are the names the files are uploaded under; like `suffix` they
    occur for this very job only. `content` and `validation_content` are the parts of them that
    stand for the data alone.
    """

    model: str
    suffix: str
    seed: int
    hyperparameters: SupervisedHyperparametersParam
    metadata: Mapping[str, str]
    file_name: str
    validation_name: str
    content: str
    validation_content: str


def job_request(spec: FinetuneSpec, base: str) -> JobRequest:
    """The request for `spec`; `base` is the name of the untuned model.

    Raises `InvalidSettings` where the vendor's shape has no place for a hyperparameter.
    """
    refused = unsupported(spec.hyperparameters)
    if refused:
        raise InvalidSettings("; ".join(refused))
    chosen = spec.hyperparameters
    hyperparameters = SupervisedHyperparametersParam(
        n_epochs=chosen.epochs, batch_size=chosen.batch_size
    )
    if chosen.learning_rate_multiplier is not None:
        hyperparameters["learning_rate_multiplier"] = chosen.learning_rate_multiplier
    stem, mark = re.sub(r"[^A-Za-z0-9_.-]", "-", spec.name), spec.digest[:16]
    content, measured = _content(spec, "training"), _content(spec, "validation")
    return JobRequest(
        model=spec.start.artifact or base,
        suffix=suffix(spec),
        seed=spec.seed % 2**31,
        hyperparameters=hyperparameters,
        metadata=_metadata(spec),
        file_name=f"{stem}{content}{mark}.jsonl",
        validation_name=f"{stem}{measured}{mark}-validation.jsonl",
        content=content,
        validation_content=measured,
    )


def _content(spec: FinetuneSpec, kind: str) -> str:
    """Names of files with this part and of one size have the same examples, whatever the job."""
    data = f"{kind}\n{spec.dataset_sha256}\n{spec.validation_sha256}"
    return f"-{hashlib.sha256(data.encode()).hexdigest()[:16]}-"


def suffix(spec: FinetuneSpec) -> str:
    """The part of the tuned model's name that is ours.

    It is the end of the job's name, which tells agent, role and iteration, made unique by the
    digest.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", spec.name).lower()
    mark = spec.digest[:8]
    return f"{readable[-(MAX_SUFFIX - 1 - len(mark)) :].strip('-')}-{mark}"


def unsupported(hyperparameters: Hyperparameters) -> tuple[str, ...]:
    """What this shape of fine-tuning cannot honour, each with its remedy.

    A vendor trains as it likes: of the whole recipe it takes epochs, batch size and a multiplier of
    its own learning rate. Any other setting may only have its default, which here means "the
    vendor's choice".
    """
    problems = [
        f"finetune.{name} = {value!r} cannot be passed on: the vendor chooses it; remove the "
        f"setting{', use finetune.learning_rate_multiplier' if name == 'learning_rate' else ''}"
        for name, value in _recipe(hyperparameters).items()
        if name not in _SENT and value != getattr(_DEFAULTS, name)
    ]
    if hyperparameters.method != "lora":
        problems.append(
            f"finetune.method = {hyperparameters.method!r} cannot be asked for: the vendor chooses "
            "how it tunes; remove the setting"
        )
    if hyperparameters.epochs > MAX_EPOCHS:
        problems.append(f"{hyperparameters.epochs} epochs; the most is {MAX_EPOCHS}")
    if hyperparameters.batch_size > MAX_BATCH:
        problems.append(
            f"finetune.batch_size = {hyperparameters.batch_size}; the most is {MAX_BATCH}"
        )
    return tuple(problems)


def _recipe(hyperparameters: Hyperparameters) -> dict[str, object]:
    return {field.name: getattr(hyperparameters, field.name) for field in fields(hyperparameters)}


def _metadata(spec: FinetuneSpec) -> dict[str, str]:
    pairs = {DIGEST_KEY: spec.digest, "name": spec.name, **spec.metadata}
    pairs[DIGEST_KEY] = spec.digest
    return {key[:_MAX_KEY]: value[:_MAX_VALUE] for key, value in list(pairs.items())[:_MAX_PAIRS]}
