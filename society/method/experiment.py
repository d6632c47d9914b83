"""An experiment that can be carried out: its config, with everything the config names.

A config is only data. `resolve` loads the tasks, works out the arms, and checks whatever can be
checked before anything is spent: questions, models, prices, encoders, selections. Every problem is
a `ConfigError` that names key, value and remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.diversity import encoders
from finetune.errors import SelectionRefused
from finetune.selection import check_selection
from providers import registry
from providers.errors import ProviderError
from providers.pricing import Prices
from providers.split import check_answer_server
from society.config.load import ConfigError, list_problems, load_config
from society.config.schema import Config
from society.method.arms import Arm, build_arms, is_tuned
from society.method.connections import Connections
from society.method.progress import ProgressReporter
from society.method.questions import Questions
from store.ledger import Store
from store.records import AgentRole


@dataclass(frozen=True, slots=True)
class Experiment:
    """A config with its arms, in the file's order, and its questions."""

    config: Config
    arms: tuple[Arm, ...]
    questions: Questions


@dataclass(frozen=True, slots=True)
class RunContext:
    """An experiment that is being carried out: what every stage of the loop needs."""

    name: str
    experiment: Experiment
    store: Store
    connections: Connections
    progress: ProgressReporter

    @property
    def config(self) -> Config:
        return self.experiment.config

    def name_stage(self, arm: str, text: str) -> str:
        """The name of a stage, which begins with the arm's if the run has several arms."""
        return text if len(self.experiment.arms) == 1 else f"{arm} {text}"

    def name_model(self, arm: str, agent: int, role: AgentRole) -> str:
        """A model in messages: its agent and role, and the arm if the run has several."""
        model = f"agent {agent}, {role}" if agent else f"the shared {role}"
        return self.prefix(arm) + model

    def prefix(self, arm: str) -> str:
        """What begins a message about an arm: its name, if the run has several."""
        return "" if len(self.experiment.arms) == 1 else f"{arm}: "


def load_experiment(source: str, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file (see `load_config`) and resolve it.

    >>> load_experiment("demo").questions.task.name
    'arithmetic'
    """
    return resolve(load_config(source, overrides), source)


def resolve(config: Config, origin: str = "the experiment") -> Experiment:
    """The experiment of a config, checked in full; `origin` names the config in messages.

    Reads the questions, of which some may be downloaded, and contacts no model. Raises
    `ConfigError`.
    """
    try:
        # From cheap to dear, so that a wrong key is named before a data set is downloaded.
        _check_sections(config)
        experiment = assemble(config)
        _check_experiment(experiment)
    except ValueError as error:
        raise ConfigError(list_problems(origin, [str(error)])) from error
    return experiment


def assemble(config: Config) -> Experiment:
    """The experiment of a config, of which only tasks and arms are checked, and no question read.

    Raises ValueError for a task or an arm that cannot be.
    """
    return Experiment(config, build_arms(config), Questions(config))


def _check_sections(config: Config) -> None:
    """Raise ValueError where two settings contradict each other."""
    society, diversity = config.society, config.diversity
    if society.agents == 1 and society.rounds > 1:
        raise ValueError(
            "society.agents = 1 cannot debate, which takes two; set society.rounds = 1"
        )
    if society.models is not None and len(society.models) != society.agents:
        raise ValueError(
            f"society.models names {len(society.models)} models for {society.agents} agents; "
            "name one for each, also the same more than once"
        )
    if society.personas is not None and len(society.personas) != society.agents:
        raise ValueError(
            f"society.personas names {len(society.personas)} personas for {society.agents} agents; "
            "give one for each, also the same more than once"
        )
    if config.sampling.agents and len(config.sampling.agents) != society.agents:
        raise ValueError(
            f"sampling.agents has {len(config.sampling.agents)} entries for {society.agents} "
            "agents; give one for each, {} for an agent without settings of its own"
        )
    for section in config.sampling.by_agent or (config.sampling,):
        if section.temperature == 0 and (section.top_k or section.min_p):
            raise ValueError(
                "sampling.top_k and sampling.min_p choose among sampled tokens, and "
                "sampling.temperature = 0 samples none; remove them, or raise the temperature"
            )
    # A misspelled address would leave its model with default settings, and nothing would show it.
    if unused := sorted(config.providers.keys() - set(config.addresses)):
        raise ValueError(
            f"providers.{unused[0]!r} is the address of no model of this experiment; the models "
            f"are {', '.join(config.addresses)}"
        )
    unanswered = set(diversity.decodings) - set(config.evaluation.decodings)
    if diversity.measures and unanswered:
        raise ValueError(
            f"diversity.decodings names {min(unanswered)!r}, which evaluation.decodings does not; "
            "add it there, or remove it from diversity.decodings"
        )


def _check_experiment(experiment: Experiment) -> None:
    experiment.questions.check_available()
    _check_selections(experiment)
    _check_arms(experiment)
    _check_models(experiment.config)


def _check_selections(experiment: Experiment) -> None:
    section = experiment.config.datasets
    if section.critic and not any("critic" in arm.tuned for arm in experiment.arms):
        raise ValueError("datasets.critic chooses rows, and no critic is trained; remove it")
    for role, selection in section.selections.items():
        try:
            check_selection(selection, role)
        except SelectionRefused as error:
            key = "generation" if role == "generator" else "critic"
            raise ValueError(f"datasets.{key}: {error}") from error


def _check_arms(experiment: Experiment) -> None:
    """Raise ValueError for an arm that could never get a label, or an answer."""
    config = experiment.config
    quorum = config.consensus.quorum or 1
    for arm in experiment.arms:
        if arm.labels not in (None, "gold") and quorum > arm.train_agents:
            raise ValueError(
                f"consensus.quorum = {quorum} leaves the arm {arm.name!r} without any label: "
                f"{arm.train_agents} agent(s) answer its training questions; set "
                f"{arm.train_agents} or less, or leave it out for more than half of the agents"
            )
    for arm in experiment.arms:
        if not arm.decodings(config.evaluation.decodings):
            raise ValueError(
                f"the arm {arm.name!r} is a vote over samples, and evaluation.decodings = "
                f"{list(config.evaluation.decodings)} draws none: many greedy answers of one "
                'model are one answer; add "sampled" there, or leave the arm out'
            )
    learns_from_gold = any(arm.labels == "gold" for arm in experiment.arms)
    if learns_from_gold and config.iterations:
        # One question with gold is enough: the others teach nothing, as in STaR.
        asked = experiment.questions.training_questions(1)
        if all(question.gold is None for question in asked):
            raise ValueError(
                f"the arm star learns from gold answers, and the training questions of "
                f"{config.task.name!r} have none; remove it from arms"
            )


def _check_models(config: Config) -> None:
    """Raise ValueError for a model, a price, an encoder or a server that cannot be used."""
    prices = Prices(config.prices)
    try:
        for address in config.addresses:
            registry.check(address, config.settings_of(address))
            if config.budget_usd is not None:
                prices.require(address, finetune=is_tuned(config, address))
        # A server answers for `model` in its place, so its own calls cannot go out in batches.
        batching = [a for a in config.addresses if config.serving is None or a != config.model]
        if config.evaluation.batch and not any(registry.info(a).batches for a in batching):
            raise ValueError(
                f"evaluation.batch = true, and none of {', '.join(config.addresses)} has "
                "batches; remove it"
            )
        if "embedding" in config.diversity.measures:
            encoders.check_encoder(config.diversity.encoder)
        if config.serving is not None:
            check_answer_server(
                config.serving.answer_server(),
                config.finetune.hyperparameters("generator"),
                config.settings_of(config.model),
            )
    except encoders.EncoderUnavailable as error:
        raise ValueError(f"diversity.encoder: {error}") from error
    except ProviderError as error:
        raise ValueError(str(error)) from error
    if unused := prices.find_unused(config.addresses):
        raise ValueError(
            f"prices.{unused[0]!r} is neither name nor address of a model of this experiment; the "
            f"models are {', '.join(config.addresses)}"
        )
