"""What a running experiment pays: its prices, what it has spent so far, and the cap it keeps to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from providers import pricing
from providers.budget import RAISE_IN_FILE, Budget
from providers.budgeted import BudgetedProvider, most_trained_tokens
from providers.pricing import Prices
from providers.types import FinetuneSpec
from providers.usage import TOKENS_PER_MESSAGE, TOKENS_PER_PROMPT
from society.config.schema import Config
from society.costs.charges import StoredCharges
from society.method.arms import is_tuned
from society.method.connections import Connections
from society.method.experiment import require_prices
from store.errors import StoreError
from store.ledger import Store
from store.records import AgentRole
from store.spending import Price

_SPENT = "SELECT coalesce(sum(usd), 0) FROM spend"

_PAID_JOBS = "SELECT job_id FROM jobs WHERE trained_tokens IS NOT NULL"

# The most tokens that one epoch of a dataset is billed for. The vendor has counted most texts
# already, as prompts and answers; training may count them a little differently, hence 1.25. A text
# without a count has at most one token per byte, and the JSON around its messages is longer than
# what a chat template adds. A pair is two answers to the prompt of one of them.
_ONCE = """
WITH trained AS (
    SELECT dataset_id, position, unnest(if(
        rejected_turn_id IS NULL, [turn_id], [turn_id, rejected_turn_id])) AS turn_id
    FROM dataset_examples
    WHERE dataset_id IN (SELECT unnest($datasets::VARCHAR[]))
)

SELECT dataset_id, sum(tokens)::BIGINT AS tokens
FROM (
    SELECT dataset_id, if(min(prompt_tokens) > 0,
        ceil(1.25 * (count(*) * max(prompt_tokens) + sum(completion_tokens))) + count(*) * $few,
        count(*) * max(strlen(messages)) + sum(strlen(response)) + count(*) * $many) AS tokens
    FROM trained
    JOIN turns USING (turn_id)
    GROUP BY dataset_id, position
)
GROUP BY dataset_id
"""

# Jobs that may exist and whose trained tokens are unknown. A job that failed or was cancelled
# before its first step has trained on nothing, so it costs nothing.
_OPEN_JOBS = """
SELECT job_id, arm, role, settings, dataset_id
FROM jobs
WHERE trained_tokens IS NULL
    AND (
        status IN ('intent', 'submitted', 'running', 'succeeded')
        OR status IN ('failed', 'cancelled') AND job_id IN (SELECT job_id FROM training_points)
    )
"""


def budget_connections(
    connections: Connections,
    config: Config,
    store: Store,
    *,
    in_passing: bool = False,
    remedy: str = RAISE_IN_FILE,
) -> Connections:
    """The same connections under one budget: `config.budget_usd`, less what the run has spent.

    Stores the prices that the run pays, and every charge that does not become a turn; with
    `in_passing`, every charge. The providers of the result are `BudgetedProvider`s that share one
    `budget`; `remedy` says how the user raises its cap. Raises `InvalidSettings` if there is a cap
    and a price is unknown.
    """
    # A cap without prices could not be kept, so such a run is refused before its first call.
    prices = load_prices(store, config)
    require_prices(config, prices)
    budget = open_budget(store, config, prices, remedy)
    charges = StoredCharges(store, in_passing=in_passing)

    def job_tokens(spec: FinetuneSpec) -> int:
        name = spec.metadata.get("dataset", "")
        once = _count_tokens(store, [name]).get(name)
        if once is None:
            return most_trained_tokens(spec)
        return once * spec.hyperparameters.epochs

    providers = {
        address: BudgetedProvider(provider, prices, budget, job_tokens, charges=charges)
        for address, provider in connections.items()
    }
    evaluating = {
        address: BudgetedProvider(
            provider, prices, budget, job_tokens, batched=True, charges=charges
        )
        for address, provider in connections.evaluating.items()
        if address in connections.batch_addresses
    }
    return Connections(providers, config.agent_models, config.model, {**providers, **evaluating})


def format_spent(connections: Connections) -> str:
    """What the run has spent, for its progress display; empty if nothing costs anything."""
    for provider in connections.values():
        if isinstance(provider, BudgetedProvider):
            budget = provider.budget
            if budget.cap_usd is not None:
                return f"${budget.spent_usd:.2f} of ${budget.cap_usd:.2f}"
            return f"${budget.spent_usd:.2f}" if budget.spent_usd > 0 else ""
    return ""


def is_free(config: Config) -> bool:
    """Whether all of the experiment's models, also the tuned ones, are known to be free."""
    prices = Prices(config.prices)
    found = [
        prices.at(address, tuned=tuned)
        for address in config.addresses
        for tuned in ((False, True) if is_tuned(config, address) else (False,))
    ]
    return all(price is not None and price.is_free for price in found)


def load_prices(store: Store, config: Config) -> Prices:
    """The run's prices; they are stored too, for the view `spend`.

    A price stays as it was when the run was started, even if the packaged table has changed since.
    Prices in the experiment file come first.
    """
    prices = Prices(config.prices)
    stored = {
        (provider, tuned): Price(provider, tuned, prompt, answer, source, *rest)
        for provider, tuned, prompt, answer, source, *rest in store.rows(
            "SELECT provider, tuned, input_usd, output_usd, source, cached_input_usd, "
            "training_usd, batch_factor, read_on FROM prices"
        )
    }
    kept: list[pricing.TokenPrice] = []
    for address in config.addresses:
        # Prices of tuned models are separate rows, since vendors charge more for them.
        for tuned in (False, True):
            earlier = stored.get((address, tuned))
            found = prices.at(address, tuned=tuned)
            if earlier is not None and (found is None or _still_holds(earlier, prices)):
                kept.append(_to_price(earlier))
            elif found is not None:
                kept.append(found)
    store.write(*(_to_row(price) for price in kept))
    return Prices(config.prices, kept)


def open_budget(
    store: Store, config: Config, prices: Prices, remedy: str = RAISE_IN_FILE
) -> Budget:
    """The budget of a started or resumed run, less what the store knows to be spent.

    A job that may still cost something counts with the most it can cost, and so do calls that were
    in flight when an earlier process ended.
    """
    # Calls in flight when an earlier process ended: the vendor may have billed them.
    store.mark_charges_lost()
    [(spent,)] = store.rows(_SPENT)
    paid = [name for (name,) in store.rows(_PAID_JOBS)]
    unknown = store.rows(_OPEN_JOBS)
    once = _count_tokens(store, [dataset for *_, dataset in unknown])
    rate = _find_dearest_training(prices, config.addresses) / 1e6
    jobs = {
        name: once.get(dataset, 0) * _count_epochs(config, arm, role, settings) * rate
        for name, arm, role, settings, dataset in unknown
    }
    return Budget(config.budget_usd, float(spent), jobs, paid, remedy=remedy)


def _count_epochs(config: Config, arm: str, role: AgentRole, settings: str | None) -> int:
    # A distillation's job may have other epochs than the run, which does not know its arm.
    if settings is not None:
        return int(json.loads(settings)["hyperparameters"]["epochs"])
    return config.for_arm(arm).finetune.hyperparameters(role).epochs


def _count_tokens(store: Store, datasets: Sequence[str]) -> dict[str, int]:
    bounds = {"few": 2 * TOKENS_PER_MESSAGE, "many": TOKENS_PER_PROMPT}
    return dict(store.rows(_ONCE, {"datasets": list(datasets), **bounds}))


def _find_dearest_training(prices: Prices, addresses: Iterable[str]) -> float:
    # A job without a model does not record its address, so assume the most expensive one.
    found = (prices.at(address, tuned=False) for address in addresses)
    return max((price.training_usd or 0.0 for price in found if price), default=0.0)


def _still_holds(earlier: Price, prices: Prices) -> bool:
    return not prices.is_overridden(earlier.provider) and not earlier.source.startswith(pricing.OWN)


def _to_price(row: Price) -> pricing.TokenPrice:
    return pricing.TokenPrice(
        model=row.provider,
        tuned=row.tuned,
        input_usd=row.input_usd,
        output_usd=row.output_usd,
        cached_input_usd=row.cached_input_usd,
        training_usd=row.training_usd,
        batch_factor=row.batch_factor,
        read_on=row.read_on,
        source=row.source,
    )


def _to_row(price: pricing.TokenPrice) -> Price:
    return Price(
        provider=price.model,
        tuned=price.tuned,
        input_usd=price.input_usd,
        output_usd=price.output_usd,
        source=price.source,
        cached_input_usd=price.cached_input_usd,
        training_usd=price.training_usd,
        batch_factor=price.batch_factor,
        read_on=price.read_on,
    )


_SPENDING = """
SELECT coalesce(sum(usd), 0), coalesce(sum(calls + failed) FILTER (WHERE usd IS NULL), 0)::BIGINT,
    coalesce(sum(failed), 0)::BIGINT, coalesce(sum(estimated), 0)::BIGINT
FROM spend
"""


@dataclass(frozen=True, slots=True)
class Spending:
    """USD spent, as far as prices are known, and how much of it is not known exactly.

    `unknown` counts calls and jobs without a price, `failed` attempts without an answer, and
    `estimated` calls whose token counts the provider did not report.
    """

    usd: float
    unknown: int
    failed: int
    estimated: int
    cap_usd: float | None

    def __str__(self) -> str:
        """One sentence; empty if nothing costs anything."""
        if not self.usd and not self.unknown:
            return ""
        least = "at least " if self.unknown else ""
        cap = "" if self.cap_usd is None else f" of budget_usd = {self.cap_usd:g}"
        parts = [f"spent so far: {least}{round_usd(self.usd):f} USD{cap}"]
        if self.unknown:
            parts.append(f"{self.unknown} call(s) have no known price or cost")
        if self.failed:
            parts.append(f"{self.failed} attempt(s) failed or were lost")
        if self.estimated:
            parts.append(f"{self.estimated} call(s) count with the most tokens they can have")
        return "; ".join(parts)


def read_spending(store: Store) -> Spending:
    """What a run has spent, from its store."""
    [(usd, unknown, failed, estimated)] = store.rows(_SPENDING)
    found = store.rows("SELECT config FROM runs")
    cap = json.loads(found[0][0]).get("budget_usd") if found else None
    return Spending(usd, unknown, failed, estimated, cap)


def describe_spending(database: Path) -> str:
    """What a run has spent, as a sentence; empty if nothing, or if the file cannot be read."""
    try:
        with Store.open(database, read_only=True) as store:
            return str(read_spending(store))
    except StoreError:
        return ""


def round_usd(usd: float) -> Decimal:
    """Rounded to cents, or to three significant digits below one dollar."""
    if usd >= 1 or not usd:
        return Decimal(f"{usd:.2f}")
    return Decimal(f"{usd:.3g}")
