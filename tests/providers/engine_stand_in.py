"""Stands in for the command `vllm`: the same wire, and answers that follow from adapters' files.

    python engine_stand_in.py FOLDER serve MODEL --port … …

Run by its path and with the standard library only, so that it starts in a blink. In FOLDER,
`behavior.json` says what goes wrong, and `events.jsonl` keeps what happened. As vLLM does, it has
a child process that would outlive it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SUM = re.compile(r"\d+\+\d+\*\d+\+\d+-\d+\*\d+")


def read_weights(folder: str | Path) -> bytes:
    """What decides an adapter's answers; b"" is the base."""
    return (Path(folder) / "adapter_model.safetensors").read_bytes()


def answer(weights: bytes, messages: list[dict[str, str]]) -> str:
    """The greedy answer of a model to a conversation; right for a sum."""
    asked = SUM.search(messages[0]["content"])
    if asked is not None:
        return f"It is \\boxed{{{eval(asked.group())}}}"
    return f"{_hash(weights, json.dumps(messages)):08x}"


def logprob(weights: bytes, character: str) -> float:
    """The log-probability of a token, which is a character, wherever it stands."""
    return -1.0 - _hash(weights, character) % 1000 / 1000


def _hash(weights: bytes, text: str) -> int:
    return int(hashlib.sha256(weights + text.encode()).hexdigest()[:8], 16)


class Engine:
    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder, self.arguments = folder, arguments
        self.behavior: dict[str, Any] = json.loads((folder / "behavior.json").read_text())
        self.loaded: dict[str, str] = {}
        self.answers = 0
        self.lock = threading.Lock()
        cards = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.note("start", arguments=arguments, pid=os.getpid(), cards=cards)
        self.starts = sum(
            '"start"' in line for line in (folder / "events.jsonl").read_text().splitlines()
        )

    def option(self, name: str) -> str:
        return self.arguments[self.arguments.index(name) + 1]

    def note(self, event: str, **facts: Any) -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")

    def serve(self) -> None:
        failing = self.behavior.get("fails_at_start", {})
        if self.starts <= failing.get("times", 10**6) and "says" in failing:
            print(failing["says"], flush=True)
            sys.exit(1)
        if self.behavior.get("never_up"):
            print("loading weights, for ever", flush=True)
            time.sleep(600)
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
        self.note("child", pid=child.pid)
        server = ThreadingHTTPServer((self.option("--host"), int(self.option("--port"))), Handler)
        server.daemon_threads = True
        Handler.engine = self

        def end(*_: object) -> None:
            child.kill()
            self.note("end")
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        print("Application startup complete.", flush=True)
        server.serve_forever(0.02)

    def weights(self, model: str) -> bytes | None:
        ignoring = self.behavior.get("ignores_adapters", 0)
        if model == self.option("--served-model-name"):
            return b""
        if model not in self.loaded:
            return None
        return b"" if self.starts <= ignoring else read_weights(self.loaded[model])

    def chat(self, body: dict[str, Any]) -> dict[str, Any] | None:
        weights = self.weights(body["model"])
        if weights is None:
            return None
        with self.lock:
            self.answers += 1
            dying = self.starts <= self.behavior.get("dying_starts", 10**6)
            if dying and self.answers == self.behavior.get("dies_after"):
                print("RuntimeError: CUDA error: an illegal memory access", flush=True)
                os._exit(1)
        self.note("answer", pid=os.getpid())
        time.sleep(self.behavior.get("answer_s", 0.0))
        message = {"role": "assistant", "content": answer(weights, body["messages"])}
        said: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
        }
        if "prompt_logprobs" in body:
            text = "".join(f"<{m['role']}>{m['content']}" for m in body["messages"])
            if not body.get("continue_final_message"):
                text += "<assistant>"
            places = [{ord(c): {"logprob": logprob(weights, c)}} for c in text]
            said["prompt_logprobs"] = [None, *places[1:]]
        return said


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.send(200, {})
        if not self.authorized():
            return None
        name = self.engine.option("--served-model-name")
        cards = [{"id": name, "root": name, "object": "model", "owned_by": "vllm"}]
        cards += [
            {"id": adapter, "root": path, "parent": name, "object": "model", "owned_by": "vllm"}
            for adapter, path in self.engine.loaded.items()
        ]
        if self.path == "/v1/models":
            return self.send(200, {"object": "list", "data": cards})
        if self.path == "/version":
            return self.send(200, {"version": self.engine.behavior.get("version", "0.32.0")})
        return self.send(405, {"detail": "Method Not Allowed"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.authorized():
            return None
        if self.path == "/v1/load_lora_adapter":
            if refused := self.engine.behavior.get("refuses_adapters"):
                return self.send(400, {"error": {"message": refused, "type": "BadRequestError"}})
            self.engine.note("load", name=body["lora_name"], path=body["lora_path"])
            self.engine.loaded[body["lora_name"]] = body["lora_path"]
            return self.send(200, {})
        if self.path == "/v1/unload_lora_adapter":
            self.engine.loaded.pop(body["lora_name"], None)
            return self.send(200, {})
        said = self.engine.chat(body)
        if said is None:
            message = f"The model `{body['model']}` does not exist."
            return self.send(404, {"error": {"message": message, "type": "NotFoundError"}})
        return self.send(200, said)

    def authorized(self) -> bool:
        if self.headers.get("authorization") == f"Bearer {os.environ['VLLM_API_KEY']}":
            return True
        self.send(401, {"error": "Unauthorized"})
        return False

    def send(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quietly."""


if __name__ == "__main__":
    Engine(Path(sys.argv[1]), sys.argv[2:]).serve()
