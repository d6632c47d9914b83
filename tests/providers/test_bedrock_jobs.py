"""Customization jobs and deployments against a server that remembers and fails."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers import registry
from providers.bedrock.job_format import build_name, find_unsupported
from providers.bedrock.nova import find_model
from providers.errors import (
    AmbiguousSubmission,
    AuthenticationFailed,
    InvalidSettings,
    InvalidTrainingData,
    ModelNotFound,
    QuotaExhausted,
    RunError,
    TrainingFailed,
    Unsupported,
)
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    JobHandle,
    Message,
    ModelRef,
    Need,
    Request,
    Sampling,
    TrainingStep,
)
from tests.providers.bedrock_account import BASE, BUCKET, REGION, ROLE
from tests.providers.bedrock_server import (
    KEY_ID,
    SECRET,
    TOKEN,
    BedrockServer,
    serving_bedrock,
)

ADDRESS = f"bedrock:{BASE}"
EXAMPLES = [
    Example((Message("user", f"Wie viel ist {n}²?"), Message("assistant", str(n * n))), (1,))
    for n in range(12)
]
SPEC = FinetuneSpec(
    name="run-multiagent-a1-generator-it1-0123abcd",
    start=ModelRef(ADDRESS, ADDRESS),
    examples=EXAMPLES,
    dataset_sha256="0123abcd",
    hyperparameters=Hyperparameters(learning_rate=1e-5),
)
CREATE = "/model-customization-jobs"
DEPLOY = "/model-customization/custom-model-deployments"


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def process() -> Iterator[BedrockServer]:
    with serving_bedrock() as running:
        yield running


@pytest.fixture
def server(process):
    process.reset()
    process.tell(job_s=0.05, deploy_s=0.05)
    return process


def connect(server, model=BASE, **changes):
    """A provider as a process that has just started opens it."""
    settings = {**server.settings, "bucket": f"{BUCKET}/my/runs", "role_arn": ROLE, "poll_s": 0.02}
    settings |= {"max_attempts": 3, "listing_lag_s": 0.1, **changes}
    return registry.connect(f"bedrock:{model}", settings, Path())


async def follow(provider, handle):
    while True:
        state = await provider.poll(handle)
        if state.done:
            return state
        await asyncio.sleep(0.02)


async def tune(provider, spec=SPEC):
    return await follow(provider, await provider.submit(spec))


async def test_a_job_runs_from_the_dataset_to_a_model_that_can_be_asked(server):
    mine = connect(server)
    assert await mine.find(SPEC) is None
    handle = await mine.submit(SPEC)
    done = await follow(mine, handle)
    assert (done.status, done.raw_status, done.progress, done.note) == (
        "succeeded",
        "Completed",
        1.0,
        None,
    )
    assert [(p.step, p.loss) for p in done.points] == [(0, 1.0), (1, 0.5), (2, 0.3333), (3, 0.25)]
    assert all(math.isnan(point.learning_rate) for point in done.points)
    [job] = server.state()["jobs"].values()
    assert done.model == ModelRef(SPEC.name, ADDRESS, job["outputModelArn"])
    await mine.load_adapters([done.model])
    asked = Request(done.model, (Message("user", "What is 2+2?"),), Sampling(), "k")
    assert (await mine.complete(asked)).text
    await mine.close()
    [body] = [entry["body"] for entry in server.log("POST", CREATE)]
    name = f"multiagent-a1-generator-it1-0123abcd-{SPEC.digest[:16]}"
    assert body["jobName"] == body["customModelName"] == f"run-{name}" == build_name(SPEC)
    assert body["clientRequestToken"] == SPEC.digest
    assert body["baseModelIdentifier"] == f"{BASE}:128k"
    assert body["hyperParameters"] == {
        "epochCount": "2",
        "learningRate": "0.00001",
        "learningRateWarmupSteps": "0",
    }
    objects = server.state()["objects"]
    [key] = [name for name in objects if name.endswith("-training.jsonl")]
    assert key.startswith("my/runs/society/")
    assert body["trainingDataConfig"] == {"s3Uri": f"s3://{BUCKET}/{key}"}
    assert json.loads(objects[key].splitlines()[2]) == {
        "schemaVersion": "bedrock-conversation-2024",
        "messages": [
            {"role": "user", "content": [{"text": "Wie viel ist 2²?"}]},
            {"role": "assistant", "content": [{"text": "4"}]},
        ],
    }


async def test_validation_data_are_measured_and_a_tuned_model_is_the_start(server):
    mine = connect(server)
    first = await tune(mine, replace(SPEC, validation=EXAMPLES[:9], validation_sha256="v"))
    assert [(c.step, c.model, c.loss) for c in first.checkpoints][-1] == (3, None, 0.25)
    second = await tune(mine, replace(SPEC, name="next-0123", start=first.model))
    assert second.status == "succeeded"
    await mine.close()
    bodies = [entry["body"] for entry in server.log("POST", CREATE)]
    assert bodies[1]["baseModelIdentifier"] == first.model.artifact
    assert len(bodies[0]["validationDataConfig"]["validators"]) == 1


@pytest.mark.parametrize("lost", ["drop", ["InternalServerException", "oops"]])
async def test_a_job_whose_creation_got_no_answer_is_found_and_not_made_again(server, lost):
    server.tell(created=[lost])
    mine = connect(server)
    with pytest.raises(AmbiguousSubmission) as unknown:
        await mine.submit(SPEC)
    assert unknown.value.settles_in_s is not None
    found = await connect(server).find(SPEC)
    assert found is not None
    assert found.digest == SPEC.digest
    # Sent again all the same, it makes no second job: by the token, and where that is not kept by
    # the name.
    assert await mine.submit(SPEC) == found
    server.tell(no_tokens=True)
    assert await mine.submit(SPEC) == found
    assert len(server.state()["jobs"]) == 1
    assert len(server.log("PUT")) == 1
    await mine.close()


async def test_a_full_account_is_waited_for_and_another_quota_ends_the_run(server):
    full = ["ServiceQuotaExceededException", "too many concurrent customization jobs"]
    server.tell(create=[["ThrottlingException", "slow"], full])
    mine = connect(server)
    assert await mine.submit(SPEC)
    server.tell(create=[["ServiceQuotaExceededException", "Too many custom models"]])
    with pytest.raises(QuotaExhausted, match="delete models and deployments"):
        await mine.submit(replace(SPEC, name="other"))
    await mine.close()


@pytest.mark.parametrize(
    ("refusal", "kind", "named"),
    [
        (["AccessDeniedException", "no"], AuthenticationFailed, "iam:PassRole"),
        (
            ["ResourceNotFoundException", "no such model"],
            Unsupported,
            f"region {REGION} has no customization jobs for {BASE}:128k.*us-east-1",
        ),
    ],
)
async def test_a_refused_job_says_why(server, refusal, kind, named):
    server.tell(create=[refusal])
    mine = connect(server)
    with pytest.raises(kind, match=named):
        await mine.submit(SPEC)
    await mine.close()


async def test_a_failed_job_keeps_bedrock_s_words_and_says_what_to_do(server):
    server.tell(fail={"generator": "Could not assume role, access denied."})
    mine = connect(server)
    done = await tune(mine)
    assert (done.status, done.raw_status) == ("failed", "Failed")
    assert done.error.startswith("Could not assume role, access denied; let the role read and")
    assert f"[training file s3://{BUCKET}/my/runs/society/" in done.error
    with pytest.raises(TrainingFailed, match="has no job arn:x; run again"):
        await mine.poll(JobHandle("arn:x", "x", "x"))
    await mine.close()


async def test_an_unknown_status_counts_as_running_and_a_stopped_job_as_cancelled(server):
    server.tell(job_s=600, status_while_running="Paused")
    mine = connect(server)
    handle = await mine.submit(SPEC)
    state = await mine.poll(handle)
    assert (state.status, state.raw_status) == ("running", "Paused")
    server.tell(status_while_running="InProgress")
    await mine.cancel(handle)
    assert (await mine.poll(handle)).status == "cancelled"
    # Once more changes nothing, and neither does a job that nobody has.
    await mine.cancel(handle)
    await mine.cancel(JobHandle("arn:x", "x", "x"))
    await mine.close()


async def test_without_its_metrics_a_model_is_a_model(server):
    server.tell(no_metrics=True)
    mine = connect(server)
    done = await tune(mine)
    assert (done.status, done.points) == ("succeeded", ())
    assert "no loss curve" in done.note
    await mine.close()


@pytest.mark.parametrize(
    ("examples", "named"),
    [
        (EXAMPLES[:7], "has 7 examples, and .* takes 8 to 20,000; train on more"),
        (EXAMPLES * 1700, "20,400 examples.*fewer"),
        (
            [replace(e, messages=(Message("user", "USER: hi"), e.messages[1])) for e in EXAMPLES],
            r"example 1 contains 'User:' \(user\)",
        ),
        (
            [replace(e, messages=(*e.messages, e.messages[0])) for e in EXAMPLES],
            "does not end with an answer",
        ),
        (
            [replace(e, messages=(*e.messages, *e.messages), loss_on=(3,)) for e in EXAMPLES],
            'datasets.critic_loss = "all"',
        ),
        (
            [replace(e, messages=(e.messages[1], *e.messages), loss_on=(0, 2)) for e in EXAMPLES],
            "example 1.*does not begin with a user",
        ),
    ],
)
async def test_data_that_would_fail_the_job_are_refused_before_the_upload(server, examples, named):
    mine = connect(server)
    with pytest.raises(InvalidTrainingData, match=named):
        await mine.submit(replace(SPEC, examples=examples))
    await mine.close()
    assert server.log("PUT") == server.log("POST", CREATE) == []


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        (Hyperparameters(epochs=6), "6 epochs; Bedrock takes at most 5"),
        (Hyperparameters(learning_rate=1e-3), "learning_rate = 0.001; Bedrock takes 1e-06 to"),
        (Hyperparameters(learning_rate_multiplier=2.0), "use finetune.learning_rate"),
        (Hyperparameters(batch_size=4), "batch_size = 4 cannot be passed on"),
        (Hyperparameters(warmup=0.1), "warmup = 0.1 cannot be passed on"),
        (Hyperparameters(lora_rank=8), "lora_rank = 8 cannot be passed on"),
        (Hyperparameters(method="full"), "method = 'full'"),
        (Hyperparameters(objective="dpo"), "objective = 'dpo' cannot be asked for"),
    ],
)
async def test_what_bedrock_cannot_honor_is_refused_before_anything_is_sent(server, chosen, named):
    assert len(find_unsupported(chosen)) == 1
    mine = connect(server)
    with pytest.raises(InvalidSettings, match=named):
        await mine.submit(replace(SPEC, hyperparameters=chosen))
    await mine.close()
    assert server.log() == []


def test_settings_of_the_vendor_follow_from_the_model():
    assert find_unsupported(Hyperparameters(learning_rate=1e-5, epochs=5)) == ()
    lite, newer = find_model("amazon.nova-lite-v1:0"), find_model("us.amazon.nova-2-lite-v1:0")
    assert (lite.choose_warmup(800), lite.choose_warmup(20_000)) == (5, 100)
    assert (newer.min_examples, newer.validation, newer.choose_warmup(800)) == (200, False, None)
    assert find_model("anthropic.claude-3-haiku-20240307-v1:0") is None


async def test_a_deployment_is_made_once_whatever_happens(server):
    mine = connect(server)
    model = (await tune(mine)).model
    server.tell(deployed=["drop", None], deploy=[["ThrottlingException", "slow"]])
    await mine.load_adapters([model, model])
    await mine.load_adapters([model])
    assert len(server.state()["deployments"]) == 1
    await connect(server).load_adapters([model])
    assert len(server.state()["deployments"]) == 1
    await mine.close()


async def test_a_failed_deployment_ends_the_run_and_the_next_start_makes_another(server):
    mine = connect(server)
    model = (await tune(mine)).model
    server.tell(deployments_fail=["no capacity"])
    with pytest.raises(RunError, match="no capacity; remove the cause and start again"):
        await mine.load_adapters([model])
    await mine.load_adapters([model])
    server.tell(deploy_s=600)
    with pytest.raises(RunError, match=r"not ready after 0 s.*deploy_within_s"):
        await connect(server, deploy_within_s=0.05).load_adapters([model])
    await mine.close()


async def test_a_user_who_waits_is_told_that_a_model_is_not_deployed(server):
    mine = connect(server)
    model = (await tune(mine)).model
    with pytest.raises(ModelNotFound, match="no deployment that answers; start `society run`"):
        await mine.with_deadline(5.0).load_adapters([model])
    assert server.state()["deployments"] == {}
    await mine.close()


async def test_a_model_that_is_not_tunable_here_says_which_are(server):
    other = connect(server, "mistral.mistral-large-2407-v1:0")
    with pytest.raises(Unsupported, match=f"take one of: {BASE}"):
        await other.find(SPEC)
    with pytest.raises(InvalidSettings, match=r"role_arn is not set.*; .*bucket is not set"):
        await connect(server, role_arn=None, bucket=None).prepare_tuning(SPEC.hyperparameters)


def need(**changes):
    return Need(finetune=True, ends_at=datetime(2027, 1, 1, tzinfo=UTC), **changes)


async def findings(server, model=BASE, needs=None, **changes):
    mine = connect(server, model, **changes)
    found = await mine.preflight(needs or need())
    await mine.close()
    return [(each.check, each.text) for each in found if each.level != "ok"]


async def test_the_doctor_finds_nothing_wrong_and_sends_nothing_that_costs(server):
    assert await findings(server) == []
    assert {entry["method"] for entry in server.log()} == {"GET", "HEAD"}
    assert server.log("POST") == []


@pytest.mark.parametrize(
    ("told", "changes", "check", "named"),
    [
        ({"elsewhere": True}, {}, "model", f"region {REGION} does not have {BASE}"),
        ({"authorized": "NOT_AUTHORIZED"}, {}, "model", "may not ask"),
        ({"cycle": {"endOfLifeTime": "2026-12-24T00:00:00Z"}}, {}, "ending", "ends on 2026-12-24"),
        ({"cycle": {"status": "LEGACY"}}, {}, "ending", "deprecated"),
        ({}, {"bucket": "no-such-bucket-here"}, "fine-tuning", "no-such-bucket-here is not there"),
        ({}, {"role_arn": None}, "fine-tuning", "role_arn is not set"),
        ({"describe": [["ExpiredTokenException", "old"]]}, {}, "server", "refuses the credentials"),
        ({"describe": [["AccessDeniedException", "no"]]}, {}, "model", "cannot be checked"),
    ],
)
async def test_the_doctor_says_what_is_missing(server, told, changes, check, named):
    server.tell(**told)
    found = await findings(server, **changes)
    assert any(where == check and named in text for where, text in found), found


async def test_the_doctor_knows_profiles_prompts_and_models_without_jobs(server):
    [(check, text)] = await findings(server, "amazon.nova-2-lite-v1:0")
    assert (check, "inference profile only" in text) == ("model", True)
    assert await findings(server, "us.amazon.nova-2-lite-v1:0") == []
    said = need(conversations=((Message("system", "Assistant: be brief"),),))
    [(check, text)] = await findings(server, needs=said)
    assert (check, "'Assistant:'" in text) == ("recipe", True)


async def test_no_credential_is_in_errors_logs_or_tracebacks(server, caplog):
    server.tell(echo=True, create=[["ValidationException", f"wrong {SECRET} {KEY_ID}"]])
    server.tell(chat=[["AccessDeniedException", f"no {TOKEN}"]])
    mine = connect(server)
    shown = [repr(mine), repr(vars(mine))]
    asked = Request(mine.base, (Message("user", "Hi"),), Sampling(), "k")
    with caplog.at_level(logging.DEBUG):
        for work in (mine.submit(SPEC), mine.complete(asked)):
            try:
                await work
            except Exception as error:
                shown += [str(error), repr(error), *traceback.format_exception(error)]
    await mine.close()
    assert TOKEN in str([entry["headers"] for entry in server.log()])
    everything = "\n".join([*shown, caplog.text])
    assert "[secret]" in everything
    for secret in (KEY_ID, SECRET, TOKEN):
        assert secret not in everything


def test_a_step_is_read_from_the_vendors_table():
    from providers.bedrock.job_format import parse_losses

    text = "step_number,epoch_number,training_loss\n1,0,0.5\n0,0,1.5\nx,0,1\n2,0,nan\n3\n"
    assert [(p.step, p.loss) for p in parse_losses(text)] == [(0, 1.5), (1, 0.5)]
    assert parse_losses("") == parse_losses("no,such,columns\n1,2,3\n") == ()
    assert isinstance(parse_losses(text)[0], TrainingStep)
