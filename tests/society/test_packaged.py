"""The packaged experiments: the doctor accepts them, up to the key, the weights or the hub.

The Hugging Face hub is stood in for by a server on this machine that has questions of the right
shape and knows the models' names; `society` asks it as a process of its own.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import duckdb
import pytest

from evals.tasks import gsm8k, math
from providers.embedded import MODEL_DIR
from society.config import load as experiments
from tests.providers.job_server import serving as openai_stand_in
from tests.quiet_server import QuietServer

ROOT = Path(__file__).parents[2]
LOCAL = {
    "paper-phi3": "microsoft/Phi-3-mini-4k-instruct",
    "paper-mistral": "mistralai/Mistral-7B-Instruct-v0.2",
    "paper-llama3": "meta-llama/Meta-Llama-3-8B-Instruct",
}
MODELS = {name: f"local:{model}" for name, model in LOCAL.items()}
MODELS["paper-openai"] = "openai:gpt-4.1-mini-2025-04-14"


class Hub(BaseHTTPRequestHandler):
    """Files of datasets by "repo/path", and what is known of models; `gated` ones are refused."""

    files: ClassVar[dict[str, bytes]]
    gated: ClassVar[tuple[str, ...]]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.path.startswith("/api/models/"):
            name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
            if name in self.gated:
                return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            return self._send(200, json.dumps({"id": name, "modelId": name}).encode(), {})
        repo, _, rest = self.path.removeprefix("/datasets/").partition("/resolve/")
        commit, _, file = rest.partition("/")
        content = self.files.get(f"{repo}/{file}")
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        return self._send(200, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def hub(files: dict[str, bytes], *gated: str) -> Iterator[str]:
    handler = type("OneHub", (Hub,), {"files": files, "gated": gated})
    server = QuietServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """Enough problems of every subject and level, and word problems, all different."""
    folder = tmp_path_factory.mktemp("hub")

    def table(rows: list[dict[str, object]]) -> bytes:
        (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
        with duckdb.connect() as connection:
            connection.read_json(str(folder / "rows.json")).write_parquet(str(folder / "t.parquet"))
        return (folder / "t.parquet").read_bytes()

    found = {}
    for split, base in (("train", 0), ("test", 50_000)):
        for place, subject in enumerate(math.SUBJECTS):
            start = base + 1000 * place
            rows = [
                {
                    "problem": f"What is ${start + n} + {n}$ in {subject}?",
                    "level": f"Level {n % 5 + 1}",
                    "type": subject.replace("_", " ").title().replace("And", "&"),
                    "solution": rf"It is $\boxed{{{start + 2 * n}}}$.",
                }
                for n in range(600)
            ]
            found[f"{math.REPO}/{subject}/{split}-00000-of-00001.parquet"] = table(rows)
        rows = [
            {"question": f"Ann has {base + n} pens and buys {n}.", "answer": f"So #### {n}"}
            for n in range(600)
        ]
        found[f"{gsm8k.REPO}/main/{split}-00000-of-00001.parquet"] = table(rows)
    return found


def doctor(
    name: str, endpoint: str | None, home: Path, *more: str, key: str | None = None
) -> tuple[int, list[str]]:
    """Exit status and errors; without an `endpoint` the hub must not be asked."""
    environment = {
        "PATH": os.environ["PATH"],
        "HF_HOME": str(home / "hf"),
        **({"HF_ENDPOINT": endpoint} if endpoint else {"HF_HUB_OFFLINE": "1"}),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT),
        **({} if key is None else {"OPENAI_API_KEY": key}),
    }
    done = subprocess.run(
        [sys.executable, "-m", "society", "doctor", name, *more],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not done.stderr, done.stderr
    found = [block for block in done.stdout.split("\n") if block.startswith("error")]
    return done.returncode, found


def test_they_are_packaged():
    assert set(MODELS) <= set(experiments.list_packaged())


@pytest.mark.parametrize("name", MODELS)
def test_they_are_the_papers_experiment(name):
    table, _ = experiments.read_table(name)
    assert table["task"] == {"name": "math", "levels": [1, 2, 3]}
    assert table["zero_shot"] == [{"name": "gsm8k"}]
    society = {"agents": 3, "rounds": 2, "others": "summarized"}
    # Ours, each with the paper's value beside it in the file.
    ours = {"early_end": "eval"} if name in LOCAL else {}
    assert table["society"] == society | ours
    assert table["train"].get("fresh", False) == bool(ours)
    assert table["train"]["questions"] == table["evaluation"]["questions"] == 500
    sampling = {key: table["sampling"][key] for key in ("temperature", "top_p", "max_tokens")}
    assert sampling == {"temperature": 1.0, "top_p": 0.9, "max_tokens": 2048}
    assert table["model"] == MODELS[name]
    assert {"multiagent", "majority-ft", "star", "debate", "majority", "base"} <= set(table["arms"])


@pytest.mark.parametrize("name", ["paper-mistral", "paper-llama3"])
def test_an_open_model_lacks_nothing_but_its_weights(name, files, tmp_path):
    with hub(files) as endpoint:
        assert doctor(name, endpoint, tmp_path) == (0, [])


def test_with_questions_in_the_cache_and_a_copy_of_the_weights_nothing_is_asked(files, tmp_path):
    with hub(files) as endpoint:
        assert doctor("paper-phi3", endpoint, tmp_path) == (0, [])
    there = f'model="local:{MODEL_DIR}"'
    assert doctor("paper-phi3", None, tmp_path, "--set", there) == (0, [])


def test_a_gated_model_says_where_to_ask(files, tmp_path):
    with hub(files, LOCAL["paper-llama3"]) as endpoint:
        status, [error] = doctor("paper-llama3", endpoint, tmp_path)
    assert status == 2
    assert "has not given you access yet" in error


def test_without_the_hub_the_questions_are_what_is_missing(tmp_path):
    status, [error] = doctor("paper-mistral", None, tmp_path)
    assert status == 2
    assert "paper-mistral has 1 problem(s)" in error


def test_openai_lacks_nothing_but_the_key(files, tmp_path):
    with hub(files) as endpoint:
        status, [error] = doctor("paper-openai", endpoint, tmp_path)
        assert status == 2
        assert "the environment variable OPENAI_API_KEY is not set" in error
        model = MODELS["paper-openai"].removeprefix("openai:")
        with openai_stand_in(base=model) as server:
            price = "input_usd = 1.0, output_usd = 1.0, training_usd = 1.0"
            price += ", tuned_input_usd = 1.0, tuned_output_usd = 1.0"
            more = (
                f'--set=model="openai+{server.url}:{model}"',
                f'--set=prices={{"{model}" = {{{price}}}}}',
            )
            assert doctor("paper-openai", endpoint, tmp_path, *more, key="for-the-stand-in") == (
                0,
                [],
            )
