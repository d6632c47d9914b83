"""Trying an adapter at running servers before a run: one of the run's own shape, untrained.

Only a real one shows what a server takes. It is loaded from where trained ones will lie, asked for
one token, and unloaded; nothing of it stays, at the server or on the disk.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from providers import registry
from providers.answer_server import AnswerServer
from providers.base import Settings
from providers.errors import InvalidSettings, ProviderError, RetryableError
from providers.replica import TRIAL, Replica
from providers.types import Finding, Hyperparameters

_PATIENCE_S = 60.0
_TOKEN_BYTES = 3


@dataclass(frozen=True, slots=True)
class AdapterMaker:
    """What trains the adapters that servers answer with: the provider at `address`, by `recipes`.

    maker = AdapterMaker("embedded:", {}, [Hyperparameters(lora_rank=8)])
    """

    address: str
    settings: Settings
    recipes: Sequence[Hyperparameters]


async def try_adapters(
    maker: AdapterMaker, servers: Sequence[AnswerServer], workdir: Path
) -> list[list[Finding]]:
    """What each server says to adapters like those of `maker`, which go to `workdir`.

    The base's weights are not loaded for them. Raises no `ProviderError`.
    """
    found: list[list[Finding]] = [[] for _ in servers]
    # Recipes that differ in how long they train make adapters of one shape.
    for recipe in {recipe.lora: recipe for recipe in maker.recipes}.values():
        for findings, finding in zip(
            found, await _try_shape(maker, recipe, servers, workdir), strict=False
        ):
            findings.append(finding)
    return found


async def _try_shape(
    maker: AdapterMaker, recipe: Hyperparameters, servers: Sequence[AnswerServer], workdir: Path
) -> list[Finding]:
    try:
        # One folder for all servers: trained adapters will be read from one place, too.
        with _make_folder(workdir) as folder:
            write = registry.write_trial_adapter
            written = await asyncio.to_thread(write, maker.address, maker.settings, recipe, folder)
            if not written:
                return []
            trials = (_try_at(server, folder, recipe) for server in servers)
            return list(await asyncio.gather(*trials))
    except (ProviderError, OSError) as error:
        # What cannot be made by the files alone may be made by training all the same.
        text = f"no adapter could be made to try here: {error}"
        finding = Finding("warning", text, "the run tries one before its first question")
        if isinstance(error, InvalidSettings):
            finding = Finding("error", text)
        return [finding] * len(servers)


async def _try_at(server: AnswerServer, folder: Path, recipe: Hyperparameters) -> Finding:
    shape = f"an untrained adapter of rank {recipe.lora_rank}"
    provider = registry.connect(server.address, server.settings, folder.parent)
    # The user waits at the terminal, and a run would wait for ten minutes.
    quick = provider.with_deadline(_PATIENCE_S)
    replica = Replica(server, quick, quick.adapter_server(), folder.parent)
    try:
        tried = await replica.try_adapter(folder.name)
    except RetryableError as error:
        remedy = "ask again when the server is well"
        return Finding("warning", f"{shape} cannot be tried now: {error}", remedy)
    except ProviderError as error:
        return Finding("error", f"{shape} is not taken: {error}")
    finally:
        await asyncio.gather(replica.close(), provider.close())
    if not tried:
        return Finding("ok", "it has adapters of this run, so no other is tried")
    return Finding("ok", f"{shape} was loaded, answered and was unloaded")


@contextmanager
def _make_folder(workdir: Path) -> Iterator[Path]:
    """A folder among those of the models; it goes again, with those that were made for it."""
    workdir = workdir.resolve()
    made = [each for each in (workdir, *workdir.parents) if not each.exists()]
    # Not of `tempfile`, whose folders other users cannot read, such as the server's.
    workdir.mkdir(parents=True, exist_ok=True)
    folder = workdir / f"{TRIAL}-{secrets.token_hex(_TOKEN_BYTES)}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for each in made:
            # A run that begins meanwhile has put something there.
            with suppress(OSError):
                each.rmdir()
