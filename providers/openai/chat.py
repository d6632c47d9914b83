"""Chat completions: one request through limits and retries to one checked answer.

    OpenAIProvider.complete → Chat.ask → Limiter.call → Chat._attempt → ChatSender.post → HTTP

`Chat.ask` repeats a call with other parameters if the server refuses one; the limiter repeats it
after passing failures; `Chat._attempt` is one HTTP request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import httpx2
from openai import APIStatusError

from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    InvalidSettings,
    ProviderError,
    RetryableError,
    UnusableAnswer,
)
from providers.limits import CallContext, Limiter
from providers.openai.answers import EmbeddedError, compute_usage, parse_answer
from providers.openai.billing import bill_failure, bill_status, parse_usage
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
from providers.usage import Usage, current_attempts

T = TypeVar("T")
ParseResponse = Callable[[bytes, str | None, float], tuple[T, Usage]]
"""From a response's body, its declared charset and its latency in ms to the result and what the
server bills for it."""

_log = logging.getLogger(__name__)
# After so many refusals without a single answer the questions are not to blame.
_REFUSALS_AT_MOST = 20
# A server that words every message differently must not fill the screen.
_WARNINGS_AT_MOST = 50
_LONGEST_WAIT_S = 30.0
_LOOK_EVERY_S = 0.05
_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 8


@dataclass(frozen=True, slots=True)
class ChatCall(Generic[T]):
    """A call of the chat endpoint: what is sent, and how the response is parsed.

    `model` is the server's name of the model. The request's seed depends on `key`. `extra` goes
    into the request's body unchanged; `again` is that of `Request`.
    """

    model: str
    messages: Sequence[Message]
    sampling: Sampling
    key: str
    parse: ParseResponse[T]
    extra: Mapping[str, object] = field(default_factory=dict)
    again: bool = False

    def build_body(self, parameters: Mapping[str, object]) -> dict[str, object]:
        """The request's body with these sampling parameters."""
        messages = format_messages(self.messages)
        return {"model": self.model, "messages": messages, **parameters, **self.extra}

    @property
    def tokens(self) -> int:
        """About as many tokens as the call may use, for the budget per minute."""
        return self.sampling.max_tokens + sum(
            len(message.content) // _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE
            for message in self.messages
        )

    @property
    def context(self) -> CallContext:
        """What the limiter compares calls by, to tell whether the call or the server is at fault:
        the model and the first question of the conversation."""
        subject = next((m.content for m in self.messages if m.role == "user"), "")
        return CallContext(self.model, subject, self.again)


class _ParameterRefused(Exception):
    """The server refuses a parameter; the next request is sent without it."""


class Chat:
    """Asks the models of one connection, and remembers which parameters each of them accepts.

    Example::

        chat = Chat(connection, settings, limiter)
        completion = await chat.ask(chat.make_call(request, "gpt-4.1-mini"))
    """

    def __init__(self, connection: Connection, settings: OpenAISettings, limiter: Limiter) -> None:
        self._connection = connection
        self._settings = settings
        self._limiter = limiter
        self.extra_body: Mapping[str, object] = settings.extra_body
        self._sender = connection.make_sender(f"{connection.address.url}/chat/completions")
        self._parameters: dict[str, Parameters] = {}
        self._answered = False
        self._refused = 0
        self._forbidden = 0
        self._warnings: set[str] = set()

    def get_parameters(self, model: str) -> Parameters:
        """The parameters that `model` accepts, as far as known by now."""
        known = self._parameters.get(model)
        if known is None:
            known = guess_parameters(self._connection.address, model, self._settings)
            self._parameters[model] = known
        return known

    def make_call(self, request: Request, model: str) -> ChatCall[Completion]:
        """The call that answers `request`; `model` is the server's name for `request.model`."""
        return ChatCall(
            model,
            request.messages,
            request.sampling,
            request.key,
            partial(self.parse_completion, request, model),
            self.extra_body,
            request.again,
        )

    def parse_completion(
        self,
        request: Request,
        model: str,
        content: bytes,
        charset: str | None = None,
        latency_ms: float = 0.0,
    ) -> tuple[Completion, Usage]:
        """The completion in a response's body, and what the server bills for it.

        `latency_ms` is that of the attempt that succeeded.
        """
        answer = parse_answer(content, charset).infer_truncation(request.sampling)
        usage = compute_usage(answer, content, request.messages, request.sampling)
        if answer.ending.kind == "unknown" and answer.ending.word and answer.error is None:
            self._warn_once(
                f"answers of {model} end with finish_reason {answer.ending.word!r}, which is not "
                "known; they are taken as complete"
            )
        if usage.estimated:
            self._warn_once(
                "the server does not report how many tokens it used; the highest possible numbers "
                "are stored, and marked as estimated"
            )
        completion = Completion(
            self._connection.secrets.redact_answer(answer.text),
            answer.finish_reason,
            usage.prompt_tokens,
            usage.completion_tokens,
            latency_ms,
            answer.error,
            usage.estimated,
            answer.thought and self._connection.secrets.redact_answer(answer.thought),
        )
        return completion, usage

    async def ask(self, call: ChatCall[T], *, follows: bool = False) -> T:
        """What `call.parse` makes of the response.

        `follows` is that of `Limiter.call`. Raises errors of `providers.errors`.
        """
        tried: set[Parameters] = set()
        attempt = partial(self._attempt, call, tried)
        # A request without the refused parameter is a new request to the server, so it passes the
        # limiter again. It goes first, because its conversation has waited already.
        while True:
            try:
                return await self._limiter.call(
                    attempt, call.tokens, call.context, current_attempts.get(), follows=follows
                )
            except _ParameterRefused:
                follows = True

    async def _attempt(self, call: ChatCall[T], tried: set[Parameters]) -> T:
        """One request. Raises `_ParameterRefused` if the server refuses an optional parameter."""
        parameters = self.get_parameters(call.model)
        values = parameters.build_values(call.sampling, call.key, call.model)
        tried.add(parameters)
        counter = current_attempts.get()
        response: httpx2.Response | None = None
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                response = await self._sender.post(call.build_body(values))
            latency_ms = (time.perf_counter() - began) * 1000.0
            self._observe_quotas(response.headers)
            result, usage = call.parse(response.content, response.charset_encoding, latency_ms)
            counter.record_answer(usage)
        except BaseException as error:
            failure, billed = self._classify_failure(error, response, call.model)
            counter.record_failure(billed)
            if failure is None:
                raise
        else:
            self._answered = True
            return result
        # Raised outside the handler: a chained exception would show the server's unscrubbed words.
        if not isinstance(failure, Refusal):
            raise failure
        self._learn(call.model, parameters, failure, values)
        if self.get_parameters(call.model) not in tried:
            raise _ParameterRefused
        raise await self._classify_refusal(failure, call.context)

    def _classify_failure(
        self, error: BaseException, response: httpx2.Response | None, model: str
    ) -> tuple[Refusal | ProviderError | None, Usage | None]:
        """What a failed attempt means (None: not the server's doing), and what it was billed (None:
        unknown)."""
        secrets = self._connection.secrets
        content = b"" if response is None else response.content
        match error:
            case APIStatusError():
                self._observe_quotas(error.response.headers)
                billed = bill_status(error.status_code, error.body)
                return parse_status_error(error, secrets), billed
            case EmbeddedError():
                # An error with status 200, as some gateways send it.
                headers = {} if response is None else response.headers
                status = find_embedded_status(error.body)
                refusal = parse_refusal(status, error.body, headers, secrets)
                return refusal, parse_usage(content) or bill_status(status, error.body)
            case RetryableError() | UnusableAnswer():
                return type(error)(secrets.scrub(str(error))), parse_usage(content)
            case Exception():
                billed = parse_usage(content) if content else bill_failure(error)
                return translate_error(error, secrets, model), billed
        return None, None

    def _learn(
        self, model: str, sent: Parameters, refusal: Refusal, values: Mapping[str, object]
    ) -> None:
        # Another call that was under way may have learned from the same refusal already.
        if self.get_parameters(model) != sent:
            return
        changed, note = learn_from_refusal(sent, refusal, values)
        if note:
            self._warn_once(f"{model}: {note}")
        self._parameters[model] = changed

    async def _classify_refusal(self, refusal: Refusal, context: CallContext) -> ProviderError:
        """The error that a refusal means, given what the server does with other calls."""
        error = classify_refusal(refusal, context.model)
        if refusal.status == 403 and isinstance(error, AuthenticationFailed):
            if await self._forbids_others(context):
                return error
            return BadRequest(f"the server forbids this request, and no other: {refusal.message}")
        # A subclass of BadRequest has a reason of its own; only the bare class may mean a setting.
        if type(error) is not BadRequest:
            return error
        self._refused += not context.again
        hopeless = not self._answered and self._refused >= _REFUSALS_AT_MOST
        if hopeless or refuses_parameters(refusal):
            return InvalidSettings(
                f"{error}, and would refuse every other alike; check the model address and the "
                "parameters under [provider] and [sampling]"
            )
        return error

    async def _forbids_others(self, context: CallContext) -> bool:
        """Whether a status 403 is about the key; a firewall may forbid the content of one question.

        The evidence is how the server treats other calls. If nothing is answered yet, wait for the
        calls that are under way.
        """
        limiter, until = self._limiter, time.monotonic() + _LONGEST_WAIT_S
        evidence = limiter.evidence
        self._forbidden += 1
        try:
            while (
                not evidence.has_answered(context.model)
                # If every call under way is forbidden too, there is nothing to wait for.
                and self._forbidden < limiter.slots.taken
                and not limiter.breaker.tripped
                and time.monotonic() < until
            ):
                await limiter.breaker.pause(_LOOK_EVERY_S)
        finally:
            self._forbidden -= 1
        return not evidence.blames_call(context, evidence.mark(context))

    def _observe_quotas(self, headers: Mapping[str, str]) -> None:
        for kind, quota in parse_quotas(headers).items():
            self._limiter.observe(kind, quota)

    def _warn_once(self, text: str) -> None:
        if text not in self._warnings and len(self._warnings) < _WARNINGS_AT_MOST:
            self._warnings.add(text)
            _log.warning("%s: %s", self._connection.address.text, text)


def format_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages as the server takes them."""
    return [{"role": message.role, "content": message.content} for message in messages]
