"""Requests and answers checked against OpenAI's published document, by Prism between them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress

import openai
import pytest

from tests.providers.chat_server import says, serving
from tests.providers.test_openai_contract import DOCUMENT, free_port, wait_until_it_listens

# npm fetches Prism first, and then it starts: a minute before the first assertion.
pytestmark = pytest.mark.long
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3+4"}]


@pytest.fixture(scope="module")
def prism(tmp_path_factory, serve, new_run):
    """The address of a proxy in front of a served society, and what the proxy has said."""
    npx = shutil.which("npx")
    if npx is None or not DOCUMENT.is_file():
        pytest.skip(f"npx (Node.js), or OpenAI's document at {DOCUMENT}, is missing")
    log = tmp_path_factory.mktemp("prism") / "prism.log"
    with serving(lambda asked: says("It is \\boxed{7}.")) as model:
        folder = new_run(log.parent, "remote", model=f"openai+{model.url}:m")
        with serve(folder) as service:
            port = free_port()
            arguments = ["--errors", "-h", "127.0.0.1", "-p", str(port), str(DOCUMENT)]
            # `timeout` ends it even where this process is killed.
            command = ["timeout", "600", npx, "--yes", "@stoplight/prism-cli", "proxy", *arguments]
            with log.open("w") as output:
                process = subprocess.Popen(
                    [*command, f"{service.url}/v1"],
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            try:
                wait_until_it_listens(process, log)
                yield f"http://127.0.0.1:{port}", log
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_requests_and_answers_are_those_of_the_document(prism):
    url, log = prism
    with openai.OpenAI(base_url=url, api_key="sk-x", max_retries=0) as client:
        create = client.chat.completions.create
        for model in ("society", "society:fast", "society:round1", "society:agent-1"):
            reply = create(
                model=model, messages=ASKED, n=2, stop=["\n"], max_completion_tokens=64, seed=1
            )
            assert reply.choices[1].message.content == "It is \\boxed{7}."
        # Prism takes a stream for one text and refuses every one; test_clients.py checks chunks.
        assert client.models.list().data[0].owned_by == "society"
        assert client.models.retrieve("society:round1").id == "society:round1"
        with pytest.raises(openai.NotFoundError):
            create(model="none", messages=ASKED)
    said = log.read_text()
    assert [line for line in said.splitlines() if "VIOLATIONS" in line.upper()] == []
    assert said.count("/chat/completions") >= 5
