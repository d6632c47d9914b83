"""The servers that answer for models which are trained on this machine, as the user names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from providers import registry
from providers.errors import InvalidSettings
from providers.types import Hyperparameters

_OF_THE_PROMPT = ("chat_template_kwargs", "reasoning_effort")
"""The settings of providers that change a conversation's prompt."""


@dataclass(frozen=True, slots=True)
class AnswerServer:
    """A server that answers for models which are trained on this machine: `[serving]`.

    `path_map` translates folders of this machine into the server's: {"/data/runs": "/mnt/runs"}; of
    several that fit, the longest is taken. Without one the server sees the same paths. `send`
    brings an adapter's folder to a server that sees none of this machine's, before it is loaded.
    """

    address: str
    settings: Mapping[str, object] = field(default_factory=dict)
    path_map: Mapping[str, str] = field(default_factory=dict)
    send: Callable[[Path], Awaitable[None]] | None = None

    def map_path(self, path: Path) -> str:
        """The server's path of an absolute path of this machine."""
        fitting = [local for local in self.path_map if path.is_relative_to(local)]
        if not fitting:
            return str(path)
        local = max(fitting, key=lambda known: len(Path(known).parts))
        return str(PurePosixPath(self.path_map[local], *path.relative_to(local).parts))

    def adapter_folder(self, workdir: Path) -> str:
        """The folder where the server finds the adapters that are made in `workdir`."""
        return self.map_path(workdir.resolve())


def check_answer_servers(
    servers: Sequence[AnswerServer], hyperparameters: Hyperparameters, trainer: Mapping[str, object]
) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for settings that are wrong; makes no call.

    `hyperparameters` are those that the models are trained with, `trainer` the settings of the
    provider that trains them.
    """
    _check_addresses([server.address for server in servers])
    for server in servers:
        registry.check(server.address, server.settings)
        _check_settings(server, trainer)
    check_served_recipe(hyperparameters)


def check_served_recipe(hyperparameters: Hyperparameters) -> None:
    """Raise `InvalidSettings` for a way of training whose models no server can load."""
    if hyperparameters.method != "lora":
        raise InvalidSettings(
            f"finetune.method = {hyperparameters.method!r} makes whole models, and a running "
            'server takes adapters only; use "lora", or leave [serving] out'
        )
    # vLLM refuses DoRA (`PEFTHelper`), and servers know the factors of fused experts by names of
    # their own.
    for name in ("use_dora", "lora_experts"):
        if getattr(hyperparameters, name):
            raise InvalidSettings(
                f"finetune.{name} = true makes adapters that a server does not load; remove it, or "
                "leave [serving] out"
            )


def _check_addresses(addresses: Sequence[str]) -> None:
    if not addresses:
        raise InvalidSettings(
            "[serving] names no server; set serving.address, or serving.addresses for several"
        )
    [(commonest, count)] = Counter(addresses).most_common(1)
    if count > 1:
        raise InvalidSettings(
            f"serving.addresses names {commonest!r} {count} times; a server is one replica, "
            "whatever it runs on: name it once"
        )
    models = {registry.locate_price(address).name for address in addresses}
    if len(models) > 1:
        raise InvalidSettings(
            f"serving.addresses names different models, {' and '.join(sorted(models))}, and all "
            "of them answer for one; serve the same one everywhere, under one name (vLLM: "
            "--served-model-name)"
        )


def _check_settings(server: AnswerServer, trainer: Mapping[str, object]) -> None:
    for name in _OF_THE_PROMPT:
        asked, trained = server.settings.get(name) or None, trainer.get(name) or None
        if asked != trained:
            raise InvalidSettings(
                f"serving.settings.{name} is {asked!r}, and provider.{name} is {trained!r}, so "
                "models would be trained on other prompts than they answer; set both alike"
            )
    for local in server.path_map:
        if not Path(local).is_absolute():
            raise InvalidSettings(
                f"serving.path_map has the relative folder {local!r}; write it from the root on"
            )
