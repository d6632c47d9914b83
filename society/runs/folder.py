"""A run is one folder: its database, its adapters, its config, its report.

runs/NAME/run.duckdb     every answer, vote, dataset, job and model
runs/NAME/models/        adapters trained by the local provider
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

from finetune.mixture import DEFAULT_W
from society.config.load import ConfigError
from society.config.schema import Config
from society.runs import provenance
from society.terminal import output
from store.errors import StoreLocked, StoreOutdated
from store.ledger import Store
from store.records import Run
from store.run_starts import RunStart

# Names become file names and parts of shell commands in messages, hence plain ones only.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where the parts of one run are.

    folder = find_run(Path("runs"), "demo")
    with Store.open(folder.database, read_only=True) as store: ...
    """

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
    def progress(self) -> Path:
        """What a running process writes about itself (`society.runs.status`)."""
        return self.path / "progress.json"

    @property
    def sweep(self) -> Path:
        """A sweep's folder has this file instead of a database."""
        return self.path / "sweep.json"


def locate_run(runs: Path, name: str) -> RunFolder:
    """The folder of run `name` under `runs`; raises `ConfigError` unless it is a plain name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"run name {name!r} is not usable: use up to 64 letters, digits, '.', '_' and '-', "
            "starting with a letter or digit, and no path"
        )
    if "?" in str(runs.resolve()):
        raise ConfigError(
            f"{runs.resolve()} cannot hold runs: DuckDB ends a path at '?'; rename that folder, or "
            "name another one with --runs"
        )
    return RunFolder(name, runs / name)


def find_run(runs: Path, name: str) -> RunFolder:
    """The folder of an existing run; raises `ConfigError` if there is none.

    A database of an earlier version of this software is migrated.
    """
    run = locate_run(runs, name)
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
    # Opening for writing migrates the file; readers then find the current schema.
    except StoreOutdated:
        Store.open(run.database).close()
    # A running process has the file; what wants to read it decides whether that is a problem.
    except StoreLocked:
        pass
    return run


def start_run(
    run: RunFolder, config: Config, tell: Callable[[str], None] = lambda text: None
) -> Store:
    """Open a new or existing run for writing; `tell` gets what the user should know.

    Settings that differ from the last start are recorded in `setting_changes`. Raises
    `ConfigError` if one of them may not change (`society.runs.provenance`), and the store's own
    errors for a file that is broken, newer or in use.
    """
    if run.sweep.is_file():
        raise ConfigError(f"{run.name!r} is a sweep; give this run another name with --name")
    run.path.mkdir(parents=True, exist_ok=True)
    beginning = provenance.describe_start(config)
    # From here on the file is locked, so no second process can start the same run.
    store = Store.open(run.database)
    try:
        stored = store.run()
        config = keep_stored_rules(config, stored)
        if stored is not None:
            before = Config.from_json(stored.config)
            provenance.check_setting_changes(run.name, run.config, store, before, config)
            store.write(*provenance.list_setting_changes(before, config))
            if store.log_is_missing:
                _tell_of_lost_log(run, tell)
            last = store.last_start()
            if last is not None:
                _check_server(run.name, config, last, beginning, tell)
                beginning = provenance.keep_known_servers(last, beginning, config)
            changed = provenance.list_version_changes(last or stored, beginning)
            if changed:
                _tell_of_changes(run.name, changed, tell)
        # After all checks: a refused start leaves no trace.
        store.record_start(beginning)
        store.write(_build_row(run, config, stored, beginning.versions))
        run.config.write_text(_to_toml(config), encoding="utf-8")
    except BaseException:
        store.close()
        raise
    return store


def prepare_run(run: RunFolder, config: Config) -> None:
    """Write a run's experiment into its folder, from which `society run` can start it."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.config.write_text(_to_toml(config), encoding="utf-8")


def check_start(run: RunFolder, config: Config) -> None:
    """Raise what `start_run` would raise for this config, and change nothing."""
    if not run.database.is_file():
        return
    try:
        with Store.open(run.database, read_only=True) as store:
            if store.running:
                raise StoreLocked(f"run {run.name!r} is running in another process")
            stored = store.run()
            if stored is not None:
                before, config = Config.from_json(stored.config), keep_stored_rules(config, stored)
                provenance.check_setting_changes(run.name, run.config, store, before, config)
    except StoreOutdated:
        # The settings are compared when `start_run` has migrated the database.
        return


def keep_stored_rules(config: Config, stored: Run | None) -> Config:
    """`config` with the run's own quorum and its rule for critics, unless it names others: a run
    has one rule throughout."""
    if stored is None:
        return config
    before, consensus, datasets = Config.from_json(stored.config), config.consensus, config.datasets
    if "quorum" not in consensus.model_fields_set:
        consensus = consensus.model_copy(update={"quorum": before.consensus.quorum})
    if "critics" not in datasets.model_fields_set:
        kept: dict[str, object] = {"critics": before.datasets.critics}
        # Before there was a choice, 0.5 was the share of files that name none.
        if before.datasets.critics == "sample" and datasets.w is None:
            kept["w"] = before.datasets.w if before.datasets.w == DEFAULT_W else None
        datasets = datasets.model_copy(update=kept)
    return config.model_copy(update={"consensus": consensus, "datasets": datasets})


def _check_server(
    name: str,
    config: Config,
    before: RunStart,
    now: RunStart,
    tell: Callable[[str], None],
) -> None:
    """Raise `ConfigError` if the run would be answered by another server than before."""
    other = provenance.describe_other_server(before, now)
    if other is None or config.serving is None:
        return
    said = f"run {name!r} was answered by another server until now: {other}"
    if not config.serving.allow_other_server:
        raise ConfigError(
            f"{said}. Its iterations could not be compared: give it the earlier server again, or "
            "allow this one by --set serving.allow_other_server=true"
        )
    tell(f"{said}; serving.allow_other_server allows it")


def _build_row(run: RunFolder, config: Config, stored: Run | None, versions: str) -> Run:
    text = config.to_json()
    return Run(
        name=run.name,
        config=text,
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        seed=config.seed,
        versions=versions,
        created_at=stored.created_at if stored else datetime.now(UTC),
        # A run whose settings have changed, such as more iterations, is not finished any more.
        finished_at=stored.finished_at if stored and stored.config == text else None,
    )


def _tell_of_lost_log(run: RunFolder, tell: Callable[[str], None]) -> None:
    tell(
        f"run {run.name}: {run.database} was copied while a run was writing to it, without its log "
        f"({run.database.name}.wal), so the newest rows are missing. Copy both files, or, while a "
        "run writes, make a whole copy with society export or society sql --snapshot"
    )


def _tell_of_changes(name: str, changed: list[str], tell: Callable[[str], None]) -> None:
    tell(
        f"run {name} resumes with other software than at its last start: {'; '.join(changed)}. "
        "From now on the same seed may give other answers; the table run_starts has the versions "
        "of each start"
    )


def _to_toml(config: Config) -> str:
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
