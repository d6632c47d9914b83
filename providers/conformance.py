"""What every provider has to do, as checks that run against a stand-in of the vendor.

For a provider of your own, describe your stand-in as a `StandIn` and run all of `CHECKS`:

    @pytest.mark.parametrize("name", CHECKS)
    async def test_it_conforms(name, stand_in):
        await CHECKS[name](stand_in)

A check raises `NotConformant` and says what is missing; it returns if the provider does not
announce what it checks. `tests/providers/test_conformance.py` runs them for the providers here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, get_args

from providers.base import Provider
from providers.errors import (
    AmbiguousSubmission,
    AuthenticationFailed,
    BadRequest,
    ContextOverflow,
    ModelNotFound,
    ProviderError,
    Unsupported,
)
from providers.types import (
    FinetuneSpec,
    FinishReason,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Need,
    Request,
    Sampling,
)

Failure = Literal["rate limit", "overload", "credentials", "model", "length", "form"]
"""How a chat call fails: the first two pass, the others stay."""

_STAYING: Mapping[Failure, type[ProviderError]] = {
    "credentials": AuthenticationFailed,
    "model": ModelNotFound,
    "length": ContextOverflow,
    "form": BadRequest,
}
_POLLS, _PAUSE_S = 400, 0.02
_QUESTION = (Message("system", "Be brief."), Message("user", "What is 2+3?"))


class NotConformant(AssertionError):
    """What a provider does otherwise than `providers.base.Provider` says."""


class StandIn(Protocol):
    """A vendor's server for tests. `spec` is a job that it takes; None: it has no jobs."""

    spec: FinetuneSpec | None

    def connect(self) -> Provider:
        """A new connection, as a process has that was started just now."""

    def fail_chat(self, failure: Failure) -> bool:
        """Let the next chat call fail once, or stay failing; False: the vendor has no such case."""

    def lose_answer(self) -> bool:
        """Let the next job be created and its answer be lost; False: that cannot be made."""

    def hold_jobs(self) -> None:
        """Let the jobs that are created from now on run until they are cancelled."""

    def count_jobs(self) -> int:
        """How many jobs exist."""


async def check_chat(stand_in: StandIn) -> None:
    """A conversation with a system message gets an answer whose end and tokens are known."""
    async with _open(stand_in) as provider:
        answer = await provider.complete(_ask(provider.base))
        _require(bool(answer.text), "an answer has no text")
        _require(answer.finish_reason in get_args(FinishReason), f"ends as {answer.finish_reason}")
        _require(answer.prompt_tokens > 0 and answer.completion_tokens > 0, "tokens are missing")
        _require(provider.base.artifact is None, "the base model has an artifact")


async def check_errors(stand_in: StandIn) -> None:
    """Failures that pass are repeated; others are errors of `providers.errors` with a message."""
    async with _open(stand_in) as provider:
        for failure in get_args(Failure):
            if failure in _STAYING or not stand_in.fail_chat(failure):
                continue
            answer = await provider.complete(_ask(provider.base, failure))
            _require(bool(answer.text), f"after a passing failure ({failure}) no answer came")
    for failure, expected in _STAYING.items():
        if not stand_in.fail_chat(failure):
            continue
        # Each on a connection of its own: an error that ends the run ends its calls.
        async with _open(stand_in) as provider:
            error = await _catch(provider.complete(_ask(provider.base, failure)))
            _require(isinstance(error, expected), f"{failure} is {error!r}, not {expected}")
            _require(len(str(error)) > 20, f"{failure}: the message {str(error)!r} is no help")


async def check_jobs(stand_in: StandIn) -> None:
    """A job is not found, submitted, found by another process, followed, and its model answers."""
    if (spec := stand_in.spec) is None:
        return
    async with _open(stand_in) as provider:
        _require(await provider.find(spec) is None, "a job is found that was never submitted")
        handle = await provider.submit(spec)
        _require((handle.name, handle.digest) == (spec.name, spec.digest), f"{handle} is not ours")
    async with _open(stand_in) as provider:
        _require(await provider.find(spec) == handle, "another process does not find the job")
        other = replace(spec, name=f"{spec.name}-other")
        _require(await provider.find(other) is None, "the job is found for another spec")
        state = await _follow(provider, handle)
        _require(state.status == "succeeded", f"the job {state.status}: {state.error}")
        _require(bool(state.raw_status), "the vendor's own word for the state is lost")
        model = state.model
        if model is None or model.artifact is None:
            raise NotConformant("a job that succeeded names no model")
        _require(model.address == provider.base.address, f"{model} has another address")
        await provider.load_adapters([model])
        _require(bool((await provider.complete(_ask(model))).text), "the tuned model is silent")
    _require(stand_in.count_jobs() == 1, f"{stand_in.count_jobs()} jobs exist, not 1")


async def check_adoption(stand_in: StandIn) -> None:
    """A job whose creation got no answer exists once and is found by another process.

    `submit` raises `AmbiguousSubmission`, or asks again if the vendor recognizes the request.
    """
    if (spec := stand_in.spec) is None or not stand_in.lose_answer():
        return
    async with _open(stand_in) as provider:
        try:
            await provider.submit(spec)
        except AmbiguousSubmission:
            pass
        except ProviderError as error:
            raise NotConformant(f"a lost answer is {error!r}, not AmbiguousSubmission") from error
    _require(stand_in.count_jobs() == 1, "the job was created again")
    async with _open(stand_in) as provider:
        handle = await provider.find(spec)
        if handle is None:
            raise NotConformant("the job exists and is not found")
        _require((await _follow(provider, handle)).status == "succeeded", "it does not end well")


async def check_cancel(stand_in: StandIn) -> None:
    """A running job is cancelled; cancelling it again, or after its end, does nothing."""
    if (spec := stand_in.spec) is None:
        return
    stand_in.hold_jobs()
    async with _open(stand_in) as provider:
        handle = await provider.submit(spec)
        _require(not (await provider.poll(handle)).done, "the job did not run")
        await provider.cancel(handle)
        state = await _follow(provider, handle)
        _require(state.status == "cancelled", f"a cancelled job is {state.status}")
        await provider.cancel(handle)


async def check_deletion(stand_in: StandIn) -> None:
    """A tuned model that is deleted answers no more; deleting it again does nothing."""
    if (spec := stand_in.spec) is None:
        return
    async with _open(stand_in) as provider:
        state = await _follow(provider, await provider.submit(spec))
        if (model := state.model) is None:
            raise NotConformant("a job that succeeded names no model")
        if not provider.capabilities.delete_model:
            error = await _catch(provider.delete_model(model))
            _require(isinstance(error, Unsupported), f"deletion is not announced and is {error!r}")
            return
        await provider.delete_model(model)
        await provider.delete_model(model)
    # Other connections: this one may know that the model was ready, and a missing model ends the
    # calls of its own.
    async with _open(stand_in) as provider:
        await _catch(provider.complete(_ask(model)))
    async with _open(stand_in) as provider:
        _require(bool((await provider.complete(_ask(provider.base))).text), "the base is gone")


async def check_capabilities(stand_in: StandIn) -> None:
    """What is announced works, and what is not announced says so; checks name a remedy."""
    async with _open(stand_in) as provider:
        able = provider.capabilities
        _require(able.finetune == (stand_in.spec is not None), "finetune and the stand-in differ")
        _require(able.min_examples >= 1 and able.max_parallel_jobs >= 1, "impossible capabilities")
        if not able.score:
            error = await _catch(provider.score(provider.base, _QUESTION, "5"))
            _require(isinstance(error, Unsupported), f"score is not announced and gives {error!r}")
        if stand_in.spec is not None:
            faults = provider.validate_hyperparameters(stand_in.spec.hyperparameters)
            _require(not faults, f"the stand-in's own job is refused: {faults}")
        faults = provider.validate_sampling(Sampling(stop=tuple("abcdefghijklmnopqrst")))
        _require(all(len(fault) > 20 for fault in faults), f"{faults} name no remedy")


async def check_preflight(stand_in: StandIn) -> None:
    """The checks before a run raise nothing, find no error at a good server, and make nothing."""
    ends_at = datetime.now(UTC) + timedelta(hours=1)
    before = stand_in.count_jobs()
    async with _open(stand_in) as provider:
        need = Need(finetune=provider.capabilities.finetune, ends_at=ends_at)
        found = await provider.preflight(need)
    errors = [finding.text for finding in found if finding.level == "error"]
    _require(not errors, f"errors at a good server: {errors}")
    _require(stand_in.count_jobs() == before, "a check has created a job")


CHECKS: Mapping[str, Callable[[StandIn], Awaitable[None]]] = {
    "chat": check_chat,
    "errors": check_errors,
    "jobs": check_jobs,
    "adoption": check_adoption,
    "cancel": check_cancel,
    "deletion": check_deletion,
    "capabilities": check_capabilities,
    "preflight": check_preflight,
}
"""Every check by its name. Each wants a stand-in in which nothing was made before."""


@asynccontextmanager
async def _open(stand_in: StandIn) -> AsyncIterator[Provider]:
    provider = stand_in.connect()
    try:
        yield provider
    finally:
        await provider.close()


def _ask(model: ModelRef, key: str = "k") -> Request:
    return Request(model, _QUESTION, Sampling(max_tokens=64), key)


async def _follow(provider: Provider, handle: JobHandle) -> JobState:
    for _ in range(_POLLS):
        state = await provider.poll(handle)
        if state.done:
            return state
        await asyncio.sleep(_PAUSE_S)
    raise NotConformant(f"job {handle.job_id} does not end: {state}")


async def _catch(call: Awaitable[object]) -> ProviderError:
    try:
        found = await call
    except ProviderError as error:
        return error
    raise NotConformant(f"no error, but {found!r}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotConformant(otherwise)
