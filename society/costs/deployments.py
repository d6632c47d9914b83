"""What tuned models cost by the hour while they are deployed, before a run is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from providers import registry
from providers.pricing import Prices
from society.config.schema import Config
from society.method.arms import Arm
from society.method.finetuning import list_tuned_models


@dataclass(frozen=True, slots=True)
class DeploymentFee:
    """At most `count` models tuned from that at `model` (an address) are deployed when a run ends.
    Each costs `usd_per_hour`, asked or not; None if that is unknown."""

    model: str
    count: int
    usd_per_hour: float | None

    def __str__(self) -> str:
        each = f"Deployments: {self.count} model(s) tuned from {self.model} will stay deployed"
        if self.usd_per_hour is None:
            return (
                f"{each} at an unknown price by the hour; write it as deployment_usd_per_hour "
                f'under [prices."{self.model}"].'
            )
        together = self.count * self.usd_per_hour
        return (
            f"{each} at {self.usd_per_hour:.2f} USD an hour each, {together:.2f} USD together, "
            "until `society cancel RUN` deletes them. Neither the total nor budget_usd contains "
            "it, since the hours are not known."
        )


def list_fees(config: Config, arms: Sequence[Arm]) -> tuple[DeploymentFee, ...]:
    """The fee of every base model whose tuned models have one, or have one that is unknown.

    list_fees(experiment.config, experiment.arms)
    """
    prices, fees = Prices(config.prices), []
    for address, count in count_tuned_models(config, arms).items():
        known = registry.price_deployment(address, config.settings_of(address))
        usd = prices.find_hourly(address, known)
        # Zero needs no words; what is unknown does, or it would be taken for zero.
        if usd is None or usd:
            fees.append(DeploymentFee(address, count, usd))
    return tuple(fees)


def count_tuned_models(config: Config, arms: Sequence[Arm]) -> Counter[str]:
    """How many models a run tunes at most, by the address of their base."""
    counts: Counter[str] = Counter()
    for iteration in range(1, config.iterations + 1):
        for arm in arms:
            if arm.trained_in(iteration):
                counts.update(config.base_address(agent) for agent, _ in list_tuned_models(arm))
    return counts
