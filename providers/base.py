"""The contract between the framework and the models: what every provider can be asked for.

Callers hold `ModelRef`s and call `Provider.complete`, `score`, `submit`/`find`/`poll`/`cancel`
and `load_adapters`; the provider decides whether that is an HTTP call, a server with adapters or
training in this process. Each method makes one request: batching, limits and retries are the
provider's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from providers.errors import Unsupported
from providers.types import (
    Capabilities,
    Completion,
    Divergence,
    FinetuneSpec,
    Hyperparameters,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Request,
    Score,
)


@runtime_checkable
class Provider(Protocol):
    """A connection to one base model and to the models tuned from it.

    Raises only errors of `providers.errors`. Safe to call from many tasks of one event loop.
    """

    @property
    def base(self) -> ModelRef:
        """The untuned model this connection was opened for."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def complete(self, request: Request) -> Completion:
        """Answer one conversation."""

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        """Log-probabilities of `text` as the assistant's answer to `messages`."""

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        """Start a job. Never retried here: an unknown outcome is `AmbiguousSubmission`."""

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        """The job submitted earlier for this very spec (same digest), or None."""

    async def poll(self, handle: JobHandle) -> JobState:
        """The job's state now."""

    async def cancel(self, handle: JobHandle) -> None:
        """Stop a job; nothing happens where it is already done."""

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Make exactly these tuned models answerable; returns once they are confirmed."""

    async def close(self) -> None:
        """Release what the provider holds. Jobs that run elsewhere go on."""


@runtime_checkable
class Comparing(Protocol):
    """A provider that sees whole distributions, not only the chosen tokens' probabilities.

    What wraps a provider has the method always; `Capabilities.compare` says whether it works.
    """

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        """D(p ‖ q) for every q of `others`, in order, along `text` as the answer to `messages`.

        The end of the answer is no part of the text. Raises `Unsupported` where it cannot.
        """


@runtime_checkable
class Choosy(Protocol):
    """A provider that does not take every recipe for fine-tuning."""

    def unsupported(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        """What it cannot honour, each with its remedy."""


def comparing(provider: Provider) -> Comparing:
    """`provider` as one that compares. Raises `Unsupported` where it is none."""
    if not isinstance(provider, Comparing):
        raise Unsupported(
            f"{provider.base.address} does not show whole distributions; use a local model"
        )
    return provider


@runtime_checkable
class Hurried(Protocol):
    """A provider that can be asked by somebody who waits at a terminal."""

    def hurried(self, give_up_after_s: float) -> Provider:
        """A connection of its own that tries a failing call again for so many seconds only, and
        waits for no model that is being made ready. It is to be closed; `self` stays as it is.
        """


class ProviderFactory(Protocol):
    """What a provider package registers: a cheap check and the connection itself.

    `target` is the address behind the scheme ("embedded:" has an empty one). `settings` are the
    user's own `[provider]` options, not yet validated.
    """

    def check(self, target: str, settings: Mapping[str, object]) -> None:
        """Raise `InvalidSettings` or `ModelNotFound` for what is wrong; load no model."""

    def connect(self, target: str, settings: Mapping[str, object], workdir: Path) -> Provider:
        """Open the connection. Artifacts that are made locally go under `workdir`."""
