"""Answers of Gemini: one request through limits and retries to one checked answer."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from functools import partial

from google.genai import types
from pydantic import ValidationError

from providers.calling import CallFailure, attempt_paid
from providers.errors import RetryableError, UnusableAnswer
from providers.gemini.answers import parse_answer, split_messages
from providers.gemini.client import GeminiConnection
from providers.gemini.settings import GeminiSettings, find_location
from providers.limits import CallContext, Limiter
from providers.types import Completion, Request, Sampling
from providers.usage import Usage, current_attempts

_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 8
_MOST_STOPS = 5
_TAKEN = ("top_k", "frequency_penalty", "presence_penalty", "stop")


class GeminiChat:
    """Asks the base model and the models tuned from it.

    Example::

        chat = GeminiChat(connection, limiter)
        completion = await chat.ask(request)
    """

    def __init__(self, connection: GeminiConnection, limiter: Limiter) -> None:
        self._connection = connection
        self._limiter = limiter

    async def ask(self, request: Request) -> Completion:
        """The answer to a request. Raises errors of `providers.errors`."""
        send = partial(self._send, request)
        work = partial(attempt_paid, send, self._translate)
        subject = next((m.content for m in request.messages if m.role == "user"), "")
        context = CallContext(request.model.model_id, subject, request.again)
        return await self._limiter.call(
            work, _estimate_tokens(request), context, current_attempts.get()
        )

    async def _send(self, request: Request) -> tuple[Completion, Usage]:
        settings = self._connection.settings
        model = request.model.artifact or self._connection.model
        client = self._connection.get_client(find_location(model, settings))
        system, contents = split_messages(request.messages)
        config = build_config(request.sampling, request.key, system, settings)
        began = time.perf_counter()
        async with asyncio.timeout(settings.timeout_s):
            response = await client.models.generate_content(
                model=model,
                contents=list(contents),
                config=config,
            )
        latency_ms = (time.perf_counter() - began) * 1000.0
        return parse_answer(response, request, latency_ms, self._connection.secrets)

    def _translate(self, error: Exception) -> CallFailure | None:
        failure = self._connection.translate(error)
        if failure is not None:
            return failure
        # The package parses before we see anything: no JSON at all, or JSON of another form.
        if isinstance(error, ValidationError):
            return CallFailure(UnusableAnswer("Google answered in a form that is not known"), 200)
        if isinstance(error, ValueError | AttributeError | TypeError | KeyError):
            return CallFailure(RetryableError("Google's answer is not the JSON expected"), 200)
        return None


def build_config(
    sampling: Sampling, key: str, system: str | None, settings: GeminiSettings
) -> types.GenerateContentConfig:
    """What a request has beside the conversation.

    https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/GenerationConfig
    """
    thinking = None
    if settings.thinking_budget is not None or settings.thinking_level is not None:
        level = settings.thinking_level
        thinking = types.ThinkingConfig(
            thinking_budget=settings.thinking_budget,
            thinking_level=None if level is None else types.ThinkingLevel(level.upper()),
        )
    return types.GenerateContentConfig(
        system_instruction=system,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_output_tokens=sampling.max_tokens,
        seed=_derive_seed(sampling.seed, key),
        top_k=sampling.top_k or None,
        frequency_penalty=sampling.frequency_penalty or None,
        presence_penalty=sampling.presence_penalty or None,
        stop_sequences=list(sampling.stop) or None,
        thinking_config=thinking,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )


def find_refused_sampling(sampling: Sampling, model: str) -> Sequence[str]:
    """The settings of `[sampling]` that Gemini does not take, each with its remedy."""
    problems = [
        f"sampling.{name} = {value!r}: {model} does not take it; remove it"
        for name, value in sampling.list_extras().items()
        if name not in _TAKEN
    ]
    if len(sampling.stop) > _MOST_STOPS:
        problems.append(
            f"sampling.stop has {len(sampling.stop)} texts; {model} takes at most {_MOST_STOPS}"
        )
    return problems


def _derive_seed(seed: int, key: str) -> int:
    """31 bits from (`seed`, `key`), so that equal requests of two agents are drawn apart."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _estimate_tokens(request: Request) -> int:
    """About as many tokens as the call may use, for the budget per minute."""
    return request.sampling.max_tokens + sum(
        len(message.content) // _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE
        for message in request.messages
    )
