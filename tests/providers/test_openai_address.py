"""Addresses and settings of OpenAI-shaped servers, before anything is called."""

import subprocess
import sys

import pytest

from providers import registry
from providers.errors import InvalidSettings
from providers.openai.settings import OPENAI_URL, ModelAddress, OpenAISettings, parse_address


@pytest.mark.parametrize(
    ("target", "url", "model"),
    [
        ("gpt-4o-mini", OPENAI_URL, "gpt-4o-mini"),
        ("ft:gpt-4o-mini:org::id", OPENAI_URL, "ft:gpt-4o-mini:org::id"),
        (
            "+http://127.0.0.1:8000/v1:Qwen/Qwen3-0.6B",
            "http://127.0.0.1:8000/v1",
            "Qwen/Qwen3-0.6B",
        ),
        ("+https://api.example.com/v1:ft:a:b::c", "https://api.example.com/v1", "ft:a:b::c"),
        ("+http://[::1]:8000/v1:m", "http://[::1]:8000/v1", "m"),
        ("+http://server/a/b/v1/:m", "http://server/a/b/v1", "m"),
        ("+http://server:8000:m", "http://server:8000", "m"),
        ("+http://server:7b-instruct", "http://server", "7b-instruct"),
        (
            "+https://me.openai.azure.com/openai/v1/:my-deployment",
            "https://me.openai.azure.com/openai/v1",
            "my-deployment",
        ),
    ],
)
def test_an_address_names_a_server_and_a_model(target, url, model):
    assert parse_address(target) == ModelAddress(url, model)


@pytest.mark.parametrize(
    "target",
    [
        "",
        " ",
        "+",
        "+m",
        "+ftp://server:m",
        "+http://server:8000",
        "+http://server:8000/v1",
        "+http://server/v1",
        "+http://server/v1:",
        "+http://server/v1?a=b:m",
        "+https://:m",
    ],
)
def test_an_address_without_server_or_model_is_refused_with_the_form(target):
    with pytest.raises(InvalidSettings, match="write it as openai:MODEL or openai"):
        parse_address(target)


@pytest.mark.parametrize(
    "target",
    ["+https://user:hunter2-password@server/v1:m", "+https://server/v1?key=sk-hunter2-password:m"],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(target):
    with pytest.raises(InvalidSettings) as refused:
        parse_address(target)
    assert "hunter2" not in str(refused.value)


def test_a_provider_bears_the_address_it_was_opened_with(tmp_path):
    for address in ("openai:gpt-4o", "openai+http://127.0.0.1:1/v1/:a:b"):
        assert registry.connect(address, {}, tmp_path).base.address == address


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://[::1]/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://192.168.0.9:8000/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://vllm:8000/v1", True),
        ("http://gpu.internal/v1", True),
        ("https://8.8.8.8/v1", False),
        ("https://api.example.com/v1", False),
    ],
)
def test_a_server_of_ones_own_needs_no_key_and_another_vendors_key_has_to_be_named(url, private):
    address = ModelAddress(url, "m")
    assert address.is_private is private
    if private:
        assert OpenAISettings.parse({}, address).key_variable(address) == ""
    else:
        with pytest.raises(InvalidSettings, match=r"api_key_env is not set, and .* is not OpenAI"):
            OpenAISettings.parse({}, address)
        named = OpenAISettings.parse({"api_key_env": "OTHER_KEY"}, address)
        assert named.key_variable(address) == "OTHER_KEY"
        assert OpenAISettings.parse({"api_key_env": ""}, address).key_variable(address) == ""


def test_openai_itself_takes_the_usual_variable():
    address = ModelAddress(OPENAI_URL, "m")
    assert OpenAISettings.parse({}, address).key_variable(address) == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": "sk-hunter2hunter2"}, "a key does not belong into an experiment file"),
        ({"api_key_env": "sk-hunter2hunter2"}, "takes the variable's name, never the key"),
        ({"api_key_env": "hunter2hunter2"}, "takes the variable's name, never the key"),
        ({"headers": {"Authorization": "Bearer hunter2hunter2"}}, "'env:VARIABLE_NAME'"),
        ({"headers": {"api-key": "hunter2hunter2"}}, "'env:VARIABLE_NAME'"),
        ({"headers": {"X-Other": "Bearer hunter2hunter2"}}, "'env:VARIABLE_NAME'"),
        ({"headers": {"X-Other": "env:hunter2hunter2"}}, "'env:VARIABLE_NAME'"),
        ({"headers": {"X-Other": "hunter2\r\nEvil: 1"}}, "cannot be sent"),
        ({"headers": {"X Other": "hunter2"}}, "letters, digits and dashes"),
        ({"timeout_s": 0}, "timeout_s"),
        (
            {"timeouts": 3},
            "has no key 'timeouts'; did you mean 'timeout_s'? there are: api_key_env",
        ),
        ({"limits": {"rpm": 3}}, "has no key 'limits.rpm'; there are: requests_per_minute"),
        ({"limits": {"max_concurrent": 0}}, "limits.max_concurrent"),
        ({"score": "sglang"}, "score"),
        ({"max_attempts": 0}, "max_attempts"),
    ],
)
def test_wrong_settings_are_named_with_a_remedy_and_no_value_is_repeated(settings, message):
    with pytest.raises(InvalidSettings) as refused:
        registry.check("openai:gpt-4o", settings)
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_checking_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    registry.check(
        "openai:gpt-4o",
        {
            "organization": "org-1",
            "headers": {"X-Title": "study", "X-Key": "env:OTHER"},
            "limits": {"requests_per_minute": 500, "tokens_per_minute": 30_000},
        },
    )


def test_checking_an_address_imports_neither_client_nor_transport():
    code = (
        "import sys; from providers import registry; registry.check('openai:gpt-4o', {}); "
        "print([n for n in ('openai', 'aiohttp', 'httpx2', 'torch') if n in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
