"""What a vendor charges for keeping tuned models, before a run is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from providers.pricing import Prices
from society.config.schema import Config
from society.costs.deployments import count_tuned_models
from society.method.arms import Arm


@dataclass(frozen=True, slots=True)
class StorageFee:
    """At most `count` models tuned from that at `model` (an address) are kept by the vendor, each
    with a state that can be trained on, at `usd_gb_month` USD per gigabyte and month."""

    model: str
    count: int
    usd_gb_month: float

    def __str__(self) -> str:
        return (
            f"Storage: {self.count} model(s) tuned from {self.model}, and their states, are kept "
            f"at {self.usd_gb_month:.2f} USD per GB and month until you delete them. Neither the "
            "total nor budget_usd contains it, since their size is not known."
        )


def list_storage_fees(config: Config, arms: Sequence[Arm]) -> tuple[StorageFee, ...]:
    """The fee of every base model whose tuned models have one.

    list_storage_fees(experiment.config, experiment.arms)
    """
    return tuple(
        StorageFee(address, count, usd)
        for address, count in count_tuned_models(config, arms).items()
        if (usd := Prices.find_storage(address))
    )
