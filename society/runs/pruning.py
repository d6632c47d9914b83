"""What of a run's models is not needed any more, and its removal: `society prune`.

Kept are the models of every arm's society, chosen or last, and those of its last iteration, with
which a finished run can be extended. Transcripts, votes and lineage stay in the database; a model
of this machine that was removed can be trained again by `society run … --retrain`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO

from evals import choices, stored_run
from providers import registry
from providers.artifact import get_hidden_path
from providers.base import AdapterServer, Provider
from providers.errors import ProviderError
from providers.gathering import gather_or_cancel
from providers.replica import list_own_adapters
from providers.types import ModelRef
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.finetuning import read_tuned_models
from society.runs.folder import RunFolder
from society.runs.listing import measure_size
from society.runs.tuned_models import is_local, is_remote
from society.terminal.output import write_line
from society.terminal.size import format_size
from society.terminal.table import write_rows
from store.ledger import Store
from store.records import Model, utc_now

Kind = Literal["model", "leftover", "deployment", "vendor model", "loaded adapter"]

_REMOTE: tuple[Kind, ...] = ("loaded adapter", "deployment", "vendor model")
_ORDER: tuple[Kind, ...] = (*_REMOTE, "model", "leftover")
_RECORD = "pruned.jsonl"
_CALL_S = 20.0
_AT_ONCE = 4
# What trainings leave beside a model: see `providers.artifact.get_hidden_path`.
_LEFTOVERS = ("partial", "damaged", "checkpoint", "fetched")


@dataclass(frozen=True, slots=True)
class PruneChoice:
    """What is kept. `iterations`: the societies of these, too. `everything`: nothing is.

    `unfinished` treats a run that can be resumed as if it had finished. `local`: vendors and
    servers are left alone.
    """

    iterations: tuple[int, ...] = ()
    everything: bool = False
    unfinished: bool = False
    local: bool = False


@dataclass(frozen=True, slots=True)
class PrunedItem:
    """One thing to remove: `name` at `place`, a folder or the address of a vendor or server.

    `bytes` is its size on this disk, 0 elsewhere.
    """

    kind: Kind
    name: str
    place: str
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What would be removed, what is kept and why, and notes about what could not be looked at."""

    run: str
    items: tuple[PrunedItem, ...]
    kept: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """What it frees on this disk."""
        return sum(item.bytes for item in self.items)


async def plan_pruning(folder: RunFolder, store: Store, choice: PruneChoice) -> PrunePlan:
    """Find what a run does not need any more; asks its servers, and changes nothing.

    Raises `ConfigError` for an iteration that no arm has evaluated, and `NothingStored`.
    """
    run = stored_run.load_run(store)
    config = Config.from_json(run.config)
    finished = run.finished_at is not None or choice.unfinished
    kept = _list_kept(store, choice, finished=finished)
    spare = [model for model in _list_tuned(store) if model.model_id not in kept]
    items = [*_find_folders(folder, spare)]
    notes: list[str] = []
    if finished:
        items += _find_leftovers(folder)
    else:
        notes.append(
            "the run has not finished, and resuming it may need every model: finish it, or add "
            "--unfinished to prune it as it is"
        )
    if not choice.local:
        done = _read_record(folder)
        remote = [model for model in spare if is_remote(model) and model.model_id not in done]
        for found, failed in await gather_or_cancel(
            [
                *(_look_at_vendor(folder, config, *each) for each in _by_address(remote).items()),
                *(_look_at_server(folder, config, n) for n in range(_count_servers(config))),
            ],
            _AT_ONCE,
        ):
            items += found
            notes += failed
    return PrunePlan(folder.name, tuple(items), tuple(kept.items()), tuple(notes))


async def prune(
    folder: RunFolder, store: Store, plan: PrunePlan, tell: Callable[[str], None]
) -> list[tuple[PrunedItem, str]]:
    """Remove everything in `plan`; returns what could not be removed, each with the reason.

    `tell` gets a line for each thing that is removed.
    """
    config = Config.from_json(stored_run.load_run(store).config)
    refs = {model.model_id: _refer(model) for model in _list_tuned(store)}
    failures: list[tuple[PrunedItem, str]] = []
    # In order: a deployed model cannot be deleted, nor should a server lose files that it has.
    for kind in _ORDER:
        places: dict[str, list[PrunedItem]] = {}
        for item in plan.items:
            if item.kind == kind:
                places.setdefault(item.place if kind in _REMOTE else "", []).append(item)
        for place, items in places.items():
            removal = _Removal(folder, config, refs, items, tell)
            failures += await removal.carry_out(place)
    return failures


def describe_item(item: PrunedItem) -> str:
    """One thing to remove, in a line."""
    return f"{item.kind} {item.name} ({item.place})"


def _list_tuned(store: Store) -> list[Model]:
    return [model for model in store.models() if model.artifact is not None]


def _list_kept(store: Store, choice: PruneChoice, *, finished: bool) -> dict[str, str]:
    """The models that stay, by id, each with the reason."""
    if not finished:
        return {model.model_id: "needed to resume the run" for model in _list_tuned(store)}
    arms = [arm.name for arm in stored_run.read_arms(store) if arm.trained]
    there = {arm: choices.list_evaluated(store, arm) for arm in arms}
    for iteration in choice.iterations:
        if not any(iteration in found for found in there.values()):
            known = sorted({each for found in there.values() for each in found})
            raise ConfigError(
                f"--keep {iteration}: no such society has been evaluated "
                f"(there: {', '.join(map(str, known)) or 'none yet'})"
            )
    kept: dict[str, str] = {}
    for arm in arms if not choice.everything else ():
        reasons = {choices.find_society(store, arm): "the society that answers"}
        reasons.setdefault(max(there[arm], default=0), "the last one")
        for iteration in choice.iterations:
            reasons.setdefault(iteration, "as you say")
        for iteration, reason in reasons.items():
            for model in read_tuned_models(store, iteration, arm).values():
                kept.setdefault(model.model_id, f"{arm}, iteration {iteration}: {reason}")
    return kept


def _find_folders(folder: RunFolder, models: Iterable[Model]) -> Iterable[PrunedItem]:
    home = folder.models.resolve()
    for model in models:
        if not is_local(model):
            continue
        path = (folder.models / str(model.artifact)).resolve()
        # An imported record could name any folder: only those of this run are removed.
        if path.parent == home and path.is_dir():
            yield PrunedItem("model", model.model_id, str(path), measure_size(path))


def _find_leftovers(folder: RunFolder) -> Iterable[PrunedItem]:
    """What interrupted or repeated trainings have left, which a finished run does not read."""
    for path in sorted(folder.models.glob(".*")):
        if any(f".{word}" in path.name[1:] for word in _LEFTOVERS):
            size = measure_size(path) if path.is_dir() else path.lstat().st_size
            yield PrunedItem("leftover", path.name, str(path), size)


def _by_address(models: Iterable[Model]) -> dict[str, list[Model]]:
    found: dict[str, list[Model]] = {}
    for model in models:
        found.setdefault(model.provider, []).append(model)
    return found


async def _look_at_vendor(
    folder: RunFolder, config: Config, address: str, models: Sequence[Model]
) -> tuple[list[PrunedItem], list[str]]:
    items: list[PrunedItem] = []
    try:
        async with _connect(folder, config, address) as provider:
            refs = [_refer(model) for model in models]
            if provider.capabilities.deployments:
                names = {str(model.artifact): model.model_id for model in models}
                items += [
                    PrunedItem("deployment", names[found.artifact], address)
                    for found in await provider.list_deployments(refs)
                ]
            if not provider.capabilities.delete_model:
                return items, [
                    f"{address} deletes no models through its API; {len(models)} of this run are "
                    f"left there: {', '.join(str(model.artifact) for model in models)}"
                ]
    except ProviderError as error:
        return items, [f"{address} could not be asked: {error}"]
    return [*items, *(PrunedItem("vendor model", m.model_id, address) for m in models)], []


async def _look_at_server(
    folder: RunFolder, config: Config, number: int
) -> tuple[list[PrunedItem], list[str]]:
    """The adapters of the run that one of its servers has loaded. They are loaded again when the
    run asks them."""
    assert config.serving is not None
    server = config.serving.list_servers()[number]
    try:
        async with _open_server(folder, config, server.address) as adapters:
            loaded = await list_own_adapters(server, adapters, folder.models)
    except ProviderError as error:
        return [], [f"{server.address} could not be asked: {error}"]
    return [PrunedItem("loaded adapter", each.name, server.address) for each in loaded], []


def _count_servers(config: Config) -> int:
    # A server that the run starts itself ends with it.
    if config.serving is None or config.serving.engine is not None:
        return 0
    return len(config.serving.list_servers())


class _Removal:
    """The removal of things of one kind at one place, over one connection."""

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        models: Mapping[str, ModelRef],
        items: Sequence[PrunedItem],
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._config, self._models = folder, config, models
        self._items, self._tell = items, tell
        self.failures: list[tuple[PrunedItem, str]] = []

    async def carry_out(self, place: str) -> list[tuple[PrunedItem, str]]:
        """Remove the things at `place`; returns those that could not be removed, and why."""
        try:
            match self._items[0].kind:
                case "loaded adapter":
                    async with _open_server(self._folder, self._config, place) as adapters:
                        # The list tells which of the two kinds of server it is.
                        await adapters.list_loaded()
                        await self._each(lambda item: adapters.unload(item.name))
                case "deployment":
                    async with _connect(self._folder, self._config, place) as provider:
                        await self._each(lambda item: self._undeploy(provider, item))
                case "vendor model":
                    async with _connect(self._folder, self._config, place) as provider:
                        await self._each(lambda item: provider.delete_model(self._find(item)))
                case _:
                    await self._each(lambda item: asyncio.to_thread(_remove_path, Path(item.place)))
        except ProviderError as error:
            # Without a connection nothing at this place can be removed.
            self.failures += [(item, str(error)) for item in self._items]
        return self.failures

    async def _each(self, remove: Callable[[PrunedItem], Awaitable[None]]) -> None:
        for item in self._items:
            try:
                await remove(item)
            except (ProviderError, OSError) as error:
                self.failures.append((item, str(error)))
            else:
                _record_removal(self._folder, item)
                self._tell(f"removed: {describe_item(item)}")

    async def _undeploy(self, provider: Provider, item: PrunedItem) -> None:
        for deployment in await provider.list_deployments([self._find(item)]):
            await provider.delete_deployment(deployment)

    def _find(self, item: PrunedItem) -> ModelRef:
        return self._models[item.name]


def _remove_path(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    # Renamed first: a removal that is cut off must not leave half a model in its place.
    if not path.name.startswith("."):
        path = path.rename(get_hidden_path(path, "partial"))
    shutil.rmtree(path)


def _refer(model: Model) -> ModelRef:
    return ModelRef(model.model_id, model.provider, model.artifact, model.sha256)


@asynccontextmanager
async def _connect(folder: RunFolder, config: Config, address: str) -> AsyncIterator[Provider]:
    provider = registry.connect(address, config.settings_of(address), folder.models)
    # The first one has sent nothing, so there is nothing to close.
    provider = provider.with_deadline(_CALL_S)
    try:
        yield provider
    finally:
        await provider.close()


@asynccontextmanager
async def _open_server(
    folder: RunFolder, config: Config, address: str
) -> AsyncIterator[AdapterServer]:
    assert config.serving is not None
    provider = registry.connect(address, config.serving.settings, folder.models)
    provider = provider.with_deadline(_CALL_S)
    adapters = provider.adapter_server()
    try:
        yield adapters
    finally:
        await asyncio.gather(adapters.close(), provider.close())


def _record_removal(folder: RunFolder, item: PrunedItem) -> None:
    """Remember it: what a vendor has deleted would be looked for again otherwise."""
    line = json.dumps({**asdict(item), "removed_at": utc_now().isoformat()})
    with (folder.path / _RECORD).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _read_record(folder: RunFolder) -> set[str]:
    """The ids of the vendors' models that were removed earlier."""
    try:
        lines = (folder.path / _RECORD).read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found: set[str] = set()
    for line in lines:
        # A line that was cut off by a full disk says nothing; its removal is done again.
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["kind"] == "vendor model":
                found.add(str(entry["name"]))
    return found


def describe_pruning(
    plan: PrunePlan, failures: Sequence[tuple[PrunedItem, str]], *, removed: bool
) -> dict[str, object]:
    """The plan and its outcome as one object for programs; `removed`: it was carried out."""
    reasons = dict(failures)
    return {
        "run": plan.run,
        "removed": removed,
        "bytes": plan.bytes,
        "items": [asdict(item) | {"error": reasons.get(item)} for item in plan.items],
        "kept": [{"model": name, "reason": reason} for name, reason in plan.kept],
        "notes": list(plan.notes),
    }


def show_plan(plan: PrunePlan, stream: TextIO) -> None:
    """Print what would be removed, and how much room that makes."""
    if plan.items:
        rows = [
            (item.kind, item.name, item.place, format_size(item.bytes) if item.bytes else None)
            for item in plan.items
        ]
        write_rows(("to remove", "name", "where", "size"), rows, "table", stream)
    freed = f"{len(plan.items)} to remove, {format_size(plan.bytes)} on this disk"
    write_line(stream, f"{freed if plan.items else 'nothing to remove'}; {len(plan.kept)} kept")
    for note in plan.notes:
        write_line(stream, f"note: {note}")
