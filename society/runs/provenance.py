"""What changes between two starts of one run: software, machine and settings.

Settings that decide questions, answers or votes must stay the same. Settings that say how to reach
a server, what it costs or how long the run continues may change, and [finetune] may change while a
training still lies ahead: existing jobs keep the settings they were made with
(`society.method.finetuning.keep_job_settings`).
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evals.choices import find_choice, has_ended
from providers import registry
from providers.errors import ProviderError
from providers.hyperparameters import LORA_CHOICES
from providers.identities import identify_servers
from providers.serving.planning import plan_server
from society.config.arm import ArmSection
from society.config.load import ConfigError, compare_configs, describe_differences
from society.config.sampling import SamplingSection
from society.config.schema import Config
from society.method.arms import Arm, build_arms
from society.method.connections import plan_serving
from society.method.finetuning import is_evaluated, is_final, list_tuned_models
from society.runs.apart import call_apart
from store.ledger import Store
from store.records import Job, Run, utc_now
from store.run_starts import RunStart, SettingChange

_SERVER, _SERVERS = "server", "servers"
_PACKAGES = (
    "multiagent-finetuning",
    "torch",
    "transformers",
    "peft",
    "duckdb",
    "openai",
    "boto3",
    "google-genai",
    "tinker",
    "math-verify",
)


def describe_start(config: Config) -> RunStart:
    """The row of `run_starts` for this process: its software, its machine, and the servers that
    answer: one that it starts, or those of the user that can be asked now. Raises `ConfigError` if
    it cannot start one."""
    machine = _describe_machine()
    if (managed := plan_serving(config)) is not None:
        try:
            plan = plan_server(managed, config.model, config.settings_of(config.model))
        except ProviderError as error:
            raise ConfigError(str(error)) from error
        machine[_SERVER] = plan.describe()
    elif config.serving is not None:
        named = config.serving.list_servers()
        known = call_apart(lambda stop: asyncio.run(stop.guard(identify_servers(named))))
        machine[_SERVERS] = {address: each.describe() for address, each in known.items()}
    return RunStart(utc_now(), os.getpid(), read_versions(), json.dumps(machine))


def describe_other_server(before: RunStart, now: RunStart) -> str | None:
    """How a server that answers now differs from all of an earlier start; None if each is like one
    of them, or there were none."""
    old, new = (_list_servers(json.loads(start.machine)) for start in (before, now))
    # Addresses do not count: a server may move, and several share the calls.
    for server in new:
        differing = [_compare_servers(known, server) for known in old]
        if differing and all(differing):
            nearest = min(differing, key=len)
            return "; ".join(nearest)
    return None


def keep_known_servers(before: RunStart, now: RunStart, config: Config) -> RunStart:
    """`now`, with what was known before of those servers of the experiment that are away now."""
    if config.serving is None:
        return now
    machine = json.loads(now.machine)
    known = json.loads(before.machine).get(_SERVERS, {})
    named = [server.address for server in config.serving.list_servers()]
    kept = {address: known[address] for address in named if address in known}
    # Where the run starts its own servers now, those of the user are over.
    if _SERVERS in machine:
        machine[_SERVERS] = kept | machine[_SERVERS]
    return replace(now, machine=json.dumps(machine))


def _list_servers(machine: Mapping[str, Any]) -> list[Mapping[str, object]]:
    return [machine[_SERVER]] if _SERVER in machine else list(machine.get(_SERVERS, {}).values())


def _compare_servers(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """What both tell and is not the same: a server may tell less while it is busy."""
    return [
        f"{name} {old[name]!r}, now {value!r}"
        for name, value in new.items()
        if name in old and old[name] != value
    ]


@cache
def read_versions() -> str:
    """The versions of the software that answers and scores depend on, as a JSON object."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return json.dumps(found)


def list_version_changes(before: RunStart | Run, now: RunStart) -> list[str]:
    """Each package whose version has changed, in words; unrecorded packages are left out."""
    earlier, current = json.loads(before.versions), json.loads(now.versions)
    return [
        f"{name} {known}, now {current.get(name, 'not installed')}"
        for name, known in earlier.items()
        if current.get(name) != known
    ]


def _describe_machine() -> dict[str, object]:
    found: dict[str, object] = {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
    }
    # torch is imported only if models run in this process; asking must not import it.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        ]
    return found


# Settings that may change, apart from [finetune], [serving] and the provider's settings.
_FREE = (
    *("iterations", "arms", "budget_usd", "prices", "diversity", "stop", "stop_if_unread"),
    *("cluster", "tracking", "tracking_project", "telemetry"),
)
_SHAPE = ("method", "lora_rank", "lora_alpha", *LORA_CHOICES)
"""The settings of an existing adapter that further training cannot change."""
_OVER = ("succeeded", "skipped")
_ENDED = (*_OVER, "failed", "cancelled")


def check_setting_changes(name: str, path: Path, store: Store, before: Config, now: Config) -> None:
    """Raise `ConfigError` naming every setting that may not change, with its old and new value.

    `name` is the run, `path` the file with the stored config.
    """
    faults = describe_differences(
        _keep_free_settings(before, now).to_json(), _keep_free_settings(now, now).to_json()
    )
    if now.sampling.defaults == "model" and any(each.startswith("sampling.") for each in faults):
        faults.append(
            "(what [sampling] leaves to the model is what its generation_config.json says now; set "
            "the stored values in [sampling] if that file has changed)"
        )
    # Fewer iterations would leave stored models that the config does not explain.
    if now.iterations < before.iterations:
        faults.append(
            f"iterations: stored {before.iterations}, now {now.iterations} (may only grow)"
        )
    if now.arms[: len(before.arms)] != before.arms:
        faults.append(_describe_arms(before, now))
    # Without batches the open ones would never be collected, and be paid for all the same.
    if before.evaluation.batch and not now.evaluation.batch and _has_batches(store, before):
        faults.append(
            "evaluation.batch: stored true, now false (the vendor still has its batches, and their "
            "questions would be asked, and paid for, again)"
        )
    faults += _check_finetune(store, before, now)
    if faults:
        raise ConfigError(
            f"run {name!r} was started with another config:\n  "
            + "\n  ".join(faults)
            + f"\nuse the stored config ({path}) or start a new run with --name"
        )


def list_setting_changes(before: Config, now: Config) -> list[SettingChange]:
    """A row of `setting_changes` for each setting that differs."""
    at = utc_now()
    return [
        SettingChange(key, _to_json(old), _to_json(new), at)
        for key, old, new in compare_configs(before.to_json(), now.to_json())
    ]


def format_setting_change(change: SettingChange) -> str:
    """One change in one line, for the user."""
    return f"{change.key} was {change.before or 'not set'}, and is {change.now or 'not set'} now"


def _to_json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _describe_arms(before: Config, now: Config) -> str:
    """How the arms differ, of which the stored ones must stay."""
    old, new = _name_arms(before), _name_arms(now)
    if new[: len(old)] != old:
        return (
            f"arms: stored {', '.join(old)}, now {', '.join(new)} (arms may only be added, at the "
            "end)"
        )
    pairs = zip(before.arms, now.arms, strict=False)
    changed = [(one, other) for one, other in pairs if one != other]
    return "\n  ".join(
        f"arms: stored {_format_arm(one)}, now {_format_arm(other)}" for one, other in changed
    )


def _format_arm(entry: str | ArmSection) -> str:
    return repr(entry if isinstance(entry, str) else entry.model_dump(exclude_none=True))


def _name_arms(config: Config) -> list[str]:
    return [arm.name for arm in build_arms(config)]


def _keep_free_settings(config: Config, now: Config) -> Config:
    """`config` with all settings that may change, or are checked separately, taken from `now`."""
    free: dict[str, object] = {name: getattr(now, name) for name in (*_FREE, "finetune")}
    if config.serving is not None and now.serving is not None:
        free["serving"] = now.serving
    # Only the provider settings that can change an answer count. URLs, keys and limits are free.
    free["provider"] = {}
    free["providers"] = {
        address: dict(registry.output_settings(address, config.settings_of(address)))
        for address in config.addresses
    }
    free["sampling"] = _write_sampling(config, now)
    free["evaluation"] = config.evaluation.model_copy(update={"batch": now.evaluation.batch})
    return config.model_copy(update=free)


def _write_sampling(config: Config, now: Config) -> SamplingSection:
    """[sampling] of `config`, as `now` writes it if that means the same."""
    # Where values came from does not matter, once they are known.
    sampling = config.sampling.model_copy(update={"defaults": now.sampling.defaults})
    # Models in this process have no values of their own for what nobody has set.
    alike = sampling == now.sampling and now.serving is None
    if alike and all(registry.info(address).in_process for address in now.addresses):
        return now.sampling
    return sampling


def _has_batches(store: Store, config: Config) -> bool:
    return any(store.batches(address) for address in config.addresses)


def _check_finetune(store: Store, before: Config, now: Config) -> list[str]:
    """The settings of [finetune] that may no longer change, each with the reason."""
    # The sections themselves, not their text, which leaves defaults of younger keys out.
    old, new = dict(before.finetune), dict(now.finetune)
    # What to do on a failure concerns the future only.
    changed = [key for key in old if key != "on_failure" and old[key] != new[key]]
    jobs = store.jobs()
    if not changed or not jobs:
        return []
    reason = _too_late(store, jobs, now)
    continued = now.finetune.init == "continue" and any(j.status == "succeeded" for j in jobs)
    faults = []
    for key in changed:
        why = reason
        if why is None and continued and key in _SHAPE:
            why = "existing adapters, which are trained further, have this shape"
        if why is not None:
            faults.append(f"finetune.{key}: stored {old[key]!r}, now {new[key]!r} ({why})")
    return faults


def _too_late(store: Store, jobs: list[Job], now: Config) -> str | None:
    """Why [finetune] can no longer change, or None while a training lies ahead."""
    # Jobs of early versions did not store their settings, so nothing can be compared.
    if any(job.settings is None and job.status not in ("failed", "cancelled") for job in jobs):
        return "jobs made by an earlier version do not record what they were trained with"
    last = max(job.iteration for job in jobs)
    states = _read_owner_states(jobs, last, now)
    # A failed job may be submitted again with other settings, which is the remedy for most
    # failures.
    if "failed" in states.values() or _came_to_nothing(store, jobs, last):
        return None
    owners = {
        (arm.name, agent, role)
        for arm in build_arms(now)
        if arm.trained_in(last) and not _ended_before(store, arm, last)
        for agent, role in list_tuned_models(arm)
    }
    if open_jobs := owners - {owner for owner, state in states.items() if state == "over"}:
        return (
            f"the training of iteration {last} has begun, {len(open_jobs)} of its {len(owners)} "
            "jobs are not over, and none has failed; wait for their end"
        )
    if now.iterations > last:
        return None
    return f"the training is over: {len(owners)} jobs of iteration {last} were made with it"


def _ended_before(store: Store, arm: Arm, iteration: int) -> bool:
    """Whether an arm stopped by its signs before this iteration, and so has no jobs in it."""
    choice = find_choice(store, arm.name)
    return choice is not None and choice.iteration < iteration and has_ended(choice, arm.iterations)


def _read_owner_states(
    jobs: list[Job], iteration: int, config: Config
) -> dict[tuple[str, int, str], str]:
    """The state of each owner's jobs in an iteration: "over", "open" or "failed".

    A job that ran in a process that has ended is not open.
    """
    found: dict[tuple[str, int, str], str] = {}
    for job in (job for job in jobs if job.iteration == iteration):
        owner = (job.arm, job.agent, job.role)
        if job.status in _OVER:
            found[owner] = "over"
        # A later attempt can succeed where an earlier one failed, so "over" wins.
        elif found.get(owner) != "over":
            in_process = registry.info(config.base_address(job.agent)).in_process
            is_open = job.status not in _ENDED and not in_process
            found[owner] = "open" if is_open or found.get(owner) == "open" else "failed"
    return found


def _came_to_nothing(store: Store, jobs: list[Job], iteration: int) -> bool:
    """Whether an iteration could train nothing, and nothing depends on that yet."""
    own = [job for job in jobs if job.iteration == iteration]
    return all(job.status == "skipped" and not is_final(job) for job in own) and not any(
        is_evaluated(store, iteration, job.arm) for job in own
    )
