"""Fine-tuning jobs of the OpenAI shape against a server that remembers and fails."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from providers.calling import create_once
from providers.errors import (
    AmbiguousSubmission,
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    InvalidSettings,
    InvalidTrainingData,
    QuotaExhausted,
    TrainingFailed,
    Unsupported,
)
from providers.openai.job_format import find_unsupported
from providers.openai.preflight import preflight_finetuning
from providers.openai.settings import ModelAddress
from providers.types import Hyperparameters, JobHandle, ModelRef, Need, TrainingStep
from tests.providers.job_account import BASE
from tests.providers.job_client import ADDRESS, KEY, SPEC, caller, client, followed, jobs, spec
from tests.providers.job_server import Server, serving


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def server(process: Server) -> Server:
    process.reset()
    return process


MINIMAL = {"model": BASE, "training_file": "file-1"}


def creations(server):
    return server.log("POST", "/fine_tuning/jobs")


async def test_a_job_runs_from_the_dataset_to_a_model_that_can_be_asked(server):
    async with jobs(server) as mine:
        assert await mine.find(SPEC) is None
        handle = await mine.submit(SPEC)
        states = await followed(mine, handle)
    done = states[-1]
    [body] = [entry["body"] for entry in creations(server)]
    assert done.model == ModelRef(
        SPEC.name, ADDRESS, server.state()["jobs"][handle.job_id]["fine_tuned_model"]
    )
    assert (done.status, done.progress, done.raw_status) == ("succeeded", 1.0, "succeeded")
    assert done.trained_tokens > 0
    assert [(p.step, p.loss) for p in done.points] == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25)]
    assert all(math.isnan(point.learning_rate) for point in done.points)
    assert [(c.step, c.loss) for c in done.checkpoints] == [(2, 0.5), (4, 0.25)]
    assert done.checkpoints[1].model.endswith(":ckpt-step-4")
    assert [state.progress for state in states] == sorted(state.progress for state in states)
    for earlier, later in pairwise(states):
        assert later.points[: len(earlier.points)] == earlier.points
    assert (handle.name, handle.digest) == (SPEC.name, SPEC.digest)
    assert body["model"] == BASE
    assert body["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 16}},
    }
    assert body["metadata"] == {"digest": SPEC.digest, "name": SPEC.name, **SPEC.metadata}
    assert body["suffix"] == f"agent-a1-generator-it1-0123abcd-{SPEC.digest[:8]}"


async def test_settings_of_the_vendor_are_passed_on(server):
    chosen = Hyperparameters(epochs=3, batch_size=1, learning_rate_multiplier=1.5)
    async with jobs(server) as mine:
        await mine.submit(spec(hyperparameters=chosen, seed=2**40 + 7))
    [body] = [entry["body"] for entry in creations(server)]
    assert body["seed"] == 7
    assert body["method"]["supervised"]["hyperparameters"] == {
        "n_epochs": 3,
        "batch_size": 1,
        "learning_rate_multiplier": 1.5,
    }


async def test_pairs_are_trained_by_a_job_of_another_method(server):
    pairs = [replace(example, rejected="≈ 7") for example in SPEC.examples]
    chosen = Hyperparameters(objective="dpo", beta=0.4, learning_rate_multiplier=0.5)
    async with jobs(server) as mine:
        handle = await mine.submit(
            spec(
                hyperparameters=chosen,
                examples=pairs,
                validation=pairs[:2],
                validation_sha256="v" * 64,
            )
        )
        done = (await followed(mine, handle))[-1]
    [body] = [entry["body"] for entry in creations(server)]
    assert body["method"] == {
        "type": "dpo",
        "dpo": {
            "hyperparameters": {
                "n_epochs": 2,
                "batch_size": 16,
                "beta": 0.4,
                "learning_rate_multiplier": 0.5,
            }
        },
    }
    assert done.status == "succeeded"
    [line, *_] = server.state()["contents"][body["training_file"]].splitlines()
    assert json.loads(line) == {
        "input": {"messages": [{"role": "user", "content": "Wie viel ist 0²?"}]},
        "preferred_output": [{"role": "assistant", "content": "0"}],
        "non_preferred_output": [{"role": "assistant", "content": "≈ 7"}],
    }


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        (Hyperparameters(objective="kto"), "objective = 'kto' cannot be asked for"),
        (Hyperparameters(objective="ipo"), "objective = 'ipo' cannot be asked for"),
        (Hyperparameters(objective="dpo", beta=2.5), "beta = 2.5; .* at most 2"),
        (Hyperparameters(objective="dpo", sft_weight=1.0), "sft_weight = 1.0 cannot be passed on"),
        (Hyperparameters(beta=0.5), "beta = 0.5 cannot be passed on"),
        (Hyperparameters(anchor=0.5), "anchor = 0.5 cannot be passed on"),
        (Hyperparameters(learning_rate=2e-3), "learning_rate = 0.002.*learning_rate_multiplier"),
        (Hyperparameters(lora_rank=8), "lora_rank = 8"),
        (Hyperparameters(warmup=0.0), "warmup = 0.0"),
        (Hyperparameters(method="full"), "method = 'full'"),
        (Hyperparameters(epochs=51), "51 epochs"),
        (Hyperparameters(batch_size=257), "batch_size = 257"),
    ],
)
async def test_what_the_vendor_cannot_honour_is_refused_before_anything_is_sent(
    server, chosen, named
):
    async with jobs(server) as mine:
        with pytest.raises(InvalidSettings, match=named):
            await mine.submit(spec(hyperparameters=chosen))
    assert server.log() == []


async def test_continuing_starts_from_the_tuned_model(server):
    async with jobs(server) as mine:
        first = (await followed(mine, await mine.submit(SPEC)))[-1].model
        await mine.submit(spec(name="run-multiagent-a1-generator-it2-0123abcd", start=first))
    assert [entry["body"]["model"] for entry in creations(server)] == [BASE, first.artifact]


async def test_validation_data_go_along_in_a_file_of_their_own(server):
    measured = spec(validation=SPEC.examples[:2], validation_sha256="v")
    async with jobs(server) as mine:
        await mine.submit(measured)
    [body] = [entry["body"] for entry in creations(server)]
    contents = server.state()["contents"]
    assert len(contents[body["training_file"]].splitlines()) == 12
    assert len(contents[body["validation_file"]].splitlines()) == 2
    assert measured.digest != SPEC.digest


@pytest.mark.parametrize("failure", ["drop", 500, 503, 409])
async def test_a_job_of_unknown_outcome_is_not_sent_again_and_is_found(server, failure):
    server.tell(created=[failure])
    async with jobs(server) as mine:
        with pytest.raises(AmbiguousSubmission, match=SPEC.name):
            await mine.submit(SPEC)
        assert await mine.find(SPEC) is not None
    assert len(creations(server)) == 1


async def test_an_answer_that_comes_too_late_leaves_the_outcome_unknown(server):
    server.tell(slow={"POST /fine_tuning/jobs": 2.0})
    async with jobs(server, timeout_s=0.5) as mine:
        with pytest.raises(AmbiguousSubmission):
            await mine.submit(SPEC)
        assert await mine.find(SPEC) is not None
    assert len(creations(server)) == 1


async def test_a_rate_limit_is_a_clean_refusal_and_waited_out(server):
    server.tell(create=[429] * 20)
    async with jobs(server) as mine:
        await mine.submit(SPEC)
    assert len(server.state()["jobs"]) == 1
    assert len(server.log("POST", "/files")) == 1


async def test_a_connection_that_never_came_about_is_no_unknown_outcome(server):
    nobody = Server(port=1)
    async with client(nobody) as opened:
        with pytest.raises(ConnectionLost):
            await create_once(caller(), "job", lambda: opened.fine_tuning.jobs.create(**MINIMAL))


async def test_a_file_that_is_not_ready_is_waited_for(server):
    wish = {"status": 400, "message": "File 'file-1' is still being processed", "code": None}
    server.tell(create=[wish])
    async with jobs(server) as mine:
        await mine.submit(SPEC)
    assert len(server.state()["jobs"]) == 1


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ({"status": 403, "message": "not for this organization"}, Unsupported),
        ({"status": 404, "message": "Unknown request URL"}, Unsupported),
        ({"status": 400, "message": "Model m is not available for fine-tuning"}, Unsupported),
        ({"status": 400, "message": "invalid training_file: line 3"}, InvalidTrainingData),
        ({"status": 400, "message": "n_epochs is wrong"}, BadRequest),
        ({"status": 401, "message": "Incorrect API key"}, AuthenticationFailed),
        ({"status": 429, "message": "no money", "code": "insufficient_quota"}, QuotaExhausted),
    ],
)
async def test_a_clean_refusal_says_what_it_means(server, wish, error):
    server.tell(create=[wish])
    async with jobs(server) as mine:
        with pytest.raises(error) as refusal:
            await mine.submit(SPEC)
        assert type(refusal.value) is error
        assert await mine.find(SPEC) is None
    assert len(creations(server)) == 1


@pytest.mark.parametrize("drop_suffix", [False, True])
async def test_a_server_that_drops_metadata_is_searched_by_file_and_suffix(server, drop_suffix):
    server.tell(drop_metadata=True, drop_suffix=drop_suffix)
    again = spec(name=f"{SPEC.name}-try2")
    async with jobs(server) as mine:
        handle = await mine.submit(SPEC)
        assert await mine.find(SPEC) == handle
        assert await mine.find(again) is None
        second = await mine.submit(again)
        await followed(mine, second)
        assert await mine.find(SPEC) == handle
        assert await mine.find(again) == second


async def test_a_server_that_drops_all_but_the_suffix_in_the_models_name_is_searched_by_it(server):
    server.tell(drop_metadata=True, drop_names=True)
    async with jobs(server) as mine:
        handle = await mine.submit(SPEC)
        await followed(mine, handle)
        assert await mine.find(SPEC) == handle
        assert await mine.find(spec(name=f"{SPEC.name}-try2")) is None


async def test_a_job_is_found_behind_many_others(server):
    server.tell(page=3)
    names = [f"run-multiagent-a{n}-generator-it1-0123abcd" for n in range(8)]
    async with jobs(server) as mine:
        handles = [await mine.submit(spec(name=name)) for name in names]
        assert [await mine.find(spec(name=name)) for name in names] == handles
        changed = spec(name=names[0], hyperparameters=Hyperparameters(epochs=9))
        assert await mine.find(changed) is None


async def test_losses_are_complete_and_single_when_events_fill_many_pages(server):
    server.tell(page=3, steps=40, job_s=0.5)
    async with jobs(server) as mine:
        done = (await followed(mine, await mine.submit(SPEC)))[-1]
    assert [point.step for point in done.points] == list(range(1, 41))


async def test_a_restart_sees_all_points_again(server):
    async with jobs(server) as mine:
        handle = await mine.submit(SPEC)
        before = (await followed(mine, handle))[-1]
    async with jobs(server) as restarted:
        after = await restarted.poll(handle)
    assert [(p.step, p.loss) for p in after.points] == [(p.step, p.loss) for p in before.points]
    assert after.model == before.model


async def test_an_unknown_status_and_an_empty_error_mean_that_the_job_goes_on(server):
    server.tell(status_while_running="pausing", job_s=0.4)
    async with jobs(server) as mine:
        handle = await mine.submit(SPEC)
        state = await mine.poll(handle)
        assert (state.status, state.raw_status, state.error) == ("running", "pausing", None)
        server.tell(status_while_running="contemplating")
        assert (await mine.poll(handle)).raw_status == "contemplating"
        assert (await followed(mine, handle))[-1].status == "succeeded"


async def test_a_failed_job_tells_the_vendors_reason_and_what_to_do(server):
    reason = {"code": "exceeded_quota", "message": f"No credit, key {KEY}", "param": None}
    server.tell(fail={"a1-generator": reason})
    async with jobs(server) as mine:
        state = (await followed(mine, await mine.submit(SPEC)))[-1]
    assert state.status == "failed"
    assert state.error.startswith("No credit, key [secret]")
    assert "(exceeded_quota); add credit to the account" in state.error
    assert KEY not in repr(state)


@pytest.mark.parametrize("wish", ["no_events", "stream_events"])
async def test_a_server_without_lists_of_events_and_checkpoints_is_good_enough(server, wish):
    server.tell(**{wish: True})
    async with jobs(server) as mine:
        state = (await followed(mine, await mine.submit(SPEC)))[-1]
    assert (state.status, state.points, state.checkpoints) == ("succeeded", (), ())


async def test_passing_failures_while_looking_are_waited_out(server):
    async with jobs(server) as mine:
        handle = await mine.submit(SPEC)
        server.tell(retrieve=[500, "drop", 429])
        assert (await mine.poll(handle)).status in ("queued", "running")


async def test_a_job_that_was_created_just_now_may_not_be_seen_yet(server):
    async with jobs(server) as mine:
        handle = await mine.submit(SPEC)
        server.tell(retrieve=[404, 404])
        states = await followed(mine, handle)
    assert [state.raw_status for state in states[:2]] == ["not seen yet"] * 2
    assert states[-1].status == "succeeded"
    async with jobs(server) as restarted:
        server.tell(retrieve=[404])
        with pytest.raises(TrainingFailed, match="knows no job"):
            await restarted.poll(handle)


async def test_a_job_the_server_does_not_know_has_failed(server):
    async with jobs(server) as mine:
        with pytest.raises(TrainingFailed, match="ftjob-gone"):
            await mine.poll(JobHandle("ftjob-gone", SPEC.name, SPEC.digest))


async def test_cancelling_stops_a_job_and_leaves_an_ended_one_alone(server):
    server.tell(job_s=30)
    async with jobs(server) as mine:
        handle = await mine.submit(SPEC)
        await mine.cancel(handle)
        assert (await mine.poll(handle)).status == "cancelled"
        await mine.cancel(handle)
        await mine.cancel(JobHandle("ftjob-gone", SPEC.name, SPEC.digest))


async def test_a_client_that_retries_by_itself_is_refused(server):
    from providers.openai.jobs import FinetuningJobs

    async with client(server) as opened:
        with pytest.raises(ValueError, match="max_retries=0"):
            FinetuningJobs(opened.with_options(max_retries=2), caller(), base=BASE, address=ADDRESS)


async def test_beforehand_nothing_is_created_and_everything_is_said(server):
    async with client(server) as opened:
        address, need = ModelAddress(server.url, BASE), Need(True, datetime.now(UTC))
        findings = await preflight_finetuning(opened, address, caller(), need)
    assert [finding.level for finding in findings] == ["ok"]
    [problem] = find_unsupported(Hyperparameters(lora_rank=4))
    assert "lora_rank = 4" in problem
    assert {entry["method"] for entry in server.log()} == {"GET"}


async def test_points_that_share_a_step_are_told_once(server):
    async with jobs(server) as mine:
        handle = await mine.submit(SPEC)
        await asyncio.sleep(0.3)
        states = await asyncio.gather(*(mine.poll(handle) for _ in range(5)))
    assert {len(state.points) for state in states} == {4}
    assert states[0].points[0] == TrainingStep(1, 1.0, states[0].points[0].learning_rate)
