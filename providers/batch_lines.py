"""The lines of batches, whatever the vendor: split into batches, and joined again by their ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from providers.errors import BadRequest
from providers.training_file import LocalFile
from providers.types import Request

PASSING = frozenset({408, 409, 429, 499, 500, 502, 503, 504})
"""HTTP statuses of one request that may succeed in another batch."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request as it is sent. `custom_id` is a hash of the request's key and its whole body."""

    custom_id: str
    model: str
    request: Request
    text: bytes


@dataclass(frozen=True, slots=True)
class BatchPart:
    """The lines of one batch, all for one model."""

    lines: tuple[BatchLine, ...]

    @property
    def model(self) -> str:
        return self.lines[0].model

    @property
    def custom_ids(self) -> tuple[str, ...]:
        return tuple(line.custom_id for line in self.lines)

    def digest(self, attempt: int) -> str:
        """SHA-256 of the lines and the attempt's number, so that a retry is a batch of its own."""
        content = hashlib.sha256(f"attempt {attempt}\n".encode())
        for line in self.lines:
            content.update(line.text)
        return content.hexdigest()

    def write(self, path: Path) -> LocalFile:
        """Write the input file; blocks."""
        with path.open("wb") as file:
            size = sum(file.write(line.text) for line in self.lines)
        return LocalFile(path, size, len(self.lines))


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What a batch says about one request.

    With `status` 200, `body` is the completion. With another status the server refused this
    request, and `body` is what it sent. With `status` 0 there is no answer, and `reason` says why.
    `passing`: the request may succeed in another batch.
    """

    custom_id: str
    status: int
    body: object
    passing: bool
    reason: str = ""


def hash_request(request: Request, body: Mapping[str, object]) -> str:
    """The `custom_id` of a request with this body: 48 hexadecimal digits."""
    # The body is part of the id, so that answers from a run with other settings do not match.
    canonical = json.dumps(body, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(f"{request.key}\n{canonical}".encode()).hexdigest()[:48]


def encode_line(line: Mapping[str, object]) -> bytes:
    """A line of an input file: the same bytes for the same content."""
    return (json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n").encode()


def split_lines(lines: Iterable[BatchLine], max_requests: int, max_bytes: int) -> list[BatchPart]:
    """Split `lines` into batches of one model each, within the limits, in order.

    Raises `BadRequest` for a request that is too long for any batch.
    """
    # Vendors allow one model per batch.
    by_model: dict[str, list[BatchLine]] = {}
    for line in lines:
        if len(line.text) > max_bytes:
            raise BadRequest(
                f"request {line.request.key} has {len(line.text):,} bytes, more than a whole batch "
                f"may have ({max_bytes:,}); make the call without a batch"
            )
        by_model.setdefault(line.model, []).append(line)
    parts: list[BatchPart] = []
    for own in by_model.values():
        parts += _cut_lines(own, max_requests, max_bytes)
    return parts


def _cut_lines(
    lines: Sequence[BatchLine], max_requests: int, max_bytes: int
) -> Iterator[BatchPart]:
    part: list[BatchLine] = []
    size = 0
    for line in lines:
        if part and (len(part) == max_requests or size + len(line.text) > max_bytes):
            yield BatchPart(tuple(part))
            part, size = [], 0
        part.append(line)
        size += len(line.text)
    if part:
        yield BatchPart(tuple(part))
