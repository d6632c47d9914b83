"""A server on a node of a cluster: that of this machine, started by a process of Ray there.

Runs on the node, with the packages of the node. The engine dies with this process
(`providers.serving.process`), and this process with the run or with its node.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from providers.cluster.asking import find_difference
from providers.cluster.files import Files, read_token, write_files
from providers.embedded import MODEL_DIR
from providers.errors import ProviderError
from providers.serving.engines import ServerPlan
from providers.serving.environment import find_engine
from providers.serving.nodes import find_model_folder, is_built_in
from providers.serving.server import ManagedServer
from providers.serving.settings import check_program


class ServerActor:
    """The class of the actor. Its calls take turns in one event loop; `start` comes first."""

    def __init__(self) -> None:
        self._server: ManagedServer | None = None
        # The folder of a node that does not see the run's.
        self._own: Path | None = None

    async def start(self, setup: Mapping[str, Any]) -> dict[str, Any]:
        """Start the server. Says on which "node" it is, and its "url", "key" and "log", with the
        folder of "models" that adapters have to be sent to, None where the run's is seen; or why
        not ("failed").

        `setup` has the run's "version", the server's "plan" and "number", and the "workdir" of the
        models with its "token", None to not look for it.
        """
        answer: dict[str, Any] = {"node": socket.gethostname()}
        plan, workdir = setup["plan"], Path(setup["workdir"])
        # What fails is returned as text: what is raised here would reach the run in Ray's words.
        try:
            if fault := _find_fault(plan, setup["version"]):
                return {**answer, "failed": fault}
            if setup["token"] is None or read_token(workdir) != setup["token"]:
                self._own = Path(tempfile.mkdtemp(prefix="society-"))
            # It ships with this package, wherever that is installed here.
            if is_built_in(plan.weights):
                weights = replace(plan.weights, name=str(MODEL_DIR.resolve()))
                plan = replace(plan, weights=weights)
            folder = self._own or workdir.parent
            server = ManagedServer(plan, folder, setup["number"], host=_find_address())
            self._server = server
            await server.start()
        except ProviderError as error:
            return {**answer, "failed": str(error)}
        models = None if self._own is None else str(self._own / "models")
        where = {"url": server.url, "key": server.key, "log": server.log, "models": models}
        return {**answer, **where}

    async def wait_for_death(self) -> str:
        """Return how the server has ended by itself."""
        assert self._server is not None
        return await self._server.wait_for_death()

    async def write_adapter(self, name: str, files: Files) -> None:
        """Keep an adapter that was sent, in place of an earlier one of this name."""
        assert self._own is not None
        write_files(self._own / "models" / name, files)

    async def stop(self) -> None:
        """End the server, and remove what was sent to it."""
        if self._server is not None:
            await self._server.stop()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


def _find_fault(plan: ServerPlan, version: str) -> str | None:
    """Why this node cannot have such a server: nodes may have come since they were asked."""
    if difference := find_difference(version, find_model_folder(plan.weights)):
        return difference
    check_program(plan.settings)
    found = find_engine(plan.settings)
    if found is not None and (found.version, found.on_cpu) != (plan.version, plan.on_cpu):
        return (
            f"it has {plan.settings.engine} {found.version}, and the other nodes have "
            f"{plan.version}; install the same"
        )
    return None


def _find_address() -> str:
    """This node's address, where the others reach it."""
    import ray

    return str(ray.util.get_node_ip_address())
