"""A provider that keeps to a budget: it prices every call and job before passing it on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import TypeVar

from providers.base import (
    Capabilities,
    Completion,
    Divergence,
    FinetuneSpec,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Provider,
    Request,
    Score,
    comparing,
)
from providers.budget import Budget
from providers.errors import (
    AmbiguousSubmission,
    ConnectionLost,
    JobError,
    TimedOut,
)
from providers.preflight import Finding, Need, Preflight
from providers.pricing import Price, Prices

R = TypeVar("R")
JobTokens = Callable[[FinetuneSpec], int]

# A tokenizer that can write any text needs at most one token per byte of UTF-8. Chat templates add
# a few tokens per message, and some put a system prompt of their own before the conversation.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_PROMPT = 128

# The server may have done the work although its answer never arrived.
_PERHAPS_BILLED = (TimedOut, ConnectionLost, asyncio.CancelledError)


def most_prompt_tokens(messages: Iterable[Message]) -> int:
    """At least as many tokens as any tokenizer and chat template make of a conversation."""
    return TOKENS_PER_PROMPT + sum(
        TOKENS_PER_MESSAGE + utf8_bytes(message.content) for message in messages
    )


def most_trained_tokens(spec: FinetuneSpec) -> int:
    """At least as many tokens as a job is billed for, over all epochs.

    Some vendors bill validation data too, at most once per epoch.
    """
    examples = chain(spec.examples, spec.validation)
    once = sum(most_prompt_tokens(example.messages) for example in examples)
    return once * spec.hyperparameters.epochs


def utf8_bytes(text: str) -> int:
    """Length of `text` in bytes, also where it holds what no UTF-8 file can."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def call_usd(price: Price, prompt_tokens: int, completion_tokens: int) -> float:
    """What one answer costs. Cached prompt tokens are not known, so all count in full."""
    return (prompt_tokens * price.input_usd + completion_tokens * price.output_usd) / 1e6


class Metered:
    """Passes everything on to `provider`, within `budget`.

    `complete`, `score` and `submit` raise `BudgetReached` before anything is sent that could
    exceed the cap. With a cap, a model without a known price raises `InvalidSettings`; without
    one it is used and counted in `Budget.unpriced_calls`. `job_tokens` bounds what a job is billed
    for; it is called in another thread. `batched` answers cost the price's `batch_factor`.
    """

    def __init__(
        self,
        provider: Provider,
        prices: Prices,
        budget: Budget,
        job_tokens: JobTokens = most_trained_tokens,
        *,
        batched: bool = False,
    ) -> None:
        self._batched = batched
        self._provider = provider
        self._prices = prices
        self._job_tokens = job_tokens
        self.budget = budget

    @property
    def base(self) -> ModelRef:
        return self._provider.base

    @property
    def capabilities(self) -> Capabilities:
        return self._provider.capabilities

    async def complete(self, request: Request) -> Completion:
        price = self._price(request.model)
        if price is None:
            return await self._provider.complete(request)
        share = (price.batch_factor or 1.0) if self._batched else 1.0
        most = 0.0
        if self.budget.cap_usd is not None:
            prompt = most_prompt_tokens(request.messages)
            most = share * call_usd(price, prompt, request.sampling.max_tokens)

        def cost(answer: Completion) -> float:
            # A server that tells no usage still bills for it.
            prompt = answer.prompt_tokens or most_prompt_tokens(request.messages)
            written = answer.completion_tokens or utf8_bytes(answer.text)
            return share * call_usd(price, prompt, written)

        return await self._paid(most, lambda: self._provider.complete(request), cost)

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        price = self._price(model)
        if price is None:
            return await self._provider.score(model, messages, text)
        whole = (*messages, Message("assistant", text))
        most = call_usd(price, most_prompt_tokens(whole), 1)
        return await self._paid(
            most, lambda: self._provider.score(model, messages, text), lambda _: most
        )

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        def call() -> Awaitable[Sequence[Divergence]]:
            return comparing(self._provider).divergences(p, others, messages, text)

        prices = [self._price(model) for model in (p, *others)]
        tokens = most_prompt_tokens((*messages, Message("assistant", text)))
        most = sum(call_usd(price, tokens, 0) for price in prices if price is not None)
        return await self._paid(most, call, lambda _: most)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        most = await self._most_of(spec)
        await self.budget.reserve_job(spec.name, most)
        try:
            handle = await self._provider.submit(spec)
        except (AmbiguousSubmission, *_PERHAPS_BILLED):
            self.budget.submitted(spec.name, most, certain=False)
            raise
        except BaseException:
            self.budget.settle(most, 0.0)
            raise
        self.budget.submitted(spec.name, most, certain=True)
        return handle

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        handle = await self._provider.find(spec)
        if handle is not None:
            self.budget.watch(spec.name, await self._most_of(spec))
        return handle

    async def poll(self, handle: JobHandle) -> JobState:
        try:
            state = await self._provider.poll(handle)
        except JobError:
            self.budget.unwatch(handle.name)
            raise
        if state.done:
            self._settle(handle, state)
        return state

    async def cancel(self, handle: JobHandle) -> None:
        await self._provider.cancel(handle)

    async def serve(self, models: Sequence[ModelRef]) -> None:
        await self._provider.serve(models)

    async def close(self) -> None:
        await self._provider.close()

    def _price(self, model: ModelRef) -> Price | None:
        price = self._prices.of(model)
        if price is None:
            if self.budget.cap_usd is not None:
                self._prices.require(model.address, finetune=model.artifact is not None)
            self.budget.unpriced_calls += 1
        return price

    async def _paid(
        self, most: float, call: Callable[[], Awaitable[R]], cost: Callable[[R], float]
    ) -> R:
        await self.budget.reserve(most)
        spent = 0.0
        try:
            answer = await call()
            spent = cost(answer)
        except _PERHAPS_BILLED:
            spent = most
            raise
        finally:
            self.budget.settle(most, spent)
        return answer

    def _training_usd(self, address: str) -> float | None:
        price = self._prices.at(address, tuned=False)
        return None if price is None else price.training_usd

    async def _most_of(self, spec: FinetuneSpec) -> float:
        rate = self._training_usd(spec.start.address)
        if rate is None and self.budget.cap_usd is not None:
            self._prices.require(spec.start.address, finetune=True)
        if not rate or self.budget.cap_usd is None:
            return 0.0
        return await asyncio.to_thread(self._job_tokens, spec) * rate / 1e6

    def _settle(self, handle: JobHandle, state: JobState) -> None:
        rate = self._training_usd(self._provider.base.address) or 0.0
        if state.trained_tokens is not None:
            self.budget.finished(handle.name, state.trained_tokens * rate / 1e6)
        elif state.status != "succeeded" and not state.points and state.progress == 0.0:
            self.budget.finished(handle.name, 0.0)
        else:
            self.budget.unwatch(handle.name)


class MeteredPreflight(Metered):
    """A metered provider that can also be asked beforehand whether a run will work."""

    async def preflight(self, need: Need) -> Sequence[Finding]:
        """What the provider itself finds; costs nothing."""
        if not isinstance(self._provider, Preflight):
            return ()
        return await self._provider.preflight(need)


def meter(
    provider: Provider,
    prices: Prices,
    budget: Budget,
    job_tokens: JobTokens = most_trained_tokens,
    *,
    batched: bool = False,
) -> Metered:
    """`provider` within `budget`; a `Preflight` stays one. `batched`: its answers cost as much as
    in a batch."""
    kind = MeteredPreflight if isinstance(provider, Preflight) else Metered
    return kind(provider, prices, budget, job_tokens, batched=batched)
