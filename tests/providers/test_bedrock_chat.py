"""Converse: what is sent, what is made of its answers, and what its errors mean."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from providers import registry
from providers.bedrock.conversation import convert_messages
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ContentFiltered,
    ContextOverflow,
    InvalidSettings,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    Unreachable,
)
from providers.types import Message, Request, Sampling
from tests.providers.bedrock_account import BASE, REGION
from tests.providers.bedrock_server import (
    KEY_ID,
    SECRET,
    TOKEN,
    BedrockServer,
    serving_bedrock,
)

ASKED = (Message("user", "What is 2+2?"),)
BRIEFLY = {"max_attempts": 1}


@pytest.fixture(autouse=True)
def credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def process() -> Iterator[BedrockServer]:
    with serving_bedrock() as running:
        yield running


@pytest.fixture
def server(process):
    process.reset()
    return process


async def ask(server, *messages, sampling=None, model=BASE, **settings):
    provider = registry.connect(f"bedrock:{model}", {**server.settings, **settings}, Path())
    asked = Request(provider.base, messages or ASKED, sampling or Sampling(max_tokens=64), "k")
    try:
        return await provider.complete(asked)
    finally:
        await provider.close()


def bodies(server):
    return [entry["body"] for entry in server.log("POST", "/model/.*")]


def reply(*blocks, stop="end_turn", **more):
    return {
        "output": {"message": {"role": "assistant", "content": list(blocks)}},
        "stopReason": stop,
        **more,
    }


async def test_a_conversation_is_sent_in_converse_s_form_and_answered(server):
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=64, top_k=20, stop=("END",))
    talk = (
        Message("system", "Be brief."),
        Message("user", "What is 2+2?"),
        Message("assistant", "5"),
        Message("user", "Others say 4."),
        Message("user", "Are you sure?"),
    )
    answer = await ask(server, *talk, sampling=sampling, guardrail="abc", guardrail_version="1")
    [body] = bodies(server)
    assert body == {
        "system": [{"text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"text": "What is 2+2?"}]},
            {"role": "assistant", "content": [{"text": "5"}]},
            {"role": "user", "content": [{"text": "Others say 4."}, {"text": "Are you sure?"}]},
        ],
        "inferenceConfig": {
            "maxTokens": 64,
            "temperature": 0.7,
            "topP": 0.9,
            "stopSequences": ["END"],
        },
        "additionalModelRequestFields": {"inferenceConfig": {"topK": 20}},
        "guardrailConfig": {"guardrailIdentifier": "abc", "guardrailVersion": "1"},
    }
    assert (answer.finish_reason, answer.error, answer.estimated) == ("stop", None, False)
    assert answer.text.startswith("I work it out.")
    assert (answer.prompt_tokens, answer.completion_tokens) == (10, len(answer.text.split()))


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([Message("assistant", "4")], "does not begin with a user's message"),
        ([Message("system", "Be brief.")], "does not begin with a user's message"),
        ([*ASKED, Message("assistant", " ")], r"message 2 \(assistant\) has no text"),
        ([*ASKED, Message("system", "Stop.")], "a system prompt follows other messages"),
    ],
)
def test_a_conversation_that_converse_has_no_form_for_is_refused(messages, named):
    with pytest.raises(BadRequest, match=named):
        convert_messages(messages)


THOUGHT = {"reasoningContent": {"reasoningText": {"text": "2+2 is 4"}}}
USAGE = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 30}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (reply({"text": "4"}, stop="max_tokens"), ("4", "length", None, None)),
        (reply(THOUGHT, {"text": "4"}), ("4", "stop", "2+2 is 4", None)),
        (
            reply(THOUGHT, stop="max_tokens"),
            ("", "length", "2+2 is 4", "raise sampling.max_tokens"),
        ),
        (reply(stop="end_turn"), ("", "stop", None, "without a text")),
        (reply({"text": "No."}, stop="content_filtered"), ("No.", "filtered", None, "withheld")),
        (
            reply({"text": "Sorry, blocked."}, stop="guardrail_intervened"),
            ("", "filtered", None, "guardrail.*'Sorry, blocked.'"),
        ),
        (reply(stop="tool_use"), ("", "error", None, "called a tool")),
        (reply(stop="malformed_model_output"), ("", "error", None, "no known form")),
        (reply({"text": "4"}, stop="new_word"), ("4", "stop", None, None)),
    ],
)
async def test_an_ending_is_stored_as_what_it_is(server, told, expected):
    server.tell(reply=told)
    answer = await ask(server)
    text, finish, thought, error = expected
    assert (answer.text, answer.finish_reason, answer.thought) == (text, finish, thought)
    if error is None:
        assert answer.error is None
    else:
        assert answer.error is not None
        assert re.search(error, answer.error)


HIDDEN = {"reasoningContent": {"reasoningText": {"text": "[REDACTED]"}}}
NOVA_2 = "us.amazon.nova-2-lite-v1:0"


async def test_nova_2_reasons_as_much_as_it_is_told_and_hidden_thoughts_are_none(server):
    server.tell(reply=reply(HIDDEN, {"text": "4"}, usage=USAGE))
    sampling = Sampling(max_tokens=64, top_k=20)
    answer = await ask(server, model=NOVA_2, sampling=sampling, reasoning_effort="medium")
    [body] = bodies(server)
    assert body["additionalModelRequestFields"] == {
        "inferenceConfig": {"topK": 20},
        "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"},
    }
    assert (answer.text, answer.thought, answer.completion_tokens) == ("4", None, 3)
    server.tell(reply=reply(HIDDEN, stop="max_tokens"))
    answer = await ask(server, model=NOVA_2, reasoning_effort="low")
    assert answer.finish_reason == "length"
    assert answer.error.endswith("raise sampling.max_tokens, or lower provider.reasoning_effort")


@pytest.mark.parametrize(
    ("model", "effort", "named"),
    [
        (BASE, "low", f"{BASE} does not reason; remove it"),
        (NOVA_2, "high", 'nothing would bound what an answer costs; write "medium" or "low"'),
        (NOVA_2, "much", "reasoning_effort is not usable"),
    ],
)
def test_a_reasoning_effort_that_cannot_be_asked_for_is_refused(model, effort, named):
    with pytest.raises(InvalidSettings, match=named):
        registry.check(f"bedrock:{model}", {"reasoning_effort": effort})


async def test_tokens_of_a_cache_count_and_missing_ones_are_bounded(server):
    server.tell(reply=reply({"text": "4"}, usage=USAGE))
    answer = await ask(server)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.estimated) == (27, 3, False)
    server.tell(reply=reply({"text": "4"}, usage={}))
    answer = await ask(server)
    assert answer.estimated
    assert answer.prompt_tokens >= len(ASKED[0].content)


@pytest.mark.parametrize(
    ("code", "message", "kind", "named"),
    [
        ("ThrottlingException", "Too many requests", RateLimited, "rate limit"),
        ("ThrottlingException", "Too many tokens per day", QuotaExhausted, "start again tomorrow"),
        ("ServiceUnavailableException", "busy", Overloaded, "cannot take the request now"),
        ("ModelNotReadyException", "loading", Overloaded, "cannot take"),
        ("ModelErrorException", "broken", RetryableError, "failed"),
        ("InternalServerException", "oops", RetryableError, "failed"),
        ("AccessDeniedException", "no", AuthenticationFailed, "bedrock:InvokeModel, and access"),
        ("UnrecognizedClientException", "no", AuthenticationFailed, "refuses the credentials"),
        ("ExpiredTokenException", "old", AuthenticationFailed, "aws sso login"),
        (
            "ValidationException",
            "The provided model identifier is invalid.",
            ModelNotFound,
            f"region {REGION} has no model .*{BASE}.*another region",
        ),
        (
            "ValidationException",
            "Invocation of model ID m with on-demand throughput isn’t supported.",
            ModelNotFound,
            f"write its name .*bedrock:us.{BASE}",
        ),
        ("ResourceNotFoundException", "end of its life", ModelNotFound, "no model"),
        ("ValidationException", "Input is too long for requested model.", ContextOverflow, "fewer"),
        ("ValidationException", "Malformed temperature", InvalidSettings, r"change \[sampling\]"),
        ("ValidationException", "Operation not allowed", AuthenticationFailed, "AWS support"),
        ("ValidationException", "blocked by content policy", ContentFiltered, "this content"),
        ("ValidationException", "something else", BadRequest, "something else"),
    ],
)
async def test_an_error_says_what_it_means_and_what_to_do(server, code, message, kind, named):
    server.tell(chat=[[code, message]])
    with pytest.raises(kind, match=named):
        await ask(server, **BRIEFLY)


async def test_throttling_is_waited_out_in_one_place(server):
    server.tell(
        chat=[["ThrottlingException", "slow down"], ["ServiceUnavailableException", "x"], "drop"]
    )
    answer = await ask(server)
    assert answer.text
    assert len(bodies(server)) == 4


async def test_without_a_connection_the_error_names_the_region(server):
    with pytest.raises(Unreachable, match=f"no connection to Bedrock in {REGION}"):
        await ask(replace(server, port=1), **BRIEFLY)


async def test_without_credentials_or_region_nothing_is_sent(server, monkeypatch):
    with pytest.raises(InvalidSettings, match=r"region is not set.*AWS_REGION"):
        await ask(server, region=None)
    with pytest.raises(InvalidSettings, match=r"profile.*nobody"):
        await ask(server, profile="nobody")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(AuthenticationFailed, match=r"credentials are missing.*aws configure"):
        await ask(server)
    assert bodies(server) == []


HANGING = """
import asyncio, sys
from pathlib import Path
from providers import registry
from providers.types import Message, Request, Sampling

async def main():
    settings = {"endpoint_url": sys.argv[1], "region": "us-east-1"}
    provider = registry.connect("bedrock:amazon.nova-micro-v1:0", settings, Path())
    asked = Request(provider.base, (Message("user", "Hi"),), Sampling(), "k")
    try:
        await asyncio.wait_for(provider.complete(asked), 1.0)
    except TimeoutError:
        print("stopped")
    await provider.close()

asyncio.run(main())
"""


def test_a_call_without_an_answer_does_not_keep_the_process_alive(server):
    server.tell(slow_s=200)
    command = [sys.executable, "-c", HANGING, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    assert done.stdout == "stopped\n"


async def test_calls_beyond_the_threads_wait_and_all_are_answered(server):
    provider = registry.connect(
        f"bedrock:{BASE}", {**server.settings, "limits": {"max_concurrent": 2}}, Path()
    )
    requests = [Request(provider.base, ASKED, Sampling(max_tokens=64), f"k{n}") for n in range(9)]
    answers = await asyncio.gather(*map(provider.complete, requests))
    assert len({answer.text for answer in answers}) == 1
    await provider.close()


@pytest.mark.parametrize(
    ("target", "settings", "named"),
    [
        ("", {}, "names no model"),
        (BASE, {"role": "x"}, r"\[provider\] role: unknown key; did you mean 'role_arn'\? there"),
        (BASE, {"limits": {"x": 1}}, r"limits.x: unknown key; there are: requests_per_minute"),
        (BASE, {"aws_secret_access_key": "x"}, "a credential does not belong"),
        (BASE, {"bucket": "AKIATESTTESTTESTTEST"}, "a credential does not belong"),
        (BASE, {"bucket": "s3://bucket"}, "bucket"),
        (BASE, {"role_arn": "admin"}, "role_arn"),
        (BASE, {"region": "Virginia"}, "region"),
        (BASE, {"role_arn": SECRET}, "role_arn is not usable"),
        (BASE, {"guardrail": "abc"}, "guardrail and guardrail_version belong together"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_sent(target, settings, named):
    with pytest.raises(InvalidSettings, match=named) as error:
        registry.check(f"bedrock:{target}", settings)
    assert not any(secret in str(error.value) for secret in (KEY_ID, SECRET))


def test_what_converse_does_not_take_is_said_before_the_first_call():
    nova = registry.connect(f"bedrock:{BASE}", {}, Path())
    other = registry.connect("bedrock:mistral.mistral-large-2407-v1:0", {}, Path())
    asked = Sampling(temperature=1.2, top_k=5, min_p=0.1, stop=("x",))
    assert [text.split()[0] for text in nova.validate_sampling(asked)] == [
        "sampling.min_p",
        "sampling.temperature",
    ]
    assert len(other.validate_sampling(asked)) == 3
    assert not other.capabilities.finetune
