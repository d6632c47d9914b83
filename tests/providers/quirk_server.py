"""A server with every quirk that servers of OpenAI's shape are known for, one for each model name.

    with serving(QuirkServer()) as server: …  # model="finish-STOP" has the quirk of that name

It keeps its own bill: the tokens of everything it has generated, also of what it then cut, garbled,
withheld or sent too late. A quirk with `once` has it at the first attempt of each request only.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.providers.chat_server import Asked, Reply, fails

TEXT = "It is \\boxed{4}, naïve."
Ends = Literal["read", "unread", "stopped", "wrong"]


@dataclass(frozen=True, slots=True)
class Quirk:
    """`reply` makes the response from a good completion; `generates`: its tokens are billed.

    `ends`: all answers are read; none can be and the run stops with that; the run stops before it
    has any; or the settings are wrong. `says` is told to the user. `retried` is how often each
    request is sent in all.
    """

    reply: Callable[[dict[str, Any], Asked], Reply]
    ends: Ends = "read"
    says: str = ""
    once: bool = False
    generates: bool = True
    tells_usage: bool = True
    settings: tuple[str, ...] = ()

    @property
    def sends(self) -> int:
        """How often each request is sent."""
        return 2 if self.once else 1


def _choice(**changes: Any) -> Callable[[dict[str, Any], Asked], Reply]:
    def reply(body: dict[str, Any], asked: Asked) -> Reply:
        body["choices"][0].update(changes)
        return Reply(body)

    return reply


def _ends_with(word: object) -> Quirk:
    return Quirk(_choice(finish_reason=word))


def _content(content: object, finish_reason: object = "stop", **message: Any) -> Any:
    spoken = {"role": "assistant", "content": content, **message}
    return _choice(message=spoken, finish_reason=finish_reason)


def _usage(usage: object, **changes: Any) -> Quirk:
    def reply(body: dict[str, Any], asked: Asked) -> Reply:
        body["usage"] = usage
        return Reply(body)

    return Quirk(reply, tells_usage=False, **changes)


def _typed_usage(kind: Callable[[int], object]) -> Quirk:
    def reply(body: dict[str, Any], asked: Asked) -> Reply:
        body["usage"] = {name: kind(count) for name, count in body["usage"].items()}
        return Reply(body)

    return Quirk(reply)


def _raw(encode: Callable[[str], bytes], **headers: str) -> Quirk:
    def reply(body: dict[str, Any], asked: Asked) -> Reply:
        text = json.dumps(body, ensure_ascii=False)
        return Reply(raw=encode(text), headers={n.replace("_", "-"): v for n, v in headers.items()})

    return Quirk(reply)


def _first(reply: Reply, *, generates: bool = True, **changes: Any) -> Quirk:
    return Quirk(lambda body, asked: reply, once=True, generates=generates, **changes)


def _always(reply: Reply, ends: Ends, says: str, *, generates: bool = False) -> Quirk:
    return Quirk(lambda body, asked: reply, ends, says, generates=generates)


def _refuses(message: str, *names: str, says: str) -> Quirk:
    def reply(body: dict[str, Any], asked: Asked) -> Reply:
        refused = set(names) <= set(asked.body)
        return fails(400, message, type="invalid_request_error") if refused else Reply(body)

    return Quirk(reply, says=says)


def _stream(body: dict[str, Any], asked: Asked) -> Reply:
    text = body["choices"][0]["message"]["content"]
    chunks = [{"choices": [{"delta": {"content": part}}]} for part in (text[:5], text[5:])]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": body["usage"]})
    lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    raw = f": keep-alive\n\n{lines}data: [DONE]\n\n".encode()
    return Reply(raw=raw, headers={"content-type": "text/event-stream"})


_BUSY = {"retry-after-ms": "20"}
_PLAIN = "text/plain; charset=iso-8859-1"

QUIRKS: Mapping[str, Quirk] = {
    # How an answer ends.
    "finish-STOP": _ends_with("STOP"),
    "finish-COMPLETE": _ends_with("COMPLETE"),
    "finish-FINISHED": _ends_with("FINISHED"),
    "finish-end_turn": _ends_with("end_turn"),
    "finish-eos_token": _ends_with("eos_token"),
    "finish-enum": _ends_with("FinishReason.STOP"),
    "finish-empty": _ends_with(""),
    "finish-null": _ends_with(None),
    "finish-object": _ends_with({"type": "stop", "matched": 2}),
    "finish-tool_calls": _ends_with("tool_calls"),
    "finish-unknown": Quirk(_choice(finish_reason="weird"), says="finish_reason 'weird'"),
    "finish-MAX_TOKENS": Quirk(_content("First I add", "MAX_TOKENS"), "unread", "cut off before"),
    "finish-SAFETY": Quirk(_content(None, "SAFETY"), "unread", "withheld the answer"),
    "finish-unknown-empty": Quirk(_content("", "weird"), "unread", "'weird', which is not known"),
    "finish-error": _first(Reply({"choices": [{"finish_reason": "error"}]})),
    "finish-resource": _first(
        Reply({"choices": [{"finish_reason": "insufficient_system_resource"}]})
    ),
    # What an answer looks like.
    "content-parts": Quirk(_content([{"type": "text", "text": "It is "}, {"text": "\\boxed{4}"}])),
    "content-strings": Quirk(_content(["It is ", "\\boxed{4}"])),
    "content-object": Quirk(_content({"type": "text", "text": "\\boxed{4}"})),
    "content-thoughts": Quirk(_content([{"type": "thinking", "thinking": "5?"}, "\\boxed{4}"])),
    "content-number": Quirk(_content(4), "unread", "another form"),
    "content-reasoning": Quirk(_content("\\boxed{4}", reasoning_content="5? no")),
    "content-null-cut": Quirk(
        _content(None, "length", reasoning="Hm"), "unread", "did not come to an answer"
    ),
    "content-null-parsed": Quirk(
        _content(None, reasoning_content="\\boxed{4}"), "unread", "switch off the server's reason"
    ),
    "content-empty": Quirk(_content(""), "unread", "ended its answer without a text"),
    "content-blank": Quirk(_content(" \n"), "unread", "ended its answer without a text"),
    "content-refusal": Quirk(_content(None, refusal="I will not."), "unread", "refuses to answer"),
    "content-other": Quirk(_content({"answer": 4}), "unread", "an object with the keys 'answer'"),
    "choices-object": Quirk(lambda body, asked: Reply({**body, "choices": body["choices"][0]})),
    "choices-two": Quirk(lambda body, asked: Reply({**body, "choices": body["choices"] * 2})),
    "body-other": _always(Reply({"candidates": []}), "unread", "no choices", generates=True),
    "body-list": _always(Reply([1]), "unread", "a JSON list", generates=True),
    "body-deep": _always(Reply(raw=b"[" * 200_000), "unread", "too deeply", generates=True),
    # What it says it has used.
    "usage-floats": _typed_usage(float),
    "usage-strings": _typed_usage(str),
    "usage-missing": _usage(None),
    "usage-empty": _usage({}),
    "usage-nulls": _usage({"prompt_tokens": None, "completion_tokens": None}),
    "usage-negative": _usage({"prompt_tokens": -1, "completion_tokens": -1}),
    "usage-zero": _usage({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
    "usage-huge": _usage({"prompt_tokens": 10**15, "completion_tokens": 10**15}),
    "usage-nan": _usage({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}),
    "usage-text": _usage("none"),
    # Errors inside a good status.
    "inside-choice": _first(Reply({"choices": [{"error": {"code": 502, "message": "gone"}}]})),
    "inside-body": _first(Reply({"error": {"code": 503, "message": "busy"}}), generates=False),
    "inside-words": _first(
        Reply({"error": {"type": "overloaded_error", "message": "busy"}}), generates=False
    ),
    "inside-base_resp": _first(Reply({"base_resp": {"status_code": 1002, "status_msg": "slow"}})),
    "inside-nothing": Quirk(lambda body, asked: Reply({**body, "error": {"code": 0}})),
    "inside-quota": _always(
        Reply({"error": {"code": "insufficient_quota", "message": "no credit"}}),
        "stopped",
        "add credit",
    ),
    # Statuses and headers.
    "status-500": _first(fails(500)),
    "status-503": _first(fails(503, headers=_BUSY), generates=False),
    "status-429": _first(fails(429, headers=_BUSY), generates=False),
    "status-408": _first(fails(408)),
    "status-529": _first(fails(529), generates=False),
    "status-400": _always(fails(400, "odd"), "unread", "status 400: odd"),
    "status-401": _always(fails(401, "bad key"), "stopped", "check the key"),
    "status-402": _always(fails(402), "stopped", "add credit"),
    "status-403-flagged": _always(fails(403, "input was flagged"), "unread", "this content"),
    "status-403": _always(fails(403, "no"), "stopped", "check the key"),
    "status-404": _always(fails(404, "no such model"), "wrong", "no model 'status-404'"),
    "refuses-max_tokens": _refuses(
        "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.",
        "max_tokens",
        says="does not take max_tokens",
    ),
    "refuses-seed": _refuses("Unknown parameter: 'seed'.", "seed", says="does not take seed"),
    "refuses-both": _refuses(
        "`temperature` and `top_p` cannot both be specified",
        "temperature",
        "top_p",
        says="temperature or top_p, not both",
    ),
    "header-nonsense": Quirk(
        lambda body, asked: Reply(
            body,
            headers={
                "x-ratelimit-remaining-requests": "soon",
                "x-ratelimit-limit-requests": "-1",
                "retry-after": "never",
                "content-type": "",
            },
        )
    ),
    # Encodings.
    "encoding-bom": _raw(lambda text: text.encode("utf-8-sig")),
    "encoding-utf16": _raw(lambda text: text.encode("utf-16")),
    "encoding-latin1": _raw(lambda text: text.encode("latin-1")),
    "encoding-declared": _raw(lambda text: text.encode("latin-1"), content_type=_PLAIN),
    "encoding-gzip": _raw(lambda text: gzip.compress(text.encode()), content_encoding="gzip"),
    "encoding-broken": _first(Reply(raw=b"\x1f\x8b no", headers={"content-encoding": "gzip"})),
    # Bodies that are cut, late, or of another kind.
    "body-stream": Quirk(_stream),
    "body-spaces": _raw(lambda text: b"\n \n" + text.encode()),
    "body-cut": _first(Reply({"choices": ["some"] * 20}, fault="truncated")),
    "body-half": _first(Reply(raw=b'{"choices": [{"message": {"content": "It')),
    "body-empty": _first(Reply(raw=b"")),
    "body-html": _first(Reply(raw=b"<html>Bad gateway</html>")),
    "body-html-always": _always(Reply(raw=b"<html>x</html>"), "stopped", "<html>", generates=True),
    "body-reset": _first(Reply(fault="reset")),
    "body-late": _first(Reply({}, delay_s=1.5), settings=("provider.timeout_s=0.4",)),
}


@dataclass
class QuirkServer:
    """A script for a chat server. `billed` counts the tokens of what it generated."""

    billed: Counter[str] = field(default_factory=Counter)
    sent: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __call__(self, asked: Asked) -> Reply:
        body = asked.body
        quirk = QUIRKS[body["model"]]
        request = body["model"], json.dumps([body["messages"], body.get("seed")])
        self.sent[request] += 1
        good = self._good(body)
        used = dict(good["usage"])
        again = quirk.once and self.sent[request] > 1
        reply = Reply(good) if again else quirk.reply(good, asked)
        if again or (quirk.generates and reply.status != 400):
            self.billed.update(used)
        return reply

    def usd(self, prompt_usd: float, answer_usd: float) -> float:
        """The bill, at prices per million tokens."""
        return (
            self.billed["prompt_tokens"] * prompt_usd
            + self.billed["completion_tokens"] * answer_usd
        ) / 1e6

    def _good(self, body: Mapping[str, Any]) -> dict[str, Any]:
        words = sum(len(message["content"].split()) for message in body["messages"])
        most = body.get("max_tokens") or body.get("max_completion_tokens")
        completion = min(most, len(TEXT))
        return {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": TEXT},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": words + 9,
                "completion_tokens": completion,
                "total_tokens": words + 9 + completion,
            },
        }
