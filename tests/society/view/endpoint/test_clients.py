"""The official client, sync, async and streaming, at a society of the built-in model."""

import asyncio

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from society.runs.folder import locate_run
from society.view.endpoint.chat import ChatLimits

SUM = "3+4*5+6-7*8"
ASKED = [{"role": "user", "content": SUM}]


@pytest.fixture(scope="module")
def service(tmp_path_factory, serve, new_run):
    pytest.importorskip("peft")
    runs = tmp_path_factory.mktemp("served")
    folder = new_run(runs, "sums", model="embedded:")
    with serve(folder, locate_run(runs, "kept"), chat=ChatLimits(60.0, 4000)) as service:
        yield service


def test_a_debate_is_answered_with_the_words_of_an_agent_who_is_with_the_vote(service):
    reply = service.ask(seed=5)
    [choice] = reply.choices
    assert choice.finish_reason == "stop"
    assert f"\\boxed{{{choice.consensus['answer']}}}" in choice.message.content
    assert choice.consensus["calls"] == 6
    assert "Round 2, agent 3:" in choice.message.reasoning_content
    assert choice.message.content in choice.message.reasoning_content
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    # The same seed gives the same debate, at another time and beside other requests.
    assert service.ask(seed=5).choices[0].message == choice.message


def test_every_model_makes_its_own_number_of_calls(service):
    with service.client() as client:
        names = [model.id for model in client.models.list()]
        assert names[:3] == ["society", "society:fast", "society:round1"]
        assert client.models.retrieve("society:agent-2").id == names[4]
    # Greedy answers of one model are the same, so that no debate is needed.
    asked = {name: service.ask(model=name, temperature=0) for name in names}
    calls = {name: reply.choices[0].consensus["calls"] for name, reply in asked.items()}
    assert calls == {
        "society": 6,
        "society:fast": 3,
        "society:round1": 3,
        **dict.fromkeys(names[3:], 1),
    }
    alone = asked["society:agent-3"]
    assert not hasattr(alone.choices[0].message, "reasoning_content")
    assert alone.usage.completion_tokens_details.reasoning_tokens == 0


def test_choices_stop_and_length(service):
    reply = service.ask(model="society:round1", n=3, stop=["Answer", "\\boxed"], seed=1)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in reply.choices]
    assert len(set(texts)) > 1
    assert not any("Answer" in text or "boxed" in text for text in texts)
    # The agents were not cut: they have voted.
    assert all(choice.consensus["votes"] for choice in reply.choices)
    short = service.ask(model="society:agent-1", max_tokens=4)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 4


def test_a_stream_tells_the_debate_and_then_the_answer(service):
    chunks = service.ask(stream=True, stream_options={"include_usage": True})
    told = [c.choices[0].delta for c in chunks if c.choices]
    progress = [d.reasoning_content for d in told if hasattr(d, "reasoning_content")]
    assert len(progress) == 6
    assert progress[0].startswith("Round 1, agent")
    text = "".join(delta.content or "" for delta in told)
    assert "\\boxed" in text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.total_tokens > 0
    # The client trusts what it gets; its own types, asked strictly, do not.
    body = {"model": "society:fast", "messages": ASKED, "stream": True, "n": 2}
    raw = httpx2.post(f"{service.url}/v1/chat/completions", json=body, timeout=60).text
    *events, last, end = raw.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    for event in events:
        ChatCompletionChunk.model_validate_json(event.removeprefix("data: "), strict=True)
    # The answer only, if the request wants no more.
    plain = service.ask(stream=True, extra_body={"include_reasoning": False})
    assert not any(hasattr(c.choices[0].delta, "reasoning_content") for c in plain)


async def test_the_async_client_asks_many_at_once(service):
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="x") as client:
        create = client.chat.completions.create
        replies = await asyncio.gather(
            *(create(model="society:fast", messages=ASKED, seed=n) for n in range(12))
        )
        stream = await create(model="society:agent-1", messages=ASKED, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert len({reply.id for reply in replies}) == 12
    assert all(reply.choices[0].consensus["votes"] >= 1 for reply in replies)
    assert "boxed" in text


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"n": 17}, "n"),
        ({"n": 16}, "max_tokens"),
        ({"extra_body": {"beam": 4}}, "beam"),
        ({"messages": [{"role": "assistant", "content": "7"}]}, "messages"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "7"}]}, "messages.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0",
        ),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(service, options, param):
    with service.client() as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "society", "messages": ASKED, **options})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert service.figures()["society_requests_running"] == 0


def test_unknown_models_and_addresses(service):
    with pytest.raises(openai.NotFoundError) as refused:
        service.ask(model="gpt-5")
    assert refused.value.code == "model_not_found"
    assert "society:round1" in refused.value.message
    with service.client() as client, pytest.raises(openai.NotFoundError) as refused:
        client.embeddings.create(model="society", input="x")
    assert refused.value.code == "unknown_url"


def test_the_figures_add_up(service):
    before = service.figures()
    reply = service.ask(model="society:round1", n=2)
    after = service.figures()

    def grown(name):
        return after[name] - before.get(name, 0.0)

    assert grown('society_requests_total{model="society:round1",status="200"}') == 1
    assert grown('society_debates_total{model="society:round1"}') == 2
    assert grown('society_calls_total{model="society:round1"}') == 6
    written = grown('society_tokens_total{model="society:round1",kind="completion"}')
    assert written == reply.usage.completion_tokens
    assert grown('society_request_seconds_bucket{model="society:round1",le="+Inf"}') == 1
