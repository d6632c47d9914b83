"""From the bytes of a response to a JSON object, in whatever encoding a server or gateway sent it.

>>> parse_body(b'{"choices": []}')
{'choices': []}
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any

from providers.errors import RetryableError, UnusableAnswer

_LONGEST_QUOTE = 200
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def parse_body(content: bytes, charset: str | None = None) -> Mapping[str, Any]:
    """The JSON object in a response's body; `charset` is what the response header declares.

    Some gateways send a stream of events although nobody asked for one; it is joined into one
    object. Raises `RetryableError` for text that is not JSON, as after a cut connection or from a
    proxy, and `UnusableAnswer` for JSON that is not an object.
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
    """The text of a response: by byte order mark, then by validity, then by declared charset.

    Text that is mostly UTF-8 keeps U+FFFD for a broken character; other text without a usable
    `charset` is decoded as Latin-1 (Windows-1252).
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    # JSON begins with ASCII, so zero bytes near the start mean UTF-16 or UTF-32 without a mark.
    if content[:4].count(0) >= 2 or (len(content) < 4 and 0 in content):
        return content.decode(json.detect_encoding(content), "replace")
    try:
        # Valid UTF-8 beats the declared charset: many servers declare Latin-1 and send UTF-8.
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    declared = _find_codec(charset)
    if declared is not None and declared != "utf-8":
        return content.decode(declared, "replace")
    text = content.decode("utf-8", "replace")
    # More broken than good non-ASCII characters: the text never was UTF-8.
    broken = text.count("\ufffd")
    if broken <= sum(not letter.isascii() for letter in text) - broken:
        return text
    return content.decode("cp1252", "replace")


def _find_codec(charset: str | None) -> str | None:
    """The codec's name; None if `charset` is missing, unknown or no text encoding."""
    name = (charset or "").strip("\"' ")
    try:
        b"a".decode(name, "replace")
        return codecs.lookup(name).name
    except LookupError:
        return None


def _is_stream(text: str) -> bool:
    return text.lstrip().startswith(("data:", "event:", ": "))


def _join_events(text: str) -> Mapping[str, Any]:
    """One completion from the chunks of a stream; an event with an error replaces all of them.

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
    """The data of every event; None for the end mark."""
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
    return repr(text[:_LONGEST_QUOTE])
