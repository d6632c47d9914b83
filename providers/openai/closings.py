"""When a vendor takes no more fine-tuning jobs, and when its models stop answering.

The dates are in `closings.toml`, with their source and the day they were read. They concern the
vendor's own endpoints: another server with the same API keeps its fine-tuning.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict

from providers import registry
from providers.openai.settings import ModelAddress
from providers.types import Finding, Need

# OpenAI writes a tuned model as "ft:BASE:ORGANIZATION::ID", Azure as "BASE.ft-ID".
_TUNED = re.compile(r"(?:ft:)?(?P<base>[^:]+?)(?:\.ft-.*|:.*)?", re.DOTALL)
_OTHER_SCHEMES = ("gemini", "bedrock", "tinker")
_STAYS = "choose a model that stays, or another vendor"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelClosing(_Row):
    """The dates of the models that `names` matches; see the comment in `closings.toml`."""

    names: str
    jobs_end: date | None = None
    earliest: bool = False
    customers_only: bool = False
    base_ends: date | None = None
    tuned_ends: date | None = None


class VendorClosing(_Row):
    """The dates of one vendor. `endpoint` says whose hosts they concern."""

    name: str
    endpoint: Literal["openai", "azure"]
    newcomers_end: date | None = None
    inactive_end: date | None = None
    jobs_end: date | None = None
    source: str
    read_on: date
    model: tuple[ModelClosing, ...]


class _Table(_Row):
    vendor: tuple[VendorClosing, ...]


def find_vendor(address: ModelAddress) -> VendorClosing | None:
    """The vendor behind an address, None for a server whose dates are not known.

    >>> from providers.openai.settings import parse_address
    >>> find_vendor(parse_address("gpt-4.1-mini")).jobs_end
    datetime.date(2027, 1, 6)
    >>> find_vendor(parse_address("+http://127.0.0.1:8000/v1:gpt-4.1-mini")) is None
    True
    """
    endpoint = "openai" if address.is_openai else "azure" if address.is_azure else None
    return next((vendor for vendor in _read_table().vendor if vendor.endpoint == endpoint), None)


def find_model(vendor: VendorClosing, model: str) -> ModelClosing:
    """The dates of a model, or of the base that it was tuned from; the vendor's for any other.

    >>> find_model(_read_table().vendor[0], "ft:gpt-4.1-mini-2025-04-14:org::id").tuned_ends
    datetime.date(2027, 1, 14)
    """
    match = _TUNED.fullmatch(model)
    base = match["base"] if match else model
    known = (row for row in vendor.model if re.fullmatch(row.names, base))
    found = next(known, ModelClosing(names=re.escape(base)))
    return found if found.jobs_end else found.model_copy(update={"jobs_end": vendor.jobs_end})


def check_jobs(address: ModelAddress, need: Need) -> Iterator[Finding]:
    """Findings about new fine-tuning jobs for the model at `address`, from the dates alone.

    From the last day on new jobs are refused, unless the vendor only says that they end "no earlier
    than" that day. A run that may last longer gets a warning, since how long it takes is a guess.
    """
    vendor = find_vendor(address)
    if vendor is None:
        return
    found, name, today = find_model(vendor, address.model), vendor.name, need.now.date()
    told = f"{vendor.source}, read on {vendor.read_on}"
    remedy = f"train elsewhere: {list_alternatives()}"
    if found.tuned_ends is not None and found.tuned_ends != found.base_ends:
        what = f"what is tuned from {address.model}"
        yield _check_answers(what, found.tuned_ends, need)
    if found.customers_only:
        yield Finding(
            "warning",
            f"{name} promises fine-tuning of {address.model} to existing customers only; whether "
            "yours is such an account cannot be checked before the first job",
            f"try one job at {name}'s portal first, or {remedy}",
        )
    ends = found.jobs_end
    if ends is None:
        return
    if today >= ends and not found.earliest:
        text = f"{name} has taken no new fine-tuning jobs since {ends} ({told})"
        yield Finding("error", text, remedy)
    elif today >= ends:
        text = f"{name} promised fine-tuning of {address.model} until {ends} only ({told})"
        yield Finding("warning", f"{text}: a job may be refused", remedy)
    else:
        least = "may take" if found.earliest else "takes"
        text = f"{name} {least} no new fine-tuning jobs from {ends} on {_count_days(today, ends)}"
        if need.ends_at.date() >= ends:
            text += f"; this run may need them until {need.ends_at:%Y-%m-%d}"
            remedy = f"run fewer iterations, or {remedy}"
        yield Finding("warning", f"{text} ({told})", remedy)


def check_base(address: ModelAddress, need: Need) -> Iterator[Finding]:
    """Findings about the end of the model's own answers, from the dates alone."""
    vendor = find_vendor(address)
    if vendor is None:
        return
    found = find_model(vendor, address.model)
    tuned = re.fullmatch(found.names, address.model) is None
    if ends := found.tuned_ends if tuned else found.base_ends:
        told = f"{vendor.source}, read on {vendor.read_on}"
        what = f"{address.model} and all that is tuned from it"
        one = tuned or found.base_ends != found.tuned_ends
        yield _check_answers(address.model if one else what, ends, need, f" ({told})")


def list_alternatives() -> str:
    """What else this version can fine-tune with, as model addresses.

    >>> list_alternatives().endswith("or local:PATH_OR_HUB_NAME")
    True
    """
    there = [f"{scheme}:MODEL" for scheme in _OTHER_SCHEMES if scheme in registry.schemes()]
    same = "openai+URL:MODEL (a server with this API that has jobs)"
    return ", ".join([*there, same]) + ", or local:PATH_OR_HUB_NAME"


def _check_answers(what: str, ends: date, need: Need, told: str = "") -> Finding:
    today = need.now.date()
    if today >= ends:
        return Finding("error", f"{what}: no answers since {ends}{told}", _STAYS, "ending")
    text = f"{what}: no answers from {ends} on {_count_days(today, ends)}"
    if need.ends_at.date() >= ends:
        text += f"; this run may last until {need.ends_at:%Y-%m-%d}"
    return Finding("warning", text + told, "", "ending")


def _count_days(today: date, ends: date) -> str:
    days = (ends - today).days
    return "(1 day left)" if days == 1 else f"({days} days left)"


@cache
def _read_table() -> _Table:
    text = files("providers.openai").joinpath("closings.toml").read_text(encoding="utf-8")
    return _Table.model_validate(tomllib.loads(text))
