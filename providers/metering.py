"""A provider that keeps to a budget: it prices every call and job before passing it on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

from providers.accounts import PERHAPS_BILLED, Account
from providers.attempts import Usage
from providers.base import Provider, comparing
from providers.budget import Budget
from providers.charges import Charges, NoCharges
from providers.errors import (
    AmbiguousSubmission,
    JobError,
)
from providers.preflight import Finding, Need, Preflight
from providers.pricing import Price, Prices
from providers.tokens import most_prompt_tokens, most_written_tokens
from providers.types import (
    Capabilities,
    Completion,
    Divergence,
    FinetuneSpec,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Request,
    Score,
)

JobTokens = Callable[[FinetuneSpec], int]


def most_trained_tokens(spec: FinetuneSpec) -> int:
    """At least as many tokens as a job is billed for, over all epochs.

    Some vendors bill validation data too, at most once per epoch.
    """
    examples = chain(spec.examples, spec.validation)
    once = sum(most_prompt_tokens(example.messages) for example in examples)
    return once * spec.hyperparameters.epochs


def call_usd(price: Price, prompt_tokens: int, completion_tokens: int) -> float:
    """What one answer costs. Cached prompt tokens are not known, so all count in full."""
    return (prompt_tokens * price.input_usd + completion_tokens * price.output_usd) / 1e6


class Metered:
    """Passes everything on to `provider`, within `budget`; `charges` keeps what was paid.

    `complete`, `score` and `submit` raise `BudgetReached` before anything is sent that could
    exceed the cap; every attempt of a provider that tells them (`providers.attempts`) is asked for
    and counted on its own. With a cap, a model without a known price raises `InvalidSettings`;
    without one it is used and counted in `Budget.unpriced_calls`. `job_tokens` bounds what a job is
    billed for; it is called in another thread. `batched` answers cost the price's `batch_factor`.
    """

    def __init__(
        self,
        provider: Provider,
        prices: Prices,
        budget: Budget,
        job_tokens: JobTokens = most_trained_tokens,
        *,
        batched: bool = False,
        charges: Charges | None = None,
    ) -> None:
        self._batched = batched
        self._provider = provider
        self._prices = prices
        self._job_tokens = job_tokens
        self._charges = charges or NoCharges()
        self.budget = budget

    @property
    def base(self) -> ModelRef:
        return self._provider.base

    @property
    def capabilities(self) -> Capabilities:
        return self._provider.capabilities

    async def complete(self, request: Request) -> Completion:
        prompt, model = most_prompt_tokens(request.messages), request.model
        most = Usage(prompt, request.sampling.max_tokens, estimated=True)
        price = self._price(model)
        account = self._account(model, price, most)
        async with account.counting():
            answer = await self._provider.complete(request)
            if price is None or not price.is_free:
                answer = _with_tokens(answer, request)
            account.ends(Usage(answer.prompt_tokens, answer.completion_tokens, answer.estimated))
        return answer

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        whole = (*messages, Message("assistant", text))
        most = Usage(most_prompt_tokens(whole), 1, estimated=True)
        account = self._account(model, self._price(model), most)
        async with account.counting():
            score = await self._provider.score(model, messages, text)
            account.ends(most)
        return score

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        models = (p, *others)
        prices = [self._price(model) for model in models]
        # All in one, at the price of the dearest: they are computed together.
        dearest = max(range(len(models)), key=lambda i: _input_usd(prices[i]))
        tokens = most_prompt_tokens((*messages, Message("assistant", text)))
        most = Usage(len(models) * tokens, 0, estimated=True)
        account = self._account(models[dearest], prices[dearest], most)
        async with account.counting():
            found = await comparing(self._provider).divergences(p, others, messages, text)
            account.ends(most)
        return found

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        most = await self._most_of(spec)
        await self.budget.reserve_job(spec.name, most)
        try:
            handle = await self._provider.submit(spec)
        except (AmbiguousSubmission, *PERHAPS_BILLED):
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

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        await self._provider.load_adapters(models)

    async def close(self) -> None:
        self._charges.tidy()
        await self._provider.close()

    def _price(self, model: ModelRef) -> Price | None:
        price = self._prices.of(model)
        if price is None:
            if self.budget.cap_usd is not None:
                self._prices.require(model.address, finetune=model.artifact is not None)
            self.budget.unpriced_calls += 1
        return price

    def _account(self, model: ModelRef, price: Price | None, most: Usage) -> Account:
        if price is None:
            return Account(self.budget, self._charges, model, most, lambda usage: 0.0)
        share = (price.batch_factor or 1.0) if self._batched else 1.0

        def usd(usage: Usage) -> float:
            return share * call_usd(price, usage.prompt_tokens, usage.completion_tokens)

        # What costs nothing need not be kept. A batch is kept as such, and found again.
        charges = NoCharges() if self._batched or price.is_free else self._charges
        return Account(self.budget, charges, model, most, usd, found_again=self._batched)

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
    charges: Charges | None = None,
) -> Metered:
    """`provider` within `budget`; a `Preflight` stays one. `batched`: its answers cost as much as
    in a batch."""
    kind = MeteredPreflight if isinstance(provider, Preflight) else Metered
    return kind(provider, prices, budget, job_tokens, batched=batched, charges=charges)


def _with_tokens(answer: Completion, request: Request) -> Completion:
    """The answer with a bound for the tokens that nobody has told."""
    told = answer.prompt_tokens > 0 and (answer.completion_tokens > 0 or not answer.text)
    if told or answer.finish_reason == "error":
        return answer
    truncated = answer.finish_reason == "length"
    written = most_written_tokens(answer.text, request.sampling.max_tokens, truncated=truncated)
    return replace(
        answer,
        prompt_tokens=max(0, answer.prompt_tokens) or most_prompt_tokens(request.messages),
        completion_tokens=max(0, answer.completion_tokens) or written,
        estimated=True,
    )


def _input_usd(price: Price | None) -> float:
    return 0.0 if price is None else price.input_usd
