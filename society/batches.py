"""The batches of a run, kept in its store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from providers.batching import BatchRecord
from store.ledger import Store
from store.records import Batch


@dataclass(frozen=True, slots=True)
class StoredBatches:
    """Implements `providers.batching.BatchRecords` for the batches at one address."""

    store: Store
    provider: str

    async def all(self) -> Sequence[BatchRecord]:
        """Every record, oldest first."""
        return [
            BatchRecord(batch.digest, tuple(json.loads(batch.custom_ids)), batch.batch_id)
            for batch in self.store.batches(self.provider)
        ]

    async def save(self, record: BatchRecord) -> None:
        """Keep a record; returns once it is committed."""
        ids = json.dumps(record.custom_ids)
        await self.store.append(Batch(record.digest, self.provider, ids, record.batch_id))
