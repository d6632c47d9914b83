"""Batch records that outlive a connection, as a run's database does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from providers.types import BatchRecord


@dataclass
class Records:
    """Implements `providers.base.BatchRecords`; `created` is set once a batch has a name."""

    kept: dict[str, BatchRecord] = field(default_factory=dict)
    created: asyncio.Event = field(default_factory=asyncio.Event)

    async def all(self) -> Sequence[BatchRecord]:
        return list(self.kept.values())

    async def save(self, record: BatchRecord) -> None:
        self.kept[record.digest] = record
        if record.batch_id is not None:
            self.created.set()
