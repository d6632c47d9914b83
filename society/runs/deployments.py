"""The deployments of a run's tuned models: told at its end, deleted by `society cancel`.

Some vendors answer for a tuned model only while it is deployed, and some bill that by the hour.
`Provider.load_adapters` deploys; nothing about it is stored, since the vendor is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from providers import registry
from providers.base import Deployment, Provider
from providers.errors import ProviderError
from providers.pricing import Prices
from providers.types import ModelRef
from society.config.schema import Config
from society.method.connections import Connections
from store.ledger import Store


def list_addresses(config: Config, store: Store) -> list[str]:
    """The addresses whose vendors may have deployments of the run's tuned models."""
    tuned = {model.provider for model in store.models() if model.artifact is not None}
    return [a for a in config.addresses if a in tuned and registry.info(a).deployments]


async def delete_deployments(provider: Provider, store: Store) -> str:
    """Delete the deployments of the run's models at one vendor; return what became of them."""
    found = await provider.list_deployments(_list_tuned(store, provider.base.address))
    for deployment in found:
        await provider.delete_deployment(deployment)
    return f"{len(found)} deployment(s) deleted; the models stay, and are deployed again when asked"


async def describe_standing(
    name: str, connections: Connections, store: Store, prices: Prices
) -> str | None:
    """What the run leaves deployed, what it costs and how it is deleted; None if nothing is left.

    Example: `await describe_standing("demo", connections, store, Prices(config.prices))`.
    """
    standing: list[Deployment] = []
    for address, provider in connections.items():
        models = _list_tuned(store, address)
        if not provider.capabilities.deployments or not models:
            continue
        try:
            for each in await provider.list_deployments(models):
                usd = prices.find_hourly(address, each.usd_per_hour)
                standing.append(replace(each, usd_per_hour=usd))
        # The run is complete; what cannot be listed must not make it fail.
        except ProviderError as error:
            return (
                f"the deployments at {address} cannot be listed ({error}); look at the vendor, or "
                f"delete them with `society cancel {name}`"
            )
    if not standing:
        return None
    return (
        f"{len(standing)} tuned model(s) stay deployed, at {_format_price(standing)}; delete the "
        f"deployments with `society cancel {name}`, the models stay"
    )


def _format_price(deployments: Iterable[Deployment]) -> str:
    prices = [deployment.usd_per_hour for deployment in deployments]
    known = sum(price for price in prices if price is not None)
    if None in prices:
        return (
            f"an unknown price by the hour (known: {known:.2f} USD; tell it as "
            "deployment_usd_per_hour under [prices])"
        )
    return f"{known:.2f} USD an hour" if known else "no price by the hour (tokens are billed)"


def _list_tuned(store: Store, address: str) -> Sequence[ModelRef]:
    return [
        ModelRef(model.model_id, model.provider, model.artifact, model.sha256)
        for model in store.models()
        if model.provider == address and model.artifact is not None
    ]
