"""Training workers on the nodes of a cluster: how many, where, and what passes to and from them.

A node that sees the run's folder reads and writes models there. To any other one, start models and
checkpoints are sent, and what a job has made is sent back, both through Ray's object store. Models
appear in the run's folder complete or not at all.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from providers.artifact import MANIFEST, get_hidden_path, set_aside
from providers.cluster.connection import connect_ray, list_nodes
from providers.cluster.files import Files, keep_token, read_files, write_files
from providers.cluster.places import Demand, Placement
from providers.cluster.settings import ClusterSettings
from providers.errors import InvalidSettings, ProviderError
from providers.extras import PROJECT
from providers.hyperparameters import Hyperparameters
from providers.local.checkpoint import remove_leftovers
from providers.local.cluster_plan import make_demand, plan_cluster_lanes, refuse_settings
from providers.local.lane_plan import LanePlan
from providers.local.memory import ModelSize, measure_model
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource, find_folder, is_built_in, read_config
from providers.local.training_worker import NoPlace, WorkerSetup
from providers.local.worker_actor import WorkerActor

_log = logging.getLogger(__name__)
# How long one call of an actor waits for news, and how long it may take to come back.
_CALL_S, _SILENT_S = 1.0, 120.0
# A process of Ray that imports torch and peft on a busy machine.
_START_S = 600.0
# After so long a wait for room it is said.
_SAID_AFTER_S = 10.0
# A network file system may show another machine's files late.
_SEEN_S, _GLANCE_S = 15.0, 0.2
_CLEANING_S = 5.0


class ClusterWorkers:
    """The workers that a cluster has for one model.

    ```python
    workers = ClusterWorkers(ClusterSettings("auto"), source, settings)
    plan = workers.plan_lanes(hyperparameters)
    link = workers.open(WorkerSetup(source, settings, workdir))
    ```
    """

    def __init__(
        self, cluster: ClusterSettings, source: ModelSource, settings: LocalSettings
    ) -> None:
        refuse_settings(settings)
        self._cluster, self._source, self._settings = cluster, source, settings
        self._size: ModelSize | None = None
        self._ray: Any = None
        self._demand = Demand(settings.threads or 1)

    def plan_lanes(self, how: Hyperparameters) -> LanePlan:
        """How many jobs like this one the cluster trains at a time. Connects to it.

        Raises `InvalidSettings` if it does not answer.
        """
        # Asked anew for every job: nodes come and go while the run debates.
        self._ray = connect_ray(self._cluster)
        nodes = list_nodes(self._ray)
        self._demand = make_demand(self._settings, nodes, self._measure_base(), how)
        return plan_cluster_lanes(self._settings, self._demand, nodes)

    def require_place(self, how: Hyperparameters) -> None:
        """Wait until some node has room for a job; raises `InvalidSettings` if none has in time."""
        self.plan_lanes(how)
        # Asking for room also makes a cluster that adds nodes by itself begin to do so.
        place = Placement(self._ray, self._demand)
        try:
            if not place.wait(self._cluster.place_timeout_s):
                raise InvalidSettings(explain_shortage(place, self._cluster))
        finally:
            place.release()

    def open(self, setup: WorkerSetup) -> ActorLink:
        """A worker somewhere on the cluster, as soon as there is room."""
        return ActorLink(self._ray, self._cluster, self._demand, setup)

    def _measure_base(self) -> ModelSize | None:
        if self._size is None:
            try:
                if (folder := find_folder(self._source)) is not None:
                    config = read_config(self._source)
                    self._size = measure_model(folder, self._source.gguf_file, config)
            except ProviderError as error:
                # Loading the model will report it.
                _log.info("the model's size is not known: %s", error)
        return self._size


class ActorLink:
    """A `WorkerLink` to an actor, which is started when a node has room.

    `receive` raises `NoPlace` if none has had room for `place_timeout_s`.
    """

    def __init__(
        self, ray: Any, cluster: ClusterSettings, demand: Demand, setup: WorkerSetup
    ) -> None:
        self._ray, self._cluster, self._setup = ray, cluster, setup
        self._workdir = Path(os.path.abspath(setup.workdir))
        self._place = Placement(ray, demand)
        self._said = False
        self._actor: Any = None
        self._call: Any = None
        self._called_at = 0.0
        self._node, self._sees, self._is_loading = "", True, True
        self._inbox: deque[dict[str, Any]] = deque()
        self._sent: set[str] = set()
        self._end = "its node is gone"

    def send(self, message: Mapping[str, object]) -> None:
        files = {} if self._sees else self._gather_files(message)
        call = self._actor.send.remote(message, files)
        try:
            self._ray.get(call, timeout=_SILENT_S)
        except Exception as error:
            raise OSError(self._note_end(error)) from error

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        # In short steps, so that a job which is stopped meanwhile, or taken by another worker, ends
        # the wait.
        if self._actor is None:
            self._start_if_granted(timeout_s)
            return None
        if not self._inbox:
            self._take_reply(timeout_s)
        if not self._inbox:
            return None
        message = self._inbox.popleft()
        if "ended" in message:
            self._bring_files(message["of"], message["ended"])
        return message

    def describe_end(self) -> str:
        return self._end

    def close(self) -> None:
        """End the actor, and give its place back."""
        if self._actor is not None and not self._sees:
            cleaned = self._actor.clean.remote(self._sees)
            self._ray.wait([cleaned], timeout=_CLEANING_S)
        self._place.release()

    def _start_if_granted(self, timeout_s: float) -> None:
        if self._place.wait(timeout_s):
            self._actor = self._place.start(WorkerActor)
            self._begin_call(self._actor.start.remote(self._describe_setup()))
        elif self._place.waited_s > self._cluster.place_timeout_s:
            raise NoPlace(explain_shortage(self._place, self._cluster))
        elif self._place.waited_s > _SAID_AFTER_S and not self._said:
            self._said = True
            _log.info("a training worker waits for room: %s", self._place.describe_shortage())

    def _describe_setup(self) -> dict[str, Any]:
        always = self._cluster.send_files == "always"
        return {
            **self._setup.describe(),
            "version": version(PROJECT),
            "built_in": is_built_in(self._setup.source),
            "token": None if always else keep_token(self._workdir),
        }

    def _begin_call(self, call: Any) -> None:
        self._call, self._called_at = call, time.monotonic()

    def _take_reply(self, timeout_s: float) -> None:
        """Take what the call on its way brings, and make the next one."""
        done, _ = self._ray.wait([self._call], timeout=timeout_s)
        if not done:
            patience = _START_S if self._is_loading else _SILENT_S
            if time.monotonic() - self._called_at > patience:
                self._end = f"its node {self._node} has not answered for {patience:.0f} s"
                raise EOFError(self._end)
            return
        try:
            reply = self._ray.get(self._call)
        except Exception as error:
            raise EOFError(self._note_end(error)) from error
        # The answer to `start` says where the worker is; those to `receive` are lists of messages.
        if isinstance(reply, dict):
            self._node, self._sees, self._is_loading = reply["node"], reply["sees"], False
            if "refused" in reply:
                self._inbox.append({"refused": f"node {self._node}: {reply['refused']}"})
                return
        else:
            self._inbox.extend(reply)
        self._begin_call(self._actor.receive.remote(_CALL_S))

    def _note_end(self, error: Exception) -> str:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        where = f"its node {self._node}" if self._node else "its node"
        self._end = f"{where} or its process there is gone ({type(error).__name__}: {first})"
        return self._end

    def _gather_files(self, message: Mapping[str, Any]) -> dict[str, Files]:
        """What the jobs of a message start from, as far as it was not sent before."""
        found: dict[str, Files] = {}
        for spec in message.get("jobs", ()):
            start, out = spec["start"]["artifact"], self._workdir / spec["name"]
            # A job that was stopped before goes on from where it was.
            paths = [get_hidden_path(out, "checkpoint")]
            if start is not None and start not in self._sent:
                self._sent.add(start)
                paths.append(self._workdir / start)
            found |= {path.name: read_files(path) for path in paths if path.exists()}
        return found

    def _bring_files(self, name: str, status: str) -> None:
        """See to it that what a job has left is in the run's folder."""
        out = self._workdir / name
        if self._sees and (status != "succeeded" or _wait_until_seen(out)):
            return
        try:
            found = self._ray.get(self._actor.read_files.remote(name), timeout=_SILENT_S)
        except Exception as error:
            raise EOFError(self._note_end(error)) from error
        # Whatever lies there is not this job's artifact, or the job would not have been trained.
        if out.exists() and name in found:
            set_aside(out)
        for each, files in found.items():
            write_files(self._workdir / each, files)
        # The node has removed it, since the job is over; the copy it was sent from goes too.
        if get_hidden_path(out, "checkpoint").name not in found:
            remove_leftovers(out)


def _wait_until_seen(out: Path) -> bool:
    """Whether an artifact that was written on another machine is there for this one."""
    until = time.monotonic() + _SEEN_S
    while not (out / MANIFEST).is_file():
        if time.monotonic() > until:
            return False
        # Looking into the folder makes a network file system look anew.
        os.listdir(out.parent)
        time.sleep(_GLANCE_S)
    return True


def explain_shortage(place: Placement, cluster: ClusterSettings) -> str:
    """What to do if no node has had room."""
    return (
        f"no node of the cluster has had room for a training worker for {cluster.place_timeout_s:g}"
        f" s: {place.describe_shortage()}; see `ray status` for who uses them, add a node, lower "
        "[provider] threads, or raise cluster.place_timeout_s"
    )
