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

from providers import attempts
from providers.attempts import Usage
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    InvalidSettings,
    ProviderError,
    RetryableError,
    UnusableAnswer,
)
from providers.limits import Errand, Limiter
from providers.openai.answers import ChatAnswer, EmbeddedError, parse_answer
from providers.openai.billing import bill_failure, bill_status, compute_usage, parse_usage
from providers.openai.client import Connection
from providers.openai.errors import (
    Refusal,
    classify_refusal,
    find_embedded_status,
    parse_quotas,
    parse_refusal,
    parse_status_error,
    translate_error,
)
from providers.openai.parameters import (
    Parameters,
    guess_parameters,
    learn_from_refusal,
    refuses_parameters,
)
from providers.openai.settings import OpenAISettings
from providers.types import Completion, Message, Request, Sampling

T = TypeVar("T")
ReadResponse = Callable[[bytes, str | None], tuple[T, Usage]]
"""What a response's body says, in the charset that its header declares, and what it was billed."""

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


class _ParameterRefused(Exception):
    """The server refuses a parameter, and the next request leaves it out."""


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
            known = guess_parameters(self._connection.address, model, self._settings)
            self._parameters[model] = known
        return known

    async def complete(self, request: Request, model: str) -> Completion:
        """The answer of `model`, the server's name for `request.model`.

        `latency_ms` is that of the attempt that succeeded.
        """
        messages, sampling = request.messages, request.sampling

        def read(content: bytes, charset: str | None) -> tuple[ChatAnswer, Usage]:
            answer = parse_answer(content, charset).within(sampling)
            return answer, compute_usage(answer, content, messages, sampling)

        answer, usage, latency_ms = await self.ask(
            model, messages, sampling, request.key, read, again=request.again
        )
        if answer.ending.kind == "unknown" and answer.ending.word and answer.error is None:
            self._note(
                f"answers of {model} end with finish_reason {answer.ending.word!r}, which is not "
                "known; they are taken as complete"
            )
        return self._completion(answer, usage, latency_ms)

    def completion(self, body: bytes, request: Request) -> Completion:
        """The answer in a body that came another way; its latency is 0."""
        answer = parse_answer(body).within(request.sampling)
        usage = compute_usage(answer, body, request.messages, request.sampling)
        return self._completion(answer, usage, 0.0)

    def _completion(self, answer: ChatAnswer, usage: Usage, latency_ms: float) -> Completion:
        if usage.estimated:
            self._note(
                "the server does not tell how many tokens it used; they are stored as the most "
                "that they can be, and marked as estimated"
            )
        return Completion(
            self._connection.secrets.removed(answer.text),
            answer.finish_reason,
            usage.prompt_tokens,
            usage.completion_tokens,
            latency_ms,
            answer.error,
            usage.estimated,
        )

    async def ask(
        self,
        model: str,
        messages: Sequence[Message],
        sampling: Sampling,
        key: str,
        read: ReadResponse[T],
        extra: Mapping[str, object] | None = None,
        *,
        again: bool = False,
        follows: bool = False,
    ) -> tuple[T, Usage, float]:
        """What `read` makes of the response's body, and the milliseconds it took.

        `extra` goes into the request's body as it is; `again` as in `Request`; `follows` as in
        `Limiter.call`. Raises errors of `providers.errors`.
        """
        written: list[Any] = [{"role": m.role, "content": m.content} for m in messages]
        tokens = sampling.max_tokens + sum(
            len(m.content) // _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE for m in messages
        )

        subject = next((m.content for m in messages if m.role == "user"), "")
        errand = Errand(model, subject, again)
        tried: set[Parameters] = set()

        async def attempt() -> tuple[T, Usage, float]:
            return await self._understood(errand, written, sampling, key, read, extra, tried)

        while True:
            try:
                return await self._limiter.call(
                    attempt, tokens, errand, attempts.current.get(), follows=follows
                )
            except _ParameterRefused:
                follows = True

    async def _understood(
        self,
        errand: Errand,
        messages: list[Any],
        sampling: Sampling,
        key: str,
        read: ReadResponse[T],
        extra: Mapping[str, object] | None,
        tried: set[Parameters],
    ) -> tuple[T, Usage, float]:
        """One attempt; raises `_DoWithout` where the server refuses what can be done without."""
        model = errand.model
        parameters = self.parameters(model)
        values = parameters.values(sampling, key, model)
        tried.add(parameters)
        began = time.perf_counter()
        body = {"model": model, "messages": messages, **values, **(extra or {})}
        outcome = await self._sent(model, body, read)
        if not isinstance(outcome, Refusal):
            self._answered = True
            return *outcome, (time.perf_counter() - began) * 1000.0
        if self.parameters(model) == parameters:
            changed, note = learn_from_refusal(parameters, outcome, values)
            if note:
                self._note(f"{model}: {note}")
            self._parameters[model] = changed
        if self.parameters(model) in tried:
            raise await self._judged(outcome, errand)
        raise _ParameterRefused

    async def _sent(
        self,
        model: str,
        body: Mapping[str, object],
        read: ReadResponse[T],
    ) -> tuple[T, Usage] | Refusal:
        # Errors are raised outside the handlers: no chain may lead to an unscrubbed message.
        secrets, counted = self._connection.secrets, attempts.current.get()
        headers: Mapping[str, str] = {}
        content = b""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                # Not `chat.completions.create`: taking the messages through its types and the
                # answer into its models costs as much as sending them.
                response = await self._connection.client.post(
                    self._url, cast_to=httpx2.Response, body=body, options=_OPTIONS
                )
            headers, content = response.headers, response.content
            self._hear(headers)
            found, usage = read(content, response.charset_encoding)
            counted.answered(usage)
            return found, usage
        except APIStatusError as error:
            counted.failed(bill_status(error.status_code, error.body))
            self._hear(error.response.headers)
            return parse_status_error(error, secrets)
        except EmbeddedError as error:
            told = _inside(error, headers, self._connection)
            counted.failed(parse_usage(content) or bill_status(told.status, error.body))
            return told
        except (RetryableError, UnusableAnswer) as error:
            counted.failed(parse_usage(content))
            failure: ProviderError = type(error)(secrets.scrubbed(str(error)))
        except Exception as error:
            counted.failed(parse_usage(content) if content else bill_failure(error))
            translated = translate_error(error, secrets, model)
            if translated is None:
                raise
            failure = translated
        except BaseException:
            counted.failed()
            raise
        raise failure

    async def _judged(self, told: Refusal, errand: Errand) -> ProviderError:
        error = classify_refusal(told, errand.model)
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
        for kind, quota in parse_quotas(headers).items():
            self._limiter.observe(kind, quota)

    def _note(self, text: str) -> None:
        """Tell the user, once."""
        if text not in self._noted and len(self._noted) < _NOTES_AT_MOST:
            self._noted.add(text)
            _log.warning("%s: %s", self._connection.address.text, text)


def _inside(error: EmbeddedError, headers: Mapping[str, str], connection: Connection) -> Refusal:
    """An error that came with status 200, as some gateways send them."""
    return parse_refusal(find_embedded_status(error.body), error.body, headers, connection.secrets)
