"""Retraining the models of a run whose files are missing or changed.

The store has everything that a training needs: the examples, the settings, the seed and the model
to start from. Damaged folders are renamed, not removed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from providers.artifact import set_aside, verify
from providers.base import Provider
from providers.errors import ModelDamaged, ModelNotFound, TrainingFailed
from providers.types import FinetuneSpec, JobState
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.averaging import rebuild_average
from society.method.connections import Connections
from society.method.progress import Note, Observer, StageAdvanced, StageFinished, StageStarted
from society.runs.cancel import UnknownJob, rebuild_spec
from society.runs.folder import RunFolder
from store.ledger import Store
from store.records import Model

_POLL_S = 0.2


def find_damaged(store: Store, models: Path) -> list[Model]:
    """The models trained into the folder `models` whose files are missing or changed.

    Parents come before their children.
    """
    # What a server keeps is named by an address, not by a folder.
    trained = [
        m for m in store.models() if m.artifact and "://" not in m.artifact and m.sha256 is not None
    ]
    return sorted(
        (model for model in trained if not _is_whole(models / str(model.artifact), model)),
        # A child starts from its parent's files, so parents come first; an average is made of the
        # models of its own iteration too.
        key=lambda model: (model.iteration or 0, model.job_id is None, model.model_id),
    )


async def retrain(folder: RunFolder, config: Config, store: Store, observer: Observer) -> None:
    """Retrain every damaged model of the run as it was trained before.

    On another machine, or with other library versions, a model may come out with other bits; the
    store then gets its new hash. Raises `ConfigError` if the run's settings no longer describe a
    training, and the providers' errors; models retrained until then stay.
    """
    damaged = find_damaged(store, folder.models)
    if not damaged:
        observer(Note("every tuned model is intact; none is retrained"))
        return
    # Fail before the first training, not after hours of it.
    _describe_all(folder, config, store, damaged)
    started = time.monotonic()
    observer(StageStarted(damaged[0].iteration or 0, "retrain", "models", len(damaged), 0))
    connections = Connections.open(config, folder.models)
    try:
        for number, model in enumerate(damaged, start=1):
            observer(Note(await _retrain_model(folder, config, store, connections, model)))
            observer(StageAdvanced(number))
    finally:
        await connections.close()
    observer(StageFinished(time.monotonic() - started))


def _is_whole(path: Path, model: Model) -> bool:
    try:
        verify(path, model.sha256)
    except (ModelDamaged, ModelNotFound):
        return False
    return True


def _describe_all(
    folder: RunFolder, config: Config, store: Store, damaged: Sequence[Model]
) -> None:
    """Raise `ConfigError` before any training if one of them cannot be described."""
    for model in damaged:
        if rebuild_average(store, model.model_id) is None:
            _describe(folder, config, store, model)


def _describe(folder: RunFolder, config: Config, store: Store, model: Model) -> FinetuneSpec:
    job = store.job(str(model.job_id))
    try:
        if job is None:
            raise UnknownJob(f"the store has no job {model.job_id!r}")
        return rebuild_spec(store, config, folder.name, job)
    except UnknownJob as error:
        raise ConfigError(
            f"model {model.model_id} cannot be retrained ({error}); restore the folder "
            f"{folder.models / str(model.artifact)} from a copy, or start a new run"
        ) from None


async def _retrain_model(
    folder: RunFolder, config: Config, store: Store, connections: Connections, model: Model
) -> str:
    """Retrain one model, or average it anew; returns a message for the user."""
    average = rebuild_average(store, model.model_id)
    spec = None if average else _describe(folder, config, store, model)
    # The damaged files are kept: they may be all that is left of an edited model.
    path = folder.models / str(model.artifact)
    aside = f", its old folder is {set_aside(path).name}" if path.exists() else ""
    if average is not None:
        made = await connections[model.provider].average_models(average)
        sha256, done = made.model.sha256, "averaged again"
    else:
        assert spec is not None
        state = await _await_job(connections[spec.start.address], spec)
        if state.artifact_sha256 is None:
            reason = state.error or state.raw_status
            raise TrainingFailed(f"model {model.model_id} could not be retrained: {reason}")
        sha256, done = state.artifact_sha256, "retrained"
    # The new hash must be stored, or the next start would call the retrained model damaged.
    store.write(replace(model, sha256=sha256))
    same = sha256 == model.sha256
    bits = "the same bits as before" if same else "other bits than before; stored answers stay"
    return f"model {model.model_id} is {done}, with {bits}{aside}"


async def _await_job(provider: Provider, spec: FinetuneSpec) -> JobState:
    handle = await provider.submit(spec)
    while True:
        state = await provider.poll(handle)
        if state.done:
            return state
        # A provider may ask for slower polling than the local trainer needs.
        await asyncio.sleep(max(_POLL_S, provider.capabilities.poll_s))
