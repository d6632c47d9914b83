"""Checks a local model before a run, from its files; loads neither torch nor a model.

Sizes are estimates from the files and from `config.json`. They only serve to warn in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from providers.base import FileFacts
from providers.errors import ProviderError
from providers.local.deep_check import describe_kept_checks, try_model
from providers.local.joint_plan import plan_joint
from providers.local.lane_plan import LanePlan, plan_lanes
from providers.local.machine import (
    find_free_memory,
    find_free_ram,
    guess_dtype_bytes,
    has_device,
    list_cards,
    measure_multiplications,
    uses_cpu,
)
from providers.local.memory import ModelSize, find_remedies, make_plan, measure_model, write_size
from providers.local.quantization import find_training_faults, read_format
from providers.local.schedule import describe_small_reach
from providers.local.settings import (
    CAPABILITIES,
    LocalSettings,
    find_unsupported,
    find_unsupported_sampling,
)
from providers.local.source import (
    ModelSource,
    check_config,
    find_folder,
    locate_model,
    read_config,
    read_context,
    read_special_tokens,
    read_template,
)
from providers.local.template_checks import check_template, knows_thoughts
from providers.types import Finding, Hyperparameters, Need, PreflightReport

_THERE = "the model's files are there"
_DOWNLOADED = "the model has been downloaded"
_HUB_TIMEOUT_S = 5.0
_LEAST_NUMBERS = 50_000_000


def preflight_files(
    target: str, settings: Mapping[str, object], need: Need, hyperparameters: Hyperparameters
) -> PreflightReport:
    """Whether the model is there and fits into memory, and how large a tuned model will be."""
    refused = _check_samplings(need)
    try:
        options = LocalSettings.read(settings)
        source = locate_model(target, options)
        config = read_config(source)
        # Those of a folder of the user's were checked when it was found.
        if not source.local and config:
            check_config(config, source.name, options)
        folder = find_folder(source)
        if folder is None:
            found = replace(_find_on_hub(source), check="model")
            return PreflightReport((found, *refused), CAPABILITIES, None)
        size = measure_model(folder, source.gguf_file, config)
    except ProviderError as error:
        return PreflightReport((Finding("error", str(error)),))
    findings = [
        Finding("ok", _THERE if source.local else _DOWNLOADED, check="model"),
        *_check_device(options),
        *_check_memory(size, options, need, hyperparameters),
        *_describe_lanes(size, options, need, hyperparameters),
        *_describe_date(folder, options),
        *_check_template(source, folder, options, need),
        *refused,
    ]
    if need.finetune:
        findings += _check_recipe(config, options, hyperparameters, need.examples)
    if need.deep and all(found.level != "error" for found in findings):
        findings += try_model(source, options, hyperparameters if need.finetune else None)
    else:
        findings += describe_kept_checks(source, options)
    taken = size.count_artifact_bytes(hyperparameters) if need.finetune else 0
    return PreflightReport(tuple(findings), CAPABILITIES, taken, _measure_token(size, options))


def read_file_facts(target: str, settings: Mapping[str, object]) -> FileFacts:
    """What the files say of context and thoughts; nothing for a model that is not on this disk."""
    options = LocalSettings.read(settings)
    source = locate_model(target, options)
    folder = find_folder(source)
    if folder is None:
        return FileFacts()
    template = read_template(source, folder) or ""
    return FileFacts(read_context(source, folder), knows_thoughts(template))


def _find_on_hub(source: ModelSource) -> Finding:
    """Whether the Hugging Face hub has the model and gives it to this user."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(source.name, revision=source.revision, timeout=_HUB_TIMEOUT_S)
    except GatedRepoError:
        return Finding(
            "error",
            "the model's owner has not given you access yet",
            f"ask at https://huggingface.co/{source.name}, then log in with `hf auth login`",
        )
    except RepositoryNotFoundError:
        return Finding(
            "error",
            f"the Hugging Face hub has no model {source.name!r} that you may see",
            "correct the name, or log in with `hf auth login`",
        )
    except (HfHubHTTPError, OSError, httpx2.HTTPError):
        return Finding(
            "warning",
            "the model is not on this machine, and the Hugging Face hub cannot be reached",
            "connect to the network before the run starts, or give the folder of a copy",
        )
    return Finding("ok", "the model is on the Hugging Face hub and will be downloaded")


def _check_samplings(need: Need) -> list[Finding]:
    """An error for every sampling setting that a model in this process cannot honor."""
    texts = [text for each in need.samplings for text in find_unsupported_sampling(each)]
    return [Finding("error", text, check="sampling") for text in dict.fromkeys(texts)]


def _check_recipe(
    config: Mapping[str, Any],
    options: LocalSettings,
    hyperparameters: Hyperparameters,
    examples: int,
) -> list[Finding]:
    texts = [
        *find_unsupported(hyperparameters),
        *find_training_faults(read_format(config), options, hyperparameters),
    ]
    if texts:
        return [
            Finding("error", f"cannot train like that: {text}", check="recipe") for text in texts
        ]
    text = describe_small_reach(hyperparameters, examples)
    return [Finding("warning", text, check="recipe")] if text else []


def _check_device(options: LocalSettings) -> list[Finding]:
    """An error if the requested device certainly does not exist."""
    if has_device(options.device):
        return []
    text = f"[provider] device = {options.device!r} is not there on this machine"
    return [Finding("error", text, 'use "auto" or "cpu"', "device")]


def _check_memory(
    size: ModelSize, options: LocalSettings, need: Need, hyperparameters: Hyperparameters
) -> list[Finding]:
    """What the run will hold in memory, and what would fit if that does not."""
    trained = hyperparameters if need.finetune and not need.trains_elsewhere else None
    # A critic's example has at least its own answer and one that it has read.
    longest = 2 * max((each.max_tokens for each in need.samplings), default=0)
    plan = make_plan(
        options,
        guess_dtype_bytes(options),
        trained,
        need.adapters,
        longest,
        on_cpu=uses_cpu(options),
    )
    estimate = size.estimate(plan)
    text = f"about {write_size(estimate.total)} of memory are needed: {estimate}"
    found = find_free_memory(options)
    if found is None:
        return [Finding("ok", text, check="memory")]
    free, place = found
    text = f"{text}; {write_size(free)} of {place} are free"
    if estimate.total <= free:
        return [Finding("ok", text, check="memory")]
    return [Finding("warning", text, find_remedies(size, plan, free), "memory")]


def _measure_token(size: ModelSize, options: LocalSettings) -> float | None:
    """Seconds for a token of a prompt on the CPU; None for graphics cards and for small models.

    Of a small model the time goes into calls, not into products.
    """
    if not uses_cpu(options) or size.numbers < _LEAST_NUMBERS:
        return None
    return size.numbers / measure_multiplications()


def _describe_lanes(
    size: ModelSize, options: LocalSettings, need: Need, hyperparameters: Hyperparameters
) -> list[Finding]:
    """How many jobs are trained at a time, in passes that they share and in workers."""
    if not need.finetune or need.trains_elsewhere or not has_device(options.device):
        return []
    on_cpu = uses_cpu(options)
    cards = () if on_cpu else list_cards()
    plan = plan_lanes(options, "cpu" if on_cpu else "cuda", cards)
    found = find_free_memory(options)
    free = None if found is None else found[0]
    joint = plan_joint(options, hyperparameters, size, free, on_cpu=on_cpu)
    return [
        Finding("ok", str(joint), check="joint_training"),
        *_check_workers(plan, size, options, hyperparameters, on_cpu=on_cpu),
    ]


def _check_workers(
    plan: LanePlan,
    size: ModelSize,
    options: LocalSettings,
    hyperparameters: Hyperparameters,
    *,
    on_cpu: bool,
) -> list[Finding]:
    """How many processes train, and whether the memory is there for each."""
    if plan.lanes == 1:
        return [Finding("ok", str(plan), check="workers")]
    needed = size.estimate_worker(make_plan(options, guess_dtype_bytes(options), hyperparameters))
    text = f"{plan}; each one after the first takes about {write_size(needed)}"
    if plan.is_automatic:
        return [Finding("ok", f"{text}, if that is free and time is saved", check="workers")]
    free = find_free_ram()
    if not on_cpu or (plan.lanes - 1) * needed <= free:
        return [Finding("ok", text, check="workers")]
    text = f"{text}, and {write_size(free)} of memory are free"
    return [Finding("warning", text, "lower [provider] training_workers", "workers")]


def _check_template(
    source: ModelSource, folder: Path, options: LocalSettings, need: Need
) -> list[Finding]:
    """What the run's conversations and settings meet in the chat template."""
    try:
        text, tokens = read_template(source, folder), read_special_tokens(folder)
    except (ProviderError, OSError, ValueError):
        # Loading the model will report the error.
        return []
    return [] if text is None else check_template(text, tokens, options.template_arguments, need)


def _describe_date(folder: Path, options: LocalSettings) -> list[Finding]:
    """The date that the chat template writes instead of today's, if it writes any."""
    files = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    texts = (path.read_text("utf-8", "replace") for f in files if (path := folder / f).is_file())
    if not any("strftime_now" in text for text in texts):
        return []
    text = f"the chat template writes a date, which is always {options.template_date}"
    return [Finding("ok", f"{text} ([provider] template_date)")]
