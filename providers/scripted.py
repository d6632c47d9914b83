"""A provider that answers from a script: for tests, replays and dry runs, without a model.

`ScriptedProvider` takes any function from a `Request` to a text or a `Completion`. The address
``scripted:FILE`` reads a JSON Lines file of ``{"key": …, "text": …, "finish_reason": "stop"}``,
one line per request key; a request without a line is a `BadRequest`. Fine-tuning jobs succeed at
once and give models that answer from the same script, and so do averages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict

from providers.base import Provider, ProviderFactory, Settings
from providers.errors import BadRequest, InvalidSettings, ModelNotFound, TrainingFailed
from providers.types import (
    AveragedModel,
    AverageSpec,
    Capabilities,
    Completion,
    FinetuneSpec,
    FinishReason,
    JobHandle,
    JobState,
    ModelRef,
    Objective,
    Request,
    Sampling,
)

Script = Callable[[Request], str | Completion]


class ScriptedLine(BaseModel):
    """One line of a script file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str
    text: str
    finish_reason: FinishReason = "stop"


class ScriptedProvider(Provider):
    """Answers by calling `script`. Tokens are counted as words. `requests` keeps all requests.

    Example: `ScriptedProvider(lambda request: "\\\\boxed{7}")`.
    """

    def __init__(
        self, script: Script, *, address: str = "scripted:", min_examples: int = 1
    ) -> None:
        self._script = script
        self._address = address
        self._min_examples = min_examples
        self._jobs: dict[str, FinetuneSpec] = {}
        self.requests: list[Request] = []
        self.loaded_adapters: tuple[ModelRef, ...] = ()

    @property
    def base(self) -> ModelRef:
        return ModelRef(self._address, self._address)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            finetune=True,
            sampling_seed=True,
            min_examples=self._min_examples,
            weights=True,
            averages=True,
            objectives=frozenset(get_args(Objective)),
        )

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        # A real provider gives way to other tasks here, so that their order is tested too.
        await asyncio.sleep(0)
        answer = self._script(request)
        if isinstance(answer, Completion):
            return answer
        prompt_tokens = sum(len(m.content.split()) for m in request.messages)
        return Completion(answer, "stop", prompt_tokens, len(answer.split()), 0.0)

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        # What is answered is fixed, however it was drawn.
        return ()

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        self._jobs[spec.name] = spec
        return JobHandle(spec.name, spec.name, spec.digest)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        known = self._jobs.get(spec.name)
        if known is None or known.digest != spec.digest:
            return None
        return JobHandle(spec.name, spec.name, spec.digest)

    async def poll(self, handle: JobHandle) -> JobState:
        spec = self._jobs.get(handle.name)
        if spec is None:
            raise TrainingFailed(f"no scripted job is called {handle.name!r}; submit it again")
        model = ModelRef(spec.name, self._address, artifact=spec.name)
        return JobState(
            "succeeded",
            "succeeded",
            1.0,
            model=model,
            artifact_sha256=spec.digest,
            trained_tokens=0,
        )

    async def cancel(self, handle: JobHandle) -> None:
        return None

    async def average_models(self, spec: AverageSpec) -> AveragedModel:
        return AveragedModel(ModelRef(spec.name, self._address, spec.name, spec.digest))

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        self.loaded_adapters = tuple(models)


def check(target: str, settings: Settings) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for the script file, naming the bad line."""
    if settings:
        raise InvalidSettings(f"the scripted provider has no settings; remove {sorted(settings)}")
    read_script(target)


def connect(target: str, settings: Settings, workdir: Path) -> Provider:
    """Answer from the script file at `target`."""
    check(target, settings)
    lines = read_script(target)

    def script(request: Request) -> Completion:
        line = lines.get(request.key)
        if line is None:
            raise BadRequest(f"{target} has no line for request key {request.key!r}; add one")
        prompt_tokens = sum(len(m.content.split()) for m in request.messages)
        return Completion(line.text, line.finish_reason, prompt_tokens, len(line.text.split()), 0.0)

    return ScriptedProvider(script, address=f"scripted:{target}")


def read_script(target: str) -> dict[str, ScriptedLine]:
    """The lines of a script file by request key. Raises `InvalidSettings` naming a bad line."""
    path = Path(target)
    if not path.is_file():
        raise ModelNotFound(f"no script file {target!r}; give scripted: the path of a .jsonl file")
    lines: dict[str, ScriptedLine] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = ScriptedLine.model_validate(json.loads(text))
            except (ValueError, RecursionError) as error:
                raise InvalidSettings(
                    f"{target}:{number} is not {{'key': …, 'text': …}}: {error}"
                ) from error
            lines[line.key] = line
    return lines


FACTORY = ProviderFactory(check, connect)
