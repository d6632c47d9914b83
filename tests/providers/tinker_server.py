"""A server of Tinker's wire for tests, which the SDK 0.24 talks to unchanged. It remembers
everything, keeps a log of all requests, and fails when it is told to.

    python -m tests.providers.tinker_server FOLDER [PORT]

prints its port and serves until its standard input ends, so that it never outlives a test. In a
test: ``with serving_tinker(tmp_path) as server: … server.url … server.state() …``; `process=True`
serves from a process of its own, for tests that fork or kill. What it can be told:

    dialect              "skyrl" (SkyRL 0.3.0) or "vendor" (what the SDK's types say)
    base                 the name of the base model; behind it is always the built-in one
    slots, most_rank     how many adapters are loaded at most, and their highest rank
    session_timeout_s    a session without a heartbeat for so long gives its slots to others
    remembers_requests   a request sent again with its seq_id is done once; SkyRL does it twice
    step_s, pass_s       so long an optimizer step, or a pass, takes more
    sample_s             so long a batch of answers takes more
    answer               {pattern of a path: status, {"status", "body"}, or "hang"} in its place
    drop                 a list of {"path", "nth", "done"}: the connection of the nth such request
                         from now on is closed, after (done) or before it is applied
    kill                 {"pid", "path", "nth", "done"}: kill -9 that process at that request

and, at once: `server.restart()` (loaded adapters and futures are gone, connections closed),
`server.expire()` (all adapters unloaded, as after their sessions' time-out: futures fail with 400),
`server.evict(model_id)` (404 from now on).

What SkyRL 0.3.0 does otherwise than the SDK's types say, all of it in its dialect here:

- A step's gradient is the mean over examples of the mean over an example's weights; the vendor's is
  the sum. `grad_clip_norm`, `seq_id`, `overwrite` and `optimizer` are not read.
- A slot keeps a gradient that no optimizer step has applied: the next adapter there begins with it,
  also if it loads a state.
- Answers come from adapters that are loaded: a checkpoint of an unloaded one is refused.
- A path of weights for sampling lacks `sampler_weights/`; the id of an archive is the bare name.
- An adapter's config names no target modules, although all linear layers have them.
- Log-probabilities of a prompt begin at its second token, without a None for the first.
- An error in a future is a 400, which the SDK asks for four times before it raises.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from tests.providers.tinker_account import Json, TinkerAccount
from tests.providers.tinker_futures import TinkerDropped, TinkerRefused
from tests.quiet_server import QuietServer

_ROOT = Path(__file__).parents[2]
_API = "/api/v1/"


@dataclass(frozen=True)
class TinkerServer:
    """A running server, as a test sees it. `url` is the SDK's `base_url`."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self, **wishes: Any) -> None:
        """Change how the server behaves from now on."""
        self._ask("tell", wishes)

    def restart(self) -> None:
        """Lose what a new process would not know, and all connections."""
        self._ask("restart", {})

    def expire(self, model_id: str | None = None) -> None:
        """Unload an adapter, or all, as if their sessions had timed out."""
        self._ask("expire", {"model_id": model_id})

    def evict(self, model_id: str | None = None) -> None:
        """Forget an adapter, or all; their checkpoints stay."""
        self._ask("evict", {"model_id": model_id})

    def log(self, path: str = ".*") -> list[Json]:
        """The requests so far whose path below /api/v1/ fits a pattern."""
        return [entry for entry in self._ask("log", {}) if re.fullmatch(path, entry["path"])]

    def state(self) -> Json:
        """After all work that has come so far: `models`, `saved` (weights for sampling, each with
        its history of steps and sha256), `states`, `slots` in use and their most, and all `steps`
        of a rate above 0 in the order they were applied."""
        found: Json = self._ask("state", {})
        return found

    def _ask(self, what: str, body: Json) -> Any:
        request = urllib.request.Request(f"{self.url}/_{what}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def serving_tinker(
    folder: Path, port: int = 0, *, process: bool = False, **wishes: Any
) -> Iterator[TinkerServer]:
    """A server for the length of the `with` block, its checkpoints in `folder`; port 0: any."""
    if process:
        command = [sys.executable, "-m", "tests.providers.tinker_server", str(folder), str(port)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=_ROOT) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            server = TinkerServer(int(child.stdout.readline()))
            try:
                server.tell(**wishes)
                yield server
            finally:
                child.stdin.close()
        return
    http = start_server(folder, port)
    try:
        server = TinkerServer(http.server_address[1])
        server.tell(**wishes)
        yield server
    finally:
        http.close()


class TinkerHttpServer(QuietServer):
    """The HTTP side of one account."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, account: TinkerAccount) -> None:
        self.account = account
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def drop_connections(self, keep: socket.socket | None = None) -> None:
        """Close all connections but one."""
        for connection in list(self.connections - {keep}):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                self.connections.discard(connection)

    def close(self) -> None:
        """End the server, its connections and its thread."""
        self.shutdown()
        self.server_close()
        self.account.futures.forget()
        self.account.futures.close()
        self.drop_connections()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: TinkerHttpServer

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._serve("GET")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def do_POST(self) -> None:
        self._serve("POST")

    def log_message(self, format: str, *args: object) -> None:
        return

    def _serve(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if len(content) < length:
            # The client was killed while it wrote.
            self.close_connection = True
            return
        body = json.loads(content) if content else {}
        if path.startswith("/_"):
            self._send(200, self._control(path[2:], body))
            return
        path = path.removeprefix(_API)
        account = self.server.account
        with account.lock:
            account.log.append({"method": method, "path": path, "body": body})
            fault = self._find_fault(path)
            instead = self._find_answer(path)
        try:
            if fault is not None and not fault["done"]:
                _strike(fault)
            if instead == "hang":
                threading.Event().wait(3600)
            if isinstance(instead, dict):
                self._send(instead["status"], instead["body"])
                return
            if instead is not None:
                raise TinkerRefused(int(instead), "as it was told")
            answer = self._answer(method, path, body)
            if fault is not None:
                if isinstance(answer, dict) and "request_id" in answer:
                    account.futures.retrieve(answer["request_id"])
                _strike(fault)
            self._send(200, answer)
        except TinkerRefused as refused:
            self._send(refused.status, {"detail": str(refused)})
        except ValidationError as error:
            self._send(422, {"detail": json.loads(error.json(include_url=False))})
        except ValueError as error:
            self._send(400, {"detail": str(error)})
        except TinkerDropped:
            self.close_connection = True

    def _answer(self, method: str, path: str, body: Json) -> Json | bytes:
        account = self.server.account
        if path == "retrieve_future":
            return account.futures.retrieve(body["request_id"])
        with account.lock:
            match method, path.split("/"):
                case "GET", ["healthz"]:
                    return {"status": "ok"}
                case "POST", ["client", "config"]:
                    return {"pjwt_auth_enabled": False}
                case "POST", ["telemetry"]:
                    return {"status": "accepted"}
                case "GET", ["get_server_capabilities"]:
                    return {"supported_models": [{"model_name": account.told["base"]}]}
                case "POST", ["create_session"]:
                    return account.create_session(body)
                case "POST", ["session_heartbeat"]:
                    return account.beat(body)
                case "POST", ["create_sampling_session"]:
                    return account.create_sampler(body)
                case "POST", ["create_model"]:
                    return account.create_model(body)
                case "POST", ["unload_model"]:
                    return account.unload_model(body)
                case "POST", ["get_info"]:
                    return account.describe_model(body)
                case "POST", [("forward" | "forward_backward") as kind]:
                    return account.compute_pass(body, backward=kind == "forward_backward")
                case "POST", ["optim_step"]:
                    return account.optim_step(body)
                case "POST", ["save_weights"]:
                    return account.save_state(body)
                case "POST", ["save_weights_for_sampler"]:
                    return account.save_for_sampler(body)
                case "POST", ["load_weights"]:
                    return account.load_state(body)
                case "POST", ["weights_info"]:
                    return account.describe_weights(body)
                case "POST", ["asample"]:
                    return account.sample(body)
                case "GET", ["checkpoints"] if not account.skyrl:
                    return account.list_checkpoints(None)
                case "GET", ["training_runs"]:
                    return account.list_runs()
                case "GET", ["training_runs", model_id]:
                    return account.describe_run(model_id)
                case "GET", ["training_runs", model_id, "checkpoints"]:
                    return account.list_checkpoints(model_id)
                case "DELETE", ["training_runs", model_id, "checkpoints", *name] if (
                    not account.skyrl
                ):
                    return account.delete_checkpoint(model_id, "/".join(name))
                case "GET", ["training_runs", model_id, "checkpoints", *name, "archive"]:
                    return self._redirect_to_archive(model_id, "/".join(name))
                case "GET", ["training_runs", model_id, "checkpoints", *name, "download"]:
                    return account.pack(model_id, "/".join(name))
        raise TinkerRefused(404, "Not Found")

    def _redirect_to_archive(self, model_id: str, name: str) -> Json:
        if self.server.account.skyrl and "/" in name:
            raise TinkerRefused(404, "Not Found")
        self.server.account.pack(model_id, name)
        host = f"http://127.0.0.1:{self.server.server_address[1]}"
        return {"location": f"{host}{_API}training_runs/{model_id}/checkpoints/{name}/download"}

    def _find_fault(self, path: str) -> Json | None:
        """What is to happen to this request: a wish `drop` or `kill` whose turn it is."""
        told = self.server.account.told
        wishes = [*(told.get("drop") or []), *([told["kill"]] if told.get("kill") else [])]
        found = None
        for wish in wishes:
            if re.fullmatch(wish["path"], path):
                wish["nth"] -= 1
                if wish["nth"] == 0:
                    found = wish
        return found

    def _find_answer(self, path: str) -> Any:
        """What is answered in place of the answer, if anything."""
        for pattern, instead in (self.server.account.told.get("answer") or {}).items():
            if re.fullmatch(pattern, path):
                return instead
        return None

    def _control(self, what: str, body: Json) -> Any:
        account = self.server.account
        if what == "state":
            account.futures.drain()
        if what == "restart":
            account.restart()
            self.server.drop_connections(self.connection)
        with account.lock:
            if what == "tell":
                account.told |= body
            elif what == "expire":
                account.expire(body["model_id"])
            elif what == "evict":
                account.evict(body["model_id"])
            elif what == "log":
                return account.log
            elif what == "state":
                return account.describe()
        return {}

    def _send(self, status: int, answer: Any) -> None:
        location = answer.get("location") if isinstance(answer, dict) else None
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        try:
            self.send_response(302 if location else status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def _strike(fault: Json) -> None:
    """Kill the process of a fault, if it has one, and give no answer."""
    if "pid" in fault:
        os.kill(fault["pid"], signal.SIGKILL)
    raise TinkerDropped


def start_server(folder: Path, port: int) -> TinkerHttpServer:
    """A server in a thread of this process."""
    folder.mkdir(parents=True, exist_ok=True)
    http = TinkerHttpServer(port, TinkerAccount(folder))
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    return http


def main() -> None:
    import torch

    torch.set_num_threads(1)
    http = start_server(Path(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]))
    print(http.server_address[1], flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
