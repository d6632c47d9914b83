"""The models of one provider in memory: the base with its adapters, and full fine-tunes of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from providers.artifact import verify
from providers.local.backbone import Backbone
from providers.local.hardware import release_memory
from providers.local.lora import is_adapter
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource
from providers.types import ModelRef


class LocalModels:
    """The models of one provider by artifact, loaded at first use. For one thread at a time.

    An artifact is a folder, relative to `workdir` unless it is absolute. Adapters are kept beside
    the base. Of the full fine-tunes, the `settings.full_models` most recently used stay in memory.
    """

    def __init__(self, source: ModelSource, settings: LocalSettings, workdir: Path) -> None:
        self._source = source
        self._settings = settings
        self._workdir = workdir
        self._base: Backbone | None = None
        self._full: OrderedDict[str, Backbone] = OrderedDict()
        self._hashes: dict[str, str] = {}

    @property
    def base(self) -> Backbone:
        """The untuned model."""
        if self._base is None:
            self._base = Backbone(self._source, self._settings)
        return self._base

    def expect(self, models: Iterable[ModelRef]) -> None:
        """From now on, accept these models' artifacts only with the hash they are given with."""
        for model in models:
            if model.artifact is not None and model.sha256 is not None:
                self._hashes[model.artifact] = model.sha256

    def verify_folder(self, artifact: str) -> Path:
        """The artifact's folder, once `providers.artifact.verify` has found it unchanged."""
        folder = self._workdir / artifact
        verify(folder, self._hashes.get(artifact))
        return folder

    def find(self, artifact: str | None) -> tuple[Backbone, str | None]:
        """The backbone that answers for an artifact, and the adapter to use on it."""
        if artifact is None:
            return self.base, None
        if artifact in self._full:
            self._full.move_to_end(artifact)
            return self._full[artifact], None
        if artifact not in self.base.adapters.names:
            folder = self.verify_folder(artifact)
            if not is_adapter(folder):
                return self._load_full(artifact, folder), None
            self.base.adapters.load(artifact, folder)
        return self.base, artifact

    def keep(self, artifacts: Iterable[str]) -> None:
        """Load these and forget all others."""
        kept = list(artifacts)
        # Forget first: old and new models may not fit into memory together.
        for artifact in self._full.keys() - set(kept):
            del self._full[artifact]
        release_memory()
        for artifact in kept:
            self.find(artifact)
        self.base.adapters.keep(frozenset(kept))

    def _load_full(self, artifact: str, folder: Path) -> Backbone:
        # Make room before loading, so that no more than `full_models` are ever in memory.
        while len(self._full) >= self._settings.full_models:
            self._full.popitem(last=False)
            release_memory()
        backbone = Backbone(ModelSource(str(folder), True), self._settings)
        self._full[artifact] = backbone
        return backbone
