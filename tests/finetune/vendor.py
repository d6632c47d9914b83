"""A vendor of fine-tuning jobs that lives in memory, and connections to it that may break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune.jobs import Polling
from providers.base import Provider
from providers.types import (
    Capabilities,
    Completion,
    FinetuneSpec,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Request,
    Score,
    TrainingStep,
)

BASE = ModelRef("base", "vendor:base")
TWO_AT_A_TIME = Capabilities(finetune=True, score=False, sampling_seed=False, max_parallel_jobs=2)
FAST = Polling(first_s=0.001, longest_s=0.002, patience=3)


@dataclass
class Vendor:
    """The far side: its jobs outlive connections and crashes."""

    jobs: dict[str, FinetuneSpec] = field(default_factory=dict)
    polls: dict[str, int] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    fail: dict[str, str] = field(default_factory=dict)


class Crash(BaseException):
    """Stands for kill -9: no handler may see it."""


@dataclass
class Connection(Provider):
    """A provider over `Vendor`; `trouble` maps a call to the errors it meets, in order."""

    vendor: Vendor
    capabilities: Capabilities = TWO_AT_A_TIME
    trouble: dict[str, list[BaseException | None]] = field(default_factory=dict)
    polls_needed: int = 3
    active: set[str] = field(default_factory=set)
    most_active: int = 0

    @property
    def base(self) -> ModelRef:
        return BASE

    def _meet(self, call: str) -> None:
        errors = self.trouble.get(call)
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        self._meet("submit")
        assert spec.name not in self.vendor.jobs, "submitted twice"
        assert len(list(spec.examples)) == len(spec.examples) > 0
        self.vendor.submitted.append(spec.name)
        self.vendor.jobs[spec.name] = spec
        self.active.add(spec.name)
        self.most_active = max(self.most_active, len(self.active))
        self._meet("submitted")
        return self._handle(spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        self._meet("find")
        known = self.vendor.jobs.get(spec.name)
        return self._handle(spec) if known and known.digest == spec.digest else None

    async def poll(self, handle: JobHandle) -> JobState:
        self._meet("poll")
        spec = self.vendor.jobs[handle.name]
        count = self.vendor.polls[handle.name] = self.vendor.polls.get(handle.name, 0) + 1
        points = tuple(TrainingStep(step, 1 / step, 1e-4) for step in range(1, count + 1))
        if count < self.polls_needed:
            return JobState("running", "in_progress", count / self.polls_needed, points=points)
        self.active.discard(handle.name)
        if handle.name in self.vendor.fail:
            reason = self.vendor.fail[handle.name]
            return JobState("failed", "errored", error=reason, points=points)
        return JobState(
            "succeeded",
            "done",
            1.0,
            model=ModelRef(f"tuned:{spec.name}", "vendor:base", f"ft:{spec.name}"),
            artifact_sha256=spec.digest,
            points=points,
            trained_tokens=123,
        )

    def _handle(self, spec: FinetuneSpec) -> JobHandle:
        return JobHandle(f"vendor-{spec.name}", spec.name, spec.digest)

    async def cancel(self, handle: JobHandle) -> None: ...
    async def load_adapters(self, models: Sequence[ModelRef]) -> None: ...

    async def close(self) -> None: ...

    async def complete(self, request: Request) -> Completion:
        raise NotImplementedError

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        raise NotImplementedError
