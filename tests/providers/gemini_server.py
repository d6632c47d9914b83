"""A stand-in for Vertex AI and Google's sign-in, and an emulator of Cloud Storage for the bucket.

    with serving(monkeypatch, tmp_path) as google: … google.settings … google.jobs … google.log

It speaks the REST shape that google-genai sends and parses every request with that package's own
types, so that a field that Google does not know fails the test. What it can be told:

    job_s       how long jobs take
    script      called with each generateContent body; returns an answer, or None for the usual one
    fail        {"METHOD name of the request": [failures]}, one for each such request: an HTTP
                status, {"code", "status", "message", "details"}, "drop" or "late" (done, then
                dropped), or None
    broken      {part of a job's display name: error}: that job fails
    kill        {"pid", "what", "nth", "done"}: kill -9 that process when the nth such request
                (default: the next) has come, after (done) or without doing it

Batch prediction is in `gemini_batches`, what jobs have made in `gemini_models`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from gcp_storage_emulator.server import create_server
from google.genai import types

from tests.providers.gemini_batches import BatchJobs
from tests.providers.gemini_models import Impossible, TunedModels
from tests.quiet_server import QuietServer

Json = dict[str, Any]
MODEL = "gemini-3.5-flash"
PROJECT, REGION, BUCKET = "a-project", "us-central1", "a-bucket"
TOKEN = "secret-access-token-0123456789"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
_PEM = rsa.generate_private_key(65537, 2048).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)
# What the stand-in keeps about a job and Google does not show.
_OWN = ("begun", "makes", "ended")
_LISTED = ("batchPredictionJobs", "operations", "endpoints", "models")
_WHAT = re.compile(r"/v1(?:beta1|beta)?/(?P<name>[^:?]*)(?::(?P<verb>\w+))?")


class Refused(Exception):
    """An answer with an error status."""

    def __init__(self, code: int, status: str, message: str, details: list[Json] | None = None):
        super().__init__(message)
        self.code = code
        error = {"code": code, "message": message, "status": status, "details": details or []}
        self.body = {"error": error}


class Dropped(Exception):
    """The connection ends without an answer."""


class Google(QuietServer):
    """The stand-in, with what it has made and what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.job_s = 0.0
        self.script: Callable[[Json], Json | None] = lambda body: None
        self.fail: dict[str, list[Any]] = {}
        self.broken: dict[str, Json] = {}
        self.kill: Json | None = None
        self.jobs: dict[str, Json] = {}
        self.log: list[tuple[str, str, Json]] = []
        self.usage: list[tuple[bool, int, int]] = []
        self.objects: Callable[[], dict[str, bytes]] = dict
        self.storage_url = ""
        self.batches = BatchJobs(self._answer_line, self._read, self._write)
        self.models = TunedModels(PARENT)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def settings(self) -> Json:
        """The `[provider]` table that leads here."""
        return {
            "project": PROJECT,
            "bucket": BUCKET,
            "endpoint": self.url,
            "storage_endpoint": self.storage_url,
            "poll_s": 0.05,
            "listing_lag_s": 0.1,
            "max_attempts": 3,
        }

    def find_victim(self, what: str) -> Json | None:
        """Whom to kill at this request."""
        if self.kill is None or self.kill["what"] != what:
            return None
        self.kill["nth"] = self.kill.get("nth", 1) - 1
        return None if self.kill["nth"] > 0 else self.kill

    def asked(self, what: str) -> list[Json]:
        """The bodies of the requests of one kind, such as "POST generateContent"."""
        return [body for name, _, body in self.log if name == what]

    def answer(self, method: str, path: str, query: Json, body: Json) -> Json:
        """What Google would answer; `what` is the verb, or the last part that is no id."""
        found = _WHAT.fullmatch(path)
        if found is None:
            raise Refused(404, "NOT_FOUND", f"no such path {path}")
        name, verb = found["name"], found["verb"]
        match method, verb:
            case "POST", "generateContent":
                return self._generate(name, body)
            case "POST", "countTokens":
                self._require_model(name)
                return {"totalTokens": 5}
            case "POST", "cancel" if name in self.batches.jobs:
                return self.batches.cancel(name)
            case "POST", "cancel":
                return self._cancel(name)
            case "POST", None if name == f"{PARENT}/batchPredictionJobs":
                self._require_model(self.models.find_endpoint(body["model"]))
                return self.batches.create(PARENT, body)
            case "GET", None if name == f"{PARENT}/batchPredictionJobs":
                return self._page(list(self.batches.jobs), self.batches.show, query)
            case "GET", None if name in self.batches.jobs:
                return self.batches.show(name)
            case "POST", None if name == f"{PARENT}/tuningJobs":
                return self._create(body)
            case "GET", None if name == f"{PARENT}/tuningJobs":
                return self._list(query)
            case "GET", None if name in self.jobs:
                return self._job(name)
        try:
            return self.models.answer(method, name, verb, query, body)
        except Impossible as error:
            raise Refused(error.code, error.status, str(error)) from error

    def _require_model(self, name: str) -> None:
        base = name.endswith(f"models/{MODEL}")
        for job in self.jobs:
            self._job(job)
        if not base and not self.models.answers_at(name):
            raise Refused(
                404,
                "NOT_FOUND",
                f"Publisher Model `{name}` was not found or your project does not have access.",
            )

    def _generate(self, name: str, body: Json) -> Json:
        self._require_model(name)
        contents = [types.Content.model_validate(content) for content in body["contents"]]
        assert all(content.role in ("user", "model") for content in contents)
        if instruction := body.get("systemInstruction"):
            types.Content.model_validate(instruction)
        config = types.GenerationConfig.model_validate(body["generationConfig"])
        assert config.max_output_tokens
        wished = self.script(body)
        if wished is not None:
            return wished
        texts = [part.text or "" for content in contents for part in content.parts or []]
        text, prompt = solve(name, texts, config.seed), sum(len(text.split()) for text in texts)
        self.usage.append(("/endpoints/" in name, prompt, len(text.split())))
        return say(text, prompt)

    def _create(self, body: Json) -> Json:
        job = types.TuningJob.model_validate(body)
        spec = job.supervised_tuning_spec or job.preference_optimization_spec
        assert spec is not None
        start = job.pre_tuned_model.tuned_model_name if job.pre_tuned_model else None
        if start is None:
            assert job.base_model == MODEL
        else:
            assert start in [
                self._job(name).get("tunedModel", {}).get("model") for name in self.jobs
            ]
            model, version = start.split("@")
            assert version in self.models.versions[model]
        for uri in (spec.training_dataset_uri, spec.validation_dataset_uri):
            for line in self._read(uri) if uri else ():
                check_line(line, pairs=job.preference_optimization_spec is not None)
        number = len(self.jobs) + 1
        name = f"{PARENT}/tuningJobs/{number}"
        lines = self._read(str(spec.training_dataset_uri))
        tokens = sum(len(json.dumps(line).split()) for line in lines)
        kind = "preferenceOptimizationDataStats"
        if job.supervised_tuning_spec:
            kind = "supervisedTuningDataStats"
        self.jobs[name] = {
            **body,
            "name": name,
            "createTime": f"2026-11-28T10:{number // 60:02}:{number % 60:02}Z",
            "begun": time.monotonic(),
            "makes": self._name_model(number, start),
            "tuningDataStats": {kind: {"totalBillableTokenCount": str(tokens)}},
        }
        return self._job(name)

    def _name_model(self, number: int, start: str | None) -> str:
        """A model of its own, or the next version of the one that training goes on from."""
        if start is None:
            return f"{PARENT}/models/{number}@1"
        model = start.split("@")[0]
        versions = [job["makes"].split("@") for job in self.jobs.values()]
        last = max(int(version) for name, version in versions if name == model)
        return f"{model}@{last + 1}"

    def _read(self, uri: str) -> list[Json]:
        content = self.objects()[uri.removeprefix(f"gs://{BUCKET}/")]
        return [json.loads(line) for line in content.splitlines()]

    def _job(self, name: str) -> Json:
        job = self.jobs[name]
        over = time.monotonic() - job["begun"] >= self.job_s
        shown = {key: value for key, value in job.items() if key not in _OWN}
        title = job.get("tunedModelDisplayName", "")
        broken = next((error for part, error in self.broken.items() if part in title), None)
        if "state" in job or not over:
            return {"state": "JOB_STATE_RUNNING", **shown}
        if broken is not None:
            job |= {"state": "JOB_STATE_FAILED", "error": broken}
            return {**shown, "state": "JOB_STATE_FAILED", "error": broken}
        number = name.rsplit("/", 1)[1]
        endpoint = f"{PARENT}/endpoints/{number}"
        made = {"model": job["makes"], "endpoint": endpoint}
        spec = job.get("supervisedTuningSpec") or {}
        if spec.get("exportLastCheckpointOnly") is False:
            last = spec["hyperParameters"]["epochCount"]
            places = [*(f"{endpoint}00{n}" for n in range(1, last)), endpoint]
            made["checkpoints"] = [
                {"checkpointId": str(n), "epoch": str(n), "step": str(4 * n), "endpoint": place}
                for n, place in enumerate(places, start=1)
            ]
        if not job.get("ended"):
            job["ended"] = True
            self.models.add(made)
        curve = f"{PARENT}/metadataStores/default/contexts/{number}"
        return {**shown, "state": "JOB_STATE_SUCCEEDED", "tunedModel": made, "experiment": curve}

    def _list(self, query: Json) -> Json:
        return self._page(list(self.jobs), self._job, query)

    def _page(self, names: list[str], show: Callable[[str], Json], query: Json) -> Json:
        """Two jobs a page, the newest first."""
        start = int((query.get("pageToken") or ["0"])[0])
        kind = names[0].split("/")[-2] if names else "tuningJobs"
        page = {kind: [show(name) for name in names[::-1][start : start + 2]]}
        return page if start + 2 >= len(names) else {**page, "nextPageToken": str(start + 2)}

    def _answer_line(self, model: str, request: Json) -> Json:
        body = {key: value for key, value in request.items() if key != "labels"}
        return self._generate(self.models.find_endpoint(model), body)

    def _write(self, uri: str, content: bytes) -> None:
        name = quote(uri.removeprefix(f"gs://{BUCKET}/"), safe="")
        query = f"uploadType=media&name={name}"
        url = f"{self.storage_url}/upload/storage/v1/b/{BUCKET}/o?{query}"
        urllib.request.urlopen(urllib.request.Request(url, content)).close()

    def _cancel(self, name: str) -> Json:
        if name not in self.jobs:
            raise Refused(404, "NOT_FOUND", f"{name} was not found.")
        if self._job(name)["state"] != "JOB_STATE_RUNNING":
            raise Refused(400, "FAILED_PRECONDITION", "The job has ended already.")
        self.jobs[name]["state"] = "JOB_STATE_CANCELLED"
        return {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Google

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def log_message(self, format: str, *args: object) -> None:
        return

    def _serve(self, method: str) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        if split.path == "/token":
            self._send(200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
            return
        found = _WHAT.fullmatch(split.path)
        listed = next((kind for kind in _LISTED if f"/{kind}" in split.path), "tuningJobs")
        kind = (found["verb"] or listed) if found else split.path
        what, google = f"{method} {kind}", self.server
        try:
            with google.lock:
                body = json.loads(content) if content else {}
                google.log.append((what, self.headers.get("Authorization") or "", body))
                wish = (google.fail.get(what) or [None]).pop(0)
                victim = google.find_victim(what)
                if victim is not None and not victim["done"]:
                    google.kill = None
                    os.kill(victim["pid"], signal.SIGKILL)
                    raise Dropped
                refuse(wish)
                answer = google.answer(method, split.path, parse_qs(split.query), body)
                if victim is not None:
                    google.kill = None
                    os.kill(victim["pid"], signal.SIGKILL)
                if wish == "late":
                    raise Dropped
            self._send(200, answer)
        except Refused as refused:
            self._send(refused.code, refused.body)
        except Dropped:
            self.close_connection = True
        except (AssertionError, ValueError, KeyError) as error:
            self._send(400, {"error": {"code": 400, "status": "STAND_IN", "message": repr(error)}})

    def _send(self, code: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        try:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True


def refuse(wish: Any) -> None:
    """Raise what a wish says, before anything is done."""
    if wish == "drop":
        raise Dropped
    if isinstance(wish, int):
        raise Refused(wish, "SOME_STATUS", f"status {wish}")
    if isinstance(wish, dict):
        raise Refused(wish["code"], wish["status"], wish["message"], wish.get("details"))


def check_line(line: Json, *, pairs: bool) -> None:
    """A line of training data, by the package's types where it has them."""
    if pairs:
        example = types.GeminiPreferenceExample.model_validate(
            {key: value for key, value in line.items() if key != "system_instruction"}
        )
        assert sorted(c.score for c in example.completions or []) == [0, 1]
        assert example.contents
        assert example.contents[-1].role == "user"
        return
    assert set(line) <= {"systemInstruction", "contents"}
    contents = [types.Content.model_validate(content) for content in line["contents"]]
    assert contents[-1].role == "model"


def say(text: str, prompt: int = 7, **more: Any) -> Json:
    """A good answer."""
    counts = {"promptTokenCount": prompt, "candidatesTokenCount": len(text.split())}
    counts["totalTokenCount"] = sum(counts.values())
    candidate = {
        "content": {"role": "model", "parts": [{"text": text}]},
        "finishReason": "STOP",
        **more,
    }
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": MODEL}


def solve(name: str, texts: list[str], seed: int | None) -> str:
    """Arithmetic, right more often than not, decided by nothing but what was asked."""
    asked = re.search(r"[-\d+*/ ]*\d[-+*/ ]+[-\d+*/ ]*\d", " ".join(texts))
    # Not by the name: endpoints are numbered in the order in which jobs happen to be created.
    tuned = "/endpoints/" in name
    chance = hashlib.sha256(json.dumps([tuned, texts, seed]).encode()).digest()
    right = eval(asked[0]) if asked else 0  # digits and operators only
    wrong = chance[0] < (40 if tuned else 90)
    return f"I work it out. The answer is \\boxed{{{right + (1 + chance[1] % 2 if wrong else 0)}}}."


@contextmanager
def serving(monkeypatch: Any, folder: Path) -> Iterator[Google]:
    """The stand-in and the bucket for the length of the `with` block, with credentials for them."""
    with Google() as google:
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": _PEM.decode(),
            "client_email": "tester@a-project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{google.url}/token",
        }
        path = folder / "credentials.json"
        path.write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GEMINI_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        port = find_free_port()
        storage = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
        storage.start()
        google.storage_url = f"http://127.0.0.1:{port}"
        google.objects = lambda: list_objects(google.storage_url)
        thread = threading.Thread(target=google.serve_forever, daemon=True)
        thread.start()
        try:
            yield google
        finally:
            google.shutdown()
            thread.join()
            storage.stop()


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def list_objects(url: str) -> dict[str, bytes]:
    """What the bucket holds, by name."""
    listing = f"{url}/storage/v1/b/{BUCKET}/o"
    with urllib.request.urlopen(listing) as answer:
        names = [item["name"] for item in json.load(answer).get("items", [])]
    contents = {}
    for name in names:
        with urllib.request.urlopen(f"{listing}/{quote(name, safe='')}?alt=media") as answer:
            contents[name] = answer.read()
    return contents
