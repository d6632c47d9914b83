"""Servers that nobody here wrote; a test skips where one is not installed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.servers.environments import NotInstalled, find_environment
from tests.servers.recipes import RECIPES
from tests.servers.running import RunningServer, running


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], RunningServer]]:
    """Start a server of the table by its name, once for all tests."""
    servers: dict[str, RunningServer] = {}
    with ExitStack() as stack:

        def start(name: str) -> RunningServer:
            if name not in servers:
                try:
                    environment = find_environment(RECIPES[name])
                except NotInstalled as reason:
                    pytest.skip(str(reason))
                folder = tmp_path_factory.mktemp(name)
                servers[name] = stack.enter_context(running(environment, folder))
            return servers[name]

        yield start


@pytest.fixture(scope="session")
def skyrl(start_server: Callable[[str], RunningServer]) -> RunningServer:
    """SkyRL's server of Tinker's wire with the built-in base model."""
    return start_server("skyrl")
