"""Bedrock for tests: our services `bedrock` and `bedrock-runtime` and moto's S3, at one URL.

moto 5.2.5 creates customization jobs and lists them; they never end, and it has no deployments and
no Converse, so those are ours (`bedrock_account`). The server remembers everything, keeps a log of
all requests, and fails when it is told to.

    python -m tests.providers.bedrock_server [PORT]

prints its port and serves until its standard input ends, so that it never outlives a test. In a
test: ``with serving_bedrock(job_s=0.1) as server: … server.url … server.tell(chat=[[…]])``. What it
can be told:

    job_s, deploy_s, steps    how long jobs and deployments take, how many steps jobs log
    create, created, deploy, deployed, chat, describe
                              a list of failures at that moment, one per request: null, "drop" for
                              a closed connection, or an error's code and message
    fail                      {pattern of a job's name: reason}: that job fails
    deployments_fail          a list of reasons, one per deployment: it fails for it
    reply                     members of Converse's answer in place of its own
    no_metrics, no_tokens, elsewhere, authorized, cycle, status_while_running
    echo                      every failure repeats the request's headers
    slow_s                    so long chat takes
    kill                      {"pid", "method", "path", "nth", "done"}: kill -9 that process when
                              the nth such request from now on has come, after (done) or before
                              doing it
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
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.providers.bedrock_account import (
    BUCKET,
    REGION,
    AwsDropped,
    AwsRefused,
    BedrockAccount,
    Json,
)

_ROOT = Path(__file__).parents[2]
KEY_ID, SECRET, TOKEN = "AKIATESTTESTTESTTEST", "secret/key+of/tests0123456789", "token-of-tests-42"
_OURS = (
    *("/model-customization", "/model/", "/foundation-model", "/custom-models"),
    "/inference-profiles",
)


@dataclass(frozen=True)
class BedrockServer:
    """A running server, as a test sees it. `url` is the `endpoint_url` for all services."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Json:
        """A `[provider]` table for it."""
        return {"endpoint_url": self.url, "region": REGION}

    def tell(self, **wishes: Any) -> None:
        """Change how the server behaves from now on."""
        self._ask("tell", wishes)

    def reset(self) -> None:
        """Forget everything, also what it was told."""
        self._ask("reset", {})

    def log(self, method: str = "", path: str = "") -> list[Json]:
        """The requests so far, by method and a pattern of their whole path."""
        return [
            entry
            for entry in self._ask("log", {})
            if entry["method"].startswith(method) and re.fullmatch(path or ".*", entry["path"])
        ]

    def state(self) -> Json:
        """All jobs and deployments by name, the objects of the bucket, and what was billed."""
        return self._ask("state", {})

    def _ask(self, what: str, body: Json) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_{what}", data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def serving_bedrock(port: int = 0, **wishes: Any) -> Iterator[BedrockServer]:
    """A server in a process of its own for the length of the `with` block; port 0: any."""
    command = [sys.executable, "-m", "tests.providers.bedrock_server", str(port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=_ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = BedrockServer(int(process.stdout.readline()))
        try:
            server.tell(**wishes)
            yield server
        finally:
            process.stdin.close()


class BedrockApp:
    """The WSGI application: our part, or moto's."""

    def __init__(self, moto: Any) -> None:
        self._moto = moto
        self._start_over()

    def _start_over(self) -> None:
        from moto.s3.models import s3_backends

        backend = s3_backends["123456789012"]["aws"]
        backend.reset()
        backend.create_bucket(BUCKET, REGION)
        self._buckets = backend

        def read(uri: str) -> bytes | None:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            found = backend.get_object(bucket, key)
            return None if found is None else bytes(found.value)

        def write(uri: str, content: bytes) -> None:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            backend.put_object(bucket, key, content)

        self.account = BedrockAccount(read, write)

    def __call__(self, environ: Json, start: Any) -> Any:
        from werkzeug.wrappers import Request, Response

        request = Request(environ)
        path = unquote(environ.get("RAW_URI", request.path).split("?")[0])
        if path.startswith("/_"):
            told = json.loads(request.get_data())
            return Response(json.dumps(self._control(path[2:], told)))(environ, start)
        with self.account.lock:
            seen = {"method": request.method, "path": path, "headers": dict(request.headers)}
            content = request.get_data() if path.startswith(_OURS) else b""
            body = json.loads(content) if content else {}
            self.account.log.append({**seen, "body": body})
            victim = self._find_victim(str(request.method), path)
        if victim is not None and not victim["done"]:
            os.kill(victim["pid"], signal.SIGKILL)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return Response("")(environ, start)
        if not path.startswith(_OURS):
            answered = self._moto(environ, start)
        else:
            answered = self._serve(request, path, body)(environ, start)
        if victim is not None:
            os.kill(victim["pid"], signal.SIGKILL)
        return answered

    def _serve(self, request: Any, path: str, body: Json) -> Any:
        from werkzeug.wrappers import Response

        if path.startswith("/model/"):
            time.sleep(self.account.told.get("slow_s", 0))
        try:
            with self.account.lock:
                found = self._answer(request.method, path, body)
            return Response(json.dumps(found), content_type="application/json")
        except AwsRefused as refused:
            message = str(refused)
            if self.account.told.get("echo"):
                message += json.dumps(dict(request.headers))
            headers = {"x-amzn-ErrorType": refused.code}
            return Response(json.dumps({"message": message}), refused.status, headers)
        except AwsDropped:
            request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return Response("")

    def _answer(self, method: str, path: str, body: Json) -> Json:
        account = self.account
        match method, path.strip("/").split("/", 1):
            case "POST", ["model-customization-jobs"]:
                return account.create_job(body)
            case "GET", ["model-customization-jobs"]:
                return account.list_jobs()
            case "GET", ["model-customization-jobs", name]:
                account.fail("retrieve")
                return account.job(name)
            case "POST", ["model-customization-jobs", name] if name.endswith("/stop"):
                return account.stop_job(name.removesuffix("/stop"))
            case "POST", ["model-customization", "custom-model-deployments"]:
                return account.create_deployment(body)
            case "GET", ["model-customization", name]:
                return account.deployment(name.removeprefix("custom-model-deployments/"))
            case "DELETE", ["model-customization", name]:
                return account.delete_deployment(name.removeprefix("custom-model-deployments/"))
            case "DELETE", ["custom-models", name]:
                return account.delete_model(name)
            case "GET", ["foundation-models", name]:
                return account.foundation_model(name)
            case "GET", ["foundation-model-availability", name]:
                return account.availability(name)
            case "POST", ["model", name] if name.endswith("/converse"):
                return account.converse(name.removesuffix("/converse"), body)
        raise AwsRefused("ResourceNotFoundException", f"unknown operation {method} {path}")

    def _find_victim(self, method: str, path: str) -> Json | None:
        """The process that is to be killed at this request."""
        wish = self.account.told.get("kill")
        if wish is None or wish["method"] != method or not re.fullmatch(wish["path"], path):
            return None
        wish["nth"] -= 1
        if wish["nth"] > 0:
            return None
        del self.account.told["kill"]
        return wish

    def _control(self, what: str, body: Json) -> Any:
        account = self.account
        with account.lock:
            if what == "reset":
                self._start_over()
                return {}
            if what == "tell":
                account.told |= body
                return {}
            if what == "log":
                return account.log
            objects = {
                name: bytes(key.value).decode()
                for name, key in self._buckets.buckets[BUCKET].keys.items()
            }
            jobs = {name: account.job(name) for name in account.jobs}
            deployments = {name: account.deployment(name) for name in account.deployments}
            found = {"jobs": jobs, "deployments": deployments, "objects": objects}
            return {**found, "usage": account.usage}


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            return

    app = BedrockApp(DomainDispatcherApplication(create_backend_app))
    port = int((sys.argv[1:] or ["0"])[0])
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
