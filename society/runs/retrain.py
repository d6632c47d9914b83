"""Training again the models whose files are missing or changed.

The store has everything that a training needs: the examples, the settings, the seed and the model
it starts from. The folders that are damaged are set aside, not removed.
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
from society.method.connections import Connections
from society.method.progress import Note, Observer, StageAdvanced, StageFinished, StageStarted
from society.runs.cancel import Unrecognized, description
from society.runs.folder import RunFolder
from store.ledger import Store
from store.records import Model

_POLL_S = 0.2


def find_damaged(store: Store, models: Path) -> list[Model]:
    """The models of a run that were trained into the folder `models` and are not there as they
    were, parents before their children."""
    trained = [m for m in store.models() if m.artifact is not None and m.sha256 is not None]
    return sorted(
        (model for model in trained if not _is_whole(models / str(model.artifact), model)),
        key=lambda model: (model.iteration or 0, model.model_id),
    )


async def retrain(folder: RunFolder, config: Config, store: Store, observer: Observer) -> None:
    """Train every damaged model of the run again, as it was trained before.

    The store gets the hash of a model that came out with other bits, as on another machine or with
    other library versions. Raises `ConfigError` where the run's settings do not give a training
    any more, and the providers' errors; what is trained until then stays.
    """
    damaged = find_damaged(store, folder.models)
    if not damaged:
        observer(Note("every tuned model is as it was trained; none is trained again"))
        return
    _describe_all(folder, config, store, damaged)
    started = time.monotonic()
    observer(StageStarted(damaged[0].iteration or 0, "retrain", "models", len(damaged), 0))
    connections = Connections.open(config, folder.models)
    try:
        for number, model in enumerate(damaged, start=1):
            observer(Note(await _train_again(folder, config, store, connections, model)))
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
    """Raise `ConfigError` before anything is trained where one training cannot be described."""
    for model in damaged:
        _describe(folder, config, store, model)


def _describe(folder: RunFolder, config: Config, store: Store, model: Model) -> FinetuneSpec:
    job = store.job(str(model.job_id))
    try:
        if job is None:
            raise Unrecognized(f"the store has no job {model.job_id!r}")
        return description(store, config, folder.name, job)
    except Unrecognized as error:
        raise ConfigError(
            f"model {model.model_id} cannot be trained again ({error}); put the folder "
            f"{folder.models / str(model.artifact)} back from a copy, or start a new run"
        ) from None


async def _train_again(
    folder: RunFolder, config: Config, store: Store, connections: Connections, model: Model
) -> str:
    """Train one model again; returns what became of it, for the user."""
    spec = _describe(folder, config, store, model)
    path = folder.models / str(model.artifact)
    aside = f", its old folder is {set_aside(path).name}" if path.exists() else ""
    state = await _follow(connections[spec.start.address], spec)
    if state.artifact_sha256 is None:
        reason = state.error or state.raw_status
        raise TrainingFailed(f"model {model.model_id} could not be trained again: {reason}")
    store.write(replace(model, sha256=state.artifact_sha256))
    same = state.artifact_sha256 == model.sha256
    bits = "the same bits as before" if same else "other bits than before; stored answers stay"
    return f"model {model.model_id} is trained again, with {bits}{aside}"


async def _follow(provider: Provider, spec: FinetuneSpec) -> JobState:
    handle = await provider.submit(spec)
    while True:
        state = await provider.poll(handle)
        if state.done:
            return state
        await asyncio.sleep(max(_POLL_S, provider.capabilities.poll_s))
