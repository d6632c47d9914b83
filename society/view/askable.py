"""Whether a run's society can be asked, and what it would answer as; nothing of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from evals import choices, stored_run
from providers import registry
from providers.errors import ProviderError
from society.config.schema import Config
from society.costs.budget import is_free
from society.method.arms import main_arm
from society.method.finetuning import read_tuned_models
from society.runs.folder import RunFolder
from society.runs.tuned_models import is_local
from society.view.endpoint.forms import list_forms
from store.ledger import Store


@dataclass(frozen=True, slots=True)
class AskableRun:
    """The society that answers, in words, and the names of the `forms` that it answers in.

    `obstacle` says why it cannot be asked, and what helps; None if it can. `paid`: whether a
    question costs money.
    """

    society: str
    forms: tuple[str, ...]
    paid: bool
    obstacle: str | None = None


def read_askable(folder: RunFolder, budget_usd: float | None) -> AskableRun:
    """What can be said of a run before its models are loaded.

    Raises `NothingStored` for a database without a run, and the store's errors.
    """
    with Store.open(folder.database, read_only=True) as store:
        text = stored_run.load_run(store).config
        try:
            config = Config.from_json(text)
        except ValidationError as error:
            return AskableRun("", (), False, f"this version cannot read its settings: {error}")
        arm = main_arm(config)
        iteration = choices.find_society(store, arm.name)
        tuned = {model.model_id for model in read_tuned_models(store, iteration, arm.name).values()}
        models = [model for model in store.models() if model.model_id in tuned]
    # A price that is unknown counts as one.
    paid = not is_free(config)
    missing = [
        str(folder.models / str(model.artifact))
        for model in models
        if is_local(model) and not (folder.models / str(model.artifact)).is_dir()
    ]
    obstacle = None
    if missing:
        obstacle = (
            f"{len(missing)} of its tuned models are not there, such as {missing[0]}; bring them "
            "back, or train them again with society run --retrain"
        )
    elif paid and budget_usd is None:
        obstacle = (
            "its models cost money; say how much questions to it may cost, in USD: "
            "society view --ask-budget 1"
        )
    else:
        obstacle = _find_fault(config)
    society = choices.name_society(iteration)
    return AskableRun(society, tuple(list_forms(arm)), paid, obstacle)


def title_form(name: str) -> str:
    """A form of answering in words.

    >>> title_form("society:agent-2")
    'agent 2 alone'
    """
    _, _, kind = name.partition(":")
    titles = {
        "": "the whole debate",
        "fast": "a debate until all agree",
        "round1": "a vote without a debate",
    }
    return titles.get(kind) or f"{kind.replace('agent-', 'agent ')} alone"


def _find_fault(config: Config) -> str | None:
    for address in config.addresses:
        try:
            registry.check(address, config.settings_of(address))
        except ProviderError as error:
            return str(error)
    return None
