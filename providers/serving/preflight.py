"""Checks of a server before the run starts it: nothing is started, and no engine is imported."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from providers.base import Provider, Settings
from providers.errors import ProviderError
from providers.serving.engines import ServerPlan
from providers.serving.environment import OLDEST
from providers.serving.provider import (
    ManagedServing,
    check_managed,
    open_form,
    plan_server,
)
from providers.serving.server import check_port
from providers.types import Finding, Need, PreflightReport


async def preflight_managed(
    managed: ManagedServing, address: str, trainer: Settings, need: Need
) -> tuple[str, PreflightReport]:
    """What can be found out about a server that the run will start, with its name in messages.
    Raises no `ProviderError`.

    `address` and `trainer` are those of the provider that trains.
    """
    name = f"serving.engine = {managed.engine.engine!r}"
    try:
        check_managed(managed, address, trainer)
        plan = await asyncio.to_thread(plan_server, managed, address, trainer)
        command = plan.build_arguments(managed.engine.port or 0)
    except ProviderError as error:
        return name, PreflightReport((Finding("error", str(error), check="server"),))
    findings = [_describe_engine(plan, command)]
    if managed.engine.port is not None:
        try:
            check_port(managed.engine.port)
        except ProviderError as error:
            findings.append(Finding("error", str(error), check="server"))
    form = open_form(plan, managed)
    findings += _check_samplings(form, need)
    if managed.need.count:
        text = (
            f"it will hold {managed.need.count} adapters of rank {managed.need.rank}, read from "
            "the run's folder"
        )
        findings.append(Finding("ok", text, check="adapters"))
    return name, PreflightReport(tuple(findings), form.capabilities)


def _describe_engine(plan: ServerPlan, command: Sequence[str]) -> Finding:
    engine = plan.settings.engine
    if not plan.version:
        oldest = ".".join(map(str, OLDEST[engine]))
        text = f"{engine} will be started by {command[0]!r}, whose version shows when it is up"
        return Finding("warning", text, f"see that it is {oldest} or newer", "server")
    where = "on the CPU" if plan.on_cpu else "on the graphics card"
    text = f"{engine} {plan.version} of {command[0]} will answer {where} in {plan.weights.dtype}"
    return Finding("ok", text, check="server")


def _check_samplings(form: Provider, need: Need) -> list[Finding]:
    faults = [fault for each in need.samplings for fault in form.validate_sampling(each)]
    return [Finding("error", fault, check="sampling") for fault in dict.fromkeys(faults)]
