"""Which runs belong together: runs that differ in nothing but their seed are one experiment."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any

from evals import stored_run
from evals.stored_run import ArmSettings
from store.ledger import Store

# What may differ between the seeds of one experiment.
_SEED_SETTINGS = {"seed", "seeds", "name", "sweep", "budget_usd", "prices"}


class SameRun(ValueError):
    """A run was named twice."""


@dataclass(frozen=True, slots=True)
class SeedRun:
    """One run: one seed of its experiment. `settings` is the whole config, flattened."""

    store: Store
    name: str
    seed: int
    started_at: datetime
    finished_at: datetime | None
    versions: str
    settings: tuple[tuple[str, str], ...]
    task: str
    task_options: Mapping[str, object]
    model: str
    agents: int
    rounds: int
    temperature: float
    arms: tuple[ArmSettings, ...]

    @property
    def seconds(self) -> float | None:
        """From the first start to the end, pauses included; None for a run that goes on."""
        if self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def tunes_fully(self) -> bool:
        """Whether its models are whole models, and no adapters."""
        return dict(self.settings).get("finetune.method") == "full"


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Runs that share everything but the seed, by seed."""

    label: str
    runs: tuple[SeedRun, ...]

    @property
    def stores(self) -> list[Store]:
        return [run.store for run in self.runs]

    @property
    def first(self) -> SeedRun:
        return self.runs[0]

    @property
    def arms(self) -> tuple[ArmSettings, ...]:
        return self.first.arms

    @property
    def main(self) -> ArmSettings:
        return stored_run.choose_main_arm(self.arms)


# Settings are compared as JSON with sorted keys: two files that order them differently are the
# same.
def group_runs(stores: Sequence[Store]) -> list[SeedGroup]:
    """The experiments in the order of their first run.

    Raises `NothingStored` for a store without a run, `SameRun`, and ValueError for no store.
    """
    if not stores:
        raise ValueError("a report needs at least one run")
    twice = [path for path, times in Counter(store.path for store in stores).items() if times > 1]
    if twice:
        raise SameRun(f"{twice[0].parent.name} is named twice; name every run once")
    by_settings: defaultdict[str, list[SeedRun]] = defaultdict(list)
    for store in stores:
        run = stored_run.load_run(store)
        config = json.loads(run.config)
        key = {name: value for name, value in config.items() if name not in _SEED_SETTINGS}
        by_settings[json.dumps(key, sort_keys=True)].append(_read_seed_run(store, config))
    labels = _label_groups([[run.name for run in found] for found in by_settings.values()])
    return [
        SeedGroup(label, tuple(sorted(found, key=lambda run: (run.seed, run.name))))
        for label, found in zip(labels, by_settings.values(), strict=True)
    ]


def list_differing_settings(groups: Sequence[SeedGroup]) -> list[tuple[str, tuple[str, ...]]]:
    """The settings that differ between experiments, seeds aside: one value for each experiment."""
    tables = [dict(group.first.settings) for group in groups]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [(key, tuple(table.get(key, "–") for table in tables)) for key in keys]
    return [
        row for row in rows if len(set(row[1])) > 1 and row[0].split(".")[0] not in _SEED_SETTINGS
    ]


def _read_seed_run(store: Store, config: dict[str, Any]) -> SeedRun:
    run = stored_run.load_run(store)
    task = dict(config["task"])
    name = str(task.pop("name"))
    for ours in ("curriculum", "mastery"):
        task.pop(ours, None)
    return SeedRun(
        store,
        run.name,
        run.seed,
        run.created_at,
        run.finished_at,
        ", ".join(f"{key} {value}" for key, value in json.loads(run.versions).items()),
        tuple(_flatten(config)),
        name,
        task,
        str(config["model"]),
        int(config["society"]["agents"]),
        int(config["society"]["rounds"]),
        float(config["sampling"]["temperature"]),
        tuple(stored_run.read_arms(store)),
    )


def _label_groups(groups: Sequence[Sequence[str]]) -> list[str]:
    found = [_label_group(names) for names in groups]
    times = Counter(found)
    return [
        label if times[label] == 1 else " + ".join(names)
        for label, names in zip(found, groups, strict=True)
    ]


def _label_group(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    # The common beginning of the names, without the "-s" or "-seed-1" that leads to the number.
    shared = "".join(letters[0] for letters in alike)
    return re.sub(r"[-._ ]+((seeds?|s)[-._= ]*\d*)?$", "", shared) or names[0]


def _flatten(value: object, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(value, dict) or not value:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return [(prefix, shown)]
    return [
        pair
        for key, inner in value.items()
        for pair in _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    ]
