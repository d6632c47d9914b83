"""A provider within a budget: it reserves the price of every call and job before sending it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import chain

from providers.base import Provider
from providers.budget import Budget
from providers.errors import AmbiguousSubmission, ConnectionLost, JobError, TimedOut
from providers.pricing import Prices, TokenPrice
from providers.types import (
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
from providers.usage import (
    FREE,
    AttemptCharge,
    Charges,
    NoCharges,
    Usage,
    current_attempts,
    most_prompt_tokens,
    most_written_tokens,
)
from providers.wrapper import ProviderWrapper

JobTokens = Callable[[FinetuneSpec], int]

PERHAPS_BILLED = (TimedOut, ConnectionLost, asyncio.CancelledError)
"""After these errors the server may have done the work although its answer never arrived."""


def most_trained_tokens(spec: FinetuneSpec) -> int:
    """At least as many tokens as a job is billed for, over all epochs.

    Some vendors bill validation data too, at most once per epoch.
    """
    examples = chain(spec.examples, spec.validation)
    once = sum(most_prompt_tokens(example.messages) for example in examples)
    return once * spec.hyperparameters.epochs


def call_usd(price: TokenPrice, prompt_tokens: int, completion_tokens: int) -> float:
    """What one answer costs. Cached prompt tokens are not known, so all count in full."""
    return (prompt_tokens * price.input_usd + completion_tokens * price.output_usd) / 1e6


class BudgetedProvider(ProviderWrapper):
    """`provider` within `budget`; `charges` records what was paid.

    Example: `BudgetedProvider(provider, Prices(), Budget(cap_usd=5.0))`.

    `complete`, `score`, `divergences` and `submit` raise `BudgetReached` before anything is sent
    that could exceed the cap. A provider that reports its attempts (`providers.usage`) reserves and
    pays each of them. With a cap, a model without a known price raises `InvalidSettings`; without
    one it is used and counted in `Budget.unpriced_calls`. `job_tokens` bounds what a job is billed
    for; it is called in another thread. `batched`: `provider` is a `BatchedProvider`, whose answers
    cost the price's `batch_factor`; batches are budgeted from outside, never asked for through this
    wrapper.
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
        super().__init__(provider)
        self._batched = batched
        self._prices = prices
        self._job_tokens = job_tokens
        self._charges = charges or NoCharges()
        self.budget = budget

    async def complete(self, request: Request) -> Completion:
        # The most the call can cost: nothing is sent that the budget could not pay in full.
        prompt, model = most_prompt_tokens(request.messages), request.model
        most = Usage(prompt, request.sampling.max_tokens, estimated=True)
        price = self._find_price(model)
        account = self._open_account(model, price, most)
        async with account.count_attempts():
            answer = await self._provider.complete(request)
            if price is None or not price.is_free:
                answer = _bound_missing_tokens(answer, request)
            account.settle_answer(
                Usage(answer.prompt_tokens, answer.completion_tokens, answer.estimated)
            )
        return answer

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        whole = (*messages, Message("assistant", text))
        most = Usage(most_prompt_tokens(whole), 1, estimated=True)
        account = self._open_account(model, self._find_price(model), most)
        async with account.count_attempts():
            score = await self._provider.score(model, messages, text)
            account.settle_answer(most)
        return score

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        models = (p, *others)
        prices = [self._find_price(model) for model in models]
        # One reservation at the price of the dearest model: all are computed in one request.
        dearest = max(range(len(models)), key=lambda i: _input_usd(prices[i]))
        tokens = most_prompt_tokens((*messages, Message("assistant", text)))
        most = Usage(len(models) * tokens, 0, estimated=True)
        account = self._open_account(models[dearest], prices[dearest], most)
        async with account.count_attempts():
            found = await self._provider.divergences(p, others, messages, text)
            account.settle_answer(most)
        return found

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        most = await self._most_job_usd(spec)
        await self.budget.reserve_job(spec.name, most)
        try:
            handle = await self._provider.submit(spec)
        except (AmbiguousSubmission, *PERHAPS_BILLED):
            self.budget.record_job(spec.name, most, certain=False)
            raise
        except BaseException:
            # A clean refusal: the job does not exist and costs nothing.
            self.budget.settle_call(most, 0.0)
            raise
        self.budget.record_job(spec.name, most, certain=True)
        return handle

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        handle = await self._provider.find(spec)
        if handle is not None:
            # Submitted by an earlier start of the run, which may have ended before it was recorded.
            self.budget.watch_job(spec.name, await self._most_job_usd(spec))
        return handle

    async def poll(self, handle: JobHandle) -> JobState:
        try:
            state = await self._provider.poll(handle)
        except JobError:
            # The provider does not know the job any more, so its cost stays unknown.
            self.budget.unwatch_job(handle.name)
            raise
        if state.done:
            self._settle_job(handle, state)
        return state

    async def close(self) -> None:
        self._charges.prune()
        await self._provider.close()

    def _find_price(self, model: ModelRef) -> TokenPrice | None:
        price = self._prices.of(model)
        if price is None:
            if self.budget.cap_usd is not None:
                self._prices.require(model.address, finetune=model.artifact is not None)
            self.budget.unpriced_calls += 1
        return price

    def _open_account(self, model: ModelRef, price: TokenPrice | None, most: Usage) -> _Account:
        if price is None:
            # Attempts are recorded without a price too: `spend` counts them as unknown.
            return _Account(self.budget, self._charges, model, most, lambda usage: 0.0)
        share = (price.batch_factor or 1.0) if self._batched else 1.0

        def usd(usage: Usage) -> float:
            return share * call_usd(price, usage.prompt_tokens, usage.completion_tokens)

        # Free calls need no record. A batch has a record of its own, by which it is found again.
        charges = NoCharges() if self._batched or price.is_free else self._charges
        return _Account(self.budget, charges, model, most, usd, found_again=self._batched)

    def _training_usd(self, address: str) -> float | None:
        price = self._prices.at(address, tuned=False)
        return None if price is None else price.training_usd

    async def _most_job_usd(self, spec: FinetuneSpec) -> float:
        rate = self._training_usd(spec.start.address)
        if rate is None and self.budget.cap_usd is not None:
            self._prices.require(spec.start.address, finetune=True)
        # Without a cap nothing can be refused, so the dataset need not be read for its size.
        if not rate or self.budget.cap_usd is None:
            return 0.0
        # Reading a whole dataset takes long enough to hold up calls in flight.
        return await asyncio.to_thread(self._job_tokens, spec) * rate / 1e6

    def _settle_job(self, handle: JobHandle, state: JobState) -> None:
        rate = self._training_usd(self._provider.base.address) or 0.0
        if state.trained_tokens is not None:
            self.budget.settle_job(handle.name, state.trained_tokens * rate / 1e6)
        # It ended before its first step: vendors bill tokens that were trained on.
        elif state.status != "succeeded" and not state.points and state.progress == 0.0:
            self.budget.settle_job(handle.name, 0.0)
        else:
            self.budget.unwatch_job(handle.name)


class _Account:
    """Implements `providers.usage.Attempts` for one call, whose attempts cost `most` at most.

    A provider that reports no attempts is taken to make one, which `settle_answer` pays.
    `found_again`: a broken-off call continues at the server and is paid when it is asked for again.
    """

    def __init__(
        self,
        budget: Budget,
        charges: Charges,
        model: ModelRef,
        most: Usage,
        usd: Callable[[Usage], float],
        *,
        found_again: bool = False,
    ) -> None:
        self._budget = budget
        self._charges = charges
        self._model = model
        self._most = most
        self._usd = usd
        self._most_usd = usd(most)
        self._found_again = found_again
        self._reported = False
        self._charge: AttemptCharge | None = None
        self.is_reserved = False

    @asynccontextmanager
    async def count_attempts(self) -> AsyncIterator[None]:
        """Around the provider's call: its attempts are counted by this account."""
        # Before the counter is set: a call that may not be paid is never begun.
        await self.reserve()
        token = current_attempts.set(self)
        try:
            yield
        except PERHAPS_BILLED:
            # A provider that reports its attempts has recorded this failure itself.
            if not self._reported and not self._found_again:
                self.record_failure()
            raise
        finally:
            current_attempts.reset(token)
            # Free what is still reserved: the last attempt was not sent, or was not billed.
            self._settle(0.0)

    def settle_answer(self, usage: Usage) -> None:
        """The call has its answer, billed `usage` unless the provider has reported its attempts."""
        if not self._reported:
            self.record_answer(usage)

    def report_all(self) -> None:
        self._reported = True

    async def reserve(self) -> None:
        if not self.is_reserved:
            await self._budget.reserve(self._most_usd)
            self.is_reserved = True

    async def begin(self) -> None:
        self._charge = self._charges.open_charge(self._model)
        await self._charge.record_sent(self._most)

    def record_answer(self, usage: Usage) -> None:
        self._take_charge().record_answer(usage)
        self._settle(self._usd(usage))

    def record_failure(self, usage: Usage | None = None) -> None:
        if usage == FREE:
            # The reservation stays, for the next attempt.
            if self._charge is not None:
                self._take_charge().record_failure(FREE)
            return
        billed = self._most if usage is None else usage
        self._take_charge().record_failure(billed)
        self._settle(self._usd(billed))

    def _take_charge(self) -> AttemptCharge:
        # A provider that reports nothing begins no attempt, so its charge is opened afterwards.
        charge, self._charge = self._charge, None
        return charge or self._charges.open_charge(self._model)

    def _settle(self, usd: float) -> None:
        if self.is_reserved:
            self.is_reserved = False
            self._budget.settle_call(self._most_usd, usd)


def _bound_missing_tokens(answer: Completion, request: Request) -> Completion:
    """The answer with bounds in place of tokens that the server did not report."""
    reported = answer.prompt_tokens > 0 and (answer.completion_tokens > 0 or not answer.text)
    if reported or answer.finish_reason == "error":
        return answer
    truncated = answer.finish_reason == "length"
    written = most_written_tokens(answer.text, request.sampling.max_tokens, truncated=truncated)
    return replace(
        answer,
        prompt_tokens=max(0, answer.prompt_tokens) or most_prompt_tokens(request.messages),
        completion_tokens=max(0, answer.completion_tokens) or written,
        estimated=True,
    )


def _input_usd(price: TokenPrice | None) -> float:
    return 0.0 if price is None else price.input_usd
