"""From the bytes of a response to JSON, whatever encoding a server or gateway has put it in."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any

from providers.errors import RetryableError, UnusableAnswer

_SHOWN = 200
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def parse_body(content: bytes, charset: str | None = None) -> Mapping[str, Any]:
    """The JSON object in a response's body; `charset` is what its header declares.

    A stream of events, which some gateways send unasked, is joined into one object. Raises
    `RetryableError` for what is no JSON, as when the connection was cut or a proxy sent a page, and
    `UnusableAnswer` for JSON that is no object.
    """
    text = decode_text(content, charset)
    try:
        body = _join_events(text) if _is_stream(text) else json.loads(text)
    except RecursionError:
        raise UnusableAnswer(
            f"the server's answer is not usable (nested too deeply): {_quote_start(text)}"
        ) from None
    except ValueError as error:
        raise RetryableError(
            f"the server's answer is not usable (no JSON: {error}): {_quote_start(text)}"
        ) from None
    if not isinstance(body, Mapping):
        raise UnusableAnswer(
            f"the server's answer is not usable (a JSON {type(body).__name__}, no object): "
            f"{_quote_start(text)}"
        )
    return body


def decode_text(content: bytes, charset: str | None = None) -> str:
    """The text of a response: by its byte order mark, by what is valid, by what is declared.

    Text that is mostly UTF-8 keeps U+FFFD where a character is broken; other text without a usable
    `charset` is read as Latin-1 (Windows-1252).
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    if content[:4].count(0) >= 2 or (len(content) < 4 and 0 in content):
        return content.decode(json.detect_encoding(content), "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    declared = _find_codec(charset)
    if declared is not None and declared != "utf-8":
        return content.decode(declared, "replace")
    text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if broken <= sum(not letter.isascii() for letter in text) - broken:
        return text
    return content.decode("cp1252", "replace")


def _find_codec(charset: str | None) -> str | None:
    try:
        found = codecs.lookup((charset or "").strip("\"' "))
    except LookupError:
        return None
    return found.name if found._is_text_encoding else None


def _is_stream(text: str) -> bool:
    return text.lstrip().startswith(("data:", "event:", ": "))


def _join_events(text: str) -> Mapping[str, Any]:
    """One completion from the chunks of a stream; an event that is no chunk stands for itself.

    Raises ValueError for a stream that has no end.
    """
    parts: list[str] = []
    joined: dict[str, Any] = {"finish_reason": None}
    ended = False
    for event in _parse_events(text):
        if event is None:
            ended = True
            continue
        if event.get("error"):
            return event
        joined["usage"] = event.get("usage") or joined.get("usage")
        choices = event.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            delta = choice.get("delta") or choice.get("message") or {}
            if isinstance(delta.get("content"), str):
                parts.append(delta["content"])
            joined["finish_reason"] = choice.get("finish_reason") or joined["finish_reason"]
    if not ended and joined["finish_reason"] is None:
        raise ValueError("a stream of events that breaks off")
    choice = {"message": {"content": "".join(parts)}, "finish_reason": joined["finish_reason"]}
    return {"choices": [choice], "usage": joined.get("usage")}


def _parse_events(text: str) -> Iterator[dict[str, Any] | None]:
    """The data of every event; None for the mark of the end."""
    for line in text.splitlines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            yield None
        elif data:
            event = json.loads(data)
            if not isinstance(event, dict):
                raise ValueError("an event that is no object")
            yield event


def _quote_start(text: str) -> str:
    return repr(text[:_SHOWN])
