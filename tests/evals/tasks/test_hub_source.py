"""The hub: a local server that speaks its resolve protocol, and the real client as a process."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest

from tests.quiet_server import QuietServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/sums"
FILES = ("data/train.parquet", "test.jsonl")
CODE = f"""
import sys
from evals.tasks.sources import HubDataset
files = {{"train": ({FILES[0]!r},), "eval": (sys.argv[2],)}}
try:
    print([dict(row.fields) for row in HubDataset({REPO!r}, {COMMIT!r}, files).rows(sys.argv[1])])
except ValueError as error:
    print("refused:", error)
"""


class Hub(BaseHTTPRequestHandler):
    """Serves files of one commit; a .parquet file is redirected to, as large files are."""

    files: ClassVar[dict[str, bytes]]
    asked: ClassVar[list[str]]
    status = 200
    code = ""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if REPO in self.path:
            self.asked.append(f"{self.command} {self.path}")
        if self.path.startswith("/large/"):
            return self._send(200, self.files[self.path.removeprefix("/large/")])
        name = self.path.removeprefix(f"/datasets/{REPO}/resolve/{COMMIT}/")
        if self.status != 200:
            return self._send(self.status, b"", {"X-Error-Code": self.code})
        if name not in self.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = self.files[name]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if name.endswith(".parquet"):
            return self._send(
                302,
                b"",
                {
                    "X-Linked-Etag": etag,
                    "X-Linked-Size": str(len(content)),
                    "Location": f"http://localhost:{self.server.server_port}/large/{name}",
                },
            )
        return self._send(200, content, {"ETag": etag})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"X-Repo-Commit": COMMIT, **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes], **ways: object) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("OneHub", (Hub,), {"files": files, "asked": asked, **ways})
    server = QuietServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def files(parquet) -> dict[str, bytes]:
    table = parquet("t.parquet", [{"q": "1+1", "a": 2}])
    return {FILES[0]: table.read_bytes(), FILES[1]: json.dumps({"q": "2+2"}).encode()}


def load(home: Path, endpoint: str, split: str = "train", eval_file: str = FILES[1], **env: str):
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", CODE, split, eval_file],
        env={
            "PATH": os.environ["PATH"],
            "HF_HOME": str(home),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(root),
            **env,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_rows_are_downloaded_once_and_then_read_without_the_hub(tmp_path, files):
    with serving(files) as (endpoint, asked):
        assert load(tmp_path, endpoint) == "[{'q': '1+1', 'a': 2}]"
        assert load(tmp_path, endpoint, "eval") == "[{'q': '2+2'}]"
        assert any(FILES[0] in line for line in asked)
        before = len(asked)
        load(tmp_path, endpoint)
        assert len(asked) == before
    assert load(tmp_path, endpoint) == "[{'q': '1+1', 'a': 2}]"
    assert load(tmp_path, endpoint, HF_HUB_OFFLINE="1") == "[{'q': '1+1', 'a': 2}]"


def test_offline_without_a_cache_says_what_to_set(tmp_path):
    message = load(tmp_path, "http://127.0.0.1:9", "eval", HF_HUB_OFFLINE="1")
    assert message.startswith(f"refused: cannot get test.jsonl of the dataset {REPO}")
    assert "HF_HUB_OFFLINE is set" in message
    assert "task.eval_path" in message
    assert "task.path" in message


def test_a_hub_that_is_not_there_says_what_to_set(tmp_path):
    message = load(tmp_path, "http://127.0.0.1:9")
    assert "the hub does not answer" in message
    assert "task.train_path" in message


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (404, "RevisionNotFound", "no such revision; leave task.revision out"),
        (401, "RepoNotFound", "no such dataset, or not for you"),
        (403, "GatedRepo", "accept the terms on its page and set HF_TOKEN"),
        (418, "", "the hub does not answer (HfHubHTTPError: "),
    ],
)
def test_what_the_hub_refuses_is_explained(tmp_path, files, status, code, reason):
    with serving(files, status=status, code=code) as (endpoint, _):
        message = load(tmp_path, endpoint)
    assert reason in message
    assert "task.train_path" in message


def test_a_file_that_the_hub_lacks_is_named(tmp_path, files):
    with serving(files) as (endpoint, _):
        message = load(tmp_path, endpoint, "eval", "dev.jsonl")
    assert "cannot get dev.jsonl" in message
    assert "no such file at this revision" in message


def test_a_broken_file_of_the_hub_is_named_by_repository_and_place(tmp_path, files):
    with serving({**files, "test.jsonl": b'{"q": 1}\nnonsense'}) as (endpoint, _):
        message = load(tmp_path, endpoint, "eval")
    assert f"{REPO}/test.jsonl, line 2: broken JSON" in message
