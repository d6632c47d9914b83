"""Requests that several arms of a run have in common are sent once.

Two requests are the same if model, conversation, sampling and draw (question, agent, round, kind,
sample: what the noise is drawn from) are the same. Within one stage the sampling is the same for
all arms, so the rest makes the key. A model that always gives the same greedy answer answers one
conversation alike in every draw, so for it the draw is no part of the key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace

from store.records import Turn, TurnKind, utc_now

Repeats = Callable[[str], bool]
"""Whether the model of this id gives every sample of one conversation the same answer."""


def never_repeats(model_id: str) -> bool:
    """The answer for sampled decoding, and for models that may answer differently each time."""
    return False


def build_request_key(
    model_id: str,
    messages: str,
    question_id: str,
    agent: int,
    round_number: int,
    kind: TurnKind,
    sample: int = 0,
    *,
    repeats: bool,
) -> bytes:
    """The 16-byte key of a request within a stage; equal keys get equal answers."""
    drawn = (kind,) if repeats else (kind, question_id, agent, round_number, sample)
    # JSON keeps the parts apart whatever they contain; lone surrogates in a model's text must not
    # keep a key from being made.
    text = f"{json.dumps([model_id, *drawn])}\n{messages}"
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


class SharedAnswers:
    """The answers that other arms got in the same stage, by request."""

    def __init__(self, turns: Iterable[Turn] = (), repeats: Repeats = never_repeats) -> None:
        self.repeats = repeats
        self._turns: dict[bytes, Turn] = {}
        for turn in turns:
            # A failed request is no answer: every arm sends its own.
            if turn.finish_reason != "error":
                self._turns.setdefault(self.key_of(turn), turn)

    def key_of(self, turn: Turn) -> bytes:
        """The key of the request that `turn` answered."""
        return build_request_key(
            turn.model_id,
            turn.messages,
            turn.question_id,
            turn.agent,
            turn.round,
            turn.kind,
            turn.sample,
            repeats=self.repeats(turn.model_id),
        )

    def find(self, key: bytes) -> Turn | None:
        """The turn whose response answers this request too."""
        return self._turns.get(key)


def take_over(turn: Turn, source: Turn) -> Turn:
    """`turn` with the response of `source`, which it names as its origin; a failure has none."""
    origin = None if source.failure is not None else source.shared_turn_id or source.turn_id
    return replace(
        turn,
        response=source.response,
        thought=source.thought,
        answer=source.answer,
        finish_reason=source.finish_reason,
        prompt_tokens=source.prompt_tokens,
        completion_tokens=source.completion_tokens,
        tokens_estimated=source.tokens_estimated,
        latency_ms=source.latency_ms,
        error=source.error,
        shared_turn_id=origin,
        failure=source.failure,
        created_at=utc_now(),
    )
