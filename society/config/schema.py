"""The experiment file: one TOML, checked in full before anything is loaded or spent.

Every key has a default except `model`; `society run demo` uses the packaged `configs/demo.toml`.
Unknown keys are errors. `--set society.agents=5` overrides one key. The keys `seeds` and `sweep`
say which runs are made of the experiment (`society.sweeps`); every one of them is a `Config`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from evals.diversity import encoders
from evals.tasks.sources.text import read_text
from providers import registry, served
from providers.errors import ProviderError
from providers.pricing import PriceOverride, Prices
from society.config.sections import (
    ArmSection,
    ConsensusSection,
    DatasetsSection,
    DiversitySection,
    EvaluationSection,
    FinetuneSection,
    LeakageSection,
    SamplingSection,
    Section,
    ServingSection,
    SocietySection,
    TrainedTaskSection,
    TrainSection,
    ZeroShotSection,
)
from society.method.agents import base_address
from society.method.arms import Arm, arms
from society.method.questions import Questions
from society.method.selections import difference


class ConfigError(ValueError):
    """The experiment file or an override is wrong; the message names key, value and remedy."""


STORED = "stored"
SWEEP_KEYS = ("seeds", "sweep")


class Config(Section):
    """A whole experiment."""

    model: str
    iterations: Annotated[int, Field(ge=0, lt=2**31)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    task: TrainedTaskSection
    society: SocietySection = SocietySection()
    sampling: SamplingSection = SamplingSection()
    train: TrainSection = TrainSection()
    evaluation: EvaluationSection = EvaluationSection()
    zero_shot: tuple[ZeroShotSection, ...] = Field(default=(), strict=False)
    arms: tuple[str | ArmSection, ...] = Field(("multiagent",), min_length=1, strict=False)
    leakage: LeakageSection = LeakageSection()
    consensus: ConsensusSection = ConsensusSection()
    datasets: DatasetsSection = DatasetsSection()
    finetune: FinetuneSection = FinetuneSection()
    diversity: DiversitySection = DiversitySection()
    provider: dict[str, Any] = Field(default_factory=dict)
    providers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    serving: ServingSection | None = None
    stop_if_unread: Annotated[int, Field(ge=0)] = 20
    budget_usd: Annotated[float, Field(gt=0.0, allow_inf_nan=False, strict=False)] | None = None
    prices: dict[str, PriceOverride] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_run(self, info: ValidationInfo) -> Config:
        if info.context == STORED:
            return self
        if self.society.agents == 1 and self.society.rounds > 1:
            raise ValueError("society.agents = 1 has nobody to debate with; set society.rounds = 1")
        if self.society.models is not None and len(self.society.models) != self.society.agents:
            raise ValueError(
                f"society.models names {len(self.society.models)} models for "
                f"{self.society.agents} agents; name one for each, also the same more than once"
            )
        if unused := sorted(self.providers.keys() - set(self.addresses)):
            raise ValueError(
                f"providers.{unused[0]!r} is the address of no model here; the models are "
                f"{', '.join(self.addresses)}"
            )
        if self.diversity.measures and (
            idle := set(self.diversity.decodings) - set(self.evaluation.decodings)
        ):
            raise ValueError(
                f"diversity.decodings names {min(idle)!r}, which evaluation.decodings does not; "
                "add it there, or remove it here"
            )
        self.questions.require()
        if self.datasets.critic and not any("critic" in arm.tuned for arm in self.all_arms):
            raise ValueError("datasets.critic chooses rows, and no critic is trained; remove it")
        self.datasets.require()
        self._require_reachable_quorum()
        self._require_samples()
        if any(arm.labels == "gold" for arm in self.all_arms) and not self._has_gold:
            raise ValueError(
                f"the arm star learns from gold answers, and the training questions of "
                f"{self.task.name!r} have none; remove it from arms"
            )
        try:
            for address in self.addresses:
                registry.check(address, self.settings_of(address))
                if self.budget_usd is not None:
                    Prices(self.prices).require(address, finetune=self.tunes(address))
            if self.evaluation.batch and not any(map(registry.has_batches, self._asked_directly)):
                raise ValueError(
                    f"evaluation.batch = true, and none of {', '.join(self.addresses)} has "
                    "batches; remove it"
                )
            if "embedding" in self.diversity.measures:
                self._check_encoder()
            if self.serving is not None:
                served.check(self.serving.as_serving(), self.finetune.method)
        except ProviderError as error:
            raise ValueError(str(error)) from error
        if unpriced := Prices(self.prices).unused(self.addresses):
            raise ValueError(
                f"prices.{unpriced[0]!r} is neither name nor address of a model here; the models "
                f"are {', '.join(self.addresses)}"
            )
        return self

    def _require_samples(self) -> None:
        for arm in self.all_arms:
            if not arm.decodings(self.evaluation.decodings):
                raise ValueError(
                    f"the arm {arm.name!r} is a vote over samples, and evaluation.decodings = "
                    f"{list(self.evaluation.decodings)} draws none: many greedy answers of one "
                    'model are one answer; add "sampled" there, or leave the arm out'
                )

    def _require_reachable_quorum(self) -> None:
        quorum = self.consensus.quorum or 1
        for arm in self.all_arms:
            if arm.labels not in (None, "gold") and quorum > arm.train_agents:
                raise ValueError(
                    f"consensus.quorum = {quorum} leaves the arm {arm.name!r} without any label: "
                    f"{arm.train_agents} agent(s) answer its training questions; set "
                    f"{arm.train_agents} or less, or leave it out for more than half of the agents"
                )

    def _check_encoder(self) -> None:
        try:
            encoders.check(self.diversity.encoder)
        except encoders.EncoderUnavailable as error:
            raise ValueError(f"diversity.encoder: {error}") from error

    @property
    def questions(self) -> Questions:
        """The experiment's questions, read once. Raises ValueError as `Questions` does."""
        # A copy with other values has taken over what was read for the original.
        return self.asked if self.asked.config is self else Questions(self)

    @cached_property
    def asked(self) -> Questions:
        """What `questions` keeps."""
        return Questions(self)

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """The experiment's arms, in order. Raises ValueError as `society.method.arms.arms` does."""
        return arms(self.arms, self.society, self.datasets, self.iterations)

    @property
    def main_arm(self) -> Arm:
        """The arm that is meant where one is: the first that is trained, else the first."""
        return next((arm for arm in self.all_arms if arm.iterations), self.all_arms[0])

    def base_address(self, agent: int) -> str:
        """The address of an agent's base, in any arm; see `society.method.agents.base_address`."""
        return base_address(self.agent_models, agent)

    @property
    def _has_gold(self) -> bool:
        return not self.iterations or any(q.gold is not None for q in self.questions.training(1))

    @property
    def agent_models(self) -> tuple[str, ...]:
        """The address of every agent's base model, in the agents' order."""
        return self.society.models or (self.model,) * self.society.agents

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every distinct model address of the experiment, that of `model` first."""
        return tuple(dict.fromkeys((self.model, *self.agent_models)))

    @property
    def _asked_directly(self) -> tuple[str, ...]:
        return tuple(a for a in self.addresses if self.serving is None or a != self.model)

    def tunes(self, address: str) -> bool:
        """Whether models are tuned from the base at `address`: the summarizer never is."""
        trained = any(arm.iterations for arm in self.all_arms)
        return trained and address in self.agent_models

    def settings_of(self, address: str) -> dict[str, Any]:
        """The provider settings of a model: `providers."ADDRESS"`, else `provider` where it has
        the scheme of `model`."""
        if address in self.providers:
            return self.providers[address]
        return self.provider if scheme(address) == scheme(self.model) else {}

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The config a run has stored, without asking whether its model is still there.

        A run from before there was a quorum has been taking labels from a single voter.
        """
        stored = json.loads(text)
        if "quorum" not in stored.get("consensus", {}):
            stored["consensus"] = {**stored.get("consensus", {}), "quorum": 1}
            text = json.dumps(stored)
        return cls.model_validate_json(text, context=STORED)

    def to_json(self) -> str:
        """Canonical text: what a run stores and compares."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)


def load(source: str, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment from a TOML file or the name of a packaged one.

    `overrides` are "dotted.key=value" with the value in TOML (bare words are taken as text). Of an
    experiment with seeds or a sweep this is the one run that the rest of the file describes.
    Raises `ConfigError`.
    """
    table, origin = read_table(source, overrides)
    return from_table(table, origin)


def read_table(source: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The parsed file with its overrides, unchecked, and how errors name it. See `load`."""
    text, origin = _read(source)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin} is not valid TOML: it is too deeply nested") from error
    for override in overrides:
        _apply(table, override)
    return table, origin


def from_table(
    table: dict[str, Any], origin: str, overrides: Sequence[str] = (), *, stored: bool = False
) -> Config:
    """The experiment in a parsed TOML table; `origin` names it in errors.

    `stored`: without asking whether its model and its questions are there. Raises `ConfigError`.
    """
    for override in overrides:
        _apply(table, override)
    one = {key: value for key, value in table.items() if key not in SWEEP_KEYS}
    try:
        return Config.model_validate(one, context=STORED if stored else None)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from error


def scheme(address: str) -> str:
    """The kind of provider an address names: "openai" for "openai+http://host/v1:m"."""
    return address.partition(":")[0].partition("+")[0]


def packaged() -> tuple[str, ...]:
    """Names of the experiments that come with the package."""
    folder = files("society").joinpath("configs")
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir()))


def differences(stored: str, current: str) -> list[str]:
    """What differs between two configs' canonical texts, one line per key."""
    return [_difference(*change) for change in changed_settings(stored, current, "(absent)")]


def changed_settings(
    stored: str, current: str, absent: str | None = None
) -> list[tuple[str, Any, Any]]:
    """The keys that differ between two canonical texts, with both values."""
    old, new = _flat(json.loads(stored)), _flat(json.loads(current))
    return [
        (key, old.get(key, absent), new.get(key, absent))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        return f"{key}:\n{difference(old, new)}"
    return f"{key}: stored {old!r}, now {new!r}"


def _read(source: str) -> tuple[str, str]:
    if source in packaged():
        return files("society").joinpath("configs", f"{source}.toml").read_text("utf-8"), source
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"no experiment file {source!r}; pass a .toml file or one of: {', '.join(packaged())}"
        )
    try:
        return read_text(path), str(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    names = key_parts(key)
    if not equals or not all(names):
        raise ConfigError(f"--set {override!r} is not of the form key=value, e.g. society.agents=5")
    put(table, names, toml_value(value), f"--set {override!r}")


def put(table: dict[str, Any], names: Sequence[str], value: object, origin: str) -> None:
    """Set one key of a table in place. Raises `ConfigError` where it would lie inside a value."""
    *parents, last = names
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{origin}: {name!r} is a value, not a section")
    table[last] = value


def toml_value(text: str) -> Any:
    """A value as TOML writes it; bare words are taken as text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def key_parts(key: str) -> list[str]:
    """The parts of a dotted key; a part with dots of its own is quoted, as in TOML."""
    if '"' not in key:
        return key.strip().split(".")
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except (tomllib.TOMLDecodeError, RecursionError):
        return [""]
    names = []
    while isinstance(table, dict):
        [(name, table)] = table.items()
        names.append(name)
    return names


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
