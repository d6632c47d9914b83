"""Reasoning models behind a server: what they are asked for, and the thoughts that come back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from providers import registry
from providers.answer_server import AnswerServer, check_answer_servers
from providers.base import AdapterServer
from providers.errors import InvalidSettings
from providers.openai.answers import parse_answer
from providers.replica import Replica
from providers.replicas import Replicas
from providers.scripted import ScriptedProvider
from providers.split import SplitProvider
from providers.types import Completion, Hyperparameters, Message, Request, Sampling
from tests.providers.chat_server import ChatServer, says

ASKED = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
QUESTION = (Message("user", "2+2?"),)


def connect(server, **settings):
    return registry.connect(f"openai+{server.url}:m", settings, Path())


async def test_template_arguments_and_effort_are_in_every_request():
    async with ChatServer(lambda asked: says("4")) as server:
        provider = connect(server, **ASKED)
        await provider.complete(Request(provider.base, QUESTION, Sampling(), "q"))
        await provider.close()
    (asked,) = server.asked
    assert {name: asked.body[name] for name in ASKED} == ASKED
    address = f"openai+{server.url}:m"
    assert registry.output_settings(address, ASKED | {"timeout_s": 5}) == ASKED


async def test_requests_without_them_are_what_they_were():
    async with ChatServer(lambda asked: says("4")) as server:
        provider = connect(server)
        await provider.complete(Request(provider.base, QUESTION, Sampling(), "q"))
        await provider.close()
    assert server.asked[0].body.keys().isdisjoint(ASKED)


@pytest.mark.parametrize(
    ("address", "settings", "says"),
    [
        ("openai:o4-mini", {"chat_template_kwargs": {"a": 1}}, "api.openai.com takes none"),
        ("openai:gpt-4.1-mini", {"reasoning_effort": "low"}, "is no reasoning model"),
        ("openai:ft:gpt-4o:o::i", {"reasoning_effort": "low"}, "is no reasoning model"),
        ("openai:o4-mini", {"reasoning_effort": ""}, "reasoning_effort"),
    ],
)
def test_what_openai_does_not_take_is_refused_before_the_first_call(address, settings, says):
    with pytest.raises(InvalidSettings, match=says):
        registry.check(address, settings)


@pytest.mark.parametrize(
    "message",
    [
        {"content": "4", "reasoning_content": "2+2 is 4."},
        {"content": "4", "reasoning": "2+2 is 4.", "reasoning_content": "2+2 is 4."},
        {"content": "4", "reasoning_details": [{"type": "reasoning.text", "text": "2+2 is 4."}]},
        {"content": [{"type": "thinking", "thinking": "2+2 is 4."}, {"type": "text", "text": "4"}]},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "2+2 is 4."}]},
                {"type": "text", "text": "4"},
            ]
        },
    ],
)
def test_a_thought_is_found_wherever_servers_put_it(message):
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    answer = parse_answer(body)
    assert (answer.text, answer.thought) == ("4", "2+2 is 4.")


def test_an_answer_without_a_thought_has_none():
    body = {"content": "4", "reasoning": None, "reasoning_details": [{"type": "encrypted"}]}
    choice = {"choices": [{"message": body, "finish_reason": "stop"}]}
    assert parse_answer(json.dumps(choice).encode()).thought is None


async def test_a_thought_comes_back_beside_the_answer_and_an_empty_answer_says_why():
    replies = [says("4", reasoning_content="Hm."), says(None, "length", reasoning_content="Hm, 2")]
    async with ChatServer(lambda asked: replies[asked.number]) as server:
        provider = connect(server)
        request = Request(provider.base, QUESTION, Sampling(), "q")
        first = await provider.complete(request)
        second = await provider.complete(replace(request, key="r"))
        await provider.close()
    assert (first.text, first.thought, first.error) == ("4", "Hm.", None)
    assert (second.text, second.thought) == ("", "Hm, 2")
    assert "on reasoning" in second.error


@pytest.mark.parametrize("name", ["chat_template_kwargs", "reasoning_effort"])
def test_a_server_must_send_the_prompts_that_are_trained(name):
    answers = AnswerServer("openai+http://127.0.0.1:9/v1:m", {name: ASKED[name]})
    with pytest.raises(InvalidSettings, match=rf"serving\.settings\.{name}"):
        check_answer_servers([answers], Hyperparameters(), {})
    check_answer_servers([answers], Hyperparameters(), {name: ASKED[name]})


async def test_a_server_that_takes_thoughts_out_of_answers_cannot_answer_for_trained_models(
    tmp_path,
):
    def thinks(request):
        return Completion("4", "stop", 1, 1, 0.0, thought="Hm.")

    server, trainer = ScriptedProvider(thinks), ScriptedProvider(lambda request: "4")
    answers = AnswerServer("openai+http://127.0.0.1:9/v1:m")
    replica = Replica(answers, server, _NoAdapters(), tmp_path)
    split = SplitProvider(trainer, Replicas([replica], patience_s=1.0), tmp_path)
    with pytest.raises(InvalidSettings, match="without a reasoning parser"):
        await split.complete(Request(trainer.base, QUESTION, Sampling(), "q"))
    await split.close()


class _NoAdapters(AdapterServer):
    async def list_loaded(self):
        return []

    async def load(self, name, path):
        raise AssertionError

    async def unload(self, name):
        raise AssertionError

    def model_name(self, name):
        return name

    async def preflight(self):
        return []

    async def close(self):
        return None
