"""The models of one provider: the base, its adapters, and full fine-tunes of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from providers.artifact import verify
from providers.local import memory
from providers.local.backbone import Backbone, is_adapter
from providers.local.factory import Source
from providers.local.settings import LocalSettings
from providers.types import ModelRef


class Models:
    """Loads at first use and finds by artifact. For one thread at a time.

    An artifact is a folder, relative to `workdir` unless it is absolute. Adapters live on the base;
    of full fine-tunes the `settings.full_models` used last are kept.
    """

    def __init__(self, source: Source, settings: LocalSettings, workdir: Path) -> None:
        self._source = source
        self._settings = settings
        self._workdir = workdir
        self._base: Backbone | None = None
        self._full: OrderedDict[str, Backbone] = OrderedDict()
        self._hashes: dict[str, str] = {}

    @property
    def base(self) -> Backbone:
        if self._base is None:
            self._base = Backbone(self._source, self._settings)
        return self._base

    def expect(self, models: Iterable[ModelRef]) -> None:
        """Take these models' artifacts from now on only with the weights they are known to have."""
        for model in models:
            if model.artifact is not None and model.sha256 is not None:
                self._hashes[model.artifact] = model.sha256

    def folder(self, artifact: str) -> Path:
        """Where an artifact lies, checked to be as it was trained: `providers.artifact.verify`."""
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
        if artifact not in self.base.bank.names:
            folder = self.folder(artifact)
            if not is_adapter(folder):
                return self._load_full(artifact, folder), None
            self.base.bank.load(artifact, folder)
        return self.base, artifact

    def keep(self, artifacts: Iterable[str]) -> None:
        """Load these and forget all others."""
        wanted = list(artifacts)
        for artifact in self._full.keys() - set(wanted):
            del self._full[artifact]
        memory.release()
        for artifact in wanted:
            self.find(artifact)
        self.base.bank.keep(frozenset(wanted))

    def _load_full(self, artifact: str, folder: Path) -> Backbone:
        while len(self._full) >= self._settings.full_models:
            self._full.popitem(last=False)
            memory.release()
        backbone = Backbone(Source(str(folder), True), self._settings)
        self._full[artifact] = backbone
        return backbone
