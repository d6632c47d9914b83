"""Every request checked against OpenAI's published document.

Prism (https://github.com/stoplightio/prism) stands between the provider and the job server and
refuses requests, and answers, that the document does not allow. It takes some 20 s to start.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from providers.batch_account import BatchAccount, BatchPacing
from providers.batch_lines import BatchPart
from providers.errors import BadRequest
from providers.limits import Limiter, Limits
from providers.openai.batch import OpenAIBatches
from providers.openai.batch_format import BatchChat
from providers.openai.chat import Chat
from providers.openai.client import Connection
from providers.openai.files import FilePolling
from providers.openai.jobs import FinetuningJobs
from providers.openai.settings import OpenAISettings, parse_address
from providers.types import BatchRecord, Message, ModelRef, Request, Sampling
from society.config import load as experiments
from society.method.experiment import resolve
from society.runs import folder as folders
from society.runs import runner
from tests.providers.job_account import BASE
from tests.providers.job_client import ADDRESS, SPEC, caller, followed, spec
from tests.providers.job_server import Server, serving

# npm fetches Prism first, and then it starts: a minute before the first assertion.
pytestmark = pytest.mark.long

DOCUMENT = Path(__file__).parents[3] / "shared" / "data" / "openai_openapi.yaml"
STARTS_WITHIN_S = 180


@dataclass(frozen=True)
class Prism:
    """The proxy, the server behind it, and what it has said."""

    url: str
    server: Server
    log: Path

    def violations(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if "VIOLATIONS" in line]


@pytest.fixture(scope="module")
def prism(tmp_path_factory) -> Iterator[Prism]:
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx (Node.js) is not installed")
    if not DOCUMENT.is_file():
        pytest.skip(f"OpenAI's document is not at {DOCUMENT}")
    log = tmp_path_factory.mktemp("prism") / "prism.log"
    with serving(job_s=0.5, by_the_book=True) as server:
        port = free_port()
        arguments = ["--errors", "-h", "127.0.0.1", "-p", str(port), str(DOCUMENT), server.url]
        # `timeout` ends it even where this process is killed.
        command = ["timeout", "600", npx, "--yes", "@stoplight/prism-cli", "proxy", *arguments]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True
            )
        try:
            wait_until_it_listens(process, log)
            yield Prism(f"http://127.0.0.1:{port}", server, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_listens(process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + STARTS_WITHIN_S
    while "is listening" not in log.read_text():
        if process.poll() is not None or time.monotonic() > give_up:
            pytest.skip(f"Prism does not start: {log.read_text()[-300:]}")
        time.sleep(0.2)


@pytest.fixture
def connection(prism, monkeypatch) -> Connection:
    monkeypatch.setenv("A_KEY", "sk-test-0123456789abcdef")
    return Connection(parse_address(f"+{prism.url}:{BASE}"), OpenAISettings(api_key_env="A_KEY"))


@pytest.mark.timeout(600)
def test_a_whole_run_is_accepted(prism, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-test-0123456789abcdef")
    experiment = tmp_path / "api.toml"
    experiment.write_text(
        f"""
        model = "openai+{prism.url}:{BASE}"
        iterations = 2
        [task]
        name = "arithmetic"
        [society]
        agents = 3
        [sampling]
        top_p = 0.9
        max_tokens = 64
        [train]
        questions = 16
        [evaluation]
        questions = 1
        decodings = ["sampled"]
        [provider]
        api_key_env = "A_KEY"
        max_attempts = 2
        """
    )
    config = experiments.load_config(str(experiment))
    folder = folders.locate_run(tmp_path / "runs", "run")
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
        models = store.models(2)
    assert models
    assert prism.violations() == []
    paths = {(entry["method"], entry["path"].split("/")[1]) for entry in prism.server.log()}
    assert {("POST", "files"), ("POST", "fine_tuning"), ("POST", "chat")} <= paths
    assert prism.server.log("GET", "/fine_tuning/jobs/[^/]+/events")
    assert prism.server.log("GET", "/fine_tuning/jobs/[^/]+/checkpoints")


@pytest.mark.timeout(600)
async def test_jobs_with_validation_and_cancelled_ones_are_accepted(prism, connection):
    mine = FinetuningJobs(
        connection.client, caller(2), base=BASE, address=ADDRESS, polling=FilePolling(0.01)
    )
    measured = spec(validation=SPEC.examples[:2], validation_sha256="v")
    handle = await mine.submit(measured)
    assert await mine.find(measured) == handle
    assert (await followed(mine, handle))[-1].status == "succeeded"
    stopped = await mine.submit(SPEC)
    await mine.cancel(stopped)
    assert (await mine.poll(stopped)).status == "cancelled"
    await connection.close()
    assert prism.violations() == []


@pytest.mark.timeout(600)
async def test_batches_are_accepted(prism, connection):
    """All but the download: the document describes a file's content as JSON, which it is not."""

    class Forgetful:
        async def all(self) -> list[BatchRecord]:
            return []

        async def save(self, record: BatchRecord) -> None:
            return None

    shape = BatchChat(connection, Chat(connection, OpenAISettings(), Limiter(Limits())))
    model, sampling = ModelRef(ADDRESS, ADDRESS), Sampling(max_tokens=16)
    asked = [Request(model, (Message("user", f"{n}+1?"),), sampling, f"q{n}") for n in range(3)]
    mine = OpenAIBatches(connection.client, caller(2), shape)
    part = BatchPart(tuple([await mine.build_line(request) for request in asked]))
    account = BatchAccount(mine, caller(2), Forgetful(), BatchPacing(0.1, 0.1, lag_s=0.1))
    batch = await account.create(part, part.digest(1))
    index = await mine.list_batches()
    assert index.get(part.digest(1)).batch_id == batch.batch_id
    ended = await account.wait_until_ended(batch)
    assert (ended.ended, ended.refusal) == (True, None)
    await mine.cancel((await account.create(part, part.digest(2))).batch_id)
    await connection.close()
    assert prism.violations() == []


@pytest.mark.timeout(600)
async def test_what_the_document_does_not_allow_is_refused(prism, connection):
    jobs = connection.client.fine_tuning.jobs

    async def wrong():
        return await jobs.create(
            model=BASE, training_file="file-1", method={"type": "unsupervised"}
        )

    with pytest.raises(BadRequest, match="422"):
        await caller(1).call_once(wrong)
    await connection.close()
