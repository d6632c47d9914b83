"""Charges: every paid call is stored before it is sent, so that a crash cannot lose its cost."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from providers.types import ModelRef
from providers.usage import AttemptCharge, Usage
from society.method.purpose import Purpose, current_purpose
from store.ledger import Store
from store.spending import Charge, ChargeState

# Rows whose answers became turns add up to nothing; drop them now and then.
_TIDY_EVERY = 2048


class StoredCharges:
    """Implements `providers.usage.Charges` in a run's store.

    `in_passing`: the debates' turns are not stored, so every charge stays.
    """

    def __init__(self, store: Store, *, in_passing: bool = False) -> None:
        self._store = store
        self._in_passing = in_passing
        self._opened = 0

    def open_charge(self, model: ModelRef) -> AttemptCharge:
        purpose = current_purpose()
        if self._in_passing:
            purpose = replace(purpose, stage="ask", split=None, question_id=None, turn_id=None)
        self._opened += 1
        if self._opened % _TIDY_EVERY == 0:
            self.prune()
        return _StoredCharge(self._store, purpose, model.model_id)

    def prune(self) -> None:
        self._store.drop_answered_charges()


class _StoredCharge:
    def __init__(self, store: Store, purpose: Purpose, model_id: str) -> None:
        self._store = store
        self._purpose = purpose
        self._model_id = model_id
        self._charge_id = uuid4().hex

    # Awaited, so that the row is committed before the request leaves.
    async def record_sent(self, most: Usage) -> None:
        await self._store.append(self._row("sent", most))

    def record_answer(self, usage: Usage) -> None:
        # If the answer becomes a turn, the stored turn replaces the charge.
        if self._purpose.turn_id is None:
            self._store.put(self._row("answered", usage))

    def record_failure(self, usage: Usage) -> None:
        self._store.put(self._row("failed", usage))

    def _row(self, state: ChargeState, usage: Usage) -> Charge:
        purpose = self._purpose
        return Charge(
            charge_id=self._charge_id,
            state=state,
            stage=purpose.stage,
            model_id=self._model_id,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            tokens_estimated=usage.estimated,
            iteration=purpose.iteration,
            arm=purpose.arm,
            split=purpose.split,
            decoding=purpose.decoding,
            question_id=purpose.question_id,
            agent=purpose.agent,
            role=purpose.role,
            turn_id=purpose.turn_id,
        )
