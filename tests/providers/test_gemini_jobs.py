"""Tuning jobs of Gemini: data in an emulated bucket, jobs at a stand-in that remembers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from providers.errors import (
    AmbiguousSubmission,
    AuthenticationFailed,
    BadRequest,
    InvalidSettings,
    InvalidTrainingData,
    ModelNotFound,
    TrainingFailed,
    Unsupported,
)
from providers.gemini.job_format import find_unsupported, format_example
from providers.types import Example, Hyperparameters, JobHandle, Message, ModelRef
from tests.providers.gemini_client import ADDRESS, SPEC, follow, provider, spec
from tests.providers.gemini_server import PARENT, serving

CREATE, LIST = "POST tuningJobs", "GET tuningJobs"


@pytest.fixture
def google(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path) as running:
        yield running


async def test_a_job_runs_from_the_dataset_to_an_endpoint_and_on_from_it(google):
    chosen = Hyperparameters(epochs=3, learning_rate_multiplier=0.5, lora_rank=8)
    measured = spec(
        hyperparameters=chosen, validation=SPEC.examples[:2], validation_sha256="v" * 64
    )
    async with provider(google) as opened:
        assert await opened.find(measured) is None
        handle = await opened.submit(measured)
        done = await follow(opened, handle)
        assert await opened.find(measured) == handle
        further = spec(name="run-it2", start=done.model)
        await follow(opened, await opened.submit(further))
    endpoint = f"{PARENT}/endpoints/1"
    assert done.model == ModelRef(SPEC.name, ADDRESS, endpoint)
    assert (done.status, done.raw_status, done.progress) == (
        "succeeded",
        "JOB_STATE_SUCCEEDED",
        1.0,
    )
    assert done.trained_tokens > 0
    assert done.trained_tokens % 3 == 0
    first, second = google.asked(CREATE)
    tuning = first["supervisedTuningSpec"]
    assert first["baseModel"] == "gemini-3.5-flash"
    assert tuning["hyperParameters"] == {
        "epochCount": 3,
        "learningRateMultiplier": 0.5,
        "adapterSize": "ADAPTER_SIZE_EIGHT",
    }
    assert tuning["exportLastCheckpointOnly"] is True
    assert first["labels"] == {
        "run": "run-1",
        "agent": "1",
        "role": "generator",
        "society_digest": measured.digest[:32],
    }
    assert first["tunedModelDisplayName"] == f"{SPEC.name}-{measured.digest[:8]}"
    # As the package writes it; Google takes both spellings.
    assert second["preTunedModel"] == {"tuned_model_name": f"{PARENT}/models/1@1"}
    assert "baseModel" not in second
    objects = google.objects()
    assert len(objects) == 3
    name = tuning["trainingDatasetUri"].removeprefix("gs://a-bucket/")
    assert json.loads(objects[name].splitlines()[2]) == {
        "contents": [
            {"role": "user", "parts": [{"text": "Wie viel ist 2²?"}]},
            {"role": "model", "parts": [{"text": "4"}]},
        ]
    }


async def test_the_models_of_all_epochs_are_kept_on_request_and_the_curve_is_named(google):
    chosen = spec(hyperparameters=Hyperparameters(epochs=3))
    async with provider(google, checkpoints=True) as opened:
        done = await follow(opened, await opened.submit(chosen))
    [body] = google.asked(CREATE)
    assert not body["supervisedTuningSpec"].get("exportLastCheckpointOnly")
    assert [(c.step, c.loss) for c in done.checkpoints] == [(4, None), (8, None), (12, None)]
    assert all(c.model.startswith(f"{PARENT}/endpoints/") for c in done.checkpoints)
    assert done.points == ()
    assert done.note == f"Google keeps its loss curve in {PARENT}/metadataStores/default/contexts/1"


async def test_pairs_are_trained_by_preference_tuning(google):
    system = Message("system", "Be brief.")
    pairs = [
        replace(example, messages=(system, *example.messages), loss_on=(2,), rejected="≈ 7")
        for example in SPEC.examples
    ]
    chosen = Hyperparameters(objective="dpo", beta=0.4)
    async with provider(google) as opened:
        handle = await opened.submit(spec(examples=pairs, hyperparameters=chosen))
        assert (await follow(opened, handle)).trained_tokens > 0
    [body] = google.asked(CREATE)
    assert body["preferenceOptimizationSpec"]["hyperParameters"] == {"epochCount": 2, "beta": 0.4}
    [content] = google.objects().values()
    assert json.loads(content.splitlines()[1]) == {
        "system_instruction": {"role": "system", "parts": [{"text": "Be brief."}]},
        "contents": [{"role": "user", "parts": [{"text": "Wie viel ist 1²?"}]}],
        "completions": [
            {"score": 1, "completion": {"role": "model", "parts": [{"text": "1"}]}},
            {"score": 0, "completion": {"role": "model", "parts": [{"text": "≈ 7"}]}},
        ],
    }


UNSUPPORTED = [
    (Hyperparameters(objective="kto"), "objective = 'kto' cannot be asked for"),
    (Hyperparameters(learning_rate=2e-3), "learning_rate = 0.002.*learning_rate_multiplier"),
    (Hyperparameters(batch_size=4), "batch_size = 4 cannot be passed on"),
    (Hyperparameters(lora_rank=12), "lora_rank = 12; the adapter sizes are 1, 2, 4, 8, 16, 32"),
    (Hyperparameters(method="full"), "method = 'full' cannot be asked for"),
    (Hyperparameters(beta=0.5), "beta = 0.5 cannot be passed on"),
    (Hyperparameters(anchor=0.5), "anchor = 0.5 cannot be passed on"),
]


@pytest.mark.parametrize(("chosen", "named"), UNSUPPORTED)
async def test_what_google_cannot_honor_is_refused_before_anything_is_sent(google, chosen, named):
    async with provider(google) as opened:
        with pytest.raises(InvalidSettings, match=named):
            await opened.submit(spec(hyperparameters=chosen))
    assert google.log == []
    assert google.objects() == {}
    assert find_unsupported(Hyperparameters(epochs=7, lora_rank=32)) == ()


@pytest.mark.parametrize("failure", ["late", 500, 503, 409])
async def test_a_job_of_unknown_outcome_is_not_sent_again_and_is_found(google, failure):
    google.fail[CREATE] = [failure]
    async with provider(google) as opened:
        with pytest.raises(AmbiguousSubmission, match=SPEC.name):
            await opened.submit(SPEC)
        assert len(google.asked(CREATE)) == 1
        found = await opened.find(SPEC)
        assert (found is not None) == (failure == "late")
        if found is None:
            await opened.submit(SPEC)
    assert len(google.jobs) == 1


async def test_a_quota_is_a_clean_refusal_and_waited_out(google):
    wait = {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "message": "quota",
        "details": [{"retryDelay": "0.05s"}],
    }
    google.fail[CREATE] = [wait]
    async with provider(google) as opened:
        await opened.submit(SPEC)
    assert len(google.jobs) == 1
    assert len(google.objects()) == 1


async def test_a_job_is_found_behind_any_number_of_others(google):
    async with provider(google) as opened:
        first = await opened.submit(SPEC)
        for number in range(5):
            await opened.submit(spec(name=f"other-{number}"))
        assert await opened.find(SPEC) == first
        assert await opened.find(spec(seed=1)) is None


REFUSALS = {
    "permission": ((403, "PERMISSION_DENIED", "denied"), AuthenticationFailed, "Storage Object"),
    "region": (
        (404, "NOT_FOUND", "Base model gemini-3.5-flash is not found."),
        ModelNotFound,
        "cannot be tuned in this region .*; set provider.tuning_location",
    ),
    "model": (
        (400, "INVALID_ARGUMENT", "Base model m is not supported."),
        Unsupported,
        "choose a model that can be tuned",
    ),
    "data": (
        (400, "INVALID_ARGUMENT", "Row: 0. Missing required `contents` field."),
        InvalidTrainingData,
        r"job run-.* was refused: .*Row: 0.*gs://a-bucket/society/",
    ),
    "other": ((400, "INVALID_ARGUMENT", "no such thing"), BadRequest, "no such thing"),
}


@pytest.mark.parametrize(("wish", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refused_job_says_what_to_do(google, wish, kind, words):
    code, status, message = wish
    google.fail[CREATE] = [{"code": code, "status": status, "message": message}]
    async with provider(google) as opened:
        with pytest.raises(kind, match=words):
            await opened.submit(SPEC)
    assert google.jobs == {}


async def test_a_bucket_that_is_missing_or_not_set_is_said_before_a_job_exists(google):
    async with provider(google, bucket="nowhere") as opened:
        with pytest.raises(InvalidSettings, match=r"correct provider\.bucket"):
            await opened.submit(SPEC)
    async with provider(google, bucket=None) as opened:
        with pytest.raises(InvalidSettings, match="bucket is not set"):
            await opened.submit(SPEC)
    assert google.asked(CREATE) == []


FAILURES = {
    "data": ({"code": 3, "message": "Dataset validation failed."}, False, "look at the file"),
    "quota": ({"code": 8, "message": "Quota exceeded for tuning jobs."}, True, "raise the quota"),
    "nothing": ({}, False, "Google gives no reason"),
}


@pytest.mark.parametrize(("error", "fatal", "words"), FAILURES.values(), ids=FAILURES)
async def test_a_failed_job_keeps_google_s_words_and_adds_the_remedy(google, error, fatal, words):
    google.broken["run-"] = error
    async with provider(google) as opened:
        state = await follow(opened, await opened.submit(SPEC))
    assert (state.status, state.raw_status, state.fatal) == ("failed", "JOB_STATE_FAILED", fatal)
    assert words in state.error
    assert f"[{PARENT}/tuningJobs/1]" in state.error


async def test_a_job_can_be_cancelled_and_an_ended_one_stays(google):
    google.job_s = 60.0
    async with provider(google) as opened:
        handle = await opened.submit(SPEC)
        assert (await opened.poll(handle)).status == "running"
        await opened.cancel(handle)
        assert (await opened.poll(handle)).status == "cancelled"
        await opened.cancel(handle)
        unknown = JobHandle(f"{PARENT}/tuningJobs/77", "x", "y")
        await opened.cancel(unknown)
        with pytest.raises(TrainingFailed, match="knows no job"):
            await opened.poll(unknown)


@pytest.mark.filterwarnings("ignore:JOB_STATE_NEW")
async def test_a_state_that_is_not_known_counts_as_running_and_keeps_its_word(google):
    async with provider(google) as opened:
        handle = await opened.submit(SPEC)
        google.jobs[handle.job_id]["state"] = "JOB_STATE_NEW"
        state = await opened.poll(handle)
        assert (state.status, state.raw_status) == ("running", "JOB_STATE_NEW")
        google.jobs[handle.job_id]["state"] = "JOB_STATE_SUCCEEDED"
        assert (await follow(opened, handle)).error.startswith("Google says 'JOB_STATE_SUCCEEDED'")


async def test_a_model_of_another_project_cannot_be_tuned_further(google):
    start = ModelRef("x", ADDRESS, "projects/other/locations/us-central1/endpoints/1")
    async with provider(google) as opened:
        with pytest.raises(ModelNotFound, match="no tuning job of this project has made"):
            await opened.submit(spec(start=start))
    assert google.asked(CREATE) == []


def test_what_the_format_cannot_express_is_refused():
    judged = Example((Message("user", "1+1?"), Message("assistant", "2")), (1,), wanted=True)
    with pytest.raises(InvalidTrainingData, match="training example 3 is a single answer"):
        format_example(judged, 3)
    with pytest.raises(InvalidTrainingData, match="puts the loss on messages"):
        format_example(replace(judged, wanted=None, loss_on=(0,)), 1)
