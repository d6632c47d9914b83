"""A server of the OpenAI shape for tests: files, fine-tuning jobs, batches, and chat with what they
make. It remembers everything, keeps a log of all requests, and fails when it is told to.

    python -m tests.providers.job_server [PORT]

prints its port and serves until its standard input ends, so that it never outlives a test. In a
test: ``with serving(job_s=0.1) as server: … server.url … server.log() … server.tell(create=[500])``
What it can be told:

    job_s, steps, page     how long jobs and batches take, how many steps they log, items per page
    base                   the model that can be tuned
    upload, uploaded, create, created, chatted
                           a list of failures at that moment, one per request: an HTTP status,
                           {"status", "message", "code"}, "drop" for a closed connection, or null
    slow                   {"POST /files": seconds}: do it, and answer that much later
    refuse                 {pattern of "GET /path": a failure as above, or {"text"} of a 200}
    lag                    so many lists of jobs or batches show nothing yet
    kill                   {"pid", "method", "path", "nth", "done"}: kill -9 that process when the
                           nth such request from now on has come, after (done) or without doing it
    loading                how often tuned models are not there yet when they are asked for
    ended_ago_s            how long ago jobs say that they have ended
    closed                 no new jobs for this account
    fail                   {pattern of a suffix: error}: that job fails
    drop_metadata, drop_suffix, status_while_running, file_status, no_events,
                           stream_events, drop_names
    by_the_book            what the published schema says, where real servers differ from it
    batch_errors           a list of errors that refuse a batch as a whole
    line_errors            {part of a line: [statuses or "expired"]}, one per attempt

What it can be told as Azure's resource manager is in `azure_account`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.providers.job_account import Account, Dropped, Json, Refused, page
from tests.quiet_server import QuietServer

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """A running server, as a test sees it. `url` is the base URL for a client."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def tell(self, **wishes: Any) -> None:
        """Change how the server behaves from now on."""
        self._ask("tell", wishes)

    def reset(self) -> None:
        """Forget everything, also what it was told."""
        self._ask("reset", {})

    def log(self, method: str = "", path: str = "") -> list[Json]:
        """The requests so far, by method and the start of their path below /v1."""
        return [
            entry
            for entry in self._ask("log", {})
            if entry["method"].startswith(method) and re.fullmatch(path or ".*", entry["path"])
        ]

    def state(self) -> Json:
        """All files, jobs and batches by id."""
        return self._ask("state", {})

    def _ask(self, what: str, body: Json) -> Any:
        data = json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}/_{what}"
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
            return json.load(answer)


@contextmanager
def serving(port: int = 0, **wishes: Any) -> Iterator[Server]:
    """A server in a process of its own for the length of the `with` block; port 0: any."""
    command = [sys.executable, "-m", "tests.providers.job_server", str(port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=_ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = Server(int(process.stdout.readline()))
        try:
            server.tell(**wishes)
            yield server
        finally:
            process.stdin.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    account = Account()

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def log_message(self, format: str, *args: object) -> None:
        return

    def _serve(self, method: str) -> None:
        split = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = self._chunks()
        if split.path.startswith("/_"):
            self._send(200, self._control(split.path[2:], json.loads(content)))
            return
        path, query = unquote(split.path.removeprefix("/v1")), parse_qs(split.query)
        try:
            with self.account.lock:
                body = self._body(content)
                seen = {"method": method, "path": path, "query": query, "body": body}
                seen["headers"] = dict(self.headers.items())
                self.account.log.append(seen)
                victim = self._victim(method, path)
                if victim is not None and not victim["done"]:
                    os.kill(victim["pid"], signal.SIGKILL)
                    raise Dropped
                answer = self._refused(method, path)
                if answer is None:
                    answer = self._answer(method, path, query, body)
                if victim is not None:
                    os.kill(victim["pid"], signal.SIGKILL)
                pause = (self.account.told.get("slow") or {}).get(f"{method} {path}", 0)
            time.sleep(pause)
            self._send(200, answer)
        except Refused as refused:
            self._send(refused.status, refused.body)
        except Dropped:
            self.close_connection = True

    def _refused(self, method: str, path: str) -> bytes | None:
        """What a wish answers such requests with instead."""
        for pattern, wish in (self.account.told.get("refuse") or {}).items():
            if re.fullmatch(pattern, f"{method} {path}"):
                if isinstance(wish, dict) and "text" in wish:
                    return str(wish["text"]).encode()
                self.account.fail(wish, path)
        return None

    def _victim(self, method: str, path: str) -> Json | None:
        """The process that is to be killed at this request."""
        wish = self.account.told.get("kill")
        if wish is None or wish["method"] != method or not re.fullmatch(wish["path"], path):
            return None
        wish["nth"] -= 1
        if wish["nth"] > 0:
            return None
        del self.account.told["kill"]
        return wish

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _body(self, content: bytes) -> Any:
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            return parts(content, kind)
        return json.loads(content) if content else None

    def _control(self, what: str, body: Json) -> Any:
        account = self.account
        with account.lock:
            if what == "reset":
                Handler.account = Account()
                return {}
            if what == "tell":
                account.told |= body
            if what == "log":
                return [{**entry, "body": shown(entry["body"])} for entry in account.log]
            jobs = {job_id: account.job(job_id) for job_id in account.jobs}
            contents = {name: text.decode() for name, text in account.contents.items()}
            return {
                "files": account.files,
                "jobs": jobs,
                "deleted": account.deleted,
                "batches": account.batches,
                "contents": contents,
                "deployments": account.azure.deployments,
            }

    def _answer(self, method: str, path: str, query: Json, body: Any) -> Json | bytes:
        account = self.account
        most = int(account.told["page"])
        parts = path.strip("/").split("/")
        match method, parts:
            case _, ["subscriptions", *below]:
                return account.azure.answer(account, method, below, account.log[-1])
            case "GET", ["models"]:
                return {"object": "list", "data": [account.model(account.told["base"])]}
            case "GET", ["models", *name]:
                return account.model("/".join(name))
            case "DELETE", ["models", *name]:
                return account.delete_model("/".join(name))
            case "POST", ["chat", "completions"]:
                account.now("chatted")
                return account.chat(body)
            case "POST", ["files"]:
                account.now("upload")
                return account.upload(body["filename"], body["file"], body["purpose"])
            case "GET", ["files"]:
                purpose = query.get("purpose", [None])[0]
                files = [f for f in account.files.values() if purpose in (None, f["purpose"])]
                return page(files[::-1], query, most)
            case "GET", ["files", file_id, "content"]:
                return account.contents[file_id]
            case "GET", ["files", file_id]:
                account.files[file_id]["status"] = "processed"
                return account.files[file_id]
            case "POST", ["fine_tuning", "jobs"]:
                return account.create_job(body)
            case "GET", ["fine_tuning", "jobs"]:
                jobs = [account.job(job_id) for job_id in account.listed(account.jobs)]
                return page(jobs[::-1], query, most)
            case "GET", ["fine_tuning", "jobs", job_id]:
                account.now("retrieve")
                return account.job(job_id)
            case "GET", ["fine_tuning", "jobs", job_id, ("events" | "checkpoints") as what]:
                if account.told.get("no_events"):
                    raise Refused(404, "no such endpoint")
                if account.told.get("stream_events"):
                    return b"data: {}\n\n"
                listed = account.events if what == "events" else account.checkpoints
                return page(listed(job_id), query, most)
            case "POST", ["fine_tuning", "jobs", job_id, "cancel"]:
                if account.job(job_id)["status"] in ("succeeded", "failed", "cancelled"):
                    raise Refused(400, "Job has already completed", "invalid_status")
                account.jobs[job_id]["cancelled"] = True
                return account.job(job_id)
            case "POST", ["batches"]:
                return account.create_batch(body)
            case "GET", ["batches"]:
                batches = [account.batch(name) for name in account.listed(account.batches)]
                return page(batches[::-1], query, most)
            case "GET", ["batches", batch_id]:
                return account.batch(batch_id)
            case "POST", ["batches", batch_id, "cancel"]:
                account.batch(batch_id)
                account.batches[batch_id]["status"] = "cancelled"
                return account.batch(batch_id)
        raise Refused(404, f"Unknown request URL: {method} {path}", "unknown_url")

    def _send(self, status: int, answer: Any) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def parts(content: bytes, kind: str) -> Json:
    """The fields of a multipart form; a file is under "file" and "filename"."""
    boundary = b"--" + kind.split("boundary=")[1].strip('"').encode()
    fields: Json = {}
    for part in content.split(boundary)[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        value = value.removesuffix(b"\r\n")
        header = head.decode()
        name = re.search(r'name="([^"]*)"', header)
        filename = re.search(r'filename="([^"]*)"', header)
        assert name is not None
        if filename is not None:
            fields |= {"filename": filename[1], "file": value}
        else:
            fields[name[1]] = value.decode()
    return fields


def shown(body: Any) -> Any:
    """A body that JSON can hold."""
    if isinstance(body, dict) and isinstance(body.get("file"), bytes):
        return {**body, "file": body["file"].decode()}
    return body


def main() -> None:
    server = QuietServer(("127.0.0.1", int((sys.argv[1:] or ["0"])[0])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
