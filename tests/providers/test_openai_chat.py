"""Chat over the OpenAI shape, against a server that says what the test wants."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from providers import registry
from providers.base import Provider
from providers.errors import AuthenticationFailed, BadRequest, InvalidSettings, Unsupported
from providers.openai.client import Connection
from providers.openai.parameters import derive_seed, guess_parameters
from providers.openai.settings import OPENAI_URL, ModelAddress, OpenAISettings
from providers.preflight import preflight_model
from providers.types import Hyperparameters, Message, ModelRef, Need, Request, Sampling
from tests.providers.chat_server import ChatServer, Reply, fails, says

GREEDY = Sampling(temperature=0.0, top_p=0.9, max_tokens=77, seed=5)


def connect(server, model="m", **settings):
    return registry.connect(f"openai+{server.url}:{model}", settings, Path())


def asks(provider, text="Hi", sampling=GREEDY, key="key", artifact=None):
    model = ModelRef("tuned", provider.base.address, artifact) if artifact else provider.base
    return provider.complete(Request(model, (Message("user", text),), sampling, key))


async def answer_to(reply, **settings):
    async with ChatServer(lambda asked: reply) as server:
        provider = connect(server, **settings)
        completion = await asks(provider)
        await provider.close()
    return completion


async def test_a_request_is_sent_as_it_was_asked_and_its_answer_comes_back():
    async with ChatServer(lambda asked: says("42, surely")) as server:
        provider = connect(server)
        messages = (Message("system", "Be brief."), Message("user", "6 × 7?"))
        completion = await provider.complete(Request(provider.base, messages, GREEDY, "q/1"))
        await provider.close()
    assert (completion.text, completion.finish_reason) == ("42, surely", "stop")
    assert (completion.prompt_tokens, completion.completion_tokens) == (7, 3)
    assert completion.latency_ms > 0
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "6 × 7?"},
        ],
        "max_tokens": 77,
        "temperature": 0.0,
        "top_p": 0.9,
        "seed": derive_seed(5, "q/1"),
    }


async def test_a_tuned_model_is_asked_by_its_own_id():
    described = Reply({"id": "m", "object": "model", "created": 1, "owned_by": "org"})

    def script(asked):
        return described if asked.method == "GET" else says(asked.body["model"])

    async with ChatServer(script) as server:
        provider = connect(server)
        assert (await asks(provider, artifact="ft:m:org::id")).text == "ft:m:org::id"
        await provider.load_adapters((ModelRef("tuned", provider.base.address, "ft:m:org::id"),))
        await provider.close()
    assert [asked.path.rsplit("/", 1)[-1] for asked in server.asked[1:]] == ["m", "ft:m:org::id"]


def test_the_seed_depends_on_seed_and_key_only_and_fits_every_server():
    assert derive_seed(1, "a") == derive_seed(1, "a")
    seeds = {derive_seed(seed, f"k{n}") for seed in range(50) for n in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("reply", "text", "reason"),
    [
        (says("cut of", "length"), "cut of", "length"),
        (says("", "stop"), "", "stop"),
        (says(None, "stop"), "", "stop"),
        (says(None, "content_filter"), "", "filtered"),
        (says("so fa", "content_filter"), "so fa", "filtered"),
        (says(None, refusal="I won't."), "I won't.", "refused"),
        (says("done", "eos_token"), "done", "stop"),
        (says("done", None), "done", "stop"),
        (says("odd", "something_new"), "odd", "stop"),
        (says([{"type": "thinking"}, {"type": "text", "text": "said"}]), "said", "stop"),
    ],
)
async def test_an_answer_is_taken_as_what_it_is(reply, text, reason):
    completion = await answer_to(reply)
    assert (completion.text, completion.finish_reason) == (text, reason)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])
async def test_an_answer_without_token_counts_is_counted_in_full_and_that_is_said_once(
    caplog, usage
):
    choices = [{"message": {"content": "é, xy"}, "finish_reason": "stop"}]
    reply = Reply({"choices": choices, "usage": usage})
    async with ChatServer(lambda asked: reply) as server:
        provider = connect(server)
        with caplog.at_level(logging.WARNING):
            completions = [await asks(provider) for _ in range(3)]
        await provider.close()
    for completion in completions:
        assert completion.estimated
        assert completion.prompt_tokens >= len("Hi")
        assert len("é, xy".encode()) <= completion.completion_tokens <= GREEDY.max_tokens
    assert len([r for r in caplog.records if "marked as estimated" in r.message]) == 1


@pytest.mark.parametrize(
    ("message", "reason", "least"),
    [
        ({"content": "four"}, "length", GREEDY.max_tokens),
        ({"content": ""}, "stop", GREEDY.max_tokens),
        ({"content": "4", "reasoning_content": "two and two " * 3}, "stop", 36),
    ],
)
async def test_tokens_that_nobody_tells_are_bounded_by_what_the_model_may_have_written(
    message, reason, least
):
    reply = Reply({"choices": [{"message": message, "finish_reason": reason}]})
    completion = await answer_to(reply)
    assert completion.estimated
    assert least <= completion.completion_tokens <= GREEDY.max_tokens


async def test_half_a_surrogate_pair_in_an_answer_does_not_lose_the_answer():
    raw = json.dumps(says("before \ud83d after").body).encode()
    assert b"\\ud83d" in raw
    assert (await answer_to(Reply(raw=raw))).text == "before ? after"


@pytest.mark.parametrize(
    ("model", "max_tokens", "fixed"),
    [
        ("gpt-4o-mini-2024-07-18", "max_completion_tokens", False),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "max_completion_tokens", False),
        ("gpt-5-mini", "max_completion_tokens", True),
        ("gpt-5-chat-latest", "max_completion_tokens", False),
        ("o3", "max_completion_tokens", True),
        ("o1-mini", "max_completion_tokens", True),
        ("ft:o4-mini:org::id", "max_completion_tokens", True),
    ],
)
def test_what_openais_models_take_is_known(model, max_tokens, fixed):
    known = guess_parameters(ModelAddress(OPENAI_URL, model), model, OpenAISettings())
    assert known.max_tokens == max_tokens
    assert (known.temperature, known.top_p) == (not fixed, not fixed)


def test_other_servers_models_are_not_judged_by_openais_names():
    known = guess_parameters(ModelAddress("http://127.0.0.1/v1", "o3"), "o3", OpenAISettings())
    assert (known.max_tokens, known.temperature) == ("max_tokens", True)


ALL = Sampling(
    top_k=20,
    min_p=0.1,
    repetition_penalty=1.1,
    frequency_penalty=0.5,
    presence_penalty=-0.5,
    stop=("Question:", "\n\n"),
)


async def test_further_settings_are_sent_as_they_are_to_servers_that_may_have_them():
    async with ChatServer(lambda asked: says("4")) as server:
        provider = connect(server)
        assert provider.validate_sampling(ALL) == []
        await asks(provider, sampling=ALL)
        await provider.close()
    sent = server.asked[0].body
    assert {name: sent[name] for name in ALL.list_extras()} == {
        **ALL.list_extras(),
        "stop": ["Question:", "\n\n"],
    }


async def test_a_server_is_told_what_is_switched_off():
    off = Sampling(stated_off=("top_k", "min_p", "repetition_penalty"))
    async with ChatServer(lambda asked: says("4")) as server:
        provider = connect(server)
        await asks(provider, sampling=off)
        await asks(provider, sampling=Sampling(), key="plain")
        await provider.close()
    told, plain = (asked.body for asked in server.asked)
    assert {name: told[name] for name in off.stated_off} == {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    assert not set(off.stated_off) & plain.keys()
    known = guess_parameters(ModelAddress(OPENAI_URL, "gpt-4.1"), "gpt-4.1", OpenAISettings())
    assert not set(off.stated_off) & known.build_values(off, "k", "gpt-4.1").keys()


def test_openai_is_asked_for_nothing_that_it_does_not_have():
    known = guess_parameters(ModelAddress(OPENAI_URL, "gpt-4.1"), "gpt-4.1", OpenAISettings())
    refused = known.find_refused_extras(ALL, "gpt-4.1")
    assert [fault.split()[0] for fault in refused] == [
        "sampling.top_k",
        "sampling.min_p",
        "sampling.repetition_penalty",
    ]
    with pytest.raises(InvalidSettings, match=r"sampling.top_k = 20: .* does not take it; remove"):
        known.build_values(Sampling(top_k=20), "k", "gpt-4.1")
    stops = Sampling(stop=tuple("abcde"))
    assert known.find_refused_extras(stops, "gpt-4.1") == [
        "sampling.stop has 5 strings, and the model gpt-4.1 takes 4; remove some"
    ]
    reasoning = guess_parameters(ModelAddress(OPENAI_URL, "o3"), "o3", OpenAISettings())
    assert "sampling.stop" in reasoning.find_refused_extras(Sampling(stop=("a",)), "o3")[0]


async def test_a_refused_further_setting_does_not_take_another_with_it():
    reply = fails(400, "top_k is not supported, use temperature", code="unsupported_parameter")
    async with ChatServer(lambda asked: reply) as server:
        provider = connect(server)
        with pytest.raises(InvalidSettings, match="top_k is not supported"):
            await asks(provider, sampling=Sampling(top_k=20))
        await provider.close()
    assert len(server.asked) == 1


async def test_preflight_refuses_settings_that_the_model_does_not_take():
    need = Need(finetune=False, ends_at=datetime.now(UTC), samplings=(ALL, ALL))
    report = await preflight_model("embedded:", {}, Path(), need, [Hyperparameters()])
    refused = [found.text for found in report.findings if found.level == "error"]
    assert [text.split()[0] for text in refused] == [
        "sampling.frequency_penalty",
        "sampling.presence_penalty",
    ]
    async with ChatServer(models({"id": "m"})) as server:
        address = f"openai+{server.url}:m"
        report = await preflight_model(address, {}, Path(), need, [Hyperparameters()])
    assert not [found for found in report.findings if found.level == "error"]


async def test_settings_overrule_what_is_known():
    async with ChatServer(lambda asked: says("x")) as server:
        provider = connect(server, max_tokens_parameter="max_completion_tokens", seed=False)
        await asks(provider)
        await provider.close()
    assert set(server.asked[0].body) == {
        "model",
        "messages",
        "max_completion_tokens",
        "temperature",
        "top_p",
    }


REFUSALS = [
    (
        "max_tokens",
        fails(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            code="unsupported_parameter",
            param="max_tokens",
        ),
        "max_completion_tokens",
    ),
    ("seed", fails(400, "Unknown parameter: 'seed'.", code="unknown_parameter"), None),
    (
        "seed",
        Reply({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs not permitted"}]}, 422),
        None,
    ),
]


@pytest.mark.parametrize(("name", "refusal", "instead"), REFUSALS)
async def test_a_parameter_that_can_be_done_without_is_left_out_after_one_refusal(
    name, refusal, instead, caplog
):
    async with ChatServer(lambda a: refusal if name in a.body else says("x")) as server:
        provider = connect(server)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert (await asks(provider)).text == "x"
        await provider.close()
    assert [name in asked.body for asked in server.asked] == [True, False, False, False]
    assert instead is None or server.asked[-1].body[instead] == 77
    assert len([r for r in caplog.records if f"does not take {name}" in r.message]) == 1


def refuses_temperature(asked):
    if "temperature" not in asked.body:
        return says("x")
    return fails(
        400,
        "Unsupported value: 'temperature' does not support 0.6 with this model. "
        "Only the default (1) value is supported.",
        code="unsupported_value",
        param="temperature",
    )


async def test_a_temperature_that_cannot_be_honoured_stops_the_run_with_the_remedy():
    async with ChatServer(refuses_temperature) as server:
        provider = connect(server)
        with pytest.raises(InvalidSettings, match=r"0\.6 is asked.*sampling\.temperature = 1"):
            await asks(provider, sampling=Sampling(temperature=0.6))
        await provider.close()
    assert len(server.asked) == 1


async def test_temperature_1_is_what_such_a_model_does_anyway():
    async with ChatServer(refuses_temperature) as server:
        provider = connect(server)
        assert (await asks(provider, sampling=Sampling(temperature=1.0))).text == "x"
        await provider.close()


EXCLUSIVE = [
    "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
    "Only one of temperature or top_p may be set",
    "temperature and top_p are mutually exclusive",
    "Please specify either top_p or temperature, but not both",
    "top_p cannot be used together with temperature",
    "Setting temperature and top_p at the same time is not supported",
]


def takes_one(message):
    def script(asked):
        both = {"temperature", "top_p"} <= set(asked.body)
        return fails(400, message, type="invalid_request_error") if both else says("x")

    return script


@pytest.mark.parametrize("message", EXCLUSIVE)
async def test_temperature_or_top_p_is_sent_where_both_are_refused(message, caplog):
    samplings = {
        "top_p": Sampling(temperature=1.0, top_p=0.9),
        "temperature": Sampling(temperature=0.7, top_p=1.0),
        "temperature ": Sampling(temperature=0.0, top_p=0.9),
    }
    async with ChatServer(takes_one(message)) as server:
        provider = connect(server)
        with caplog.at_level(logging.WARNING):
            for sampling in samplings.values():
                assert (await asks(provider, sampling=sampling)).text == "x"
        with pytest.raises(InvalidSettings, match=r"temperature = 0\.7 and .*top_p = 0\.9.*to 1"):
            await asks(provider, sampling=Sampling(temperature=0.7, top_p=0.9))
        await provider.close()
    sent = [{"temperature", "top_p"} & set(asked.body) for asked in server.asked]
    assert sent == [{"temperature", "top_p"}, *({name.strip()} for name in samplings)]
    assert len([r for r in caplog.records if "not both" in r.message]) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("top_p", "`top_p` must be > 0.0 and < 1.0"),
        ("top_p", "top_p is no longer supported on this model"),
        ("top_p", "This model doesn't accept top_p"),
        ("seed", "seed must be a multiple of 7"),
        ("seed", "`seed` should not be set"),
        ("temperature", "`temperature` is deprecated for this model."),
        ("temperature", "invalid temperature: only 1 is allowed for this model"),
        ("temperature", "`temperature` may only be set to 1 when thinking is enabled."),
    ],
)
async def test_a_parameter_that_changes_nothing_is_left_out_however_it_is_refused(name, message):
    async with ChatServer(lambda a: fails(400, message) if name in a.body else says("x")) as server:
        provider = connect(server)
        for _ in range(2):
            assert (await asks(provider, sampling=Sampling(temperature=1.0, top_p=1.0))).text == "x"
        await provider.close()
    assert [name in asked.body for asked in server.asked] == [True, False, False]


async def test_both_names_of_max_tokens_refused_stops_the_run():
    def script(asked):
        (name,) = {"max_tokens", "max_completion_tokens"} & set(asked.body)
        return fails(400, f"Unsupported parameter: '{name}'", code="unsupported_parameter")

    async with ChatServer(script) as server:
        provider = connect(server)
        with pytest.raises(InvalidSettings, match="Unsupported parameter"):
            await asks(provider)
        await provider.close()
    assert len(server.asked) == 2


async def test_a_value_out_of_range_is_no_missing_capability():
    refusal = fails(400, "max_tokens is too large: 77. This model supports at most 64.")
    async with ChatServer(lambda asked: refusal) as server:
        provider = connect(server)
        with pytest.raises(BadRequest, match="too large: 77"):
            await asks(provider)
        await provider.close()
    assert len(server.asked) == 1


async def test_key_organisation_and_headers_are_sent_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-some-key-0123456789")
    monkeypatch.setenv("SOME_HEADER", "a-header-value")
    async with ChatServer(lambda asked: says("x")) as server:
        provider = connect(
            server,
            api_key_env="SOME_KEY",
            organization="org-7",
            project="proj-7",
            headers={"X-Own": "env:SOME_HEADER", "X-Title": "study"},
        )
        await asks(provider)
        await provider.close()
    headers = server.asked[0].headers
    assert headers["authorization"] == "Bearer sk-some-key-0123456789"
    assert headers["openai-organization"] == "org-7"
    assert headers["openai-project"] == "proj-7"
    assert (headers["x-own"], headers["x-title"]) == ("a-header-value", "study")


async def test_nothing_of_openais_environment_reaches_another_server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-you-0123456789")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-not-for-you-0123456789")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-not-for-you")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-not-for-you")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Custom: not-for-you")
    async with ChatServer(lambda asked: says("x")) as server:
        provider = connect(server)
        await asks(provider)
        await provider.close()
    assert "not-for-you" not in str(server.asked[0].headers)


async def test_openai_gets_the_headers_of_its_environment_and_they_are_secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-some-key-0123456789")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Custom: for-openai\nx-own: not-mine\nno header")
    settings = OpenAISettings(headers={"X-Own": "mine"})
    connection = Connection(ModelAddress(OPENAI_URL, "m"), settings)
    headers = connection.client.default_headers
    assert (headers["X-Custom"], headers["X-Own"]) == ("for-openai", "mine")
    assert "not-mine" not in headers.values()
    assert connection.secrets.scrub("you sent for-openai and mine") == "you sent [secret] and mine"
    await connection.close()


@pytest.mark.parametrize("value", [None, "", "with space", "with\nbreak", "schlüssel"])
async def test_a_missing_or_mangled_key_is_told_before_anything_is_sent(monkeypatch, value):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    async with ChatServer(lambda asked: says("x")) as server:
        provider = connect(server, api_key_env="SOME_KEY")
        with pytest.raises(AuthenticationFailed, match="environment variable SOME_KEY") as told:
            await asks(provider)
        await provider.close()
    assert not server.asked
    assert not value or value not in str(told.value)


async def test_a_redirect_is_not_followed():
    async with ChatServer(lambda asked: says("x")) as elsewhere:
        moved = Reply(status=308, headers={"location": f"{elsewhere.url}/chat/completions"})
        async with ChatServer(lambda asked: moved) as server:
            provider = connect(server)
            with pytest.raises(InvalidSettings, match="write the URL it names"):
                await asks(provider)
            await provider.close()
    assert not elsewhere.asked


async def test_no_more_calls_are_out_than_allowed():
    async with ChatServer(lambda asked: says("x", delay_s=0.02)) as server:
        provider = connect(server, limits={"max_concurrent": 7})
        await asyncio.gather(*(asks(provider, key=str(n)) for n in range(60)))
        await provider.close()
    assert server.most_at_once == 7


async def test_a_closed_provider_connects_again():
    async with ChatServer(lambda asked: says("x")) as server:
        provider = connect(server)
        assert (await asks(provider)).text == "x"
        await provider.close()
        assert (await asks(provider)).text == "x"
        await provider.close()


async def test_scoring_is_unsupported_unless_the_server_is_said_to_offer_it():
    async with ChatServer(lambda asked: says("x")) as server:
        provider = connect(server)
        assert not provider.capabilities.score
        with pytest.raises(Unsupported, match='score = "vllm"'):
            await provider.score(provider.base, (Message("user", "Hi"),), "Ho")
        await provider.close()
    assert not server.asked


def models(*cards):
    def script(asked):
        if asked.path == "/v1/models":
            return Reply({"object": "list", "data": [{"object": "model", **c} for c in cards]})
        if asked.path.startswith("/v1/models/"):
            return fails(404, "no such model", code="model_not_found")
        return Reply({"object": "list", "data": [], "has_more": False})

    return script


async def findings(script, need=None, **settings):
    async with ChatServer(script) as server:
        provider = connect(server, **settings)
        assert isinstance(provider, Provider)
        soon = datetime.now(UTC) + timedelta(days=2)
        found = await provider.preflight(need or Need(finetune=False, ends_at=soon))
        await provider.close()
    assert all("chat" not in asked.path for asked in server.asked)
    return {(finding.level, finding.text): finding.remedy for finding in found}


async def test_preflight_finds_key_and_model():
    found = await findings(models({"id": "other"}, {"id": "m"}))
    assert {level for level, _ in found} == {"ok"}
    assert any("model m is there" in text for _, text in found)


async def test_preflight_names_the_models_there_are():
    found = await findings(models({"id": "other"}))
    assert ("error", "the server has no model m; among those it has: other") in found


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [(-1, "error", "ended on"), (1, "error", "before the run may be over"), (9, "warning", "ends")],
)
@pytest.mark.parametrize("form", ["shutdown_date", "deprecation", "azure"])
async def test_preflight_sees_the_end_of_a_model(form, days, level, words):
    end = datetime.now(UTC) + timedelta(days=days)
    card = {
        "shutdown_date": {"shutdown_date": f"{end:%Y-%m-%d}"},
        "deprecation": {"deprecation": end.isoformat()},
        "azure": {"deprecation": {"inference": int(end.timestamp()), "fine_tune": 1}},
    }[form]
    found = await findings(models({"id": "m", **card}))
    (told,) = [key for key in found if f"{end:%Y-%m-%d}" in key[1]]
    assert told[0] == level
    assert words in told[1]


async def test_preflight_without_a_key_or_a_server_says_so_and_raises_nothing(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    found = await findings(models(), api_key_env="SOME_KEY")
    assert [level for level, _ in found] == ["error"]
    refused = await findings(lambda asked: fails(401, "bad key"))
    assert any(level == "error" and "bad key" in text for level, text in refused)


async def test_preflight_tells_what_the_run_cannot_rely_on():
    need = Need(True, datetime.now(UTC), score=True, sampling_seed=True)
    found = await findings(models({"id": "m"}), need, finetune=False, temperature=False)
    told = " ".join(f"{level}: {text}" for level, text in found)
    assert "warning: m takes no temperature" in told
    assert "warning: the server's seed is best effort" in told
    assert "error: 127.0.0.1 gives no log-probabilities" in told
    assert "error: fine-tuning is switched off" in told
