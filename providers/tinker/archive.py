"""A trained adapter at the server: its archive as a folder that PEFT reads, and its deletion."""

from __future__ import annotations

import asyncio
import json
import shutil
import tarfile
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx

from providers.errors import ConnectionLost, StorageFailed, Unsupported, UnusableAnswer
from providers.tinker.connection import TinkerConnection
from providers.tinker.errors import AdapterGone, classify_answer
from providers.tinker.paths import sampler_path, split_path, state_path

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SUFFIX = ".lora_A.weight"
_PREFIX = "base_model.model."
_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
_TRIES = 5


async def download_adapter(connection: TinkerConnection, artifact: str, folder: Path) -> None:
    """Write the adapter saved as `artifact` into `folder`, which is made anew.

    Raises `ModelNotFound` if the server has it no longer, `ConnectionLost`, `StorageFailed`, and
    `UnusableAnswer` if the archive holds no adapter.

        await download_adapter(connection, "tinker://run/sampler_weights/final", Path("out"))
    """
    url = await _find_url(connection, artifact)
    try:
        with tempfile.TemporaryFile() as stream:
            await _fetch(connection, url, stream)
            await asyncio.to_thread(_unpack, stream, folder, connection)
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        raise StorageFailed(
            f"{artifact} cannot be written to {str(folder)!r}: {error}; free some space there, or "
            "make it writable"
        ) from error


async def delete_saved(connection: TinkerConnection, artifact: str) -> None:
    """Delete the weights saved as `artifact`, and the state of the same name, if they are there.

    The server bills both by their size until they are deleted. Raises `Unsupported` if it keeps
    them all the same.
    """
    for path in (sampler_path(artifact), state_path(artifact)):
        delete = partial(connection.rest.delete_checkpoint_from_tinker_path_async, path)
        with suppress(AdapterGone):
            await connection.call("a deletion", delete)
    run, name = split_path(artifact)
    list_saved = partial(connection.rest.list_checkpoints_async, run)
    # A server without deletions answers as for weights that are gone: only its list shows it.
    try:
        listed = await connection.call("a list", list_saved)
    except AdapterGone:
        return
    if any(split_path(str(each.tinker_path))[1] == name for each in listed.checkpoints):
        raise Unsupported(
            f"{connection.server} still has {artifact} after its deletion; delete it in the "
            "server's own folder"
        )


async def _find_url(connection: TinkerConnection, artifact: str) -> str:
    """The address of the archive, which some servers know by the name alone."""
    rest, (run, name) = connection.rest, split_path(artifact)
    path = sampler_path(artifact)
    try:
        found = await connection.call(
            "an archive", lambda: rest.get_checkpoint_archive_url_from_tinker_path_async(path)
        )
    except AdapterGone:
        found = await connection.call(
            "an archive", lambda: rest.get_checkpoint_archive_url_async(run, name)
        )
    return str(found.url)


async def _fetch(connection: TinkerConnection, url: str, stream: IO[bytes]) -> None:
    problem = ""
    for tries in range(_TRIES):
        stream.seek(0)
        stream.truncate()
        # Without the key: the address itself is the permission, and may be that of another host.
        async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=True) as client:
            try:
                async with client.stream("GET", url) as response:
                    if 400 <= response.status_code < 500:
                        text = (await response.aread()).decode(errors="replace")
                        detail = connection.secrets.quote(text)
                        raise classify_answer(response.status_code, detail, connection.server)
                    response.raise_for_status()
                    async for block in response.aiter_bytes():
                        stream.write(block)
                return
            except httpx.HTTPError as error:
                problem = connection.secrets.quote(str(error) or type(error).__name__)
        await asyncio.sleep(2.0**tries / 4)
    raise ConnectionLost(f"{connection.server} did not deliver an archive ({problem})")


def _unpack(stream: IO[bytes], folder: Path, connection: TinkerConnection) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream) as archive:
            for member in archive:
                # By the last part of its name: nothing is written outside the folder.
                name = Path(member.name).name
                if member.isfile() and name in (_CONFIG, _WEIGHTS):
                    content = archive.extractfile(member)
                    assert content is not None
                    with (folder / name).open("wb") as out:
                        shutil.copyfileobj(content, out)
    except tarfile.TarError as error:
        raise UnusableAnswer(
            f"what {connection.server} delivered is no archive: {error}"
        ) from error
    missing = [name for name in (_CONFIG, _WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise UnusableAnswer(
            f"the archive of {connection.server} has no {' and no '.join(missing)}"
        )
    _complete_config(folder, connection.model)


def _complete_config(folder: Path, base: str) -> None:
    """Add what PEFT needs and some servers leave out: the layers, by the names of the weights."""
    from safetensors import safe_open

    path = folder / _CONFIG
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    with safe_open(folder / _WEIGHTS, framework="pt") as weights:
        names = [name for name in weights.keys() if name.endswith(_SUFFIX)]  # noqa: SIM118
    if not config.get("target_modules"):
        layers = {name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for name in names}
        config["target_modules"] = sorted({layer.rpartition(".")[2] for layer in layers})
    config.setdefault("peft_type", "LORA")
    config.setdefault("task_type", "CAUSAL_LM")
    config["base_model_name_or_path"] = config.get("base_model_name_or_path") or base
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
