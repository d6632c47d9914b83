"""A run is one folder: its database, its adapters, its config, its report.

runs/NAME/run.duckdb     everything that was said, decided and trained
runs/NAME/models/        adapters that were trained in this process
runs/NAME/config.toml    the experiment as it was started, defaults filled in
runs/NAME/report.html    written at the end and by `society report`

A sweep is a folder too, with `sweep.json` in it; its members are runs beside it (`society.sweeps`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from society.config.load import ConfigError
from society.config.schema import Config
from society.runs import changes, provenance
from society.terminal import output
from store.errors import StoreLocked, StoreOutdated
from store.ledger import Store
from store.records import Run

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where the parts of one run are."""

    name: str
    path: Path

    @property
    def database(self) -> Path:
        return self.path / "run.duckdb"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def sweep(self) -> Path:
        """There, instead of a database, where the folder is that of a sweep."""
        return self.path / "sweep.json"


def folder(runs: Path, name: str) -> RunFolder:
    """The folder of run `name` under `runs`; raises `ConfigError` unless it is a plain name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"run name {name!r} is not usable: take up to 64 letters, digits, '.', '_' and '-', "
            "starting with a letter or digit, and no path"
        )
    if "?" in str(runs.resolve()):
        raise ConfigError(
            f"{runs.resolve()} cannot hold runs: DuckDB ends a path at '?'; rename that folder, or "
            "name another one with --runs"
        )
    return RunFolder(name, runs / name)


def existing(runs: Path, name: str) -> RunFolder:
    """Like `folder`, for a run that must be there already.

    A database of an earlier version of this software is brought up to date.
    """
    run = folder(runs, name)
    if not run.database.is_file():
        if run.sweep.is_file():
            members = sorted(p.parent.name for p in runs.glob(f"{name}.*/run.duckdb"))
            raise ConfigError(
                f"{name!r} is a sweep; name one of its runs: {', '.join(members) or 'none yet'}"
            )
        there = sorted(p.parent.name for p in runs.glob("*/run.duckdb"))
        known = ", ".join(there) if there else "none yet"
        raise ConfigError(f"no run {name!r} in {runs}/ (runs there: {known})")
    try:
        with Store.open(run.database, read_only=True) as store:
            if store.log_is_missing:
                _tell_of_lost_log(run, output.tell)
    except StoreOutdated:
        Store.open(run.database).close()
    except StoreLocked:
        pass
    return run


def start(run: RunFolder, config: Config, tell: Callable[[str], None] = lambda text: None) -> Store:
    """Open the run for writing, new or to be resumed; `tell` hears what the user should know.

    Settings that differ from those of the last start are kept in `setting_changes`. Raises
    `ConfigError` where one may not (`society.runs.changes`), and the store's own errors for a file
    that is broken, newer or in use.
    """
    if run.sweep.is_file():
        raise ConfigError(f"{run.name!r} is a sweep; give this run another name with --name")
    run.path.mkdir(parents=True, exist_ok=True)
    beginning = provenance.this_start()
    store = Store.open(run.database)
    try:
        stored = store.run()
        config = as_started(config, stored)
        if stored is not None:
            before = Config.from_json(stored.config)
            changes.require_allowed(run.name, run.config, store, before, config)
            store.write(*changes.changes(before, config))
            if store.log_is_missing:
                _tell_of_lost_log(run, tell)
            changed = provenance.changes(store.last_start() or stored, beginning)
            if changed:
                _tell_of_changes(run.name, changed, tell)
        store.record_start(beginning)
        store.write(_row(run, config, stored, beginning.versions))
        run.config.write_text(_toml(config), encoding="utf-8")
    except BaseException:
        store.close()
        raise
    return store


def prepare(run: RunFolder, config: Config) -> None:
    """Put a run's experiment into its folder, from which `society run` can start it."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.config.write_text(_toml(config), encoding="utf-8")


def check(run: RunFolder, config: Config) -> None:
    """Raise what `start` would raise for this config, and change nothing."""
    if not run.database.is_file():
        return
    try:
        with Store.open(run.database, read_only=True) as store:
            if store.running:
                raise StoreLocked(f"run {run.name!r} is going on in another process")
            stored = store.run()
            if stored is not None:
                before, config = Config.from_json(stored.config), as_started(config, stored)
                changes.require_allowed(run.name, run.config, store, before, config)
    except StoreOutdated:
        # What an earlier version has stored is compared once it is brought up to date.
        return


def as_started(config: Config, stored: Run | None) -> Config:
    """`config` with the quorum that the run was started with, where it names none of its own, so
    that a run has one rule throughout."""
    if stored is None or "quorum" in config.consensus.model_fields_set:
        return config
    quorum = Config.from_json(stored.config).consensus.quorum
    consensus = config.consensus.model_copy(update={"quorum": quorum})
    return config.model_copy(update={"consensus": consensus})


def _row(run: RunFolder, config: Config, stored: Run | None, versions: str) -> Run:
    text = config.to_json()
    return Run(
        name=run.name,
        config=text,
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        seed=config.seed,
        versions=versions,
        created_at=stored.created_at if stored else datetime.now(UTC),
        finished_at=stored.finished_at if stored and stored.config == text else None,
    )


def _tell_of_lost_log(run: RunFolder, tell: Callable[[str], None]) -> None:
    tell(
        f"run {run.name}: {run.database} was copied while a run was writing to it, without its log "
        f"({run.database.name}.wal): what was stored last is missing here. Copy both files, or, "
        "while a run writes, take a whole copy with society export or society sql --snapshot"
    )


def _tell_of_changes(name: str, changed: list[str], tell: Callable[[str], None]) -> None:
    tell(
        f"run {name} goes on under other software than at its last start: {'; '.join(changed)}. "
        "From here on the same seed may give other answers; run_starts has the versions of each "
        "start"
    )


def _toml(config: Config) -> str:
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
