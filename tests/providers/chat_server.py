"""A chat server for tests and benchmarks: what it answers, and how it breaks, is a function.

    async with ChatServer(script) as server:
        provider = connect(server.url, …)

or, for code that has an event loop of its own, in a thread: ``with serving(script) as server: …``.
As a program it answers everything alike after a pause, prints its port, and ends when its input
does:

    python tests/providers/chat_server.py --latency-ms 200
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import struct
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

Fault = Literal["reset", "truncated", "silence"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in. `number` counts the requests of the server from 0."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def last(self) -> str:
        """The last message's text."""
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back: JSON, or `raw` bytes as they are, after `delay_s`; or a `fault`."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    raw: bytes | None = None
    fault: Fault | None = None


Script = Callable[[Asked], Reply | Awaitable[Reply]]


def says(
    text: str | None, finish_reason: str = "stop", *, delay_s: float = 0.0, **message: Any
) -> Reply:
    """A chat completion."""
    spoken = {"role": "assistant", "content": text, **message}
    return Reply(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": spoken, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        },
        delay_s=delay_s,
    )


def fails(status: int, message: str = "no", *, headers: Mapping[str, str] | None = None, **facts):
    """An error in OpenAI's form; `facts` are its code, type and param."""
    return Reply({"error": {"message": message, **facts}}, status, headers or {})


def gateway(upstream: str, session: Any, broken: float, seed: int) -> Script:
    """Hands requests on to the server at `upstream`, and breaks a share `broken` of the answers in
    the ways that other servers' faults do not cover: resets, half a body, no JSON.

    `session` is an `aiohttp.ClientSession`.
    """
    draw = random.Random(seed)
    faults = (
        Reply(fault="reset"),
        Reply({"choices": ["half of this"]}, fault="truncated"),
        Reply(raw=b'{"choices": [{"message": {"content": "no end'),
        Reply(raw=b"<html><body>Bad gateway</body></html>", headers={"content-type": "text/html"}),
    )

    async def script(asked: Asked) -> Reply:
        if draw.random() < broken:
            return draw.choice(faults)
        url = upstream.removesuffix("/v1") + asked.path
        passed = {"authorization": asked.headers.get("authorization", "")}
        async with session.request(
            asked.method, url, json=asked.body or None, headers=passed
        ) as answer:
            kept = {
                name.lower(): value
                for name, value in answer.headers.items()
                if name.lower().startswith(("x-ratelimit", "retry-after", "content-type"))
            }
            return Reply(raw=await answer.read(), status=answer.status, headers=kept)

    return script


class ChatServer:
    """Listens on a free port of 127.0.0.1 inside the running event loop.

    `url` is what the openai package calls the base URL; `asked` holds every request.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.now = 0
        self.most_at_once = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> ChatServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2048)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (asked := await self._read(reader)) is not None:
                self.asked.append(asked)
                self.now += 1
                self.most_at_once = max(self.most_at_once, self.now)
                try:
                    reply = self.script(asked)
                    if not isinstance(reply, Reply):
                        reply = await reply
                    if reply.delay_s:
                        await asyncio.sleep(reply.delay_s)
                finally:
                    self.now -= 1
                if not await _send(reply, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Asked | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                headers[name.lower()] = value.strip()
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        body = json.loads(content) if content[:1] == b"{" else content
        return Asked(len(self.asked), method, path, headers, body)


class HeldScript:
    """A script that says `text` once `may_answer` is set; `reply` changes what it says."""

    def __init__(self, text: str) -> None:
        self.may_answer = threading.Event()
        self.reply: Callable[[Asked], Reply] = lambda asked: says(text)

    async def __call__(self, asked: Asked) -> Reply:
        await asyncio.to_thread(self.may_answer.wait)
        return self.reply(asked)


@contextmanager
def serving(script: Script) -> Iterator[ChatServer]:
    """A `ChatServer` in a thread of its own for the length of the `with` block."""
    loop, server = asyncio.new_event_loop(), ChatServer(script)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_ended(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _ended(server: ChatServer) -> None:
    await server.__aexit__()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _send(reply: Reply, writer: asyncio.StreamWriter) -> bool:
    """False where the connection cannot be used again."""
    if reply.fault == "reset":
        # Without lingering the socket is reset, not closed.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        return False
    if reply.fault == "silence":
        await asyncio.sleep(3600)
    content = json.dumps(reply.body).encode() if reply.raw is None else reply.raw
    headers = {"content-type": "application/json", **reply.headers}
    head = f"HTTP/1.1 {reply.status} -\r\ncontent-length: {len(content)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    if reply.fault == "truncated":
        writer.write(head.encode() + content[: len(content) // 2])
        await writer.drain()
        return False
    writer.write(head.encode() + content)
    await writer.drain()
    return True


async def _main(latency_s: float, slow_every: int, slow_s: float) -> None:
    def script(asked: Asked) -> Reply:
        slow = slow_every and asked.number % slow_every == 0
        return Reply(raw=content, delay_s=slow_s if slow else latency_s)

    content = json.dumps(says("The answer is \\boxed{42}. " * 20).body).encode()
    async with ChatServer(script) as server:
        print(server.url, flush=True)
        with suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--slow-every", type=int, default=0, help="0: none is slow")
    parser.add_argument("--slow-ms", type=float, default=0.0)
    options = parser.parse_args()
    asyncio.run(_main(options.latency_ms / 1e3, options.slow_every, options.slow_ms / 1e3))
