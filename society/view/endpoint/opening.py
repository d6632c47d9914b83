"""Opening a stored run for answers: its society, its connections, its prices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from evals import choices, stored_run, tasks
from evals.arm_kinds import DISTILLED
from providers.budget import Budget
from providers.budgeted import BudgetedProvider
from providers.pricing import Prices
from providers.types import Message, ModelRef, Request, Sampling
from providers.usage import NoCharges
from society.config.schema import Config
from society.costs.budget import is_free, load_prices, open_budget
from society.costs.charges import StoredCharges
from society.method.agents import Agent
from society.method.arms import Arm, main_arm
from society.method.connections import Connections
from society.method.debating import build_debate_rules
from society.method.experiment import require_prices
from society.method.finetuning import load_society
from society.runs.ask import find_iteration, require_free_server
from society.runs.folder import RunFolder
from society.view.endpoint.society import ServedRun
from store.ledger import Store
from store.records import Model

# Somebody waits for every answer, so a model that is down is given up soon, as by `society ask`.
_GIVE_UP_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class StoredSociety:
    """What is read of a run before it answers; its database is closed again.

    `distilled` names the models that were distilled of its societies.
    """

    folder: RunFolder
    config: Config
    arm: Arm
    run: ServedRun
    models: tuple[Model, ...]
    created: int
    distilled: tuple[str, ...] = ()


async def load_stored_society(folder: RunFolder, iteration: int | None) -> StoredSociety:
    """The society of an iteration, by default the run's own (`evals.choices.find_society`).

    Raises `NothingStored` for a database without a run, `ConfigError` for an iteration without a
    society or a server that a running run has, and the providers' errors.
    """
    with Store.open(folder.database, read_only=True) as store:
        stored = stored_run.load_run(store)
        config = Config.from_json(stored.config)
        require_free_server(folder, config, store)
        found = find_iteration(store, config, iteration)
        arm = main_arm(config)
        # Models are names here; the connections that answer are opened later.
        connections = Connections.open(config, folder.models)
        try:
            society = load_society(store, connections.start_society(arm.agents), found, arm.name)
            distilled = _load_distilled(store, connections)
        finally:
            await connections.close()
        extra = (Agent(1, model, model) for model in distilled.values())
        society = replace(society, agents=(*society.agents, *extra))
        # An untuned run that has only begun has stored none of them; tuned ones always are.
        models = (
            store.model(model.model_id) or Model(model.model_id, model.address)
            for model in society.models
        )
        return StoredSociety(
            folder,
            config,
            arm,
            ServedRun(
                folder.name,
                found,
                arm,
                society,
                tasks.load_task(config.task.name, config.task.options),
                build_debate_rules(config, arm, "sampled"),
            ),
            tuple(models),
            int((stored.finished_at or stored.created_at).timestamp()),
            tuple(distilled),
        )


def _load_distilled(store: Store, connections: Connections) -> dict[str, ModelRef]:
    """The model of every finished distillation, by the name of its arm."""
    base = connections.start_society(1)
    found: dict[str, ModelRef] = {}
    for arm in stored_run.read_arms(store):
        if arm.kind == DISTILLED.name:
            last = choices.find_society(store, arm.name)
            model = load_society(store, base, last, arm.name).model(1, "generator")
            if model.artifact is not None:
                found[arm.name] = model
    return found


def open_spending(
    stored: StoredSociety, record: Store | None, cap_usd: float | None
) -> tuple[Budget, Callable[[Connections], Connections]]:
    """The server's budget, and what puts connections under it.

    With a `record` of the debates, what earlier starts have spent counts, and so does every call
    that is lost. Raises `InvalidSettings` if there is a cap and a price is unknown.
    """
    config = stored.config.model_copy(update={"budget_usd": cap_usd})
    prices = Prices(config.prices) if record is None else load_prices(record, config)
    # A cap without prices could not be kept.
    require_prices(config, prices)
    # One budget for all connections that follow each other, or each would start from nothing.
    budget = Budget(cap_usd) if record is None else open_budget(record, config, prices)
    charges = NoCharges() if record is None else StoredCharges(record)

    def put_under(connections: Connections) -> Connections:
        budgeted = {
            address: BudgetedProvider(provider, prices, budget, charges=charges)
            for address, provider in connections.items()
        }
        return Connections(budgeted, config.agent_models, config.model)

    return budget, put_under


def make_opener(
    stored: StoredSociety,
    put_under: Callable[[Connections], Connections],
    tell: Callable[[str], None],
) -> Callable[[], Awaitable[Connections]]:
    """What opens connections with the society's adapters loaded, as often as it is called."""

    async def open_connections() -> Connections:
        plain = Connections.open(stored.config, stored.folder.models)
        connections = put_under(plain.with_deadline(_GIVE_UP_AFTER_S))
        connections.listen(tell)
        # Before the first question, which would have to wait for them.
        try:
            await connections.load_adapters(stored.run.society.tuned_models)
            if is_free(stored.config):
                await _warm_up(connections)
        except BaseException:
            await connections.close()
            raise
        return connections

    return open_connections


async def _warm_up(connections: Connections) -> None:
    """Let every base answer one token: weights are loaded, or a server is started, by then."""
    asked = (Message("user", "1+1"),)
    for provider in connections.values():
        request = Request(provider.base, asked, Sampling(max_tokens=1), "serve/warm-up")
        await provider.complete(request)
