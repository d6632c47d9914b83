"""An experiment that can be carried out: its config, with everything the config names.

A config is only data. `resolve` loads the tasks, works out the arms, and checks whatever can be
checked before anything is spent: questions, models, prices, encoders, selections. Every problem is
a `ConfigError` that names key, value and remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from evals.diversity import encoders
from evals.stored_run import choose_main_arm
from finetune.errors import SelectionRefused
from finetune.selection import check_selection
from providers import registry
from providers.answer_server import check_answer_servers, check_served_recipe
from providers.cluster.settings import check_cluster_settings
from providers.errors import InvalidSettings, ProviderError
from providers.pricing import Prices
from providers.serving.planning import check_managed
from society.config.load import ConfigError, list_problems, load_config
from society.config.sampling import SamplingSection
from society.config.schema import Config
from society.method.arms import Arm, build_arms, is_tuned
from society.method.connections import Connections, plan_cluster, plan_serving
from society.method.model_defaults import find_model_defaults
from society.method.progress import ProgressReporter
from society.method.questions import Questions
from store.ledger import Store
from store.records import AgentRole


@dataclass(frozen=True, slots=True)
class Experiment:
    """A config with its arms, in the file's order, and its questions.

    `model_defaults` are the keys of [sampling] that the config has from the model itself.
    """

    config: Config
    arms: tuple[Arm, ...]
    questions: Questions
    model_defaults: Mapping[str, float] = field(default_factory=dict)


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


def load_experiment(
    source: str, overrides: Sequence[str] = (), *, priced: bool = True
) -> Experiment:
    """Read an experiment file (see `load_config`) and resolve it.

    >>> load_experiment("demo").questions.task.name
    'arithmetic'
    """
    return resolve(load_config(source, overrides), source, priced=priced)


def resolve(config: Config, origin: str = "the experiment", *, priced: bool = True) -> Experiment:
    """The experiment of a config, checked in full; `origin` names the config in messages.

    With `priced`, a budget asks for prices that are known; one who only reckons does without.
    Reads the questions, of which some may be downloaded, and contacts no model. Raises
    `ConfigError`.
    """
    try:
        # From cheap to dear, so that a wrong key is named before a data set is downloaded.
        _check_sections(config)
        taken = find_model_defaults(config)
        sampling = config.sampling.model_copy(update=taken)
        _check_sampling(sampling)
        experiment = replace(
            assemble(config.model_copy(update={"sampling": sampling})), model_defaults=taken
        )
        _check_experiment(experiment)
        if priced:
            require_prices(config, Prices(config.prices))
    except (ValueError, InvalidSettings) as error:
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
    # A misspelled address would leave its model with default settings, and nothing would show it.
    # A scheme may be unused: its table waits for another model of the same experiment.
    if unused := sorted(config.providers.keys() - {*config.addresses, *registry.schemes()}):
        raise ValueError(
            f"providers.{unused[0]!r} is the address of no model of this experiment; the models "
            f"are {', '.join(config.addresses)}, the schemes {', '.join(registry.schemes())}"
        )
    unanswered = set(diversity.decodings) - set(config.evaluation.decodings)
    if diversity.measures and unanswered:
        raise ValueError(
            f"diversity.decodings names {min(unanswered)!r}, which evaluation.decodings does not; "
            "add it there, or remove it from diversity.decodings"
        )


def _check_sampling(sampling: SamplingSection) -> None:
    for section in sampling.by_agent or (sampling,):
        if section.temperature == 0 and (section.top_k or section.min_p):
            raise ValueError(
                "sampling.top_k and sampling.min_p choose among sampled tokens, and "
                "sampling.temperature = 0 samples none; remove them, raise the temperature, or set "
                "top_k = 0 and min_p = 0 for such an agent"
            )


def _check_experiment(experiment: Experiment) -> None:
    _check_mastery(experiment.config, experiment.arms)
    experiment.questions.check_available()
    _check_selections(experiment)
    _check_arms(experiment)
    _check_stop(experiment)
    _check_preferences(experiment)
    _check_models(experiment.config)


def _check_selections(experiment: Experiment) -> None:
    config = experiment.config
    if config.datasets.critic and not any("critic" in arm.tuned for arm in experiment.arms):
        raise ValueError("datasets.critic chooses rows, and no critic is trained; remove it")
    sections = [each.datasets for each in (config, *config.by_arm)]
    chosen = [item for section in sections for item in section.selections.items()]
    for role, selection in dict.fromkeys(chosen):
        try:
            check_selection(selection, role)
        except SelectionRefused as error:
            key = "generation" if role == "generator" else "critic"
            raise ValueError(f"datasets.{key}: {error}") from error


def _check_early_ends(experiment: Experiment) -> None:
    """Raise ValueError where debates may end early and none has a second round."""
    idle = [
        arm
        for arm in experiment.arms
        if not (arm.ends_early("eval") or (arm.trained and arm.ends_early("train")))
    ]
    own = [arm for arm in idle if arm.own.get("society", {}).get("early_end")]
    early_end = own[0].early_end if own else experiment.config.society.early_end
    if own or (early_end and len(idle) == len(experiment.arms)):
        where = f"arm {own[0].name!r}: " if own else ""
        raise ValueError(
            # TOML's true is not Python's.
            f"{where}society.early_end = {'true' if early_end is True else repr(early_end)} leaves "
            f"out later rounds, and {'it' if own else 'no arm'} holds none there; leave it out, or "
            "set rounds = 2"
        )


def _check_skipped_rounds(experiment: Experiment) -> None:
    """Raise ValueError where no label can come from round 1 in place of the last, or nothing can
    show that it should."""
    able = [arm for arm in experiment.arms if arm.may_skip_rounds]
    idle = [
        a for a in experiment.arms if a.own.get("society", {}).get("skip_rounds") and a not in able
    ]
    if idle or (experiment.config.society.skip_rounds and not able):
        where = f"arm {idle[0].name!r}: " if idle else ""
        raise ValueError(
            f"{where}society.skip_rounds chooses between the votes of the first and the last round "
            f"as labels, and {'it' if idle else 'no arm'} learns from the last of several rounds; "
            "leave it out"
        )
    for arm in able:
        if arm.ends_early("train"):
            raise ValueError(
                f"arm {arm.name!r}: society.skip_rounds sees harm where agents that agreed part "
                "again, and with society.early_end they cannot; leave one of them out, or set "
                'early_end = "eval"'
            )


def _check_arms(experiment: Experiment) -> None:
    """Raise ValueError for an arm that could never get a label, or an answer."""
    config = experiment.config
    _check_early_ends(experiment)
    _check_skipped_rounds(experiment)
    for arm in experiment.arms:
        quorum = config.for_arm(arm.name).consensus.quorum or 1
        voters = arm.train_agents * arm.label_samples
        if arm.labels not in (None, "gold") and quorum > voters:
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


def _check_preferences(experiment: Experiment) -> None:
    """Raise ValueError for an arm that learns from preferences and could find none."""
    for arm in (arm for arm in experiment.arms if arm.trained):
        own = experiment.config.for_arm(arm.name)
        objective, datasets = own.finetune.objective, own.datasets
        if objective == "sft":
            continue
        said = f"the arm {arm.name!r} has finetune.objective = {objective!r}, and"
        if arm.rounds == 1 and objective in ("dpo", "ipo"):
            raise ValueError(
                f"{said} one round: a pair is made of an agent's first and last answers; take an "
                "arm with two rounds or more, or objective = 'kto'"
            )
        if datasets.critic_loss == "all":
            raise ValueError(
                f'{said} datasets.critic_loss = "all": a preference is about the last answer; set '
                'critic_loss = "final", for this arm alone by datasets = {critic_loss = "final"}'
            )
        if datasets.critic_first_answers:
            raise ValueError(
                f"{said} datasets.critic_first_answers = true: those are answers, not preferences; "
                "set it to false, for this arm alone by datasets = {critic_first_answers = false}"
            )
        if datasets.selections:
            raise ValueError(
                f"{said} rows of its own for the {min(datasets.selections)}: such a selection "
                "chooses answers, not preferences; name the file in the arms with objective = 'sft'"
            )


def _check_mastery(config: Config, arms: Sequence[Arm]) -> None:
    """Raise ValueError where `task.mastery` has nothing to decide, or nothing to decide by."""
    mastery, stages = config.task.mastery, len(config.task.curriculum)
    if mastery is None:
        return
    if stages < 2:
        raise ValueError(
            f"task.mastery = {mastery} says when the next stage of task.curriculum comes, and it "
            f"has {stages}; give it at least two, or remove task.mastery"
        )
    arm = choose_main_arm(arms)
    if not config.iterations:
        return
    if not arm.trained:
        raise ValueError(
            f"task.mastery = {mastery} takes the votes of a trained arm, and there is none; add "
            "one to arms, or remove task.mastery"
        )
    if arm.train_agents < 2:
        raise ValueError(
            f"task.mastery = {mastery} compares the answers of several agents, and the arm "
            f"{arm.name!r}, whose votes decide, has one answer to each training question; add "
            "another trained arm, or remove task.mastery"
        )


def _check_stop(experiment: Experiment) -> None:
    """Raise ValueError where `stop` asks for signs that the experiment cannot give."""
    config = experiment.config
    if config.stop == "never":
        return
    trained = [arm for arm in experiment.arms if arm.trained]
    if not trained:
        raise ValueError(
            'stop = "labels" chooses among the societies of an arm, and nothing is trained; set '
            "iterations = 1 or more and a trained arm, or remove stop"
        )
    if "sampled" not in config.evaluation.decodings or config.sampling.temperature == 0:
        raise ValueError(
            'stop = "labels" judges a society by what its first agents said, and greedy answers '
            'of one model are all the same; add "sampled" to evaluation.decodings and set '
            "sampling.temperature above 0, or remove stop"
        )
    for arm in trained:
        if arm.agents == 1:
            raise ValueError(
                f'stop = "labels" judges each agent by the vote of the others, and the arm '
                f"{arm.name!r} has one agent; give it two or more, or remove stop"
            )


def require_prices(config: Config, prices: Prices) -> None:
    """Raise `InvalidSettings` if there is a cap and a price is unknown."""
    if config.budget_usd is not None:
        for address in config.addresses:
            prices.require(address, finetune=is_tuned(config, address))


def _check_models(config: Config) -> None:
    """Raise ValueError for a model, an encoder or a server that cannot be used."""
    try:
        for address in config.addresses:
            registry.check(address, config.settings_of(address))
        # A server answers for `model` in its place, so its own calls cannot go out in batches.
        batching = [a for a in config.addresses if config.serving is None or a != config.model]
        if config.evaluation.batch and not any(registry.info(a).batches for a in batching):
            raise ValueError(
                f"evaluation.batch = true, and none of {', '.join(config.addresses)} has "
                "batches; remove it"
            )
        if "embedding" in config.diversity.measures:
            encoders.check_encoder(config.diversity.encoder)
        _check_serving(config)
        _check_cluster(config)
    except encoders.EncoderUnavailable as error:
        raise ValueError(f"diversity.encoder: {error}") from error
    except ProviderError as error:
        raise ValueError(str(error)) from error
    if unused := Prices(config.prices).find_unused(config.addresses):
        raise ValueError(
            f"prices.{unused[0]!r} is neither name nor address of a model of this experiment; the "
            f"models are {', '.join(config.addresses)}"
        )


def _check_cluster(config: Config) -> None:
    """Raise `InvalidSettings` for a cluster that could not train any model."""
    if (cluster := plan_cluster(config)) is None:
        return
    check_cluster_settings(cluster)
    if not any(map(registry.trains_on_clusters, config.addresses)):
        raise InvalidSettings(
            f"[cluster] trains models of this machine on others, and {', '.join(config.addresses)} "
            "is trained elsewhere; remove [cluster], or set model = 'local:…'"
        )


def _check_serving(config: Config) -> None:
    """Raise `InvalidSettings` for a server that could not answer for `model`."""
    if config.serving is None:
        return
    trainer, managed = config.settings_of(config.model), plan_serving(config)
    for recipe in (each.finetune.hyperparameters("generator") for each in config.by_arm):
        if managed is not None:
            check_served_recipe(recipe)
        else:
            check_answer_servers(config.serving.list_servers(), recipe, trainer)
    if managed is not None:
        check_managed(managed, config.model, trainer)
