"""A server that the run starts on a port of its own with a key of its own, up or down."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from providers.answer_server import AnswerServer
from providers.errors import InvalidSettings
from providers.serving.engines import HERE, SHUTDOWN_S, ServerPlan
from providers.serving.environment import build_environment, check_version
from providers.serving.failures import explain_failure, is_port_taken
from providers.serving.process import ServerProcess, end_leftovers

if TYPE_CHECKING:
    import httpx2

_ASK_EVERY_S = 0.1
_PORT_TRIES = 3
_KEY_BYTES = 24
_LAST_PORT = 65535
Tell = Callable[[str], None]


class RunServer(Protocol):
    """A server of a run, on this machine or on another."""

    @property
    def log(self) -> str:
        """Where it prints to."""

    async def start(self) -> None:
        """Start it and wait until it answers. Raises `InvalidSettings` if it does not come up."""

    def describe(self, connection: Mapping[str, object]) -> AnswerServer:
        """The server, now that it is up, as one that a user started by hand; `connection` are the
        settings of its connection beside those that the run decides."""

    async def wait_for_death(self) -> str:
        """Return once it has ended by itself: how it ended, and what to do about it."""

    async def stop(self) -> None:
        """End it with all its processes; does nothing if it is down."""


class ManagedServer:
    """One server of a run on this machine, with `folder` for its log and its record. For one event
    loop.

    Each time that it is started it has another port, or at least another key, so that no call to an
    earlier one reaches it. `host` is the address of this machine where it listens.
    """

    def __init__(
        self,
        plan: ServerPlan,
        folder: Path,
        number: int = 1,
        gpus: tuple[int, ...] = (),
        host: str = HERE,
    ) -> None:
        name = "server" if number == 1 else f"server-{number}"
        self.key = ""
        self._log = folder / f"{name}.log"
        self._plan = plan
        self._record = folder / f"{name}.json"
        self._key_file = folder / f".{name}.yaml"
        self._number = number
        self._gpus, self._host = gpus, host
        self._process: ServerProcess | None = None
        self._port = 0
        self._variable = make_key_variable()

    @property
    def log(self) -> str:
        return str(self._log)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    def describe(self, connection: Mapping[str, object]) -> AnswerServer:
        settings = {**connection, "api_key_env": self._variable}
        return AnswerServer(self._plan.name_address(self.url), settings)

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.status is None

    async def start(self) -> None:
        """The same; ends what an earlier start of this run has left before."""
        await asyncio.to_thread(end_leftovers, self._record)
        for _ in range(_PORT_TRIES):
            if await self._try_start():
                return
        raise InvalidSettings(
            f"the server found {_PORT_TRIES} ports taken one after another; set serving.port to "
            "one that nothing uses"
        )

    async def wait_for_death(self) -> str:
        assert self._process is not None
        status = await self._process.wait()
        return f"it ended with status {status}: {explain_failure(self._process.read_log(), status)}"

    async def stop(self) -> None:
        process, self._process = self._process, None
        os.environ.pop(self._variable, None)
        self._key_file.unlink(missing_ok=True)
        if process is not None:
            await process.stop(SHUTDOWN_S + 5.0)

    async def _try_start(self) -> bool:
        """False if another program took the port between the choice and the start."""
        self._port = _choose_port(self._plan.settings.port, self._number, self._host)
        self.key = key = secrets.token_urlsafe(_KEY_BYTES)
        os.environ[self._variable] = key
        process = ServerProcess(*self._build_command(key), self._log, self._record)
        process.start()
        self._process = process
        try:
            await asyncio.wait_for(self._wait_until_up(key), self._plan.settings.start_timeout_s)
        except _Ended:
            log, status = process.read_log(), process.status
            await self.stop()
            if is_port_taken(log) and self._plan.settings.port is None:
                return False
            raise self._explain(f"ended with status {status}", log, status) from None
        except TimeoutError:
            log = process.read_log()
            await self.stop()
            waited = f"{self._plan.settings.start_timeout_s:,.0f} s"
            raise self._explain(
                f"did not answer within {waited} (serving.start_timeout_s)", log, None
            ) from None
        except BaseException:
            await self.stop()
            raise
        return True

    def _build_command(self, key: str) -> tuple[list[str], dict[str, str]]:
        environment = build_environment(self._plan.settings)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self._gpus))
        command = self._plan.build_arguments(self._port, self._host)
        if self._plan.settings.engine == "vllm":
            environment["VLLM_API_KEY"] = key
        else:
            command += ["--config", str(_write_key(self._key_file, key))]
        return command, environment

    async def _wait_until_up(self, key: str) -> None:
        # Imported late: an experiment without a server of its own does not need it.
        import httpx2

        headers = {"authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(headers=headers, timeout=5.0) as client:
            while not await self._answers(client):
                if not self.is_up:
                    raise _Ended
                await asyncio.sleep(_ASK_EVERY_S)
            await self._check_version(client)

    async def _answers(self, client: httpx2.AsyncClient) -> bool:
        import httpx2

        with suppress(httpx2.HTTPError):
            health = await client.get(f"{self.url}/health")
            if health.is_success:
                # Another program at this port would not know the name.
                listed = await client.get(f"{self.url}/v1/models")
                return listed.is_success and f'"{self._plan.served_name}"' in listed.text
        return False

    async def _check_version(self, client: httpx2.AsyncClient) -> None:
        """Of a container's engine, which could not be asked before."""
        if self._plan.version or self._plan.settings.engine != "vllm":
            return
        import httpx2

        with suppress(httpx2.HTTPError, ValueError):
            version = (await client.get(f"{self.url}/version")).json()["version"]
            check_version("vllm", str(version))

    def _explain(self, what: str, log: str, status: int | None) -> InvalidSettings:
        lines = "\n".join(f"    {line}" for line in log.splitlines()) or "    (it printed nothing)"
        return InvalidSettings(
            f"the server {what}; {explain_failure(log, status)}. The end of {self.log}:\n{lines}"
        )


class _Ended(Exception):
    """The process ended before it answered."""


def make_key_variable() -> str:
    """A name for the variable of this process that has a server's key."""
    return f"SOCIETY_SERVER_KEY_{secrets.token_hex(4).upper()}"


def _choose_port(wanted: int | None, number: int, host: str) -> int:
    """A free port: the wanted one for the first server, those after it for the others."""
    if wanted is None:
        return check_port(0, host)
    if wanted + number - 1 > _LAST_PORT:
        raise InvalidSettings(f"serving.port = {wanted} leaves no port for server {number}")
    return check_port(wanted + number - 1, host)


def check_port(port: int, host: str = HERE) -> int:
    """`port`, or a free one for 0. Raises `InvalidSettings` if another program has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as free:
        # As the server binds it: one that ended a moment ago is no hindrance.
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((host, port))
        except OSError as error:
            raise InvalidSettings(
                f"serving.port: {port} is taken ({error.strerror}); end the program that has it, "
                "set another, or leave it out for a free one"
            ) from error
        return int(free.getsockname()[1])


def _write_key(path: Path, key: str) -> Path:
    """A file with the key that only this user can read; SGLang has no variable for it."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"api-key: {key}\n")
    return path
