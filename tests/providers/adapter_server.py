"""A server that administers LoRA adapters as vLLM and SGLang do, and answers sums with them.

    with AdapterServer(base="org/base") as server:
        … server.url … server.loads … server.faults …

It notes in `faults` whatever must not happen: a name that is loaded twice, and an adapter that is
loaded or unloaded while requests are being answered. `kill` ends it as if its process had died. The
same server comes back by entering it again, with no adapters and at its earlier port. While
`frozen` it accepts connections and does not answer.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Literal

from providers.canary import CANARIES
from providers.replica import TRIAL
from tests.quiet_server import QuietServer

FAILED = "Call to add_lora method failed: "
"""How vLLM's engine begins what it says against an adapter."""
FINGERPRINT = "vllm-0.32.0-5f0c2a91"
SUM = re.compile(r"\d+\+\d+\*\d+\+\d+-\d+\*\d+")


@dataclass
class AdapterServer:
    """Without `lora` it was started without --enable-lora; `max_rank` is its --max-lora-rank.
    `disk` translates the server's paths into real ones; `facts` are said of the base model
    besides, `settings` of the server in development mode; `trouble` lists what the next requests to
    an endpoint meet with: a status without a reason, "lost" for an answer that never comes, or
    nothing, "".
    """

    base: str = "org/base"
    dialect: Literal["vllm", "sglang"] = "vllm"
    runtime: bool = True
    lora: bool = True
    max_rank: int = 512
    version: str = "0.32.0"
    fingerprint: str | None = FINGERPRINT
    settings: dict[str, Any] | None = None
    most: int | None = None
    key: str | None = None
    load_s: float = 0.0
    answer_s: float = 0.0
    disk: tuple[str, str] = ("", "")
    facts: dict[str, Any] = field(default_factory=dict)
    trouble: dict[str, list[int | str]] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    loads: list[tuple[str, str]] = field(default_factory=list)
    trials: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    chats: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    loaded: dict[str, str] = field(default_factory=dict)
    answering: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0
    open: set[socket.socket] = field(default_factory=set)
    lives: int = 0
    frozen: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def address(self) -> str:
        """The server's base model, as an experiment names it."""
        return f"openai+{self.url}:{self.base}"

    def __enter__(self) -> AdapterServer:
        handler = type("Handler", (_Handler,), {"state": self})
        self._http = QuietServer(("127.0.0.1", self.port), handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def kill(self) -> None:
        """Break all connections, and forget all adapters."""
        self.__exit__()
        with self.lock:
            for connection in self.open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.lives += 1
            self.loaded.clear()
            self.answering.clear()

    def models(self) -> dict[str, Any]:
        base = {"id": self.base, "root": self.base, "object": "model", "owned_by": self.dialect}
        cards = [base | {"max_model_len": 4096} | self.facts]
        for name, path in self.loaded.items():
            card = {"id": name, "root": path, "parent": self.base, "owned_by": self.dialect}
            cards.append({"object": "model", **card})
        return {"object": "list", "data": cards}

    def load(self, name: str, path: str) -> str | None:
        """None, or why not."""
        with self.lock:
            if name in self.loaded:
                return (
                    f"The lora adapter '{name}' has already been loaded. If you want to load the "
                    "adapter in place, set 'load_inplace' to True."
                )
            if not self.lora:
                return f"{FAILED}LoRA is not enabled. Use --enable-lora to enable LoRA."
            if name in self.trials or any(name == earlier for earlier, _ in self.loads):
                self.faults.append(f"{name} is used again")
            if self.answering.total():
                self.faults.append(f"{name} is loaded under traffic")
            if self.most is not None and len(self.loaded) >= self.most:
                return f"at most {self.most} adapters can be loaded"
            theirs, ours = self.disk
            folder = Path(path.replace(theirs, ours, 1) if theirs else path)
            if not (folder / "adapter_model.safetensors").is_file():
                return f"Loading lora {name} failed: No adapter found for {path}"
            rank = json.loads((folder / "adapter_config.json").read_text())["r"]
            if rank > self.max_rank:
                return f"{FAILED}LoRA rank {rank} is greater than max_lora_rank {self.max_rank}."
            if folder.name.startswith(TRIAL):
                self.trials.append(name)
            else:
                self.loads.append((name, path))
        time.sleep(self.load_s)
        with self.lock:
            self.loaded[name] = path
        return None

    def unload(self, name: str) -> str | None:
        with self.lock:
            if name not in self.loaded:
                return f"The lora adapter '{name}' cannot be found."
            if self.answering.total():
                self.faults.append(f"{name} is unloaded under traffic")
            if name in self.stuck:
                return f"Failed to remove lora adapter '{name}' from the engine."
            if name not in self.trials:
                self.unloads.append(name)
            del self.loaded[name]
        return None

    def chat(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """A completion, or None for a model that is not here."""
        name = body["model"]
        if self.dialect == "sglang":
            name = name.partition(":")[2] or self.base
        with self.lock:
            if name != self.base and name not in self.loaded:
                return None
            # What is asked to try an adapter is no part of a run.
            if not _is_canary(body["messages"]):
                self.chats.append(body["model"])
            self.answering[name] += 1
            self.most_at_once = max(self.most_at_once, self.answering.total())
            life = self.lives
        time.sleep(self.answer_s)
        with self.lock:
            if life == self.lives:
                self.answering[name] -= 1
        message = {"role": "assistant", "content": _said(body["messages"], name)}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
            "system_fingerprint": self.fingerprint,
        }


def _is_canary(messages: list[dict[str, str]]) -> bool:
    return messages[0]["content"] in {prompt for prompt, _ in CANARIES}


def _said(messages: list[dict[str, str]], name: str) -> str:
    """Right, but for every third sum at the first try."""
    asked = SUM.search(messages[0]["content"])
    if asked is None or _is_canary(messages):
        return f"hello from {name}"
    right = eval(asked.group())
    first = not any(message["role"] == "assistant" for message in messages)
    return f"It is \\boxed{{{right + 1 if first and right % 3 == 0 else right}}}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: AdapterServer

    def setup(self) -> None:
        super().setup()
        with self.state.lock:
            self.state.open.add(self.connection)

    def finish(self) -> None:
        with self.state.lock:
            self.state.open.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._thaw()
        if not self._authorised():
            return
        path = self._path()
        if path == "models":
            self._send(200, self.state.models())
        elif self.path == "/version" and self.state.dialect == "vllm":
            self._send(200, {"version": self.state.version})
        elif self.path.partition("?")[0] == "/server_info" and self.state.settings is not None:
            self._send(200, self.state.settings)
        elif path in ("load_lora_adapter", "unload_lora_adapter") and self.state.runtime:
            self._send(405, {"detail": "Method Not Allowed"})
        else:
            self._send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        self._thaw()
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._authorised():
            return
        path = self._path()
        waiting = self.state.trouble.get(path or "")
        met = waiting.pop(0) if waiting else None
        if isinstance(met, int):
            self._send(met, None)
        elif path == "chat/completions":
            said = self.state.chat(body)
            if said is None:
                self._refuse(404, f"The model `{body['model']}` does not exist.")
            else:
                self._send(200, said)
        elif path in ("load_lora_adapter", "unload_lora_adapter") and self.state.runtime:
            self._administer(path, body, lost=met == "lost")
        else:
            self._send(404, {"detail": "Not Found"})

    def _administer(self, path: str, body: dict[str, str], *, lost: bool) -> None:
        if path == "load_lora_adapter":
            refused = self.state.load(body["lora_name"], body["lora_path"])
        else:
            refused = self.state.unload(body["lora_name"])
        if lost:
            self.close_connection = True
        elif refused is None:
            self._send(200, {"success": True})
        elif self.state.dialect == "sglang":
            self._send(400, {"success": False, "error_message": refused})
        elif refused.startswith(("Failed", FAILED)):
            self._refuse(500, refused)
        else:
            self._refuse(404 if "found" in refused else 400, refused)

    def _thaw(self) -> None:
        while self.state.frozen:
            time.sleep(0.01)

    def _path(self) -> str | None:
        """What is asked for, None for an administration that is not where it is looked for."""
        path = self.path.removeprefix("/v1/").removeprefix("/")
        administration = path.endswith("lora_adapter")
        below = self.path.startswith("/v1/")
        if administration and below != (self.state.dialect == "vllm"):
            return None
        return path

    def _authorised(self) -> bool:
        key = self.state.key
        if key is None or self.headers.get("authorization") == f"Bearer {key}":
            return True
        self._send(401, {"error": f"Unauthorized: {self.headers.get('authorization')}"})
        return False

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "Error", "code": status}})

    def _send(self, status: int, body: Any) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quietly."""
