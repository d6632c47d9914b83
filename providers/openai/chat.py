"""Chat completions: one request through limits and retries to one checked answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import httpx2
from openai import APIStatusError
from openai._types import RequestOptions

from providers.base import Completion, Message, Request, Sampling
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    InvalidSettings,
    ProviderError,
    RetryableError,
    UnusableAnswer,
)
from providers.limits import Errand, Limiter
from providers.openai.answers import Answer, ErrorInside, read_answer
from providers.openai.client import Connection
from providers.openai.failures import Refusal, judged, refusal, said, status_inside, translate
from providers.openai.hints import quotas
from providers.openai.parameters import Parameters, expected, learnt, refuses_parameters
from providers.openai.settings import OpenAISettings

T = TypeVar("T")
Read = Callable[[bytes, str | None], T]
"""Makes something of a response's body and the charset that its header declares."""

_log = logging.getLogger(__name__)
# That many refusals without a single answer are not the questions' fault.
_REFUSALS_AT_MOST = 20
# A server that writes something else every time must not fill the screen.
_NOTES_AT_MOST = 50
_LONGEST_WAIT_S = 30.0
_LOOK_EVERY_S = 0.05
_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 8
# Keeps the package from drawing a random key for every call; none is sent.
_OPTIONS: RequestOptions = {"idempotency_key": "none"}


class Chat:
    """Asks the models of one connection. What it learns about them it keeps."""

    def __init__(self, connection: Connection, settings: OpenAISettings, limiter: Limiter) -> None:
        self._connection = connection
        self._settings = settings
        self._limiter = limiter
        self._url = f"{connection.address.url}/chat/completions"
        self._parameters: dict[str, Parameters] = {}
        self._answered = False
        self._refused = 0
        self._forbidden = 0
        self._noted: set[str] = set()

    def parameters(self, model: str) -> Parameters:
        """What `model` takes, as far as it is known by now."""
        known = self._parameters.get(model)
        if known is None:
            known = expected(self._connection.address, model, self._settings)
            self._parameters[model] = known
        return known

    async def complete(self, request: Request, model: str) -> Completion:
        """The answer of `model`, the server's name for `request.model`.

        `latency_ms` is that of the attempt that succeeded. A server that counts no tokens gives 0.
        """
        found, latency_ms = await self.ask(
            model,
            request.messages,
            request.sampling,
            request.key,
            read_answer,
            again=request.again,
        )
        answer = found.within(request.sampling)
        if answer.ending.kind == "unknown" and answer.ending.word and answer.error is None:
            self._note(
                f"answers of {model} end with finish_reason {answer.ending.word!r}, which is not "
                "known; they are taken as complete"
            )
        return Completion(
            self._connection.secrets.removed(answer.text),
            answer.finish_reason,
            self._counted(answer, answer.prompt_tokens),
            self._counted(answer, answer.completion_tokens),
            latency_ms,
            answer.error,
        )

    async def ask(
        self,
        model: str,
        messages: Sequence[Message],
        sampling: Sampling,
        key: str,
        read: Read[T],
        extra: Mapping[str, object] | None = None,
        *,
        again: bool = False,
    ) -> tuple[T, float]:
        """What `read` makes of the response's body, and the milliseconds it took.

        `extra` goes into the request's body as it is; `again` as in `Request`. Raises errors of
        `providers.errors`.
        """
        written: list[Any] = [{"role": m.role, "content": m.content} for m in messages]
        tokens = sampling.max_tokens + sum(
            len(m.content) // _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE for m in messages
        )

        subject = next((m.content for m in messages if m.role == "user"), "")
        errand = Errand(model, subject, again)

        async def attempt() -> tuple[T, float]:
            return await self._understood(errand, written, sampling, key, read, extra)

        return await self._limiter.call(attempt, tokens, errand)

    async def _understood(
        self,
        errand: Errand,
        messages: list[Any],
        sampling: Sampling,
        key: str,
        read: Read[T],
        extra: Mapping[str, object] | None,
    ) -> tuple[T, float]:
        """One attempt, in which the server may refuse parameters that are then done without."""
        tried: set[Parameters] = set()
        model = errand.model
        while True:
            parameters = self.parameters(model)
            values = parameters.values(sampling, key, model)
            tried.add(parameters)
            began = time.perf_counter()
            body = {"model": model, "messages": messages, **values, **(extra or {})}
            outcome = await self._sent(model, body, read)
            if not isinstance(outcome, Refusal):
                self._answered = True
                return outcome[0], (time.perf_counter() - began) * 1000.0
            if self.parameters(model) == parameters:
                changed, note = learnt(parameters, outcome, values)
                if note:
                    self._note(f"{model}: {note}")
                self._parameters[model] = changed
            if self.parameters(model) in tried:
                raise await self._judged(outcome, errand)

    async def _sent(
        self,
        model: str,
        body: Mapping[str, object],
        read: Read[T],
    ) -> tuple[T] | Refusal:
        # Errors are raised outside the handlers: no chain may lead to an unscrubbed message.
        secrets = self._connection.secrets
        headers: Mapping[str, str] = {}
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                # Not `chat.completions.create`: taking the messages through its types and the
                # answer into its models costs as much as sending them.
                response = await self._connection.client.post(
                    self._url, cast_to=httpx2.Response, body=body, options=_OPTIONS
                )
            headers = response.headers
            self._hear(headers)
            return (read(response.content, response.charset_encoding),)
        except APIStatusError as error:
            self._hear(error.response.headers)
            return refusal(error, secrets)
        except ErrorInside as error:
            return _inside(error, headers, self._connection)
        except (RetryableError, UnusableAnswer) as error:
            failure: ProviderError = type(error)(secrets.scrubbed(str(error)))
        except Exception as error:
            translated = translate(error, secrets, model)
            if translated is None:
                raise
            failure = translated
        raise failure

    async def _judged(self, told: Refusal, errand: Errand) -> ProviderError:
        error = judged(told, errand.model)
        if told.status == 403 and isinstance(error, AuthenticationFailed):
            if await self._forbids_others(errand):
                return error
            return BadRequest(f"the server forbids this request, and no other: {told.message}")
        if type(error) is not BadRequest:
            return error
        self._refused += not errand.again
        hopeless = not self._answered and self._refused >= _REFUSALS_AT_MOST
        if hopeless or refuses_parameters(told):
            return InvalidSettings(
                f"{error}, and would refuse every other alike; check the model address and the "
                "parameters under [provider] and [sampling]"
            )
        return error

    async def _forbids_others(self, errand: Errand) -> bool:
        """Whether a status 403 is about the key: a firewall may forbid what one question holds.

        While nothing was answered yet, the calls that are under way show it.
        """
        limiter, until = self._limiter, time.monotonic() + _LONGEST_WAIT_S
        evidence = limiter.evidence
        self._forbidden += 1
        try:
            while (
                not evidence.has_answered(errand.model)
                and self._forbidden < limiter.slots.taken
                and not limiter.breaker.tripped
                and time.monotonic() < until
            ):
                await limiter.breaker.pause(_LOOK_EVERY_S)
        finally:
            self._forbidden -= 1
        return not evidence.blames_call(errand, evidence.mark(errand))

    def _hear(self, headers: Mapping[str, str]) -> None:
        for kind, quota in quotas(headers).items():
            self._limiter.observe(kind, quota)

    def _counted(self, answer: Answer, tokens: int | None) -> int:
        if tokens is None:
            self._note("the server does not tell how many tokens it used; they are stored as 0")
            return 0
        return tokens

    def _note(self, text: str) -> None:
        """Tell the user, once."""
        if text not in self._noted and len(self._noted) < _NOTES_AT_MOST:
            self._noted.add(text)
            _log.warning("%s: %s", self._connection.address.text, text)


def _inside(error: ErrorInside, headers: Mapping[str, str], connection: Connection) -> Refusal:
    """An error that came with status 200, as some gateways send them."""
    return said(status_inside(error.body), error.body, headers, connection.secrets)
