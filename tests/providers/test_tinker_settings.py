"""Addresses and settings of Tinker's wire, and what of an experiment it cannot honor."""

import re

import pytest

from providers import registry
from providers.errors import InvalidSettings
from providers.hyperparameters import Hyperparameters
from providers.openai.settings import parse_address as parse_openai
from providers.tinker.settings import (
    HOST_URL,
    TinkerSettings,
    find_unsupported,
    find_unsupported_sampling,
    parse_address,
)
from providers.types import Sampling

HOSTED = parse_address("Qwen/Qwen3-8B")
OWN = parse_address("+http://127.0.0.1:8000:Qwen/Qwen3-8B")


@pytest.mark.parametrize(
    ("target", "url", "model"),
    [
        ("Qwen/Qwen3-8B", HOST_URL, "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B:peft:131072", HOST_URL, "Qwen/Qwen3-8B:peft:131072"),
        ("+http://127.0.0.1:8000:m", "http://127.0.0.1:8000", "m"),
        ("+https://gpu.lan/tinker:/models/m", "https://gpu.lan/tinker", "/models/m"),
    ],
)
def test_an_address_names_server_and_model(target, url, model):
    address = parse_address(target)
    assert (address.url, address.model) == (url, model)


@pytest.mark.parametrize(
    "target", ["", " ", "http://127.0.0.1:8000:m", "+127.0.0.1:m", "+http://h"]
)
def test_an_address_without_server_or_model_is_refused_with_its_form(target):
    with pytest.raises(InvalidSettings, match=r"tinker\+http://HOST:PORT:MODEL"):
        parse_address(target)


def test_a_user_in_the_url_is_not_repeated():
    with pytest.raises(InvalidSettings, match="user name or password") as caught:
        parse_address("+http://me:hidden-word@h:8000:m")
    assert "hidden-word" not in str(caught.value)


def test_the_key_is_read_for_thinking_machines_only_unless_it_is_named():
    assert TinkerSettings.parse({}).key_variable(HOSTED) == "TINKER_API_KEY"
    assert TinkerSettings.parse({}).key_variable(OWN) == ""
    assert TinkerSettings.parse({"api_key_env": "MINE"}).key_variable(OWN) == "MINE"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"api_key": "tml-x"}, "api_key_env"),
        ({"api_key_env": "tml-abc"}, "name of an environment variable"),
        ({"alpha": 3}, "has no key 'alpha'; there are: api_key_env"),
        ({"save_every": 0}, "save_every"),
        ({"loss_reduction": "max"}, "loss_reduction"),
        ({"chat_template_kwargs": {"messages": 1}}, "set by this software itself"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_key(settings, words):
    with pytest.raises(InvalidSettings, match=words):
        TinkerSettings.parse(settings)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"method": "full"}, "finetune.method = 'full'.*'lora'"),
        ({"lora_alpha": 64}, "finetune.lora_alpha = 64.*alpha 32.*provider.lora_alpha"),
        ({"lora_dropout": 0.1}, "finetune.lora_dropout = 0.1.*remove it"),
        ({"target_modules": ("q_proj",)}, "finetune.target_modules"),
        ({"use_dora": True}, "finetune.use_dora"),
        ({"neftune_alpha": 5.0}, "finetune.neftune_alpha"),
        ({"learning_rate_multiplier": 2.0}, "finetune.learning_rate"),
        ({"objective": "dpo"}, "finetune.objective = 'dpo'.*'sft'"),
        ({"anchor": 0.1}, "finetune.anchor = 0.1"),
    ],
)
def test_what_the_wire_cannot_do_is_refused_with_value_and_remedy(changed, words):
    [problem] = find_unsupported(Hyperparameters(**changed), TinkerSettings(), HOSTED)
    assert re.search(words, problem), problem


def test_clipping_is_taken_by_thinking_machines_and_refused_elsewhere_unless_the_user_knows():
    how = Hyperparameters(max_grad_norm=1.0)
    assert find_unsupported(how, TinkerSettings(), HOSTED) == []
    [problem] = find_unsupported(how, TinkerSettings(), OWN)
    assert "finetune.max_grad_norm = 0" in problem
    assert find_unsupported(how, TinkerSettings(clips_gradients=True), OWN) == []
    assert find_unsupported(Hyperparameters(max_grad_norm=0.0), TinkerSettings(), OWN) == []


def test_another_alpha_fits_if_it_is_the_servers():
    how = Hyperparameters(lora_alpha=16, max_grad_norm=0.0)
    assert find_unsupported(how, TinkerSettings(lora_alpha=16), OWN) == []


def test_sampling_beyond_the_wire_is_refused():
    assert find_unsupported_sampling(Sampling(top_k=5, stop=("\n",)), "h") == []
    [problem] = find_unsupported_sampling(Sampling(min_p=0.1), "h")
    assert problem == "sampling.min_p = 0.1: h does not take it; remove it"


def test_the_scheme_trains_in_this_process_and_honors_weights():
    info = registry.info("tinker+http://127.0.0.1:8000:m")
    assert (info.in_process, info.weights, info.free, info.extra) == (True, True, False, "tinker")


def test_limits_and_how_to_train_may_change_on_a_stored_run():
    settings = {"tokenizer": "m", "timeout_s": 3.0, "save_every": 2, "lora_alpha": 16}
    assert registry.output_settings("tinker:m", settings) == {"tokenizer": "m"}


def test_a_trained_model_is_an_address_of_the_compatible_endpoint():
    place = "https://tinker.thinkingmachines.dev/services/tinker-prod/oai/api/v1"
    address = parse_openai(f"+{place}:tinker://run-1/sampler_weights/final")
    assert (address.url, address.model) == (place, "tinker://run-1/sampler_weights/final")


def test_a_price_is_looked_up_by_host_and_model():
    priced = registry.locate_price("tinker:Qwen/Qwen3-8B")
    assert (priced.host, priced.name) == ("tinker.thinkingmachines.dev", "Qwen/Qwen3-8B")
    assert registry.locate_price("tinker+http://127.0.0.1:1:m").host == "127.0.0.1"
