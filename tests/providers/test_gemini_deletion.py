"""Tuned models of Gemini are deleted with their endpoints, and nothing else is."""

from __future__ import annotations

import pytest

from providers.errors import BadRequest, ModelNotFound, Unsupported
from providers.types import Hyperparameters, ModelRef
from tests.providers.gemini_client import ADDRESS, SPEC, ask, follow, provider, spec
from tests.providers.gemini_server import PARENT, serving

MODEL, ENDPOINT = f"{PARENT}/models/1", f"{PARENT}/endpoints/1"


@pytest.fixture
def google(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path) as running:
        yield running


async def tune(opened, **changes):
    state = await follow(opened, await opened.submit(spec(**changes)))
    assert state.model is not None
    return state.model


async def test_a_model_goes_with_its_endpoint_and_twice_is_no_error(google):
    async with provider(google) as opened:
        model = await tune(opened)
        other = await tune(opened, name="other")
        assert (await opened.complete(ask(model=model))).text
        await opened.delete_model(model)
        assert set(google.models.versions) == {f"{PARENT}/models/2"}
        assert set(google.models.endpoints) == {other.artifact}
        changed = [what for what, *_ in google.log if what.split()[0] == "DELETE"]
        assert changed == ["DELETE endpoints", "DELETE models"]
        assert len(google.asked("POST undeployModel")) == 1
        await opened.delete_model(model)
        assert [what for what, *_ in google.log if what.split()[0] == "DELETE"] == changed
    # The other one answers on; this one does not.
    async with provider(google) as opened:
        assert (await opened.complete(ask(model=other))).text
    async with provider(google) as opened:
        with pytest.raises(ModelNotFound):
            await opened.complete(ask(model=model))


async def test_the_endpoints_of_all_epochs_go(google):
    async with provider(google, checkpoints=True) as opened:
        model = await tune(opened, hyperparameters=Hyperparameters(epochs=3))
        assert len(google.models.endpoints) == 3
        await opened.delete_model(model)
    assert (google.models.endpoints, google.models.versions) == ({}, {})


async def test_of_a_model_that_was_trained_further_only_one_version_goes(google):
    async with provider(google) as opened:
        first = await tune(opened)
        second = await tune(opened, name="second", start=first)
        third = await tune(opened, name="third", start=second)
        assert google.models.versions == {MODEL: {"1": [], "2": [], "3": ["default"]}}
        await opened.delete_model(first)
        assert google.models.versions == {MODEL: {"2": [], "3": ["default"]}}
        # The one that answers to the model's name hands that on.
        await opened.delete_model(third)
        assert google.models.versions == {MODEL: {"2": ["default"]}}
        assert set(google.models.endpoints) == {second.artifact}
        assert (await opened.complete(ask(model=second))).text
        await opened.delete_model(second)
    assert (google.models.endpoints, google.models.versions) == ({}, {})


CHANGES = ("POST undeployModel", "DELETE endpoints", "DELETE models")


@pytest.mark.parametrize("failure", [503, "drop", "late"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_unknown_outcome_is_made_again(google, change, failure):
    async with provider(google) as opened:
        model = await tune(opened)
        google.fail[change] = [failure]
        # What is done by the time of the second request is gone then.
        google.models.operation_polls = 0 if failure == "late" else 1
        await opened.delete_model(model)
    assert (google.models.endpoints, google.models.versions) == ({}, {})


@pytest.mark.parametrize("change", CHANGES)
async def test_a_refusal_says_google_s_words_and_the_next_call_goes_on(google, change):
    refusal = {"code": 400, "status": "FAILED_PRECONDITION", "message": "not now"}
    async with provider(google) as opened:
        model = await tune(opened)
        google.fail[change] = [refusal]
        with pytest.raises(BadRequest, match="not now"):
            await opened.delete_model(model)
    assert google.models.versions
    # As a later start does, which knows nothing of the first one.
    async with provider(google) as opened:
        await opened.delete_model(model)
    assert (google.models.endpoints, google.models.versions) == ({}, {})


async def test_an_operation_that_fails_is_told(google):
    async with provider(google) as opened:
        model = await tune(opened)
        google.models.operation_polls = 3
        google.models.operation_error = {"code": 13, "message": "Internal error."}
        with pytest.raises(BadRequest, match=r"could not carry out POST .*: Internal error\."):
            await opened.delete_model(model)
        assert google.models.endpoints[ENDPOINT]
        await opened.delete_model(model)
    assert (google.models.endpoints, google.models.versions) == ({}, {})


async def test_a_model_that_somebody_deployed_beside_it_answers_on(google):
    async with provider(google) as opened:
        model = await tune(opened)
        other = await tune(opened, name="other")
        google.models.deploy(ENDPOINT, f"{PARENT}/models/2", "1")
        await opened.delete_model(model)
        assert [each["model"] for each in google.models.endpoints[ENDPOINT]] == [
            f"{PARENT}/models/2"
        ]
        assert set(google.models.versions) == {f"{PARENT}/models/2"}
        assert (await opened.complete(ask(model=other))).text


async def test_a_model_whose_job_is_not_listed_is_found_at_its_endpoint(google):
    async with provider(google) as opened:
        model = await tune(opened)
    google.jobs.clear()
    async with provider(google) as opened:
        await opened.delete_model(model)
        assert (google.models.endpoints, google.models.versions) == ({}, {})
        await opened.delete_model(model)


async def test_the_base_and_the_developer_api_have_nothing_to_delete(google, monkeypatch):
    async with provider(google) as opened:
        assert opened.capabilities.delete_model
        with pytest.raises(Unsupported, match="only tuned models are deleted"):
            await opened.delete_model(SPEC.start)
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    settings = {"api_key_env": "GEMINI_API_KEY", "project": None, "bucket": None}
    async with provider(google, **settings) as opened:
        assert not opened.capabilities.delete_model
        with pytest.raises(Unsupported, match="has no jobs"):
            await opened.delete_model(ModelRef("x", ADDRESS, ENDPOINT))
