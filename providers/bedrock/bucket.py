"""A bucket of S3, with the training data of jobs and the metrics that they leave there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from providers.bedrock.client import BedrockConnection
from providers.bedrock.job_format import format_example
from providers.bedrock.settings import BedrockSettings
from providers.bucket import Part, name_object, store_examples
from providers.calling import Caller
from providers.types import FinetuneSpec

# The most that S3 takes in one request.
_MAX_BYTES = 5 * 10**9
_ABSENT = {"404", "403", "NoSuchKey", "NotFound", "AccessDenied"}


class S3Bucket:
    """Implements `providers.bucket.Bucket`; an object's name is its key behind the prefix.

    bucket = S3Bucket(connection, settings)
    await bucket.find_size("society/0123-training.jsonl")
    """

    def __init__(self, connection: BedrockConnection, settings: BedrockSettings) -> None:
        self._connection = connection
        self._bucket = settings.bucket_name
        self._prefix = settings.key_prefix

    async def find_size(self, name: str) -> int | None:
        storage = self._connection.storage

        def head() -> int | None:
            try:
                found = storage.head_object(Bucket=self._bucket, Key=self._prefix + name)
            except storage.exceptions.ClientError as error:
                # Without s3:ListBucket S3 answers 403 for what is not there; if it is the
                # permission that is missing, the upload says so.
                if error.response["Error"]["Code"] in _ABSENT:
                    return None
                raise
            return int(found["ContentLength"])

        return await self._connection.run(head)

    async def upload(self, name: str, path: Path) -> None:
        def put() -> None:
            with path.open("rb") as body:
                self._connection.storage.put_object(
                    Bucket=self._bucket, Key=self._prefix + name, Body=body
                )

        await self._connection.run(put)

    def locate(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{name}"


class TrainingFolder:
    """What jobs read from and write to a bucket.

    uri = await TrainingFolder(connection, caller, settings).store(spec, "training")
    """

    def __init__(
        self, connection: BedrockConnection, caller: Caller, settings: BedrockSettings
    ) -> None:
        self._connection = connection
        self._caller = caller
        self._bucket = S3Bucket(connection, settings)
        self._locks: dict[str, asyncio.Lock] = {}

    @property
    def output_uri(self) -> str:
        """Where jobs write their metrics."""
        return self._bucket.locate("society/output")

    async def store(self, spec: FinetuneSpec, part: Part) -> str:
        """The URI of the spec's data, uploaded unless they are there; see `store_examples`."""
        # Jobs with equal data, which are submitted together, share one upload.
        async with self._locks.setdefault(name_object(spec, part), asyncio.Lock()):
            return await store_examples(
                self._bucket, self._caller, spec, part, format_example, _MAX_BYTES
            )

    async def read_text(self, uri: str) -> str | None:
        """The text of an object; None if there is none."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        storage = self._connection.storage

        def fetch() -> str | None:
            try:
                body: Any = storage.get_object(Bucket=bucket, Key=key)["Body"]
            except storage.exceptions.NoSuchKey:
                return None
            return str(body.read().decode("utf-8", errors="replace"))

        return await self._caller.call_with_retry(lambda: self._connection.run(fetch))
