"""Log-probabilities of a given text, against a server that counts like vLLM."""

import math
from pathlib import Path

import pytest

from providers import registry
from providers.errors import Unsupported
from providers.types import Message, ModelRef, Score
from tests.providers.chat_server import ChatServer, Reply, says

TURN = {"user": 1, "assistant": 2, "system": 3}
END = 4
GREETING = Message("user", "Hi")


def template(body):
    """Token ids of a conversation: a mark for the role, a character each, and an end."""
    ids = []
    messages = body["messages"]
    for place, message in enumerate(messages):
        ids += [TURN[message["role"]], *map(ord, message["content"])]
        open_end = body.get("continue_final_message") and place == len(messages) - 1
        ids += [] if open_end else [END]
    if body.get("add_generation_prompt", True):
        ids += [TURN["assistant"]]
    return ids


def merged(body):
    """The same, but the role's mark and a line break after it are one token."""
    return [
        9000 + mark if nextone == ord("\n") and mark in TURN.values() else mark
        for mark, nextone in zip(template(body), [*template(body)[1:], 0], strict=True)
        if mark != ord("\n")
    ]


def logprob(token_id, place):
    return -(token_id % 13) / 10 - place / 100


def vllm(tokens):
    def script(asked):
        body = asked.body
        assert body["prompt_logprobs"] == 0
        assert body["max_tokens"] == 1
        assert not (body.get("continue_final_message") and body.get("add_generation_prompt", True))
        ids = tokens(body)
        scored = [
            {str(token): {"logprob": logprob(token, place), "rank": 1, "decoded_token": "?"}}
            for place, token in enumerate(ids)
        ]
        return Reply({**says("x").body, "prompt_logprobs": [None, *scored[1:]]})

    return script


async def score(script, text, messages=(GREETING,), artifact=None):
    async with ChatServer(script) as server:
        provider = registry.connect(f"openai+{server.url}:base", {"score": "vllm"}, Path())
        assert provider.capabilities.score
        try:
            model = ModelRef("model", provider.base.address, artifact)
            return await provider.score(model, messages, text), server.asked
        finally:
            await provider.close()


async def test_the_scores_are_those_of_the_texts_own_tokens():
    found, asked = await score(vllm(template), "Ho!", artifact="adapter-7")
    start = len([1, *"Hi", END, 2])
    assert found.token_ids == tuple(map(ord, "Ho!"))
    assert found.logprobs == tuple(logprob(ord(c), start + n) for n, c in enumerate("Ho!"))
    assert {request.body["model"] for request in asked} == {"adapter-7"}


async def test_a_text_that_begins_like_the_prompt_is_scored_whole():
    messages = (Message("user", "aa"), Message("assistant", "aa"), Message("user", "aa"))
    found, _ = await score(vllm(template), "aaaa", messages)
    assert found.token_ids == tuple(map(ord, "aaaa"))


async def test_a_token_that_joins_template_and_text_counts_to_the_text():
    found, _ = await score(vllm(merged), "\nHo")
    assert found.token_ids == (9002, ord("H"), ord("o"))


async def test_no_text_has_no_tokens_and_asks_nothing():
    found, asked = await score(vllm(template), "")
    assert found == Score((), ())
    assert not asked


async def test_a_server_that_gives_none_is_found_out():
    with pytest.raises(Unsupported, match="gives no prompt_logprobs"):
        await score(lambda asked: says("x"), "Ho")


async def test_a_missing_log_probability_is_not_made_up():
    def script(asked):
        whole = [None, {"5": {"logprob": -1.0}}, None]
        if asked.number < 3:
            return Reply({**says("x").body, "prompt_logprobs": whole})
        return vllm(template)(asked)

    found, asked = await score(script, "Ho")
    assert all(math.isfinite(value) for value in found.logprobs)
    assert len(asked) == 5
