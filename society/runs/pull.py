"""Bringing a run's tuned models from the server that keeps them to folders that PEFT reads."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evals import stored_run
from providers import registry
from providers.artifact import get_hidden_path, publish_folder
from providers.base import Provider
from providers.errors import ModelDamaged, StorageFailed
from providers.gathering import gather_or_cancel
from providers.types import ModelRef
from society.config.schema import Config
from society.runs.folder import RunFolder
from society.runs.tuned_models import is_remote
from store.ledger import Store
from store.records import Model

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A tuned model's folder; `new` says whether it was fetched now."""

    model_id: str
    path: Path
    new: bool


async def pull_models(
    folder: RunFolder, out: Path, iteration: int | None, tell: Callable[[str], None]
) -> list[PulledModel]:
    """Fetch the run's tuned models, of one iteration or all, into folders of `out`.

    Models that were trained on this machine, and folders that are there, are left alone. `tell`
    gets a line for each model. Raises `Unsupported` for a vendor that gives none out, and what
    `Provider.download_model` raises.
    """
    with Store.open(folder.database, read_only=True) as store:
        config = Config.from_json(stored_run.load_run(store).config)
        tuned = [model for model in store.models(iteration) if is_remote(model)]
    by_address: dict[str, list[Model]] = {}
    for model in tuned:
        by_address.setdefault(model.provider, []).append(model)
    pulled: list[PulledModel] = []
    for address, models in by_address.items():
        provider = registry.connect(address, config.settings_of(address), folder.models)
        try:
            there = [model for model in models if (out / model.model_id).exists()]
            pulled += [PulledModel(m.model_id, out / m.model_id, new=False) for m in there]
            works = [_pull(provider, m, out / m.model_id, tell) for m in models if m not in there]
            pulled += await gather_or_cancel(works, _AT_ONCE)
        finally:
            await provider.close()
    return pulled


async def _pull(
    provider: Provider, model: Model, path: Path, tell: Callable[[str], None]
) -> PulledModel:
    fetched = get_hidden_path(path, "fetched")
    await provider.download_model(
        ModelRef(model.model_id, model.provider, model.artifact, model.sha256), fetched
    )
    try:
        sha256 = await asyncio.to_thread(publish_folder, path, partial(_fill, model, fetched))
    except OSError as error:
        raise StorageFailed(
            f"{model.model_id!r} cannot be written to {str(path.parent)!r}: {error}; free some "
            "space there, or name another folder with --out"
        ) from error
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    if model.sha256 not in (None, sha256):
        shutil.rmtree(path)
        raise ModelDamaged(
            f"what {model.provider} delivered for {model.model_id!r} is not what was stored at the "
            "end of its training; was it replaced there? Start a new run"
        )
    tell(f"{model.model_id}: {path}")
    return PulledModel(model.model_id, path, new=True)


def _fill(model: Model, fetched: Path, folder: Path) -> Mapping[str, object]:
    """Move the files into the folder that is published; what its manifest says of them."""
    for file in fetched.iterdir():
        file.replace(folder / file.name)
    return {
        "digest": model.job_id,
        "name": model.model_id,
        "base": model.provider,
        "artifact": model.artifact,
        "parent": model.parent_id,
        "dataset": model.dataset_id,
        "job": model.job_id,
    }
