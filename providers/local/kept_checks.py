"""Results of self-checks, kept so that a model is checked once; loads neither torch nor a model.

One small JSON file per model, under `$XDG_CACHE_HOME/society/checks` (`~/.cache/society/checks`).
Its name stands for the model's files, the settings and the versions of the libraries; a file that
cannot be read, or be written, only means that the model is checked again.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from pydantic import TypeAdapter, ValidationError

from providers.local.plans import Verdict
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource

_log = logging.getLogger(__name__)
# Raised when the check or a decoder changes what it finds.
_CHECK_VERSION = 1
_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "society")
# How much is computed at a time, and by how many threads, does not change what is right.
_NO_EFFECT = {
    *("max_batch_size", "max_batch_tokens", "full_models"),
    *("threads", "training_workers", "joint_training", "template_date"),
}
_VERDICT = TypeAdapter(Verdict)

# Device and number type, then the signature of adapters ("" for the base), then the verdict.
_Content = dict[str, dict[str, Any]]


class KeptChecks:
    """What earlier self-checks found about one model under these settings.

    `place` is where the model computes, such as "cpu/torch.float32".

    ```python
    kept = KeptChecks(source, settings)
    kept.find("cpu/torch.float32")  # the verdict about the base, None if it was never checked
    ```
    """

    def __init__(self, source: ModelSource, settings: LocalSettings) -> None:
        self._path = _find_folder() / f"{_compute_key(source, settings)}.json"

    def find(self, place: str, signature: str = "") -> Verdict | None:
        """The verdict about the base, or about adapters of this signature."""
        with suppress(ValidationError):
            found = self._read().get(place, {}).get(signature)
            return None if found is None else _VERDICT.validate_python(found)
        return None

    def list_bases(self) -> dict[str, Verdict]:
        """The verdicts about the base by place."""
        found = {place: self.find(place) for place in self._read()}
        return {place: verdict for place, verdict in found.items() if verdict is not None}

    def keep(self, place: str, verdict: Verdict, signature: str = "") -> None:
        """Store a verdict, beside those that are there."""
        content = self._read()
        content.setdefault(place, {})[signature] = asdict(verdict)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                json.dump(content, file)
            os.replace(file.name, self._path)
        except OSError as error:
            _log.info("the result of the self-check cannot be kept: %s", error)

    def _read(self) -> _Content:
        try:
            content = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(content, dict):
            return {}
        return {place: own for place, own in content.items() if isinstance(own, dict)}


def _find_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "society" / "checks"


def _compute_key(source: ModelSource, settings: LocalSettings) -> str:
    kept = settings.model_dump(mode="json", exclude=_NO_EFFECT)
    stated = [_CHECK_VERSION, _describe_files(source), kept, _list_versions()]
    return sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:32]


def _describe_files(source: ModelSource) -> list[object]:
    """Which files the model is made of: names, sizes and times, or a commit of the hub."""
    folder = Path(source.name)
    if not source.local:
        from huggingface_hub import try_to_load_from_cache

        probe = source.gguf_file or "config.json"
        cached = try_to_load_from_cache(source.name, probe, revision=source.revision)
        # The folder of a cached file is named by its commit.
        commit = Path(cached).parent.name if isinstance(cached, str) else source.revision
        return [source.name, commit, source.gguf_file]
    paths = [folder / source.gguf_file] if source.gguf_file else sorted(folder.iterdir())
    stats = [(path.name, path.stat()) for path in paths if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


@cache
def _list_versions() -> list[str]:
    found = []
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found
