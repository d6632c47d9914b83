"""Checks of a server before the run starts it: nothing is started, and no engine is imported."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from providers.base import Provider, Settings
from providers.cluster.connection import connect_ray, count
from providers.cluster.files import mark_folder
from providers.cluster.places import Demand
from providers.cluster.settings import ClusterSettings
from providers.errors import ProviderError
from providers.serving.engines import ServerPlan
from providers.serving.environment import OLDEST
from providers.serving.nodes import NodeReport, count_servers, make_demand, survey_nodes
from providers.serving.planning import ManagedServing, check_managed, open_form, plan_server
from providers.serving.server import check_port
from providers.types import Finding, Need, PreflightReport


async def preflight_managed(
    managed: ManagedServing, address: str, trainer: Settings, workdir: Path, need: Need
) -> tuple[str, PreflightReport]:
    """What can be found out about a server that the run will start, with its name in messages.
    Raises no `ProviderError`.

    `address` and `trainer` are those of the provider that trains, whose models go to `workdir`.
    """
    name = f"serving.engine = {managed.engine.engine!r}"
    try:
        check_managed(managed, address, trainer)
        plan = await asyncio.to_thread(plan_server, managed, address, trainer)
        command = plan.build_arguments(managed.engine.port or 0)
    except ProviderError as error:
        return name, PreflightReport((Finding("error", str(error), check="server"),))
    findings = [_describe_engine(plan, command)]
    if managed.cluster is not None:
        findings += await asyncio.to_thread(_show_places, managed.cluster, plan, workdir)
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
        if managed.cluster is not None:
            text += ", or sent to nodes that do not see it"
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


def _show_places(cluster: ClusterSettings, plan: ServerPlan, workdir: Path) -> list[Finding]:
    """How many servers the nodes of a cluster hold, and which holds how many."""
    try:
        ray = connect_ray(cluster)
        with mark_folder(workdir) as mark:
            seen = None if cluster.send_files == "always" else mark
            reports = survey_nodes(ray, plan.settings, plan.weights, seen)
    except ProviderError as error:
        return [Finding("error", str(error), check="cluster")]
    # Counted on the nodes that can answer, though Ray, which does not know, may try others.
    demand = make_demand(plan, [report.node for report in reports])
    usable = [report.node for report in reports if report.fault is None]
    wanted, places = count_servers(plan, demand, usable), sum(map(demand.count_on, usable))
    shown = [_show_node(report, demand) for report in reports]
    text = f"{count(wanted, 'server')} of {plan.settings.engine} on the cluster, {demand} for each"
    if wanted > places:
        text += f", and its nodes have room for {places}"
        remedy = (
            "add a node, or lower serving.servers or serving.gpus_per_server; if the cluster adds "
            "nodes by itself, skip this check"
        )
        return [Finding("error", text, remedy, "cluster"), *shown]
    return [Finding("ok", text, check="cluster"), *shown]


def _show_node(report: NodeReport, demand: Demand) -> Finding:
    places = demand.count_on(report.node)
    if not places:
        text = f"node {report.node} answers nothing: it has no room for {demand}"
        return Finding("ok", text, check="cluster")
    if report.fault is not None:
        text = f"node {report.node} cannot answer: {report.fault}"
        return Finding("warning", text, check="cluster")
    files = "sees the run's folder" if report.sees else "adapters are sent to it"
    text = f"node {report.node}: up to {count(places, 'server')}, {files}"
    return Finding("ok", text, check="cluster")


def _check_samplings(form: Provider, need: Need) -> list[Finding]:
    faults = [fault for each in need.samplings for fault in form.validate_sampling(each)]
    return [Finding("error", fault, check="sampling") for fault in dict.fromkeys(faults)]
