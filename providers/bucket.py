"""Training data in a bucket of a cloud, for vendors whose jobs read it there.

An object's name contains a hash of what its content is made of. So an object of that name and size
has that content: it is used instead of a second upload, and an upload that was interrupted or
repeated does no harm, since buckets store an object whole or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Protocol

from providers.calling import Caller
from providers.training_file import FormatExample, write_lines
from providers.types import Example, FinetuneSpec

Part = Literal["training", "validation"]


class Bucket(Protocol):
    """A bucket, as far as training data need it. Raises what the vendor's package raises."""

    async def find_size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none of this name."""

    async def upload(self, name: str, path: Path) -> None:
        """Store a file as an object, in place of one of the same name; returns when it is there."""

    def locate(self, name: str) -> str:
        """The URI of an object, as a job takes it."""


async def store_examples(
    bucket: Bucket,
    caller: Caller,
    spec: FinetuneSpec,
    part: Part,
    format_example: FormatExample,
    max_bytes: int,
) -> str:
    """The URI of the object with the spec's training or validation data, uploaded if missing.

    Raises `InvalidTrainingData`, before anything is sent, and the errors of the caller.

        uri = await store_examples(bucket, caller, spec, "training", format_example, 10**9)
    """
    examples: tuple[Example, ...] = tuple(spec.examples if part == "training" else spec.validation)
    name = name_object(spec, part)
    with TemporaryDirectory(prefix="society-") as folder:
        path = Path(folder) / "data.jsonl"
        local = await asyncio.to_thread(write_lines, examples, path, format_example, max_bytes)
        if await caller.call_with_retry(lambda: bucket.find_size(name)) != local.bytes:
            await caller.call_with_retry(lambda: bucket.upload(name, path))
    return bucket.locate(name)


def name_object(spec: FinetuneSpec, part: Part) -> str:
    """The name of the object: the same for all jobs with the same data."""
    facts = [part, spec.dataset_sha256, spec.validation_sha256, spec.hyperparameters.objective]
    return f"society/{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}-{part}.jsonl"
