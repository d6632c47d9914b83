"""The replay provider against a real run's database, made with the store."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace

import duckdb
import pytest

from providers import registry
from providers.base import Provider
from providers.errors import (
    InvalidSettings,
    ModelNotFound,
    RequestError,
    RunError,
    TrainingFailed,
    Unsupported,
)
from providers.types import (
    FinetuneSpec,
    Hyperparameters,
    Message,
    ModelRef,
    Request,
    Sampling,
)
from store.content import messages_json
from store.ledger import Store
from store.records import Run, Turn

ASKED = (Message("user", "2+2?"),)
CONFIG = {"task": {"name": "sums"}, "society": {"agents": 2, "rounds": 2, "others": "quoted"}}
SAMPLED, GREEDY = Sampling(temperature=1.0), Sampling(temperature=0.0)


def turn(**changes):
    known = {
        "iteration": 1,
        "split": "train",
        "arm": "multiagent",
        "decoding": "sampled",
        "question_id": "q/a1/r1",
        "agent": 1,
        "round": 1,
        "kind": "answer",
        "model_id": "m",
        "messages": messages_json([{"role": m.role, "content": m.content} for m in ASKED]),
        "response": "four",
        "answer": "4",
        "finish_reason": "stop",
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "latency_ms": 12.5,
    }
    return Turn(**(known | changes))


@pytest.fixture
def made(tmp_path):
    """Makes a run's folder with the given turns."""

    def make(*turns):
        folder = tmp_path / "runs" / "old"
        folder.mkdir(parents=True)
        with Store.open(folder / "run.duckdb") as store:
            store.write(Run("old", json.dumps(CONFIG), "", 0, "{}"), *turns)
        return folder

    return make


def connect(folder, tmp_path, **settings):
    return registry.connect(f"replay:{folder}", settings, tmp_path / "models")


def ask(key, *, messages=ASKED, sampling=SAMPLED, model=None):
    return Request(model or ModelRef("m", "replay:"), tuple(messages), sampling, key)


async def test_a_stored_turn_is_the_answer_with_its_tokens_and_latency(made, tmp_path):
    folder = made(turn(), turn(agent=2, response="five", finish_reason="length"))
    for address in (folder, folder / "run.duckdb"):
        provider = connect(address, tmp_path)
        assert isinstance(provider, Provider)
        one, two = await asyncio.gather(
            provider.complete(ask("train1/q/a1/r1/a1/r1/answer")),
            provider.complete(ask("train1/q/a1/r1/a2/r1/answer")),
        )
        assert (one.text, one.finish_reason, one.prompt_tokens) == ("four", "stop", 11)
        assert (one.completion_tokens, one.latency_ms) == (7, 12.5)
        assert (two.text, two.finish_reason) == ("five", "length")
        await provider.close()


async def test_estimated_tokens_are_estimated_in_the_replay_too(made, tmp_path):
    folder = made(turn(tokens_estimated=True), turn(agent=2))
    provider = connect(folder, tmp_path)
    estimated = await provider.complete(ask("train1/q/a1/r1/a1/r1/answer"))
    counted = await provider.complete(ask("train1/q/a1/r1/a2/r1/answer"))
    assert (estimated.prompt_tokens, estimated.estimated) == (11, True)
    assert (counted.prompt_tokens, counted.estimated) == (11, False)
    await provider.close()


async def test_a_file_from_before_tokens_were_marked_as_estimated_can_be_replayed(made, tmp_path):
    folder = made(turn())
    with duckdb.connect(str(folder / "run.duckdb")) as connection:
        connection.execute("ALTER TABLE turns DROP COLUMN tokens_estimated")
    provider = connect(folder, tmp_path)
    answer = await provider.complete(ask("train1/q/a1/r1/a1/r1/answer"))
    assert (answer.text, answer.prompt_tokens, answer.estimated) == ("four", 11, False)
    await provider.close()


async def test_decoding_iteration_and_kind_tell_turns_apart(made, tmp_path):
    stored = {
        "train1/q/a1/r2/answer": turn(question_id="q", round=2, response="A"),
        "train2/q/a1/r2/answer": turn(question_id="q", round=2, iteration=2, response="B"),
        "train2/q/a1/r2/summary": turn(
            question_id="q", round=2, iteration=2, kind="summary", response="C"
        ),
        "eval/q/a1/r2/answer": turn(question_id="q", round=2, split="eval", response="D"),
    }
    greedy = turn(question_id="q", round=2, split="eval", decoding="greedy", response="E")
    provider = connect(made(*stored.values(), greedy), tmp_path)
    for key, each in stored.items():
        assert (await provider.complete(ask(key))).text == each.response
    answer = await provider.complete(ask("eval/q/a1/r2/answer", sampling=GREEDY))
    assert answer.text == "E"
    await provider.close()


def spec(iteration, role="generator", agent=1):
    return FinetuneSpec(
        name=f"run-multiagent-a{agent}-{role}-it{iteration}-12345678",
        start=ModelRef("replay:", "replay:"),
        examples=(),
        dataset_sha256="0",
        hyperparameters=Hyperparameters(),
        metadata={
            "run": "run",
            "arm": "multiagent",
            "iteration": str(iteration),
            "agent": str(agent),
            "role": role,
            "dataset": "d",
        },
    )


async def tuned(provider, *specs):
    states = [await provider.poll(await provider.submit(each)) for each in specs]
    assert {state.status for state in states} == {"succeeded"}
    return [state.model for state in states]


async def test_an_evaluation_is_answered_by_the_iteration_whose_models_are_served(made, tmp_path):
    turns = [turn(question_id="q", split="eval", iteration=k, response=str(k)) for k in (0, 1, 2)]
    provider = connect(made(*turns), tmp_path)
    base = provider.base
    first, second = await tuned(provider, spec(1), spec(2, "critic"))
    for served, model, expected in [
        ([], base, "0"),
        ([first], first, "1"),
        ([first], base, "1"),
        ([first, second], first, "2"),
        ([first, second], base, "2"),
        ([], second, "2"),
    ]:
        await provider.load_adapters(served)
        answer = await provider.complete(ask("eval/q/a1/r1/answer", model=model))
        assert answer.text == expected
    await provider.close()


async def test_the_same_conversation_comes_before_the_same_iteration(made, tmp_path):
    other = messages_json([{"role": "user", "content": "something else"}])
    turns = [
        turn(question_id="q", split="eval", iteration=0, response="same"),
        turn(question_id="q", split="eval", iteration=1, messages=other, response="other"),
        turn(question_id="q", split="eval", iteration=0, arm="base", response="base arm"),
    ]
    provider = connect(made(*turns), tmp_path)
    await provider.load_adapters(await tuned(provider, spec(1)))
    assert (await provider.complete(ask("eval/q/a1/r1/answer"))).text == "same"
    await provider.close()


async def test_another_conversation_stops_the_run_and_says_what_changed_it(made, tmp_path):
    past = [*ASKED, Message("assistant", "four"), Message("user", "others say five")]
    stored = messages_json([{"role": m.role, "content": m.content} for m in past])
    folder = made(turn(question_id="q"), turn(question_id="q", round=2, messages=stored))
    provider = connect(folder, tmp_path)
    with pytest.raises(RunError, match=r"message 1 .* task\.name = 'sums'") as first:
        await provider.complete(ask("train1/q/a1/r1/answer", messages=[Message("user", "2+3?")]))
    assert 'provider.match = "position"' in str(first.value)
    changed = [*past[:2], Message("user", "others say six")]
    with pytest.raises(RunError, match=r"message 3 .* society\.others = 'quoted'"):
        await provider.complete(ask("train1/q/a1/r2/answer", messages=changed))
    with pytest.raises(RunError, match=r"message 2"):
        await provider.complete(ask("train1/q/a1/r2/answer", messages=past[:1]))
    assert not issubclass(first.type, RequestError)
    await provider.close()


async def test_by_position_the_stored_answer_counts_whatever_was_asked(made, tmp_path):
    provider = connect(made(turn(question_id="q")), tmp_path, match="position")
    request = ask("train1/q/a1/r1/answer", messages=[Message("user", "2+3?")])
    assert (await provider.complete(request)).text == "four"
    await provider.close()


@pytest.mark.parametrize("match", ["messages", "position"])
async def test_a_turn_that_is_not_stored_stops_the_run(made, tmp_path, match):
    provider = connect(made(turn(question_id="q")), tmp_path, match=match)
    for key in ("train2/q/a1/r1/answer", "eval/q/a1/r1/answer", "train1/p/a1/r1/answer"):
        with pytest.raises(RunError, match=r"holds no turn .* society\.agents = 2"):
            await provider.complete(ask(key))
    with pytest.raises(RunError, match="only turns of a debate"):
        await provider.complete(ask("warmup"))
    await provider.close()


async def test_a_stored_failure_fails_again_for_the_same_reason(made, tmp_path):
    failed = turn(question_id="q", response="", finish_reason="error", error="too long")
    provider = connect(made(failed), tmp_path)
    with pytest.raises(RequestError, match=r"^too long$"):
        await provider.complete(ask("train1/q/a1/r1/answer"))
    await provider.close()


async def test_jobs_succeed_at_once_and_are_known_after_a_restart(made, tmp_path):
    folder = made(turn())
    provider = connect(folder, tmp_path)
    job = spec(3)
    assert await provider.find(job) is None
    handle = await provider.submit(job)
    assert await provider.find(job) == handle
    assert await provider.find(replace(job, seed=1)) is None
    await provider.close()
    again = connect(folder, tmp_path)
    assert (await again.poll(handle)).model == (await tuned(again, job))[0]
    with pytest.raises(TrainingFailed, match="no job of a replay"):
        await again.poll(replace(handle, job_id="elsewhere"))
    with pytest.raises(ModelNotFound, match="not made by a replay"):
        await again.load_adapters([ModelRef("m", "local:", "adapter")])
    with pytest.raises(Unsupported):
        await again.score(again.base, ASKED, "four")
    await again.close()


async def test_thousands_of_requests_at_once_find_their_own_turns(made, tmp_path):
    names = [f"q{i}" for i in range(3000)]
    provider = connect(made(*(turn(question_id=n, response=n) for n in names)), tmp_path)
    requests = (provider.complete(ask(f"train1/{n}/a1/r1/answer")) for n in names)
    assert [answer.text for answer in await asyncio.gather(*requests)] == names
    await provider.close()


def test_what_is_no_run_is_refused_before_anything_starts(made, tmp_path):
    folder = made(turn())
    registry.check(f"replay:{folder}", {})
    registry.check(f"replay:{folder}", {"match": "position"})
    with pytest.raises(ModelNotFound, match=r"no run at .*missing"):
        registry.check(f"replay:{tmp_path / 'missing'}", {})
    with pytest.raises(ModelNotFound, match="no run at ''"):
        registry.check("replay:", {})
    text = tmp_path / "text.duckdb"
    text.write_text("not a database " * 1000)
    with pytest.raises(InvalidSettings, match="no database of a run"):
        registry.check(f"replay:{text}", {})
    duckdb.connect(str(tmp_path / "other.duckdb")).execute("CREATE TABLE turns (x INT)").close()
    with pytest.raises(InvalidSettings, match="not of a run"):
        registry.check(f"replay:{tmp_path / 'other.duckdb'}", {})
    with pytest.raises(InvalidSettings, match=r"provider\.match: .*'nearly'"):
        registry.check(f"replay:{folder}", {"match": "nearly"})
    with pytest.raises(InvalidSettings, match=r"provider\.speed: unknown"):
        registry.check(f"replay:{folder}", {"speed": 2})


def test_a_run_that_is_being_written_is_refused(made, tmp_path):
    folder = made(turn())
    with (
        Store.open(folder / "run.duckdb"),
        pytest.raises(InvalidSettings, match="being written to"),
    ):
        registry.check(f"replay:{folder}", {})
    code = (
        "import sys; from store.ledger import Store; s = Store.open(sys.argv[1]);"
        "print('open', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "run.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(InvalidSettings, match="being written to"):
            registry.check(f"replay:{folder}", {})
    finally:
        writer.communicate()
