"""A provider that answers from the stored turns of an earlier run: no model, no cost.

The address ``replay:PATH`` names a run's folder or its ``run.duckdb`` (the tables are described in
docs/schema.md). A request is answered with the stored response, finish reason, token counts and
latency of the turn with the same question, agent, round and kind. Fine-tuning jobs succeed at once
and train nothing: the model of iteration k stands for the stored society after k iterations.

Several stored turns can match, such as the evaluations after different iterations. Those with the
same conversation come first, then those of the iteration whose models are loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from providers.base import Provider, ProviderFactory, Settings
from providers.errors import (
    InvalidSettings,
    ModelNotFound,
    RunError,
    TrainingFailed,
)
from providers.transcripts import StoredTurn, Transcripts, TurnKey, open_read_only
from providers.types import (
    Capabilities,
    Completion,
    FinetuneSpec,
    JobHandle,
    JobState,
    ModelRef,
    Objective,
    Request,
    Sampling,
)
from providers.validation import format_errors

_KEY = re.compile(
    r"(?:(?P<split>train|label)(?P<iteration>\d+)|eval)/(?P<question>.+)"
    r"/a(?P<agent>\d+)/r(?P<round>\d+)/(?P<kind>answer|summary)(?:/s(?P<sample>\d+))?",
    re.DOTALL,
)
_ARTIFACT = re.compile(r"(?P<arm>.+)/it(?P<iteration>\d+)/a\d+/(?:generator|critic)", re.DOTALL)
_MAIN_ARM = "multiagent"


class TranscriptMismatch(RunError):
    """No stored turn matches the request; the message says what differs and what to change."""


class ReplaySettings(BaseModel):
    """The section `[provider]` of a replay."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )
    match: Literal["messages", "position"] = "messages"
    """`messages` answers only a conversation that equals the stored one; `position` compares
    question, agent, round and kind only."""


class ReplayProvider(Provider):
    """Answers from the stored turns of one run."""

    def __init__(self, transcripts: Transcripts, address: str, settings: ReplaySettings) -> None:
        self._transcripts = transcripts
        self._address = address
        self._settings = settings
        self._iteration = 0
        self._arm = _MAIN_ARM
        self._jobs: dict[str, JobHandle] = {}

    @property
    def base(self) -> ModelRef:
        return ModelRef(self._address, self._address)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            finetune=True,
            score=False,
            sampling_seed=True,
            max_parallel_jobs=1024,
            weights=True,
            objectives=frozenset(get_args(Objective)),
        )

    async def complete(self, request: Request) -> Completion:
        key = _parse_key(request)
        found = await self._transcripts.find(key)
        if not found:
            raise TranscriptMismatch(self._explain_missing(key))
        # As parsed JSON, since spacing and escapes of the stored text may differ.
        conversation = [asdict(message) for message in request.messages]
        same = [stored for stored in found if json.loads(stored.messages) == conversation]
        # The summarizer is never tuned: its turns are those of the iteration that is loaded.
        wanted = max(self._iteration, _iteration_of(request.model))
        closest = min(same or found, key=partial(self._distance, wanted))
        if not same and self._settings.match == "messages":
            raise TranscriptMismatch(self._explain_difference(key, closest, conversation))
        return closest.completion()

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        # What is answered is fixed, however it was drawn.
        return ()

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        handle = JobHandle(_artifact_of(spec), spec.name, spec.digest)
        self._jobs[spec.name] = handle
        return handle

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        handle = self._jobs.get(spec.name)
        return handle if handle is not None and handle.digest == spec.digest else None

    async def poll(self, handle: JobHandle) -> JobState:
        # The job's id holds arm, iteration, agent and role, so a restarted process can answer too.
        if not _ARTIFACT.fullmatch(handle.job_id):
            raise TrainingFailed(f"{handle.job_id!r} is no job of a replay; submit it again")
        model = ModelRef(handle.name, self._address, artifact=handle.job_id)
        return JobState("succeeded", "replayed", 1.0, model=model, trained_tokens=0)

    async def cancel(self, handle: JobHandle) -> None:
        return None

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        self._iteration, self._arm = 0, _MAIN_ARM
        for model in models:
            tuned = _ARTIFACT.fullmatch(model.artifact or "")
            if tuned is None:
                raise ModelNotFound(
                    f"model {model.model_id!r} was not made by a replay; start a new run"
                )
            # A society may hold models of earlier iterations, kept when a job failed: its newest
            # model says which iteration the society belongs to.
            if int(tuned["iteration"]) > self._iteration:
                self._iteration, self._arm = int(tuned["iteration"]), tuned["arm"]

    async def close(self) -> None:
        await self._transcripts.close()

    def _distance(self, wanted: int, stored: StoredTurn) -> tuple[int, int, bool, bool, str]:
        # The last entries only break ties, so that a replay never depends on the order of the rows.
        return (
            abs(stored.iteration - wanted),
            stored.iteration,
            stored.arm != self._arm,
            stored.arm != _MAIN_ARM,
            stored.arm,
        )

    def _explain_missing(self, key: TurnKey) -> str:
        society = self._transcripts.config().get("society", {})
        return (
            f"{self._address} holds no turn for {key}; the stored run has "
            f"{_list_settings('society', society)}: ask what it was asked (its task, its numbers "
            "of questions, iterations, agents and rounds, its decodings), or import what is missing"
        )

    def _explain_difference(
        self, key: TurnKey, stored: StoredTurn, sent: Sequence[Mapping[str, str]]
    ) -> str:
        pairs = zip_longest(json.loads(stored.messages), sent)
        number = next(n for n, (before, now) in enumerate(pairs) if before != now)
        config = self._transcripts.config()
        if number == 0:
            cause = (
                f"the task's own prompt; stored: {_list_settings('task', config.get('task', {}))}"
            )
        else:
            society = config.get("society", {})
            cause = (
                f"how the others' answers are shown; stored: {_list_settings('society', society)}"
            )
        return (
            f"{self._address} was asked something else for {key}: message {number + 1} of the "
            f"conversation differs, which is {cause}. Set that back, or set "
            'provider.match = "position" to take stored answers whatever was asked'
        )


def check(target: str, settings: Settings) -> None:
    """Raise for an unknown setting, and for a file that is no run's database or is in use."""
    _parse_settings(settings)
    open_read_only(_find_database(target)).close()


def connect(target: str, settings: Settings, workdir: Path) -> Provider:
    """Answer from the run at `target`, its folder or its database."""
    return ReplayProvider(
        Transcripts(_find_database(target)), f"replay:{target}", _parse_settings(settings)
    )


def _parse_settings(settings: Settings) -> ReplaySettings:
    try:
        return ReplaySettings.model_validate(dict(settings))
    except ValidationError as error:
        messages = {"extra_forbidden": "{key}: unknown; a replay has provider.match only"}
        raise InvalidSettings("; ".join(format_errors(error, messages, "provider."))) from error


def _find_database(target: str) -> Path:
    path = Path(target)
    database = path / "run.duckdb" if path.is_dir() else path
    if not target or not database.is_file():
        raise ModelNotFound(
            f"no run at {target!r}; give replay: the folder of a run, such as replay:runs/demo"
        )
    return database


def _parse_key(request: Request) -> TurnKey:
    match = _KEY.fullmatch(request.key)
    if match is None:
        raise TranscriptMismatch(
            f"a replay answers only turns of a debate, not the request {request.key!r}"
        )
    # The key of an evaluation leaves out its iteration, so that societies share their sampling
    # noise.
    iteration = match["iteration"]
    return TurnKey(
        split=match["split"] or "eval",
        iteration=None if iteration is None else int(iteration),
        decoding="greedy" if request.sampling.temperature == 0 else "sampled",
        question_id=match["question"],
        agent=int(match["agent"]),
        round=int(match["round"]),
        kind=match["kind"],
        sample=int(match["sample"] or 0),
    )


def _artifact_of(spec: FinetuneSpec) -> str:
    facts = spec.metadata
    try:
        return f"{facts['arm']}/it{int(facts['iteration'])}/a{facts['agent']}/{facts['role']}"
    except KeyError as error:
        raise TrainingFailed(f"job {spec.name!r} does not say its {error.args[0]}") from error


def _iteration_of(model: ModelRef) -> int:
    tuned = _ARTIFACT.fullmatch(model.artifact or "")
    return 0 if tuned is None else int(tuned["iteration"])


def _list_settings(section: str, values: Mapping[str, object]) -> str:
    return ", ".join(f"{section}.{key} = {value!r}" for key, value in values.items()) or "nothing"


FACTORY = ProviderFactory(check, connect, settings=ReplaySettings)
