"""What a turn says, as it is stored: JSON messages, valid text, and the hashes that name them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence


def messages_json(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as stored: a JSON list of {"role", "content"}, text unescaped, one line."""
    # These two keys only and in this order: the text is hashed, and equal conversations must have
    # equal hashes.
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    return json.dumps(plain, ensure_ascii=False)


def make_storable(text: str) -> str:
    """`text` with lone surrogates, which no UTF-8 file can hold, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # UTF-16 joins a high and a low surrogate to the character that they mean, so that only lone
        # ones are lost.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def content_sha256(messages: str, response: str) -> str:
    """SHA-256 (hex) of what a turn teaches: the messages as sent, a line feed, the response.

    JSON has no raw line feed inside strings and is stored on one line, so the pair is unambiguous.
    """
    # A record can hold a lone surrogate; the store refuses it later and names the column.
    return hashlib.sha256(f"{messages}\n{response}".encode(errors="surrogatepass")).hexdigest()


def turn_id_of(key: str) -> int:
    """63-bit hash of a `turn_key`: the first 8 bytes of its BLAKE2b, without the sign bit."""
    # Not `hash()`, which differs between processes. The column is BIGINT, which has a sign.
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & 0x7FFF_FFFF_FFFF_FFFF
