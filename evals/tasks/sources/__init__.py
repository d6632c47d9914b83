"""Where a task's rows come from: files on this machine, or pinned files of the hub."""

from __future__ import annotations

from evals.tasks.sources.hub import HubDataset, NotCached, cached_only
from evals.tasks.sources.local import PerSplit, chosen
from evals.tasks.sources.rows import Row, Source

__all__ = ["HubDataset", "NotCached", "PerSplit", "Row", "Source", "cached_only", "chosen"]
