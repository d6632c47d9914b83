"""Where a task's rows come from: files on this machine, or pinned files of the hub."""

from __future__ import annotations

from evals.tasks.sources.hub import HubDataset, NotCached, cached_only
from evals.tasks.sources.local import PerSplit, choose_source
from evals.tasks.sources.rows import DataRow, RowSource

__all__ = [
    "DataRow",
    "HubDataset",
    "NotCached",
    "PerSplit",
    "RowSource",
    "cached_only",
    "choose_source",
]
