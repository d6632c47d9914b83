"""Pushing an exported folder to the Hugging Face hub, by its own client.

The endpoint and the token follow the environment, as the client reads it: HF_ENDPOINT, HF_TOKEN, or
the token of `hf auth login`.
"""

from __future__ import annotations

import re
from pathlib import Path

from society.config.load import ConfigError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write"


class PushFailed(OSError):
    """The hub has not taken the folder, which stays on this disk."""


def check_push(repo: str) -> None:
    """Raise `ConfigError` for what can be known before anything is exported."""
    from huggingface_hub import constants, get_token

    if not _REPO.fullmatch(repo):
        raise ConfigError(f"--push {repo!r} is no name of a repository; write ORG/NAME")
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("--push needs the hub, and HF_HUB_OFFLINE is set; unset it")
    if get_token() is None:
        raise ConfigError(f"--push {repo}: the hub needs to know who you are; {_LOGIN}")


def push_folder(folder: Path, repo: str, message: str, *, public: bool) -> str:
    """Upload a folder to a model repository, made if it is not there; returns its address.

    A new repository is private unless it is to be `public`; an existing one keeps its visibility
    and its other files. Raises `PushFailed`, and `ConfigError` for a token that may not write.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    api = HfApi()
    # An existing repository of the user's is pushed to again, as after more iterations.
    try:
        url = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except (RepositoryNotFoundError, HfHubHTTPError) as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
            raise ConfigError(
                f"the hub does not let this token write to {repo} ({_first_line(error)}); {_LOGIN} "
                f"there. The export is in {folder}"
            ) from error
        raise PushFailed(_explain(folder, repo, error)) from error
    # What the client raises of a broken connection differs from version to version.
    except Exception as error:
        raise PushFailed(_explain(folder, repo, error)) from error
    return str(url)


def _explain(folder: Path, repo: str, error: Exception) -> str:
    return (
        f"{repo} was not pushed: {_first_line(error)}; the export is in {folder}: push it again "
        f"with `hf upload {repo} {folder}`"
    )


def _first_line(error: Exception) -> str:
    # The client's messages go on with requests and advice, and may name the request's headers.
    return (str(error).strip() or type(error).__name__).splitlines()[0]
