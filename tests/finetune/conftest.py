from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.content import messages_json
from store.ledger import Store
from store.records import Turn, Verdict


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run.duckdb") as opened:
        yield opened


def conversation(question_id: str, agent: int, round: int) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": f"{question_id} für {agent}?"}]
    for earlier in range(1, round):
        messages += [
            {"role": "assistant", "content": f"{question_id}/{agent}/{earlier}"},
            {"role": "user", "content": f"others after {earlier}"},
        ]
    return messages


@pytest.fixture(scope="session")
def debate_rows() -> Callable[..., list[object]]:
    """Rows of debates given as {question_id: per agent the `agrees` of each round}."""

    def rows(
        debates: dict[str, list[tuple[bool, ...]]], arm: str = "multiagent", iteration: int = 1
    ) -> list[object]:
        made: list[object] = []
        for question_id, agents in debates.items():
            for agent, marks in enumerate(agents, start=1):
                for round, agrees in enumerate(marks, start=1):
                    turn = Turn(
                        iteration=iteration,
                        split="train",
                        arm=arm,
                        decoding="sampled",
                        question_id=question_id,
                        agent=agent,
                        round=round,
                        kind="answer",
                        model_id="base",
                        messages=messages_json(conversation(question_id, agent, round)),
                        response=f"{question_id}/{agent}/{round}",
                        answer="4" if agrees else "5",
                        finish_reason="stop",
                        prompt_tokens=1,
                        completion_tokens=1,
                        latency_ms=1.0,
                    )
                    made += [turn, Verdict(turn.turn_id, agrees, None)]
        return made

    return rows
