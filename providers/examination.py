"""Looking at a provider before a run: nothing is asked for that costs, and no model is loaded.

A model of this process is judged by its files. Any other provider is connected to and asked, where
it implements `providers.preflight.Preflight`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from providers import extras, registry
from providers.base import Choosy, Provider
from providers.errors import ProviderError
from providers.preflight import Finding, Need, Preflight, checked
from providers.served import ServesAdapters, Serving
from providers.types import Capabilities, Hyperparameters

_IN_PROCESS = frozenset({"embedded", "local"})
_EXTRAS: Mapping[str, str] = {"embedded": "local", "local": "local", "openai": "api"}


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found out about one provider.

    `capabilities` is None where it could not be opened. `artifact_bytes` is what one tuned model
    takes on this machine's disk, about; None where nobody can tell.
    """

    findings: tuple[Finding, ...]
    capabilities: Capabilities | None = None
    artifact_bytes: int | None = 0


def trains_in_process(address: str) -> bool:
    """Whether a model's fine-tuning jobs live and die with this process."""
    return _scheme(address) in _IN_PROCESS


def missing_packages(address: str) -> Finding | None:
    """What has to be installed before a model at `address` can be used, None where all is there."""
    extra = _EXTRAS.get(_scheme(address))
    if extra is None or not (absent := extras.missing(extra)):
        return None
    return Finding(
        "error",
        f"needs packages that are not installed: {', '.join(absent)}",
        extras.install(extra),
        "packages",
    )


async def examine(
    address: str,
    settings: Mapping[str, object],
    workdir: Path,
    need: Need,
    hyperparameters: Hyperparameters,
) -> Examination:
    """Everything that can be told about the model at `address`. Raises nothing of a provider's."""
    absent = missing_packages(address)
    if absent is not None:
        return Examination((absent,))
    if trains_in_process(address):
        from providers.local import preflight

        return preflight.examine(address, settings, need, hyperparameters)
    try:
        provider = registry.connect(address, settings, workdir)
    except ProviderError as error:
        return Examination((Finding("error", str(error)),))
    try:
        findings = await _asked(provider, need)
        if need.finetune and isinstance(provider, Choosy):
            refused = provider.unsupported(hyperparameters)
            findings += [
                Finding("error", f"cannot train like that: {text}", check="recipe")
                for text in refused
            ]
        return Examination(tuple(findings), provider.capabilities)
    finally:
        await provider.close()


async def examine_server(serving: Serving, workdir: Path, need: Need) -> Examination:
    """Everything about the server that answers for models which are trained here."""
    absent = missing_packages(serving.address)
    if absent is not None:
        return Examination((absent,))
    try:
        server = registry.connect(serving.address, serving.settings, workdir)
    except ProviderError as error:
        return Examination((Finding("error", str(error)),))
    try:
        findings = await _asked(server, replace(need, finetune=False))
        if need.finetune and all(found.level != "error" for found in findings):
            findings += checked("adapters", await _adapter_findings(server, serving, workdir))
        return Examination(tuple(findings), server.capabilities)
    finally:
        await server.close()


async def _asked(provider: Provider, need: Need) -> list[Finding]:
    if isinstance(provider, Preflight):
        return list(await provider.preflight(need))
    return [Finding("ok", "can be opened"), *_capable(provider.capabilities, need)]


def _capable(capabilities: Capabilities, need: Need) -> Iterable[Finding]:
    if need.sampling_seed and not capabilities.sampling_seed:
        text = "takes no sampling seed: a new run will give other transcripts"
        yield Finding("warning", text, check="sampling")
    if need.score and not capabilities.score:
        yield Finding(
            "error",
            "gives no log-probabilities of a given text",
            "leave out what needs them, or use a local model",
            "scores",
        )


async def _adapter_findings(server: Provider, serving: Serving, workdir: Path) -> Sequence[Finding]:
    if not isinstance(server, ServesAdapters):
        return [
            Finding(
                "error",
                "is no server that adapters can be loaded into",
                "use one of vLLM or SGLang as serving.address",
            )
        ]
    adapters = server.adapters()
    try:
        findings = list(await adapters.preflight())
    finally:
        await adapters.close()
    where = serving.home(workdir)
    findings.append(
        Finding("ok", f"adapters will be read from {where} on the server's disk (not looked at)")
    )
    return findings


def _scheme(address: str) -> str:
    return address.partition(":")[0].partition("+")[0]
