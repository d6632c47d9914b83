"""Limits, keys and ends: a society whose model is a server of ours, slow or down at will."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from society.config.load import ConfigError
from society.runs.folder import locate_run
from society.view.endpoint.admission import QueueLimits
from society.view.endpoint.chat import ChatLimits
from store.ledger import Store
from tests.providers.chat_server import HeldScript, fails, says, serving
from tests.providers.engine_environment import EngineEnvironment, is_alive

SEVEN = "It is \\boxed{7}."


@pytest.fixture
def model():
    return HeldScript(SEVEN)


@pytest.fixture
def upstream(model):
    with serving(model) as server:
        yield server
        # Requests that still wait are let go before the server ends.
        model.may_answer.set()
        until(lambda: server.now == 0)


@pytest.fixture
def folder(tmp_path, new_run, upstream):
    address = f"openai+{upstream.url}:m"
    return new_run(
        tmp_path,
        "remote",
        model=address,
        provider={"max_attempts": 2, "give_up_after_s": 2.0, "timeout_s": 5},
        prices={"m": {"input_usd": 1.0, "output_usd": 10.0}},
    )


def until(fulfilled, within_s=10.0):
    give_up = time.monotonic() + within_s
    while not fulfilled():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_overload_is_told_at_once_and_those_who_wait_are_answered(serve, folder, model):
    with (
        serve(folder, queue=QueueLimits(running=1, waiting=1)) as service,
        ThreadPoolExecutor(2) as pool,
    ):
        taken = [pool.submit(service.ask) for _ in range(2)]
        until(lambda: service.figures()["society_requests_waiting"] == 1)
        began = time.monotonic()
        with pytest.raises(openai.RateLimitError) as refused:
            service.ask()
        assert time.monotonic() - began < 2
        assert refused.value.code == "queue_full"
        assert int(refused.value.response.headers["retry-after"]) >= 1
        # The official client waits as long as it is told, and asks again by itself.
        patient = pool.submit(lambda: None)
        model.may_answer.set()
        with service.client(max_retries=5) as client:
            asked = [{"role": "user", "content": "1+1"}]
            late = client.chat.completions.create(model="society", messages=asked)
        assert patient.result() is None
        replies = [late, *(each.result() for each in taken)]
        assert {reply.choices[0].message.content for reply in replies} == {SEVEN}


def test_a_key_is_asked_for_wherever_others_reach_the_server(serve, folder, model):
    model.may_answer.set()
    with serve(folder, host="0.0.0.0") as service:
        [key] = [line.removeprefix("key: ") for line in service.said if line.startswith("key: ")]
        assert len(key) >= 43
        for wrong in ("none", key[:-1]):
            with service.client(wrong) as client, pytest.raises(openai.AuthenticationError) as no:
                client.models.list()
            assert no.value.status_code == 401
            assert no.value.code == "invalid_api_key"
        with service.client(key) as client:
            assert client.models.list().data
        assert httpx2.get(f"{service.url}/health").json() == {"status": "ok"}
        assert httpx2.get(f"{service.url}/metrics").status_code == 401


def test_no_web_page_of_others_can_ask_a_server_without_a_key(serve, folder):
    body = '{"model": "society", "messages": [{"role": "user", "content": "1+1"}]}'
    with serve(folder) as service:
        address = f"{service.url}/v1/chat/completions"
        rebound = httpx2.post(address, headers={"host": "evil.example"}, json={})
        assert rebound.status_code == 421
        # What a form of another site can send without being asked first.
        simple = httpx2.post(address, headers={"content-type": "text/plain"}, content=body)
        assert simple.status_code == 415
        assert "access-control-allow-origin" not in httpx2.get(f"{service.url}/v1/models").headers
        assert httpx2.post(address, json={"a": "x" * (5 << 20)}).status_code == 413


@pytest.mark.parametrize("streams", [False, True])
def test_a_killed_client_frees_its_place(serve, folder, model, upstream, streams):
    code = (
        "import openai, sys; c = openai.OpenAI(base_url=sys.argv[1], api_key='x', max_retries=0)\n"
        "r = c.chat.completions.create(model='society', stream=sys.argv[2] == 'True',\n"
        "    messages=[{'role': 'user', 'content': '1+1'}])\n"
        "list(r)"
    )
    with serve(folder, queue=QueueLimits(running=1, waiting=0)) as service:
        client = subprocess.Popen(
            [sys.executable, "-c", code, f"{service.url}/v1", str(streams)],
            stderr=subprocess.DEVNULL,
        )
        until(lambda: service.figures()["society_requests_running"] == 1, 30)
        client.kill()
        client.wait()
        until(lambda: service.figures()["society_requests_running"] == 0)
        assert service.figures()['society_requests_total{model="society",status="499"}'] == 1
        model.may_answer.set()
        assert service.ask().choices[0].message.content == SEVEN


def test_a_deadline_ends_a_request(serve, folder, model):
    with serve(folder, chat=ChatLimits(deadline_s=0.3)) as service:
        with pytest.raises(openai.APIStatusError) as late:
            service.ask()
        assert late.value.status_code == 504
        assert late.value.code == "deadline_exceeded"
        # A stream has begun by then, so the error is its last event.
        with pytest.raises(openai.APIError, match="deadline of this server"):
            service.ask(stream=True)
        assert service.figures()["society_requests_running"] == 0
        model.may_answer.set()
        assert service.ask().choices


def test_a_budget_is_kept(serve, folder, model):
    model.may_answer.set()
    # Three calls cost 0.00011 USD, and 96 more would cost 0.0036.
    with serve(folder, budget_usd=0.003) as service:
        assert service.ask(model="society:round1").choices
        spent = service.figures()["society_spent_usd"]
        assert spent == pytest.approx(3 * (7 * 1.0 + 3 * 10.0) / 1e6)
        with pytest.raises(openai.RateLimitError) as refused:
            service.ask(n=16)
        assert refused.value.code == "insufficient_quota"
        assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_model_that_was_down_is_asked_again_when_it_is_back(serve, folder, model):
    model.may_answer.set()
    with serve(folder) as service:
        model.reply = lambda asked: fails(401, "wrong key at the vendor")
        with pytest.raises(openai.APIStatusError) as broken:
            service.ask()
        # The vendor's 401 is not the client's.
        assert broken.value.status_code == 502
        model.reply = lambda asked: fails(503, "down")
        with pytest.raises(openai.APIStatusError) as broken:
            service.ask()
        assert broken.value.status_code == 503
        model.reply = lambda asked: says(SEVEN)
        assert service.ask().choices[0].message.content == SEVEN


def test_a_debate_is_held_only_where_the_generators_disagree(serve, folder, model):
    model.may_answer.set()
    answers = iter("778" + "777")
    model.reply = lambda asked: says(f"\\boxed{{{next(answers)}}}")
    with serve(folder) as service:
        debated = service.ask(model="society:fast").choices[0]
        model.reply = lambda asked: says(SEVEN)
        agreed = service.ask(model="society:fast").choices[0]
    assert (debated.consensus["rounds"], debated.consensus["calls"]) == (2, 6)
    assert (agreed.consensus["rounds"], agreed.consensus["calls"]) == (1, 3)


def test_free_text_is_answered_with_the_agent_that_speaks_for_the_vote(serve, folder, model):
    model.may_answer.set()
    texts = iter(["I say \\boxed{9}.", "No: \\boxed{4}", "Four, \\boxed{4}."])
    model.reply = lambda asked: says(next(texts))
    with serve(folder) as service:
        [choice] = service.ask(model="society:round1").choices
        assert choice.message.content == "No: \\boxed{4}"
        # Nobody states an answer: the first text is still an answer to a client.
        model.reply = lambda asked: says("I do not know.")
        [choice] = service.ask().choices
    assert choice.message.content == "I do not know."
    assert choice.consensus["answer"] is None


def test_a_conversation_reaches_the_agents_before_the_question(serve, folder, model, upstream):
    model.may_answer.set()
    earlier = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "1+1"}]},
        {"role": "assistant", "content": "2", "reasoning_content": "Round 1, agent 1: …"},
    ]
    asked = [*earlier, {"role": "user", "content": "3+4"}]
    with serve(folder) as service, service.client() as client:
        client.chat.completions.create(
            model="society:agent-2", messages=asked, max_tokens=9, temperature=0.25
        )
    [request] = upstream.asked
    assert [message["role"] for message in request.body["messages"]] == [
        *("system", "user", "assistant", "user"),
    ]
    assert [message["content"] for message in request.body["messages"][:3]] == [
        *("Be brief.", "1+1", "2"),
    ]
    # The question stands in the task's own words, which the society was trained on.
    assert "What is the result of 3+4?" in request.last
    assert request.body["temperature"] == 0.25
    assert 9 in request.body.values()


def test_a_stop_lets_answers_end_and_takes_no_new_ones(folder, model, upstream):
    command = [sys.executable, "-m", "society", "serve", folder.name, "--port", "0"]
    server = subprocess.Popen(
        [*command, "--runs", str(folder.path.parent), "--store", "kept"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        url = re.search(r"http://\S+", server.stdout.readline()).group()
        with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:

            def ask():
                asked = [{"role": "user", "content": "1+1"}]
                return client.chat.completions.create(model="society:round1", messages=asked)

            with ThreadPoolExecutor(1) as pool:
                under_way = pool.submit(ask)
                until(lambda: upstream.asked)
                server.send_signal(signal.SIGTERM)
                until(lambda: not accepts(url))
                model.may_answer.set()
                assert under_way.result().choices[0].message.content == SEVEN
        assert server.wait(20) == 130
        shown = subprocess.run(
            [
                *(sys.executable, "-m", "society", "sql", "kept", "--format", "csv"),
                *("--runs", str(folder.path.parent)),
                "SELECT arm, question, count(*) AS turns, max(answer) AS answer FROM turns "
                "JOIN questions USING (question_id) GROUP BY ALL",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert shown.split() == ["arm,question,turns,answer", "society:round1,1+1,3,7"]
    finally:
        server.kill()
        server.wait()


def accepts(url):
    try:
        return httpx2.get(url.replace("/v1", "/health")).is_success
    except httpx2.TransportError:
        return False


def test_a_server_of_the_runs_own_is_up_before_the_first_request(tmp_path, serve, new_run):
    environment = EngineEnvironment(tmp_path / "engine")
    serving = {"engine": "vllm", "python": str(environment.python), "canary": False}
    folder = new_run(tmp_path, "own", model="embedded:", serving=serving)
    with serve(folder) as service:
        [started] = environment.events("start")
        assert service.ask(model="society:round1").choices[0].message.content
    assert len(environment.events("start")) == 1
    assert not is_alive(started["pid"])


def test_a_record_goes_on_and_is_no_run_of_another_kind(serve, folder, model, tmp_path, new_run):
    model.may_answer.set()
    kept = locate_run(tmp_path, "kept")
    for _ in range(2):
        with serve(folder, kept) as service:
            assert service.ask(model="society:round1").choices
    with Store.open(kept.database, read_only=True) as store:
        assert store.rows("SELECT count(*), count(DISTINCT question_id) FROM turns") == [(6, 2)]
        assert store.run().finished_at is not None
    other = new_run(tmp_path, "other", model="embedded:")
    for record, why in ((folder, "a run of its own"), (other, "a run of its own")):
        with pytest.raises(ConfigError, match=why), serve(folder, record):
            pass
    different = new_run(tmp_path, "different", model=folder_model(folder), seed=1)
    with pytest.raises(ConfigError, match="another experiment"), serve(different, kept):
        pass


def folder_model(folder):
    with Store.open(folder.database, read_only=True) as store:
        return json.loads(store.run().config)["model"]
