"""Servers on the nodes of a cluster, as many as they have room for."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from providers.answer_server import AnswerServer
from providers.cluster.connection import connect_ray, count, list_nodes
from providers.cluster.files import keep_token, read_files
from providers.cluster.places import Demand, Placement
from providers.cluster.settings import ClusterSettings
from providers.errors import ConnectionLost, InvalidSettings
from providers.extras import PROJECT
from providers.serving.engines import SHUTDOWN_S, ServerPlan
from providers.serving.nodes import count_servers, make_demand
from providers.serving.server import make_key_variable
from providers.serving.server_actor import ServerActor

_log = logging.getLogger(__name__)
# Where "auto" asks for more places than are free, it goes on with those that it has got by then.
_FEWER_S = 10.0
_GLANCE_S = 0.2
# Over what the engine itself may take: a process of Ray on a busy machine.
_ACTOR_S = 120.0
_REACH_S = 10.0
_SEND_S = 600.0


async def place_servers(
    cluster: ClusterSettings, plan: ServerPlan, workdir: Path
) -> list[ClusterServer]:
    """Servers with a place on some node for each; none is started yet.

    Raises `InvalidSettings` if the nodes have no room in time.
    """
    ray = await asyncio.to_thread(connect_ray, cluster)
    nodes = list_nodes(ray)
    demand = make_demand(plan, nodes)
    most = count_servers(plan, demand, nodes)
    # All at once: a cluster that adds nodes by itself sees how many are wanted.
    places = [Placement(ray, demand) for _ in range(most)]
    granted: list[Placement] = []
    try:
        granted = await _wait_for_places(places, plan, cluster)
    finally:
        for place in places:
            if place not in granted:
                place.release()
    return [
        ClusterServer(ray, cluster, plan, workdir, number, demand, place)
        for number, place in enumerate(granted, start=1)
    ]


async def _wait_for_places(
    places: Sequence[Placement], plan: ServerPlan, cluster: ClusterSettings
) -> list[Placement]:
    may_be_fewer = plan.settings.servers == "auto"
    while True:
        granted = [place for place in places if place.wait(0.0)]
        waited = places[0].waited_s
        if len(granted) == len(places) or (may_be_fewer and granted and waited > _FEWER_S):
            return granted
        if waited > cluster.place_timeout_s:
            raise InvalidSettings(
                f"the nodes of the cluster have had room for {len(granted)} of "
                f"{count(len(places), 'server')} for {cluster.place_timeout_s:g} s: "
                f"{places[0].describe_shortage()}; see `ray status` for who uses them, add a node, "
                "lower serving.servers, or raise cluster.place_timeout_s"
            )
        await asyncio.sleep(_GLANCE_S)


class ClusterServer:
    """A `RunServer` wherever a node has room, at each start anew; the first one has `place`."""

    def __init__(
        self,
        ray: Any,
        cluster: ClusterSettings,
        plan: ServerPlan,
        workdir: Path,
        number: int,
        demand: Demand,
        place: Placement,
    ) -> None:
        self._ray, self._cluster, self._plan = ray, cluster, plan
        self._workdir, self._number = workdir.resolve(), number
        self._demand = demand
        self._place: Placement | None = place
        self._actor: Any = None
        self._at: Mapping[str, Any] = {}
        self._variable = make_key_variable()

    @property
    def log(self) -> str:
        if "log" not in self._at:
            return "on its node of the cluster"
        return f"{self._at['log']} on node {self._at['node']}"

    async def start(self) -> None:
        """The same, as soon as a node has room."""
        if self._place is None:
            self._place = Placement(self._ray, self._demand)
        await self._wait_for_room(self._place)
        self._actor = self._place.start(ServerActor)
        # The token is looked for on the node, which may have another folder at the same path.
        always = self._cluster.send_files == "always"
        setup = {
            "version": version(PROJECT),
            "plan": self._plan,
            "number": self._number,
            "workdir": str(self._workdir),
            "token": None if always else keep_token(self._workdir),
        }
        timeout_s = self._plan.settings.start_timeout_s + _ACTOR_S
        try:
            at = await _finish(self._actor.start.remote(setup), timeout_s)
        except Exception as error:
            raise InvalidSettings(f"a server's process on a node ended: {_say(error)}") from error
        if "failed" in at:
            raise InvalidSettings(f"node {at['node']}: {at['failed']}")
        self._at = at
        # As for a user's own server, settings name a variable: keys are in no message or file.
        os.environ[self._variable] = at["key"]
        await self._require_reach()

    def describe(self, connection: Mapping[str, object]) -> AnswerServer:
        settings = {**connection, "api_key_env": self._variable}
        address = self._plan.name_address(self._at["url"])
        # A node that sees the run's folder reads adapters where they were made.
        if self._at["models"] is None:
            return AnswerServer(address, settings)
        path_map = {str(self._workdir): self._at["models"]}
        return AnswerServer(address, settings, path_map, self._send)

    async def wait_for_death(self) -> str:
        try:
            reason = str(await _finish(self._actor.wait_for_death.remote()))
        # Ray says of a node that is gone what the calls on their way would say much later.
        except Exception as error:
            reason = f"the node, or its process there, is gone ({type(error).__name__})"
        return f"node {self._at['node']}: {reason}"

    async def stop(self) -> None:
        actor, self._actor = self._actor, None
        place, self._place = self._place, None
        os.environ.pop(self._variable, None)
        try:
            if actor is not None:
                # One that is gone has taken its engine with it.
                with suppress(Exception):
                    await _finish(actor.stop.remote(), SHUTDOWN_S + _ACTOR_S)
        finally:
            if place is not None:
                place.release()

    async def _wait_for_room(self, place: Placement) -> None:
        """Without an end: the servers that there are answer meanwhile, and if there are none, the
        calls that wait for them have an end."""
        said = False
        while not place.wait(0.0):
            if place.waited_s > _FEWER_S and not said:
                said = True
                _log.warning("a server waits for room: %s", place.describe_shortage())
            await asyncio.sleep(_GLANCE_S)

    async def _require_reach(self) -> None:
        """Raise `InvalidSettings` if this machine does not reach the server, though it is up."""
        found = urlsplit(self._at["url"])
        try:
            async with asyncio.timeout(_REACH_S):
                _, writer = await asyncio.open_connection(found.hostname, found.port)
        except (OSError, TimeoutError) as error:
            raise InvalidSettings(
                f"node {self._at['node']} answers at {self._at['url']}, and this machine does not "
                f"reach it there ({_say(error)}); open the nodes' ports to it, or start the run "
                "on a node"
            ) from error
        writer.close()

    async def _send(self, folder: Path) -> None:
        files = await asyncio.to_thread(read_files, folder)
        try:
            await _finish(self._actor.write_adapter.remote(folder.name, files), _SEND_S)
        except Exception as error:
            raise ConnectionLost(
                f"the adapter {folder.name} was not sent: {_say(error)}"
            ) from error


async def _finish(call: Any, timeout_s: float | None = None) -> Any:
    """What a call of an actor returns."""
    future = asyncio.wrap_future(call.future())
    # Ray sets the result whether or not anyone still waits, and must find no cancelled future.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    async with asyncio.timeout(timeout_s):
        return await asyncio.shield(future)


def _say(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
