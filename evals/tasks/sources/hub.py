"""Rows from pinned files of a Hugging Face dataset, kept in its local cache.

A commit's files never change, so a file in the cache is used without asking the hub. Where the
cache lies, the endpoint, the token and offline mode follow the environment: HF_HOME, HF_ENDPOINT,
HF_TOKEN, HF_HUB_OFFLINE (https://huggingface.co/docs/huggingface_hub/package_reference/
environment_variables).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from evals.tasks.base import Split
from evals.tasks.sources import formats
from evals.tasks.sources.rows import DataRow

COMMIT = r"^[0-9a-f]{40}$"
"""What `revision` must look like: a branch would move under a run."""


_CACHED_ONLY: ContextVar[bool] = ContextVar("cached_only", default=False)


class NotCached(ValueError):
    """A file of a dataset is not on this machine, and nothing may be downloaded."""


@contextmanager
def cached_only() -> Iterator[None]:
    """Within it the hub is not asked for anything; a file that is not here raises `NotCached`."""
    token = _CACHED_ONLY.set(True)
    try:
        yield
    finally:
        _CACHED_ONLY.reset(token)


@dataclass(frozen=True, slots=True)
class HubDataset:
    """Implements `RowSource`: the `files` of the dataset `repo` at the commit `revision`."""

    repo: str
    revision: str
    files: Mapping[Split, tuple[str, ...]]
    shared: bool = False

    def rows(self, split: Split) -> Sequence[DataRow]:
        """See `RowSource.rows`; downloads what the cache lacks."""
        return [
            row
            for file in self.files[split]
            for row in formats.read_rows(self._download(file, split), f"{self.repo}/{file}")
        ]

    def describe(self, split: Split) -> str:
        """See `RowSource.describe`."""
        return f"in the dataset {self.repo}"

    def _download(self, file: str, split: Split) -> Path:
        from huggingface_hub import hf_hub_download

        if _CACHED_ONLY.get():
            return self._find_cached(file)
        try:
            return Path(
                hf_hub_download(self.repo, file, repo_type="dataset", revision=self.revision)
            )
        except Exception as error:
            raise ValueError(
                f"cannot get {file} of the dataset {self.repo} (revision {self.revision}): "
                f"{_explain_error(error)}; or download the file elsewhere and name it with "
                f"task.{split}_path, or name a folder or one file for both splits with task.path"
            ) from error

    def _find_cached(self, file: str) -> Path:
        # hf_hub_download(local_files_only=True) may still ask the hub about other things.
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, file, repo_type="dataset", revision=self.revision)
        if not isinstance(found, str):
            raise NotCached(
                f"{file} of the dataset {self.repo} is not in the cache, and nothing is "
                "downloaded here"
            )
        return Path(found)


def _explain_error(error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.LocalEntryNotFoundError() if isinstance(
            error.__cause__, errors.OfflineModeIsEnabled
        ):
            return "it is not in the cache and HF_HUB_OFFLINE is set; unset it"
        case errors.LocalEntryNotFoundError():
            cause = error.__cause__ or error
            return (
                f"the hub does not answer ({_format_first_line(cause)}) and it is not in the "
                "cache; try again"
            )
        case errors.GatedRepoError():
            return "access must be granted: accept the terms on its page and set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            return "the hub has no such dataset, or not for you; check HF_ENDPOINT and HF_TOKEN"
        case errors.RevisionNotFoundError():
            return "the hub has no such revision; leave task.revision out"
        case errors.EntryNotFoundError():
            return "there is no such file at this revision; leave task.revision out"
        case _:
            return _format_first_line(error)


def _format_first_line(error: BaseException) -> str:
    first = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
