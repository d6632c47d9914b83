"""How servers are installed, started and ended, with one that comes with Python."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tests.servers.environments import NotInstalled, find_environment, install
from tests.servers.recipes import ROOT, Recipe
from tests.servers.running import running

pytestmark = pytest.mark.servers


def serve_files(folder, port):
    return ["start-files", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]


FILES = Recipe(
    name="files",
    packages=("pip",),
    shims={"start-files": '#!/bin/sh\necho "serving $KIND"\nexec {python} -m http.server "$@"\n'},
    environment={"KIND": "files from {cache}"},
    command=serve_files,
    ready="/",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SOCIETY_TEST_SERVERS", str(tmp_path / "servers"))
    return tmp_path / "servers"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The server's environment, made once for the tests that only start it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOCIETY_TEST_SERVERS", str(tmp_path_factory.mktemp("installed")))
        assert install(FILES) is None
        yield find_environment(FILES)


def test_a_server_is_installed_once_started_and_ended_with_all_its_processes(environment, tmp_path):
    made = (environment.folder / "pyvenv.cfg").stat().st_mtime_ns
    assert install(FILES) is None
    assert (environment.folder / "pyvenv.cfg").stat().st_mtime_ns == made
    with running(environment, tmp_path / "data") as server:
        assert f"serving files from {environment.folder}/cache" in server.read_log()
        server.kill()
        server.start()
        process = server.process
    assert process.poll() is not None


ABANDONED = """
import os
import sys
from pathlib import Path
from tests.servers.environments import find_environment
from tests.servers.running import running
from tests.servers.test_setting_up import FILES

with running(find_environment(FILES), Path(sys.argv[1])) as server:
    print(server.process.pid, flush=True)
    os._exit(0)
"""


def test_no_server_outlives_the_process_that_started_it(environment, tmp_path):
    command = [sys.executable, "-c", ABANDONED, str(tmp_path)]
    started = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    while is_running(int(started.stdout)):
        time.sleep(0.05)


def is_running(group):
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_that_ends_at_once_is_reported_with_its_log(environment, tmp_path):
    broken = replace(FILES, command=lambda folder, port: ["start-files", "--no-such-option"])
    with (
        pytest.raises(RuntimeError, match=r"(?s)files did not start.*--no-such-option"),
        running(replace(environment, recipe=broken), tmp_path / "data"),
    ):
        pass


def test_what_cannot_be_installed_is_skipped_with_the_reason(home, monkeypatch):
    missing = replace(FILES, packages=("./no-such-package.whl",))
    with pytest.raises(NotInstalled, match="files is not installed in"):
        find_environment(missing)
    assert "cannot be installed: ERROR" in install(missing)
    with pytest.raises(NotInstalled, match="cannot be installed: ERROR"):
        find_environment(missing)
    home.with_name("file").touch()
    monkeypatch.setenv("SOCIETY_TEST_SERVERS", str(home.with_name("file") / "servers"))
    assert "Not a directory" in install(FILES)
    with pytest.raises(NotInstalled, match="files is not installed in"):
        find_environment(FILES)
    monkeypatch.delenv("SOCIETY_TEST_SERVERS")
    with pytest.raises(NotInstalled, match="use make test-servers"):
        find_environment(FILES)
