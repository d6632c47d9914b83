"""Answers and scores: sampled from token ids, so that prompts are those of the training."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import tinker

from providers.calling import CallFailure, attempt_paid
from providers.errors import UnusableAnswer
from providers.limits import CallContext, Limiter
from providers.tinker.connection import TinkerConnection
from providers.tinker.errors import AdapterGone, translate_sampling
from providers.tinker.loaded import LoadedModels
from providers.tinker.rendering import Renderer
from providers.types import Completion, FinishReason, Message, ModelRef, Request, Sampling, Score
from providers.usage import Usage, current_attempts

T = TypeVar("T")


class TinkerChat:
    """Asks the base model and its adapters.

    chat = TinkerChat(connection, renderer, loaded, limiter)
    completion = await chat.ask(request)
    """

    def __init__(
        self,
        connection: TinkerConnection,
        renderer: Renderer,
        loaded: LoadedModels,
        limiter: Limiter,
    ) -> None:
        self._connection = connection
        self._renderer = renderer
        self._loaded = loaded
        self._limiter = limiter

    async def ask(self, request: Request) -> Completion:
        """The answer to a request. Raises errors of `providers.errors`."""
        prompt = self._renderer.encode(request.messages)
        send = partial(self._send, request, prompt)
        subject = next((m.content for m in request.messages if m.role == "user"), "")
        return await self._call(
            send, len(prompt) + request.sampling.max_tokens, request.model, subject, request.again
        )

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        """See `Provider.score`. The server computes the passage's log-probabilities."""
        tokens, start = self._renderer.encode_passage(messages, text)

        async def send() -> tuple[Score, Usage]:
            prompt = tinker.ModelInput.from_ints(tokens)
            found = await self._use(
                model, "log-probabilities", lambda s: s.compute_logprobs_async(prompt)
            )
            answer = tuple(tokens[start:])
            # The first token of a passage has none, and some servers leave its place out.
            logprobs = found[len(found) - len(answer) :]
            if len(logprobs) != len(answer) or None in logprobs:
                raise UnusableAnswer(
                    f"{self._connection.server} gave {len(found)} log-probabilities for "
                    f"{len(tokens)} tokens"
                )
            # One token is sampled to get them.
            return Score(answer, tuple(map(float, logprobs))), Usage(len(tokens), 1)

        return await self._call(send, len(tokens) + 1, model, text, False)

    async def _send(self, request: Request, prompt: list[int]) -> tuple[Completion, Usage]:
        most = request.sampling.max_tokens
        if self._renderer.context is not None:
            most = min(most, self._renderer.context - len(prompt))
        how = build_sampling(request.sampling, request.key, most, self._renderer.ends)
        given = tinker.ModelInput.from_ints(prompt)
        began = time.perf_counter()
        response = await self._use(
            request.model, "an answer", lambda s: s.sample_async(given, 1, how)
        )
        latency_ms = (time.perf_counter() - began) * 1e3
        if not response.sequences:
            raise UnusableAnswer(f"{self._connection.server} answered without an answer")
        drawn = response.sequences[0]
        tokens = [int(token) for token in drawn.tokens]
        text, thought, ended = self._renderer.read(prompt, tokens, request.sampling.stop)
        reason: FinishReason = "stop" if ended or drawn.stop_reason == "stop" else "length"
        usage = Usage(len(prompt), len(tokens))
        counts = usage.prompt_tokens, usage.completion_tokens
        return Completion(text, reason, *counts, latency_ms, thought=thought), usage

    async def _use(self, model: ModelRef, what: str, ask: Callable[[Any], Awaitable[T]]) -> T:
        """What `ask` gets of the model's sampler; an adapter that is gone is loaded once again."""
        sampler = await self._loaded.get_sampler(model)
        try:
            return await self._connection.call(what, lambda: ask(sampler))
        except AdapterGone:
            if model.artifact is None:
                raise
        sampler = await self._loaded.reload(model, sampler)
        return await self._connection.call(what, lambda: ask(sampler))

    async def _call(
        self,
        send: Callable[[], Awaitable[tuple[T, Usage]]],
        tokens: int,
        model: ModelRef,
        subject: str,
        again: bool,
    ) -> T:
        connection = self._connection

        def translate(error: Exception) -> CallFailure | None:
            return translate_sampling(error, connection.secrets, connection.server)

        work = partial(attempt_paid, send, translate)
        context = CallContext(model.model_id, subject, again)
        return await self._limiter.call(work, tokens, context, current_attempts.get())


def build_sampling(
    sampling: Sampling, key: str, most: int, ends: frozenset[int]
) -> tinker.SamplingParams:
    """How the server draws. It ends at the template's own tokens; texts of `sampling.stop` are cut
    off here, since the wire takes either tokens or texts."""
    digest = hashlib.sha256(f"{sampling.seed}/{key}".encode()).digest()
    return tinker.SamplingParams(
        max_tokens=most,
        # 31 bits, so that equal requests of two agents are drawn apart.
        seed=int.from_bytes(digest[:4], "big") >> 1,
        stop=sorted(ends),
        temperature=sampling.temperature,
        top_k=sampling.top_k or -1,
        top_p=sampling.top_p,
    )
