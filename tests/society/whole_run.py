"""A whole run of an experiment file in this process, and what its database holds."""

import asyncio

from society.config import load as experiments
from society.method.experiment import resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store


def start(tmp_path, experiment, *overrides, name="run", observe=lambda event: None):
    """Run to the end, or to the error of `observe`; returns the run's folder."""
    config = experiments.load_config(str(experiment), overrides)
    folder = folders.locate_run(tmp_path / "runs", name)
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, observe))
    return folder


def rows(folder, sql):
    """What a query gives on the run's database."""
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)
