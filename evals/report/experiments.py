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
_OWN = {"seed", "seeds", "name", "sweep", "budget_usd", "prices"}


class SameRun(ValueError):
    """A run was named twice."""


@dataclass(frozen=True, slots=True)
class Source:
    """One run: one seed of its experiment. `settings` is the whole config, flattened."""

    store: Store
    name: str
    seed: int
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


@dataclass(frozen=True, slots=True)
class Experiment:
    """Runs that share everything but the seed, by seed."""

    label: str
    sources: tuple[Source, ...]

    @property
    def stores(self) -> list[Store]:
        return [source.store for source in self.sources]

    @property
    def first(self) -> Source:
        return self.sources[0]

    @property
    def arms(self) -> tuple[ArmSettings, ...]:
        return self.first.arms

    @property
    def main(self) -> ArmSettings:
        return stored_run.choose_main_arm(self.arms)


def group(stores: Sequence[Store]) -> list[Experiment]:
    """The experiments in the order of their first run.

    Raises `NothingStored` for a store without a run, `SameRun`, and ValueError for no store.
    """
    if not stores:
        raise ValueError("a report needs at least one run")
    twice = [path for path, times in Counter(store.path for store in stores).items() if times > 1]
    if twice:
        raise SameRun(f"{twice[0].parent.name} is named twice; name every run once")
    together: defaultdict[str, list[Source]] = defaultdict(list)
    for store in stores:
        run = stored_run.load_run(store)
        config = json.loads(run.config)
        key = {name: value for name, value in config.items() if name not in _OWN}
        together[json.dumps(key, sort_keys=True)].append(_source(store, config))
    labels = _labels([[source.name for source in found] for found in together.values()])
    return [
        Experiment(label, tuple(sorted(found, key=lambda source: (source.seed, source.name))))
        for label, found in zip(labels, together.values(), strict=True)
    ]


def differing(experiments: Sequence[Experiment]) -> list[tuple[str, tuple[str, ...]]]:
    """The settings, seeds apart, that are not the same in all experiments: one value for each."""
    tables = [dict(experiment.first.settings) for experiment in experiments]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [(key, tuple(table.get(key, "–") for table in tables)) for key in keys]
    return [row for row in rows if len(set(row[1])) > 1 and row[0].split(".")[0] not in _OWN]


def _source(store: Store, config: dict[str, Any]) -> Source:
    run = stored_run.load_run(store)
    task = dict(config["task"])
    name = str(task.pop("name"))
    task.pop("curriculum", None)
    return Source(
        store,
        run.name,
        run.seed,
        run.finished_at,
        ", ".join(f"{key} {value}" for key, value in json.loads(run.versions).items()),
        tuple(_flat(config)),
        name,
        task,
        str(config["model"]),
        int(config["society"]["agents"]),
        int(config["society"]["rounds"]),
        float(config["sampling"]["temperature"]),
        tuple(stored_run.read_arms(store)),
    )


def _labels(groups: Sequence[Sequence[str]]) -> list[str]:
    found = [_label(names) for names in groups]
    times = Counter(found)
    return [
        label if times[label] == 1 else " + ".join(names)
        for label, names in zip(found, groups, strict=True)
    ]


def _label(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in alike)
    return re.sub(r"[-._ ]+((seeds?|s)[-._= ]*\d*)?$", "", shared) or names[0]


def _flat(value: object, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(value, dict) or not value:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return [(prefix, shown)]
    return [
        pair
        for key, inner in value.items()
        for pair in _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    ]
