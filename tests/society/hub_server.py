"""A hub for tests, at which the real client makes repositories, pushes to them and reads them.

    with serving_hub() as hub:
        … HF_ENDPOINT=hub.url … hub.repos["org/name"]["README.md"] …

It knows what the client asks without Xet: a repository is made, files are announced, large ones go
by Git LFS, and a commit names them all. Tokens but `hub.token` are refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.quiet_server import QuietServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_test_token_of_a_test"


@dataclass
class Hub:
    """What it holds: `repos` has the files of each repository by path, `private` their visibility.
    `refuse` is a status for every commit."""

    port: int = 0
    token: str = TOKEN
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    refuse: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving_hub() -> Iterator[Hub]:
    hub = Hub()
    server = QuietServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("HEAD")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def log_message(self, format: str, *args: object) -> None:
        return

    def _serve(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        signed = f"Bearer {self.hub.token}" == self.headers.get("Authorization")
        if method == "POST" and not signed and not path.startswith("/verify"):
            self._send(401, {"error": "Invalid username or password."})
            return
        for pattern, answer in _ROUTES.items():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                self._send(*answer(self, content, *found.groups()))
                return
        self.hub.unknown.append(f"{method} {path}")
        self._send(404, {"error": "Not Found"}, {"X-Error-Code": "EntryNotFound"})

    def create(self, content: bytes) -> tuple[int, Any]:
        body = json.loads(content)
        name = f"{body['organization']}/{body['name']}"
        if name in self.hub.repos:
            return 409, {"error": "You already created this model repo"}
        self.hub.repos[name] = {}
        self.hub.private[name] = body.get("visibility") == "private" or bool(body.get("private"))
        return 200, {"url": f"{self.hub.url}/{name}", "name": name, "id": "1"}

    def announce(self, content: bytes, repo: str) -> tuple[int, Any]:
        files = json.loads(content)["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        return 200, {"files": modes}

    def batch(self, content: bytes, repo: str) -> tuple[int, Any]:
        objects = [
            {
                **entry,
                "actions": {
                    "upload": {"href": f"{self.hub.url}/large/{entry['oid']}"},
                    "verify": {"href": f"{self.hub.url}/verify/{entry['oid']}"},
                },
            }
            for entry in json.loads(content)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def put(self, content: bytes, oid: str) -> tuple[int, Any]:
        if hashlib.sha256(content).hexdigest() != oid:
            return 400, {"error": "the content is not what was announced"}
        self.hub.large[oid] = content
        return 200, {}

    def verify(self, content: bytes, oid: str) -> tuple[int, Any]:
        return (200, {}) if oid in self.hub.large else (404, {"error": "missing"})

    def commit(self, content: bytes, repo: str) -> tuple[int, Any]:
        if self.hub.refuse is not None:
            return self.hub.refuse, {"error": "as it was told"}
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "header":
                    self.hub.messages.append(value["summary"])
                case "file":
                    text = base64.b64decode(value["content"])
                    self.hub.repos[repo][value["path"]] = text
                case "lfsFile":
                    self.hub.repos[repo][value["path"]] = self.hub.large[value["oid"]]
        url = f"{self.hub.url}/{repo}/commit/{COMMIT}"
        return 200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""}

    def validate(self, content: bytes) -> tuple[int, Any]:
        return 200, {"errors": [], "warnings": []}

    def describe(self, content: bytes, repo: str) -> tuple[int, Any]:
        if repo not in self.hub.repos:
            return 404, {"error": "Repository not found"}
        siblings = [{"rfilename": path} for path in self.hub.repos[repo]]
        return 200, {"id": repo, "sha": COMMIT, "siblings": siblings, "tags": []}

    def resolve(self, content: bytes, repo: str, path: str) -> tuple[int, Any, dict[str, str]]:
        found = self.hub.repos.get(repo, {}).get(path)
        if found is None:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
        etag = f'"{hashlib.sha256(found).hexdigest()}"'
        return 200, found, {"ETag": etag, "X-Repo-Commit": COMMIT}

    def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


_REPO = "([^/]+/[^/]+)"
_ROUTES = {
    "POST /api/repos/create": _Handler.create,
    "POST /api/validate-yaml": _Handler.validate,
    f"POST /api/models/{_REPO}/preupload/main": _Handler.announce,
    f"POST /{_REPO}.git/info/lfs/objects/batch": _Handler.batch,
    "PUT /large/([0-9a-f]{64})": _Handler.put,
    "POST /verify/([0-9a-f]{64})": _Handler.verify,
    f"POST /api/models/{_REPO}/commit/main": _Handler.commit,
    f"GET /api/models/{_REPO}(?:/revision/main)?": _Handler.describe,
    f"(?:GET|HEAD) /{_REPO}/resolve/(?:main|{COMMIT})/(.+)": _Handler.resolve,
}
