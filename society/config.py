"""The experiment file: one TOML, checked in full before anything is loaded or spent.

Every key has a default except `model`; `society run demo` uses the packaged `configs/demo.toml`.
Unknown keys are errors. `--set society.agents=5` overrides one key.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from evals import tasks
from providers import registry
from providers.base import Hyperparameters
from providers.errors import ProviderError


class ConfigError(ValueError):
    """The experiment file or an override is wrong; the message names key, value and remedy."""


STORED = "stored"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0, strict=False)]
Positive = Annotated[float, Field(gt=0.0, strict=False)]
NotNegative = Annotated[float, Field(ge=0.0, strict=False)]


class SocietySection(_Section):
    """Who debates, and how."""

    agents: Count = 3
    rounds: Count = 2
    others: Literal["summarized", "quoted"] = "summarized"


class SamplingSection(_Section):
    """How answers are drawn. The paper's released code: temperature 1, top_p 0.9, 2,048 tokens."""

    temperature: NotNegative = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0, strict=False)] = 0.9
    max_tokens: Count = 2048
    summary_max_tokens: Count = 512


class TaskSection(BaseModel):
    """Which task, and its own options; the task checks them."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str

    @property
    def options(self) -> dict[str, object]:
        return dict(self.model_extra or {})


class TrainSection(_Section):
    """Unlabelled questions of one iteration. `fresh` draws new ones each time, else the same."""

    questions: Count = 500
    fresh: bool = False


class EvaluationSection(_Section):
    """Held-out questions, debated by the untuned society and after every iteration."""

    questions: Count = 500
    decodings: tuple[Literal["sampled", "greedy"], ...] = Field(
        default=("sampled", "greedy"), min_length=1, strict=False
    )


class ConsensusSection(_Section):
    """What a tie means in training: `drop` leaves the question out, `first` takes the first."""

    ties: Literal["drop", "first"] = "drop"


class DatasetsSection(_Section):
    """`w` is the fraction of critic examples that corrected themselves."""

    w: Share = 0.5
    critic_loss: Literal["final", "all"] = "final"
    max_examples: Count | None = None


class FinetuneSection(_Section):
    """Fine-tuning of every agent's generator and critic."""

    init: Literal["continue", "fresh"] = "continue"
    method: Literal["lora", "full"] = "lora"
    generator_epochs: Count = 2
    critic_epochs: Count = 2
    batch_size: Count = 16
    learning_rate: Positive = 1e-4
    learning_rate_multiplier: Positive | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    lora_rank: Count = 16
    lora_alpha: Count = 32
    lora_dropout: Share = 0.0

    def hyperparameters(self, role: Literal["generator", "critic"]) -> Hyperparameters:
        """The same for all agents; only the epochs differ by role."""
        shared = self.model_dump(exclude={"init", "generator_epochs", "critic_epochs"})
        epochs = self.generator_epochs if role == "generator" else self.critic_epochs
        return Hyperparameters(epochs=epochs, **shared)


class Config(_Section):
    """A whole experiment."""

    model: str
    iterations: Annotated[int, Field(ge=0)] = 1
    seed: Annotated[int, Field(ge=0)] = 0
    task: TaskSection
    society: SocietySection = SocietySection()
    sampling: SamplingSection = SamplingSection()
    train: TrainSection = TrainSection()
    evaluation: EvaluationSection = EvaluationSection()
    consensus: ConsensusSection = ConsensusSection()
    datasets: DatasetsSection = DatasetsSection()
    finetune: FinetuneSection = FinetuneSection()
    provider: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_run(self, info: ValidationInfo) -> Config:
        if info.context == STORED:
            return self
        if self.society.agents == 1 and self.society.rounds > 1:
            raise ValueError("society.agents = 1 has nobody to debate with; set society.rounds = 1")
        self._require_questions()
        try:
            registry.check(self.model, self.provider)
        except ProviderError as error:
            raise ValueError(str(error)) from error
        return self

    def _require_questions(self) -> None:
        task = tasks.load(self.task.name, self.task.options)
        passes = self.iterations if self.train.fresh else min(self.iterations, 1)
        training = passes * self.train.questions
        if training:
            task.questions("train", training - 1, 1)
        task.questions("eval", self.evaluation.questions - 1, 1)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The config a run has stored, without asking whether its model is still there."""
        return cls.model_validate_json(text, context=STORED)

    def to_json(self) -> str:
        """Canonical text: what a run stores and compares."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)


def load(source: str, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment from a TOML file or the name of a packaged one.

    `overrides` are "dotted.key=value" with the value in TOML (bare words are taken as text).
    Raises `ConfigError`.
    """
    text, origin = _read(source)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(table, override)
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from error


def packaged() -> tuple[str, ...]:
    """Names of the experiments that come with the package."""
    folder = files("society").joinpath("configs")
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir()))


def differences(stored: str, current: str) -> list[str]:
    """What differs between two configs' canonical texts, one line per key."""
    old, new = _flat(json.loads(stored)), _flat(json.loads(current))
    absent = "(absent)"
    return [
        f"{key}: stored {old.get(key, absent)!r}, now {new.get(key, absent)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def _read(source: str) -> tuple[str, str]:
    if source in packaged():
        return files("society").joinpath("configs", f"{source}.toml").read_text("utf-8"), source
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"no experiment file {source!r}; pass a .toml file or one of: {', '.join(packaged())}"
        )
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {source!r} as UTF-8 text: {error}") from error


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {override!r} is not of the form key=value, e.g. society.agents=5")
    *parents, last = names
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {name!r} is a value, not a section")
    try:
        table[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = value


def _explain(error: ValidationError, origin: str) -> str:
    lines = [f"{origin} has {error.error_count()} problem(s):"]
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {key}: unknown key; remove it or correct its spelling")
        elif problem["type"] == "missing":
            lines.append(f"  {key}: missing; add it")
        elif problem["type"] == "value_error":
            lines.append(f"  {key + ': ' if key else ''}{problem['ctx']['error']}")
        else:
            lines.append(f"  {key}: {problem['msg']}, got {problem['input']!r}")
    return "\n".join(lines)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return flat
