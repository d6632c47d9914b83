from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from store.content import messages_json
from store.ledger import Store
from store.reader import open_reader
from store.records import Turn


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.duckdb"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


@pytest.fixture(scope="session")
def make_turn() -> Callable[..., Turn]:
    def make(question_id: str = "q1", agent: int = 1, round: int = 1, **changes: object) -> Turn:
        facts: dict[str, object] = {
            "iteration": 1,
            "split": "train",
            "arm": "multiagent",
            "decoding": "sampled",
            "kind": "answer",
            "model_id": "base",
            "messages": messages_json([{"role": "user", "content": f"{question_id}?"}]),
            "response": f"{question_id}: \\boxed{{4}}",
            "answer": "4",
            "finish_reason": "stop",
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "latency_ms": 1.5,
            "created_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        }
        return Turn(question_id=question_id, agent=agent, round=round, **{**facts, **changes})

    return make


def query(path, sql, params=None, *, limit=None):
    """The answer to one query over the database at `path`, as a user who typed it gets it."""
    with open_reader(path, sealed=True) as reader:
        return reader.query(sql, params).result(limit)
