"""What a token costs: the packaged table, the user's overrides, and nothing for local models.

Prices are USD per million tokens. A model without an entry has an unknown price: `Prices.of` gives
None, which is never taken for zero. `prices.toml` says where and when each figure was read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from providers import registry
from providers.base import PricedModel
from providers.errors import InvalidSettings
from providers.types import ModelRef

OWN = "the experiment file"
"""The `source` of a price from the experiment file begins with this."""

Usd = Annotated[float, Field(ge=0.0, allow_inf_nan=False, strict=False)]


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """USD per million tokens of the model at `model` (an address).

    `tuned`: the price of the models fine-tuned from it instead. `training_usd` is per token trained
    on, once per epoch; None if unknown or not offered. `batch_factor` is the share of the price
    that a token costs in a batch; None if unknown. `read_on` is the day the figures were read in
    `source`, None for the user's own.
    """

    model: str
    tuned: bool
    input_usd: float
    output_usd: float
    cached_input_usd: float | None = None
    training_usd: float | None = None
    batch_factor: float | None = None
    read_on: date | None = None
    source: str = ""

    @property
    def is_free(self) -> bool:
        """Whether asking costs nothing."""
        return self.input_usd == self.output_usd == 0.0


class PriceOverride(BaseModel):
    """One table `[prices."MODEL"]` of an experiment file, in USD per million tokens.

    MODEL is the model's name or its whole address. A key that is left out keeps the packaged
    figure, if any.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )
    input_usd: Usd | None = None
    """A million tokens of prompts, in US dollars."""
    output_usd: Usd | None = None
    """A million tokens of answers."""
    cached_input_usd: Usd | None = None
    """A million tokens of prompts that the vendor had cached."""
    tuned_input_usd: Usd | None = None
    """A million tokens of prompts to a tuned model."""
    tuned_output_usd: Usd | None = None
    """A million tokens of a tuned model's answers."""
    training_usd: Usd | None = None
    """A million trained tokens, each epoch counted."""
    batch_factor: Annotated[float, Field(gt=0.0, le=1.0, strict=False)] | None = None
    """What a batch costs, as a part of the same calls one by one."""
    deployment_usd_per_hour: Usd | None = None
    """What one deployed tuned model costs by the hour."""

    @model_serializer(mode="wrap")
    def _leave_out_added(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the youngest key if it is not set, as runs were stored before there was one."""
        found: dict[str, Any] = handler(self)
        return {n: v for n, v in found.items() if n != "deployment_usd_per_hour" or v is not None}


class Prices:
    """The price of every model of a run: overrides first, then the packaged table.

    `fixed` prices come before both: those a run has been using. Example:
    `Prices().at("openai:gpt-4.1-mini", tuned=False)`.
    """

    def __init__(
        self,
        overrides: Mapping[str, PriceOverride] | None = None,
        fixed: Iterable[TokenPrice] = (),
    ) -> None:
        self._overrides = dict(overrides or {})
        self._found: dict[tuple[str, bool], TokenPrice | None] = {
            (price.model, price.tuned): price for price in fixed
        }

    def of(self, model: ModelRef) -> TokenPrice | None:
        """The price of asking `model`, None where it is unknown."""
        return self.at(model.address, tuned=model.artifact is not None)

    def at(self, address: str, *, tuned: bool) -> TokenPrice | None:
        """The price of asking the model at `address`, or the models tuned from it."""
        # Looked up once per model, since every call of a run asks for its price.
        if (address, tuned) not in self._found:
            self._found[address, tuned] = self._look_up(address, tuned=tuned)
        return self._found[address, tuned]

    def find_hourly(self, address: str, known: float | None) -> float | None:
        """USD an hour of a deployed model that was tuned from `address`: as the experiment file
        says, else the vendor's figure, `known`; None if both are unknown."""
        own = self._find_own(address, registry.locate_price(address))
        return known if own is None else _first(own.deployment_usd_per_hour, known)

    @staticmethod
    def find_storage(address: str) -> float | None:
        """USD per GB and month for models that were tuned from `address`, None if there is no fee
        that is known."""
        host = registry.locate_price(address).host
        vendors = (vendor for vendor in _read_table().vendor if host in vendor.hosts)
        return next((vendor.storage_usd_gb_month for vendor in vendors), None)

    def _find_own(self, address: str, model: PricedModel) -> PriceOverride | None:
        # The whole address first: two servers may have models of one name at different prices.
        return self._overrides.get(address) or self._overrides.get(model.name)

    def _look_up(self, address: str, *, tuned: bool) -> TokenPrice | None:
        model = registry.locate_price(address)
        own = self._find_own(address, model)
        found = _find_packaged(address, model, tuned=tuned or model.tuned)
        if own is not None:
            found = _override(address, own, found, tuned=tuned or model.tuned)
        # An address may itself be that of a fine-tuned model: its "base" price is a tuned one.
        return None if found is None else replace(found, tuned=tuned)

    def is_overridden(self, address: str) -> bool:
        """Whether the experiment file has a price for the model at `address`."""
        return address in self._overrides or _name_of(address) in self._overrides

    def find_unused(self, addresses: Iterable[str]) -> list[str]:
        """The overrides for none of these models: misspelled, or left over."""
        used = {name for address in addresses for name in (address, _name_of(address))}
        return sorted(self._overrides.keys() - used)

    def find_missing(self, address: str, *, finetune: bool) -> tuple[str, ...]:
        """The keys of `[prices]` that a budget needs and nobody knows; none of a model that is
        free."""
        base, tuned = self.at(address, tuned=False), self.at(address, tuned=True)
        # A run that tunes asks both models, so both prices have to be known before its first call.
        missing: list[str] = []
        if base is None:
            missing += ["input_usd", "output_usd"]
        if finetune and tuned is None:
            missing += ["tuned_input_usd", "tuned_output_usd"]
        if finetune and (base is None or base.training_usd is None):
            missing.append("training_usd")
        return tuple(missing)

    @staticmethod
    def table_name(address: str) -> str:
        """The table of an experiment file that holds the model's own prices, in brackets."""
        return f'[prices."{_name_of(address)}"]'

    def require(self, address: str, *, finetune: bool) -> None:
        """Raise `InvalidSettings`, with the lines to write, if a needed price is unknown."""
        if missing := self.find_missing(address, finetune=finetune):
            lines = "\n".join(f"    {name} = …" for name in missing)
            raise InvalidSettings(
                f"budget_usd is set, but the price of {address!r} is unknown; write what the "
                f"vendor charges in USD per million tokens (0 for a server of your own):\n"
                f"    {self.table_name(address)}\n{lines}"
            )


def _override(
    address: str, own: PriceOverride, known: TokenPrice | None, *, tuned: bool
) -> TokenPrice | None:
    prompt = own.tuned_input_usd if tuned else own.input_usd
    answer = own.tuned_output_usd if tuned else own.output_usd
    if known is not None:
        prompt = known.input_usd if prompt is None else prompt
        answer = known.output_usd if answer is None else answer
    # Half a price would make the budget count too little, so it counts as unknown.
    if prompt is None or answer is None:
        return None
    kept = known or TokenPrice(address, tuned, prompt, answer)
    return TokenPrice(
        model=address,
        tuned=tuned,
        input_usd=prompt,
        output_usd=answer,
        cached_input_usd=_first(None if tuned else own.cached_input_usd, kept.cached_input_usd),
        training_usd=_first(own.training_usd, kept.training_usd),
        batch_factor=_first(own.batch_factor, kept.batch_factor),
        read_on=kept.read_on if known else None,
        source=OWN + (f"; else {kept.source}" if known else ""),
    )


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _name_of(address: str) -> str:
    return registry.locate_price(address).name


def _find_packaged(address: str, model: PricedModel, *, tuned: bool) -> TokenPrice | None:
    if registry.info(address).free:
        return TokenPrice(
            address, tuned, 0.0, 0.0, 0.0, 0.0, 1.0, None, "runs on this machine and costs nothing"
        )
    for vendor in _read_table().vendor:
        if model.host not in vendor.hosts:
            continue
        for entry in vendor.model:
            if model.name in entry.names:
                return entry.price(address, vendor.batch_factor, tuned=tuned)
    return None


class _Rates(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    input_usd: Usd
    output_usd: Usd
    cached_input_usd: Usd | None = None
    source: str


class _Model(_Rates):
    names: tuple[str, ...]
    training_usd: Usd | None = None
    read_on: date
    tuned: _Rates | None = None

    def price(self, address: str, batch_factor: float | None, *, tuned: bool) -> TokenPrice | None:
        rates = self.tuned if tuned else self
        if rates is None:
            return None
        return TokenPrice(
            model=address,
            tuned=tuned,
            input_usd=rates.input_usd,
            output_usd=rates.output_usd,
            cached_input_usd=rates.cached_input_usd,
            training_usd=self.training_usd,
            batch_factor=batch_factor,
            read_on=self.read_on,
            source=rates.source,
        )


class _Vendor(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    hosts: tuple[str, ...]
    batch_factor: float | None = None
    storage_usd_gb_month: Usd | None = None
    model: tuple[_Model, ...]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    vendor: tuple[_Vendor, ...]


@cache
def _read_table() -> _Table:
    text = files("providers").joinpath("prices.toml").read_text(encoding="utf-8")
    return _Table.model_validate(tomllib.loads(text))
