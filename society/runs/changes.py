"""Which settings may differ between two starts of one run, and what is kept of such a change.

What decides the questions, the answers or the votes stays as it was. What only says how to talk to
a server, what it costs or how long the run lasts is free, and [finetune] is free for a training
that lies ahead: existing jobs keep their settings (`society.method.finetuning.keep_job_settings`).
"""

from __future__ import annotations

import json
from pathlib import Path

from providers import registry
from society.config.load import ConfigError, compare_configs, describe_differences
from society.config.schema import Config
from society.method.arms import build_arms
from society.method.finetuning import is_evaluated, is_final, tuned_roles
from store.ledger import Store
from store.records import Job, SettingChange, utc_now

_FREE = ("iterations", "arms", "budget_usd", "prices", "diversity", "stop_if_unread")
_SHAPE = ("method", "lora_rank", "lora_alpha")
"""What an adapter cannot change when it is trained on."""
_OVER = ("succeeded", "skipped")
_ENDED = (*_OVER, "failed", "cancelled")


def require_allowed(name: str, path: Path, store: Store, before: Config, now: Config) -> None:
    """Raise `ConfigError` naming every setting of the run `name` that may not become as in `now`,
    with the stored and the new value. `path` is where the stored config lies."""
    faults = describe_differences(_lasting(before, now).to_json(), _lasting(now, now).to_json())
    if now.iterations < before.iterations:
        faults.append(
            f"iterations: stored {before.iterations}, now {now.iterations} (may only grow)"
        )
    if now.arms[: len(before.arms)] != before.arms:
        faults.append(
            f"arms: stored {_told(before)}, now {_told(now)} (may only get more, at the end)"
        )
    if before.evaluation.batch and not now.evaluation.batch and _has_batches(store, before):
        faults.append(
            "evaluation.batch: stored true, now false (its batches are at the vendor, and what "
            "they answer would be asked, and paid, once more)"
        )
    faults += _finetune_faults(store, before, now)
    if faults:
        raise ConfigError(
            f"run {name!r} was started with another config:\n  "
            + "\n  ".join(faults)
            + f"\nuse the stored one ({path}) or start a new run with --name"
        )


def changes(before: Config, now: Config) -> list[SettingChange]:
    """Every setting that differs, as it is kept."""
    at = utc_now()
    return [
        SettingChange(key, _json(old), _json(new), at)
        for key, old, new in compare_configs(before.to_json(), now.to_json())
    ]


def told(change: SettingChange) -> str:
    """A change in one line, for the user."""
    return f"{change.key} was {change.before or 'not set'}, and is {change.now or 'not set'} now"


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _told(config: Config) -> str:
    return ", ".join(arm.name for arm in build_arms(config))


def _lasting(config: Config, now: Config) -> Config:
    """`config` with what may change, or is looked at on its own, taken from `now`."""
    free: dict[str, object] = {name: getattr(now, name) for name in (*_FREE, "finetune")}
    if config.serving is not None and now.serving is not None:
        free["serving"] = now.serving
    free["provider"] = {}
    free["providers"] = {
        address: dict(registry.output_settings(address, config.settings_of(address)))
        for address in config.addresses
    }
    free["evaluation"] = config.evaluation.model_copy(update={"batch": now.evaluation.batch})
    return config.model_copy(update=free)


def _has_batches(store: Store, config: Config) -> bool:
    return any(store.batches(address) for address in config.addresses)


def _finetune_faults(store: Store, before: Config, now: Config) -> list[str]:
    """The settings of [finetune] that may not change any more, each with the reason."""
    old, new = before.finetune.model_dump(), now.finetune.model_dump()
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
            why = "it is the shape of adapters that are there and trained on"
        if why is not None:
            faults.append(f"finetune.{key}: stored {old[key]!r}, now {new[key]!r} ({why})")
    return faults


def _too_late(store: Store, jobs: list[Job], now: Config) -> str | None:
    """Why no training lies ahead that [finetune] could still be changed for, if so."""
    if any(job.settings is None and job.status not in ("failed", "cancelled") for job in jobs):
        return "jobs that an earlier version has made do not say what they were trained with"
    last = max(job.iteration for job in jobs)
    states = _states(jobs, last, now)
    if "failed" in states.values() or _came_to_nothing(store, jobs, last):
        return None
    owners = {
        (arm.name, agent, role)
        for arm in build_arms(now)
        if arm.trained_in(last)
        for agent, role in tuned_roles(arm)
    }
    if open_jobs := owners - {owner for owner, state in states.items() if state == "over"}:
        return (
            f"the training of iteration {last} has begun, {len(open_jobs)} of its {len(owners)} "
            "jobs are not over, and none has failed; let them end first"
        )
    if now.iterations > last:
        return None
    return f"the training is over: {len(owners)} jobs of iteration {last} were made with it"


def _states(jobs: list[Job], iteration: int, config: Config) -> dict[tuple[str, int, str], str]:
    """What has come of each owner's jobs in an iteration: "over", "open" or "failed".

    A job that ran in a process which has ended is not open.
    """
    found: dict[tuple[str, int, str], str] = {}
    for job in (job for job in jobs if job.iteration == iteration):
        owner = (job.arm, job.agent, job.role)
        if job.status in _OVER:
            found[owner] = "over"
        elif found.get(owner) != "over":
            here = registry.info(config.base_address(job.agent)).in_process
            is_open = job.status not in _ENDED and not here
            found[owner] = "open" if is_open or found.get(owner) == "open" else "failed"
    return found


def _came_to_nothing(store: Store, jobs: list[Job], iteration: int) -> bool:
    """Whether nothing could be trained in an iteration, and nothing was built upon that."""
    own = [job for job in jobs if job.iteration == iteration]
    return all(job.status == "skipped" and not is_final(job) for job in own) and not any(
        is_evaluated(store, iteration, job.arm) for job in own
    )
