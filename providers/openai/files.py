"""Files of an account: written here, uploaded once however often they are needed, then awaited.

A training file has one conversation per line: ``{"messages": [{"role": …, "content": …}, …]}``.
Every assistant message has a ``weight``: 1 if it is trained on, 0 if it is context only. The format
is `FineTuneChatRequestInput` of https://github.com/openai/openai-openapi. A line of preferences is
``{"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}``, as
https://platform.openai.com/docs/guides/direct-preference-optimization says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openai import AsyncOpenAI, Omit
from openai.pagination import AsyncCursorPage
from openai.types import FileObject

from providers.calling import ATTEMPTS, Caller, UnreadableAnswer, compute_pause, find_status
from providers.errors import InvalidTrainingData, ProviderError, RetryableError, TimedOut
from providers.openai.calling import list_items, require_id
from providers.training_file import (
    LocalFile,
    require_no_judgement,
    require_trained_answers,
    write_lines,
)
from providers.types import Example

Purpose = Literal["fine-tune", "batch"]

MAX_BYTES = 512 * 1000 * 1000

_IN_PREPARATION = frozenset({"pending", "running", "processing", "uploading"})
# Statuses of a server that has no list of files, or none for this key.
_CLOSED = frozenset({400, 403, 404, 405, 410, 501})
_REFUSED = frozenset({"error", "failed", "deleted", "deleting"})


def write_training_file(
    examples: Iterable[Example], path: Path, max_bytes: int = MAX_BYTES
) -> LocalFile:
    """Write `examples` to `path` in OpenAI's format; see `providers.training_file.write_lines`.

    write_training_file(spec.examples, Path("train.jsonl"))
    """
    return write_lines(examples, path, _format_example, max_bytes)


def _format_example(example: Example, number: int) -> dict[str, object]:
    require_no_judgement(example, number)
    if example.rejected is not None:
        return _format_pair(example, example.rejected)
    require_trained_answers(example, number)
    messages: list[dict[str, str | int]] = []
    for index, message in enumerate(example.messages):
        turn: dict[str, str | int] = {"role": message.role, "content": message.content}
        if message.role == "assistant":
            # Explicit for every answer: without a weight the vendor trains on it.
            turn["weight"] = int(index in example.loss_on)
        messages.append(turn)
    return {"messages": messages}


def _format_pair(example: Example, rejected: str) -> dict[str, object]:
    *before, chosen = example.messages
    messages = [{"role": message.role, "content": message.content} for message in before]
    return {
        "input": {"messages": messages},
        "preferred_output": [{"role": "assistant", "content": chosen.content}],
        "non_preferred_output": [{"role": "assistant", "content": rejected}],
    }


@dataclass(frozen=True, slots=True)
class FilePolling:
    """How long to wait for an uploaded file to become usable, in seconds.

    Some servers never leave the state "uploaded", so waiting for more is short.
    """

    interval_s: float = 2.0
    uploaded_s: float = 30.0
    prepared_s: float = 1800.0


class Files:
    """The files of one account.

    The name of a file, or a part of it, contains a hash of its content. So a file with the same
    name and size has the same content, and is used instead of a second upload.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        caller: Caller,
        polling: FilePolling | None = None,
    ) -> None:
        self._client = client
        self._caller = caller
        self._polling = polling or FilePolling()

    async def ensure_uploaded(
        self, local: LocalFile, name: str, purpose: Purpose, part: str | None = None
    ) -> str:
        """The id of the file at the server, uploaded if it is missing, and ready to be used.

        A file also counts if its name contains `part`, which identifies the content alone. Raises
        `InvalidTrainingData` if the server refuses the file, and the errors of the caller.
        """

        def matches(file: FileObject) -> bool:
            named = file.filename == name or bool(part and part in (file.filename or ""))
            return named and file.bytes == local.bytes and _get_state(file) not in _REFUSED

        return await self._wait_until_ready(
            await self._find_or_upload(local, name, purpose, matches)
        )

    async def list_names(self, purpose: Purpose) -> dict[str, str]:
        """The name of every file by its id, whatever its state."""
        return {file.id: file.filename async for file in self._list_files(purpose)}

    async def _find_or_upload(
        self, local: LocalFile, name: str, purpose: Purpose, matches: Callable[[FileObject], bool]
    ) -> FileObject:
        found = await self._find(matches, purpose)
        for attempt in range(ATTEMPTS):
            if found is not None:
                return found
            try:
                return await self._caller.call_once(lambda: self._upload(local, name, purpose))
            except RetryableError as error:
                failure = error
            # An upload that failed may have arrived all the same; only the list shows it.
            await self._caller.sleep(compute_pause(failure, attempt))
            found = await self._find(matches, purpose)
        if found is None:
            raise failure
        return found

    async def _find(
        self, matches: Callable[[FileObject], bool], purpose: Purpose
    ) -> FileObject | None:
        """The matching file; None also on a server without a list, where the only price is a second
        upload."""
        try:
            async for file in self._list_files(purpose):
                if matches(file):
                    return file
        except ProviderError as error:
            if not _is_closed(error):
                raise
        return None

    def _list_files(self, purpose: Purpose) -> AsyncIterator[FileObject]:
        async def fetch_page(after: str | Omit) -> AsyncCursorPage[FileObject]:
            return await self._client.files.list(purpose=purpose, after=after)

        return list_items(self._caller.call_with_retry, "files", fetch_page)

    async def _upload(self, local: LocalFile, name: str, purpose: Purpose) -> FileObject:
        # Opened anew for each attempt: a failed one has read the file to some point.
        with local.path.open("rb") as content:
            uploaded = await self._client.files.create(file=(name, content), purpose=purpose)
        require_id(uploaded)
        return uploaded

    async def _wait_until_ready(self, file: FileObject) -> str:
        """Wait until `file` can be used; returns its id."""
        file_id, waited = file.id, 0.0

        async def retrieve() -> FileObject:
            return await self._client.files.retrieve(file_id)

        while True:
            state = _get_state(file)
            if state in _REFUSED:
                raise InvalidTrainingData(
                    f"the server refused file {file_id}: {file.status_details or state}"
                )
            limit = 0.0
            if state == "uploaded":
                limit = self._polling.uploaded_s
            elif state in _IN_PREPARATION:
                limit = self._polling.prepared_s
            if waited >= limit:
                break
            await self._caller.sleep(self._polling.interval_s)
            waited += self._polling.interval_s
            try:
                file = await self._caller.call_with_retry(retrieve)
            except ProviderError as error:
                if not _is_closed(error):
                    raise
                # A server that reports no file state refuses the job if the file is not usable.
                return file_id
        # A job on an unprepared file would fail, but "uploaded" is as far as some servers ever get.
        if state in _IN_PREPARATION:
            raise TimedOut(
                f"file {file_id} is still {state} after {waited:.0f} s; run again, it will be found"
            )
        return file_id


def _is_closed(error: ProviderError) -> bool:
    """Whether the server has no such list or description, or none for this key."""
    return isinstance(error, UnreadableAnswer) or find_status(error) in _CLOSED


def _get_state(file: FileObject) -> str:
    return str(file.status or "")
