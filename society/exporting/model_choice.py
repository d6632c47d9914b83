"""Which tuned models of a run are exported, and the base that they belong to."""

from __future__ import annotations

from dataclasses import dataclass

from evals import choices, stored_run
from providers import registry
from providers.base import BaseOrigin
from providers.types import ModelRef
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.finetuning import read_tuned_models
from store.ledger import Store
from store.records import AgentRole, Model


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which models: of an arm's society (default: the main arm's, chosen or last), of one agent,
    of one role. `base` is the name that others find the base model by; what is to be `published`
    needs one.
    """

    arm: str | None = None
    iteration: int | None = None
    agent: int | None = None
    role: AgentRole | None = None
    base: str | None = None
    published: bool = False


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """One tuned model; `name` is what its folder or file is called: "a1-generator"."""

    name: str
    agent: int
    role: AgentRole
    model: Model

    @property
    def ref(self) -> ModelRef:
        return ModelRef(
            self.model.model_id, self.model.provider, self.model.artifact, self.model.sha256
        )


@dataclass(frozen=True, slots=True)
class ExportedSociety:
    """The models that are exported, of one arm after one iteration, on one base."""

    run: str
    config: Config
    arm: str
    iteration: int
    origin: BaseOrigin
    models: tuple[ExportedModel, ...]


def choose_models(store: Store, choice: ModelChoice) -> ExportedSociety:
    """The models that `choice` names. Raises `ConfigError` if there are none, or if they have
    several bases."""
    run = stored_run.load_run(store)
    config = Config.from_json(run.config)
    arm = choice.arm or stored_run.find_main_arm(store)
    iteration = choice.iteration
    # The society that `ask` and `serve` answer with.
    if iteration is None:
        iteration = choices.find_society(store, arm)
    rows = {model.model_id: model for model in store.models()}
    # A later iteration than there is would be the last one under a wrong name.
    evaluated = iteration in choices.list_evaluated(store, arm)
    chosen = tuple(
        ExportedModel(f"a{agent}-{role}" if agent else role, agent, role, rows[ref.model_id])
        for (agent, role), ref in sorted(read_tuned_models(store, iteration, arm).items())
        if evaluated
        if choice.agent in (None, agent) and choice.role in (None, role)
    )
    if not chosen:
        there = sorted({m.iteration or 0 for m in rows.values() if m.arm == arm and m.artifact})
        raise ConfigError(
            f"{choices.name_society(iteration)} of {arm} has no such tuned model "
            f"(iterations with tuned models: {', '.join(map(str, there)) or 'none'}); choose "
            "others with --arm, --iteration, --agent or --role"
        )
    # A card, a start line and a recipe name one base.
    addresses = sorted({each.model.provider for each in chosen})
    if len(addresses) > 1:
        raise ConfigError(
            f"these models have several bases ({', '.join(addresses)}); export them one by one "
            "with --agent"
        )
    origin = registry.find_origin(addresses[0], config.settings_of(addresses[0]))
    if choice.base is not None:
        origin = BaseOrigin(choice.base, local=False, license=origin.license)
    if choice.published and origin.local:
        raise ConfigError(
            f"the base model is the folder {origin.name} of this machine, which nobody else has: "
            "name it as others find it, with --base ORG/NAME"
        )
    return ExportedSociety(run.name, config, arm, iteration, origin, chosen)
