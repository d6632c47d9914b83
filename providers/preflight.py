"""Checks of a model before a run: they cost nothing and load no model.

A model of this process is judged by its files. Any other provider is connected to and asked for
lists and descriptions. What is wrong is an error; what cannot be found out is a warning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from providers import extras, registry
from providers.adapter_trial import AdapterMaker, try_adapters
from providers.answer_server import AnswerServer
from providers.base import Provider, Settings
from providers.cluster.settings import ClusterSettings
from providers.errors import ProviderError
from providers.identities import identify_servers
from providers.types import Finding, Hyperparameters, Need, PreflightReport

CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "packages": "whether what the model needs is installed",
        "server": "whether the server can be reached and takes the key",
        "model": "whether the model exists",
        "ending": "whether the model will be shut down",
        "encryption": "whether the key travels encrypted",
        "template": "whether the chat template takes conversations and settings",
        "sampling": "what the model takes of [sampling]",
        "scores": "whether the model gives log-probabilities",
        "fine-tuning": "whether jobs can be created",
        "batches": "whether the server has batches",
        "recipe": "whether jobs take these hyperparameters",
        "examples": "whether there are enough questions for a job",
        "diversity": "whether the measures can be computed",
        "adapters": "whether the server of [serving] loads adapters",
        "device": "whether the requested device exists",
        "answers": "whether the model's answers are those of transformers",
        "memory": "whether the model fits into memory",
        "workers": "how many processes train models at a time",
        "cluster": "which nodes train models, and whether these fit",
        "joint_training": "how many adapters share the passes of their training",
        "trackers": "whether the packages and keys of trackers and telemetry are there",
        "disk": "whether the run fits onto the disk",
    }
)


SCORES_REMEDY = 'set score = "vllm" in [provider] if the server is vLLM, or use a local model'
"""What to do if a provider gives no log-probabilities of a given text."""


def label_findings(check: str, findings: Iterable[Finding]) -> list[Finding]:
    """`findings` under the name of a check, except those that have another."""
    return [found if found.check else replace(found, check=check) for found in findings]


def find_missing_packages(address: str) -> Finding | None:
    """What has to be installed before a model at `address` can be used; None: nothing."""
    info = registry.info(address)
    absent = extras.find_missing(info.packages)
    if not absent:
        return None
    remedy = extras.install_command(info.extra) if info.extra else f"pip install {' '.join(absent)}"
    text = f"needs packages that are not installed: {', '.join(absent)}"
    return Finding("error", text, remedy, "packages")


async def preflight_model(
    address: str,
    settings: Settings,
    workdir: Path,
    need: Need,
    recipes: Sequence[Hyperparameters],
) -> PreflightReport:
    """Everything that can be found out about the model at `address`. Raises no `ProviderError`.

    `recipes` are those of the different roles. They differ in epochs and learning rate.
    """
    if absent := find_missing_packages(address):
        return PreflightReport((absent,))
    try:
        factory, target = registry.resolve(address)
        with extras.name_missing_extras():
            # A model of this process is not opened: that would load it, and torch.
            if factory.preflight is not None:
                longest = max(recipes, key=lambda recipe: recipe.epochs)
                return factory.preflight(target, settings, need, longest)
            provider = factory.connect(target, settings, workdir)
    except ProviderError as error:
        return PreflightReport((Finding("error", str(error)),))
    try:
        findings = [*await provider.preflight(need), *_check_samplings(provider, need)]
        if need.finetune:
            faults = [fault for how in recipes for fault in provider.validate_hyperparameters(how)]
            findings += [
                Finding("error", f"cannot train like that: {fault}", check="recipe")
                for fault in dict.fromkeys(faults)
            ]
        return PreflightReport(tuple(findings), provider.capabilities)
    finally:
        await provider.close()


async def preflight_cluster(
    address: str,
    settings: Settings,
    cluster: ClusterSettings,
    workdir: Path,
    recipes: Sequence[Hyperparameters],
) -> PreflightReport:
    """What of the training of the model at `address` runs where on a cluster. Raises no
    `ProviderError`."""
    try:
        factory, target = registry.resolve(address)
        if factory.preflight_cluster is None or find_missing_packages(address):
            return PreflightReport(())
        longest = max(recipes, key=lambda recipe: recipe.epochs)
        ask = partial(factory.preflight_cluster, target, settings, cluster, workdir, longest)
        return PreflightReport(tuple(await asyncio.to_thread(ask)))
    except ProviderError as error:
        return PreflightReport((Finding("error", str(error), check="cluster"),))


def _check_samplings(provider: Provider, need: Need) -> list[Finding]:
    faults = [fault for each in need.samplings for fault in provider.validate_sampling(each)]
    return [Finding("error", fault, check="sampling") for fault in dict.fromkeys(faults)]


async def preflight_answer_servers(
    servers: Sequence[AnswerServer], workdir: Path, need: Need, maker: AdapterMaker
) -> list[tuple[str, PreflightReport]]:
    """Everything about the servers that answer for models which are trained on this machine by
    `maker`, each with its address.

    One that cannot be reached is only a warning while others are well: they answer in its place.
    """
    reports = await asyncio.gather(
        *(preflight_answer_server(server, workdir, need) for server in servers)
    )
    if need.finetune and "adapters" not in need.skip:
        reports = await _add_trials(servers, reports, workdir, maker)
    if any(_is_well(report) for report in reports):
        excusing = zip(servers, reports, strict=True)
        reports = await asyncio.gather(*(_excuse(*pair, workdir) for pair in excusing))
    return [(server.address, report) for server, report in zip(servers, reports, strict=True)]


async def _add_trials(
    servers: Sequence[AnswerServer],
    reports: Sequence[PreflightReport],
    workdir: Path,
    maker: AdapterMaker,
) -> list[PreflightReport]:
    """The reports, with what an adapter came to at the servers that have been well so far."""
    ready = [each for each, report in zip(servers, reports, strict=True) if _is_well(report)]
    # A server that cannot be reached would not be worth making an adapter for.
    if not ready:
        return list(reports)
    tried = iter(await try_adapters(maker, ready, workdir))
    return [
        replace(each, findings=(*each.findings, *label_findings("adapters", next(tried))))
        if _is_well(each)
        else each
        for each in reports
    ]


def _is_well(report: PreflightReport) -> bool:
    return all(found.level != "error" for found in report.findings)


async def _excuse(answers: AnswerServer, report: PreflightReport, workdir: Path) -> PreflightReport:
    """The report, with a warning in place of the error that the server cannot be reached."""
    errors = [found for found in report.findings if found.level == "error"]
    if not errors or any(found.check != "server" for found in errors):
        return report
    # A server that is there and refuses the key is an error all the same.
    server = registry.connect(answers.address, answers.settings, workdir)
    try:
        adapters = server.adapter_server()
        found = await adapters.preflight()
        await adapters.close()
    except ProviderError:
        return report
    finally:
        await server.close()
    if any(each.level != "warning" for each in found):
        return report
    remedy = "start it, or go on: the other servers answer, and it gets its calls once it is there"
    excused = [
        replace(each, level="warning", remedy=remedy) if each.level == "error" else each
        for each in report.findings
    ]
    return replace(report, findings=tuple(excused))


async def preflight_answer_server(
    answers: AnswerServer, workdir: Path, need: Need
) -> PreflightReport:
    """Everything about one server that answers for models which are trained on this machine."""
    if absent := find_missing_packages(answers.address):
        return PreflightReport((absent,))
    try:
        server = registry.connect(answers.address, answers.settings, workdir)
    except ProviderError as error:
        return PreflightReport((Finding("error", str(error)),))
    try:
        # The server only answers; the trainer's own report covers fine-tuning.
        findings = [*await server.preflight(replace(need, finetune=False))]
        findings += _check_samplings(server, need)
        if need.finetune and all(found.level != "error" for found in findings):
            found = await _preflight_adapters(server, answers, workdir)
            findings += label_findings("adapters", found)
        well = all(found.level != "error" for found in findings)
        if well and server.capabilities.adapter_server and "server" not in need.skip:
            known = (await identify_servers([answers])).values()
            findings += [Finding("ok", f"it is {each}", check="server") for each in known]
        return PreflightReport(tuple(findings), server.capabilities)
    finally:
        await server.close()


async def _preflight_adapters(
    server: Provider, answers: AnswerServer, workdir: Path
) -> Sequence[Finding]:
    if not server.capabilities.adapter_server:
        text = "is no server that adapters can be loaded into"
        return [Finding("error", text, "use one of vLLM or SGLang in [serving]")]
    adapters = server.adapter_server()
    try:
        findings = list(await adapters.preflight())
    finally:
        await adapters.close()
    text = f"adapters will be read from {answers.adapter_folder(workdir)} on the server's disk"
    return [*findings, Finding("ok", text)]
