"""What a token costs, and what is said where nobody knows."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest
from pydantic import ValidationError

from providers.errors import InvalidSettings
from providers.pricing import PriceOverride, Prices
from providers.types import ModelRef

MINI = "openai:gpt-4o-mini-2024-07-18"


def test_a_tuned_model_costs_its_bases_rate_for_tuned_models():
    prices = Prices()
    base = prices.of(ModelRef(MINI, MINI))
    tuned = prices.of(ModelRef("a1", MINI, artifact="ft:gpt-4o-mini-2024-07-18:org::id"))
    assert base is not None
    assert tuned is not None
    assert (base.input_usd, base.output_usd, base.training_usd) == (0.15, 0.6, 3.0)
    assert (tuned.input_usd, tuned.output_usd, tuned.cached_input_usd) == (0.3, 1.2, 0.15)
    assert (base.tuned, tuned.tuned) == (False, True)


def test_a_fine_tune_used_as_the_base_costs_what_fine_tunes_cost():
    price = Prices().at("openai:ft:gpt-4.1-nano-2025-04-14:org:name:id", tuned=False)
    assert price is not None
    assert (price.input_usd, price.output_usd, price.tuned) == (0.2, 0.8, False)


@pytest.mark.parametrize(
    "address", ["embedded:", "local:./model", "scripted:a.jsonl", "replay:runs/x"]
)
def test_what_runs_here_costs_nothing_and_that_is_known(address):
    for tuned in (False, True):
        price = Prices().at(address, tuned=tuned)
        assert price is not None
        assert (price.input_usd, price.output_usd, price.training_usd) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "address",
    [
        "openai:gpt-9",
        "openai+https://api.example.com/v1:gpt-4o",
        "openai+https://eu.api.openai.com/v1:gpt-4o",
        "openai+http://127.0.0.1:8000/v1:Qwen/Qwen3-0.6B",
        "elsewhere:gpt-4o",
    ],
)
def test_a_model_nobody_has_priced_has_no_price_rather_than_none_to_pay(address):
    assert Prices().at(address, tuned=False) is None
    assert Prices().at(address, tuned=True) is None


def test_the_host_of_the_address_decides_whose_prices_apply():
    price = Prices().at("openai+https://api.mistral.ai/v1:ministral-8b-2512", tuned=False)
    assert price is not None
    assert price.source.startswith("mistral.ai")
    assert Prices().at("openai:ministral-8b-2512", tuned=False) is None


def test_the_user_overrides_single_figures_by_name_or_by_address():
    by_name = Prices({"gpt-4o-mini": PriceOverride(input_usd=0.11, training_usd=2.0)})
    price = by_name.at("openai:gpt-4o-mini", tuned=False)
    assert price is not None
    assert (price.input_usd, price.output_usd, price.training_usd) == (0.11, 0.6, 2.0)
    assert price.source.startswith("the experiment file; else developers.openai.com")
    tuned = by_name.at("openai:gpt-4o-mini", tuned=True)
    assert tuned is not None
    assert (tuned.input_usd, tuned.training_usd) == (0.3, 2.0)

    address = "openai+http://127.0.0.1:8000/v1:Qwen/Qwen3-0.6B"
    own = Prices({address: PriceOverride(input_usd=0, output_usd=0)})
    price = own.at(address, tuned=False)
    assert price is not None
    assert (price.input_usd, price.read_on, price.source) == (0.0, None, "the experiment file")
    assert own.at(address, tuned=True) is None


def test_half_an_override_of_an_unknown_model_is_no_price():
    assert Prices({"gpt-9": PriceOverride(input_usd=1.0)}).at("openai:gpt-9", tuned=False) is None


@pytest.mark.parametrize("figures", [{"input_usd": -1}, {"input_usd": float("nan")}, {"in": 1}])
def test_an_override_that_makes_no_sense_is_refused(figures):
    with pytest.raises(ValidationError):
        PriceOverride.model_validate(figures)


def test_what_is_missing_is_named_with_the_lines_to_write():
    with pytest.raises(InvalidSettings) as error:
        Prices().require("openai:gpt-9", finetune=True)
    written = str(error.value).partition('[prices."gpt-9"]')[2].split()
    assert [name for name in written if name.endswith("usd")] == [
        "input_usd",
        "output_usd",
        "tuned_input_usd",
        "tuned_output_usd",
        "training_usd",
    ]
    figures = PriceOverride(input_usd=1, output_usd=2)
    Prices({"gpt-9": figures}).require("openai:gpt-9", finetune=False)
    with pytest.raises(InvalidSettings, match="tuned_input_usd"):
        Prices({"gpt-9": figures}).require("openai:gpt-9", finetune=True)
    Prices().require(MINI, finetune=True)


def test_every_packaged_model_has_a_source_a_day_and_one_entry():
    table = tomllib.loads(files("providers").joinpath("prices.toml").read_text("utf-8"))
    for vendor in table["vendor"]:
        names = [name for model in vendor["model"] for name in model["names"]]
        assert len(names) == len(set(names))
        for name in names:
            price = Prices().at(f"openai+https://{vendor['hosts'][0]}/v1:{name}", tuned=False)
            assert price is not None
            assert price.read_on is not None
            assert price.source
            assert price.output_usd >= price.input_usd >= (price.cached_input_usd or 0.0)
