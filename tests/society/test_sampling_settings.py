"""The keys of [sampling]: from the file to the requests, refused where a model lacks them."""

import json

import pytest

from providers.errors import InvalidSettings
from providers.scripted import ScriptedProvider
from providers.types import Sampling
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.arms import build_arms
from society.method.debating import build_debate_rules, list_samplings, require_sampling
from society.method.diversity import build_options
from society.method.experiment import resolve

SMALL = {"task": {"name": "arithmetic"}, "train": {"questions": 4}, "evaluation": {"questions": 4}}


def make_config(model: str = "embedded:", sampling: dict | None = None, **changes) -> Config:
    return Config.model_validate(
        {"model": model, "sampling": sampling or {}, **SMALL, **changes}, strict=False
    )


def test_a_config_without_the_new_keys_has_the_text_that_runs_have_stored():
    stored = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 2048, "summary_max_tokens": 512}
    config = make_config()
    assert json.loads(config.to_json())["sampling"] == stored
    assert Config.from_json(config.to_json()) == config
    changed = make_config(sampling={"top_k": 20, "stop": ["Question:"], "agents": [{"min_p": 0.1}]})
    assert Config.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(("servers", "questions"), [(0, 1024), (1, 1024), (16, 2048)])
def test_many_servers_are_asked_more_questions_at_once(servers, questions):
    addresses = [f"openai+http://host{n}/v1:m" for n in range(servers)]
    config = make_config(**({"serving": {"addresses": addresses}} if servers else {}))
    rules = build_debate_rules(config, build_arms(config)[0], "sampled")
    assert rules.questions_in_flight == questions


def test_every_setting_reaches_the_requests():
    extras = {
        "top_k": 20,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": -0.1,
        "stop": ("\n\nQuestion:",),
    }
    config = make_config(sampling={**extras, "agents": [{"top_k": 5, "stop": []}, {}, {}]})
    rules = build_debate_rules(config, build_arms(config)[0], "sampled")
    expected = Sampling(1.0, 0.9, 2048, 0, **extras)
    assert rules.sampling == rules.agent_sampling[1] == expected
    assert rules.agent_sampling[0] == Sampling(
        1.0, 0.9, 2048, 0, **{**extras, "top_k": 5, "stop": ()}
    )
    greedy = build_debate_rules(config, build_arms(config)[0], "greedy").sampling
    assert (greedy.temperature, greedy.repetition_penalty) == (0.0, 1.1)
    assert rules.summary_sampling.top_k == 20
    assert len(list_samplings(config, "embedded:")) == 2


def test_a_setting_that_is_switched_off_is_told_apart_from_one_that_is_not_set():
    config = make_config(sampling={"top_k": 0, "agents": [{"min_p": 0.0}, {"top_k": 5}, {}]})
    assert json.loads(config.to_json())["sampling"]["top_k"] == 0
    for known in (config, Config.from_json(config.to_json())):
        rules = build_debate_rules(known, build_arms(known)[0], "sampled")
        assert rules.sampling.stated_off == rules.agent_sampling[2].stated_off == ("top_k",)
        assert rules.agent_sampling[0].stated_off == ("top_k", "min_p")
        assert rules.agent_sampling[1].stated_off == ()
    assert config.sampling.build_sampling("sampled", 0).list_extras() == {}


@pytest.mark.parametrize(
    ("sampling", "word"),
    [
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"frequency_penalty": 3.0}, "frequency_penalty"),
        ({"stop": [""]}, "stop"),
        ({"top_q": 1}, "top_q"),
    ],
)
def test_values_that_mean_nothing_are_refused(sampling, word):
    with pytest.raises(ValueError, match=word):
        make_config(sampling=sampling)


def test_settings_without_effect_are_refused():
    with pytest.raises(ConfigError, match=r"sampling.temperature = 0 samples none"):
        resolve(make_config(sampling={"temperature": 0, "top_k": 5}))


def test_a_model_that_lacks_a_setting_is_refused_before_the_first_call():
    config = make_config(sampling={"top_k": 20})
    provider = ScriptedProvider(lambda request: "4")
    require_sampling(config, {"embedded:": provider})

    class Plain(ScriptedProvider):
        def validate_sampling(self, sampling):
            return super(ScriptedProvider, self).validate_sampling(sampling)

    plain = Plain(lambda request: "4", address="embedded:")
    with pytest.raises(InvalidSettings, match=r"embedded:: sampling.top_k = 20: .* does not take"):
        require_sampling(config, {"embedded:": plain})
    require_sampling(make_config(), {"embedded:": plain})


def test_the_measures_of_diversity_say_how_answers_were_drawn():
    assert build_options(make_config(sampling={"top_p": 1.0})).drawn is None
    assert build_options(make_config(sampling={"top_p": 1.0, "stop": ["x"]})).drawn is None
    drawn = build_options(make_config(sampling={"top_p": 1.0, "top_k": 20})).drawn
    assert drawn == "temperature 1, top_p 1, top_k 20"
