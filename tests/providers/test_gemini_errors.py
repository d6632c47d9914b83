"""Every error, ending and state that Google documents has a meaning and a remedy."""

from __future__ import annotations

import httpx2
import pytest
from google.auth import exceptions as auth
from google.genai import errors, types

from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    ContentFiltered,
    ContextOverflow,
    InvalidSettings,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    TimedOut,
    Unreachable,
    Unsupported,
)
from providers.gemini.answers import parse_answer
from providers.gemini.errors import Place, translate_error
from providers.gemini.job_format import build_job_state
from providers.secrets import Secrets
from providers.types import Message, ModelRef, Request, Sampling
from providers.usage import FREE

VERTEX = Place("gemini-3.5-flash", "us-central1")
DEVELOPER = Place("gemini-3.5-flash", "global", on_vertex=False)
BUCKET = Place("gemini-3.5-flash", "us-central1", storage=True)
ASKED = Request(ModelRef("m", "gemini:m"), (Message("user", "1+1?"),), Sampling(), "k")


def refuse(code, status, message, place=VERTEX, **detail):
    details = [{"@type": "type.googleapis.com/google.rpc.X", **detail}] if detail else []
    body = {"error": {"code": code, "status": status, "message": message, "details": details}}
    found = translate_error(errors.APIError(code, body), Secrets(), place)
    assert found is not None
    return found


# https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/api-errors,
# https://ai.google.dev/gemini-api/docs/troubleshooting
REFUSALS = {
    "key": (
        refuse(400, "INVALID_ARGUMENT", "bad key", DEVELOPER, reason="API_KEY_INVALID"),
        AuthenticationFailed,
        "check the key that api_key_env names",
    ),
    "free tier": (
        refuse(400, "FAILED_PRECONDITION", "Please enable billing on your project", DEVELOPER),
        QuotaExhausted,
        "link a billing account",
    ),
    "payment": (refuse(402, "UNKNOWN", "prepay balance"), QuotaExhausted, "cannot pay"),
    "no billing": (
        refuse(403, "PERMISSION_DENIED", "no", reason="BILLING_DISABLED"),
        QuotaExhausted,
        "what is stored is kept",
    ),
    "large": (refuse(413, "INVALID_ARGUMENT", "too large"), ContextOverflow, "fewer agents"),
    "window": (
        refuse(400, "INVALID_ARGUMENT", "The request exceeds the context window"),
        ContextOverflow,
        "lower sampling.max_tokens",
    ),
    "content": (
        refuse(400, "INVALID_ARGUMENT", "The prompt was blocked due to safety settings"),
        ContentFiltered,
        "refuses this content",
    ),
    "region": (
        refuse(400, "FAILED_PRECONDITION", "gemini is not available in europe-west9"),
        Unsupported,
        "set provider.location",
    ),
    "no endpoint": (
        refuse(404, "NOT_FOUND", "The Endpoint 7 is not found."),
        ModelNotFound,
        "location 'us-central1' has no model",
    ),
    "no page": (refuse(404, "NOT_FOUND", "nothing here"), InvalidSettings, "provider.location"),
    "no bucket": (
        refuse(404, "NOT_FOUND", "The specified bucket does not exist.", BUCKET),
        InvalidSettings,
        r"correct provider\.bucket",
    ),
    "bucket": (
        refuse(403, "forbidden", "no storage.objects.create access", BUCKET),
        AuthenticationFailed,
        "Storage Object User",
    ),
    "quota": (refuse(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), RateLimited, "quota is reached"),
    "no quota": (
        refuse(429, "RESOURCE_EXHAUSTED", "Quota exceeded for metric x, limit: 0"),
        QuotaExhausted,
        "raise it in the Google Cloud console",
    ),
    "cancelled": (refuse(499, "CANCELLED", "cancelled"), RetryableError, "cannot do this now"),
    "conflict": (refuse(409, "ABORTED", "conflict"), RetryableError, "cannot do this now"),
    "internal": (refuse(500, "INTERNAL", "oops"), RetryableError, "Google failed"),
    "unimplemented": (refuse(501, "UNIMPLEMENTED", "no"), Unsupported, "cannot do this"),
    "unavailable": (refuse(503, "UNAVAILABLE", "overloaded"), Overloaded, "overloaded"),
    "deadline": (refuse(504, "DEADLINE_EXCEEDED", "late"), TimedOut, "gave up waiting"),
    "unheard": (refuse(418, "TEAPOT", "short"), BadRequest, "refuses the request"),
}


@pytest.mark.parametrize(("found", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_documented_refusal_says_what_to_do(found, kind, words):
    with pytest.raises(kind, match=words):
        raise found.error


@pytest.mark.parametrize(
    ("error", "kind", "words", "billed"),
    [
        (auth.RefreshError("expired"), AuthenticationFailed, "gcloud auth application", FREE),
        (auth.TransportError("no route"), Unreachable, "sign-in cannot be reached", FREE),
        (httpx2.ConnectError("refused"), Unreachable, "could not be made", FREE),
        (httpx2.ReadTimeout("late"), TimedOut, "did not answer in time", None),
        (httpx2.RemoteProtocolError("cut"), ConnectionLost, "broke", None),
    ],
)
def test_a_failure_of_the_connection_says_what_it_can_cost(error, kind, words, billed):
    found = translate_error(error, Secrets(), VERTEX)
    assert found is not None
    assert found.billed == billed
    with pytest.raises(kind, match=words):
        raise found.error


FILTERED = {
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
    "LANGUAGE",
}


@pytest.mark.parametrize("reason", [reason.value for reason in types.FinishReason])
def test_every_reason_for_an_empty_answer_is_kept_in_google_s_word(reason):
    response = types.GenerateContentResponse.model_validate(
        {"candidates": [{"finishReason": reason}], "usageMetadata": {"promptTokenCount": 3}}
    )
    answer, usage = parse_answer(response, ASKED, 1.0, Secrets())
    expected = {"STOP": "stop", "MAX_TOKENS": "length"}.get(reason, "error")
    assert answer.finish_reason == ("filtered" if reason in FILTERED else expected)
    assert answer.error == f"no text, finish reason {reason}"
    assert (answer.text, usage.prompt_tokens) == ("", 3)


@pytest.mark.parametrize("reason", [reason.value for reason in types.BlockedReason])
def test_every_reason_for_a_blocked_prompt_is_kept_in_google_s_word(reason):
    response = types.GenerateContentResponse.model_validate(
        {"promptFeedback": {"blockReason": reason}}
    )
    answer, _ = parse_answer(response, ASKED, 1.0, Secrets())
    assert answer.finish_reason == "filtered"
    assert answer.error == f"the prompt is blocked: {reason}"


STATES = {
    "JOB_STATE_UNSPECIFIED": "queued",
    "JOB_STATE_QUEUED": "queued",
    "JOB_STATE_PENDING": "queued",
    "JOB_STATE_RUNNING": "running",
    "JOB_STATE_SUCCEEDED": "succeeded",
    "JOB_STATE_FAILED": "failed",
    "JOB_STATE_CANCELLING": "running",
    "JOB_STATE_CANCELLED": "cancelled",
    "JOB_STATE_PAUSED": "running",
    "JOB_STATE_EXPIRED": "failed",
    "JOB_STATE_UPDATING": "running",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "succeeded",
}


@pytest.mark.parametrize("state", [state.value for state in types.JobState])
def test_every_state_of_a_job_is_known(state):
    job = types.TuningJob(state=types.JobState(state), tuned_model={"endpoint": "e"})
    found = build_job_state(job, name="n", address="gemini:m")
    assert (found.status, found.raw_status) == (STATES[state], state)


@pytest.mark.parametrize(
    ("message", "remedy", "fatal"),
    [
        ("Quota exceeded: tuning jobs", "raise the quota", True),
        ("Billing is disabled", "link a billing account", True),
        ("The service agent lacks permission", "access to the bucket", True),
        ("Dataset example 7 has too many tokens", "look at the file", False),
        ("Adapter size is too large", "finetune.lora_rank", False),
        ("Model is not supported in this region", "choose a model", False),
        ("Internal error", "Internal error", False),
    ],
)
def test_a_job_that_failed_says_what_to_do(message, remedy, fatal):
    error = {"code": 3, "message": message}
    job = types.TuningJob(state=types.JobState.JOB_STATE_FAILED, error=error)
    found = build_job_state(job, name="n", address="gemini:m")
    assert found.error is not None
    assert found.error.startswith(f"{message} (code 3)")
    assert remedy in found.error
    assert found.fatal == fatal


def test_a_job_that_waits_for_quota_says_so():
    state = types.TuningJobState.TUNING_JOB_STATE_WAITING_FOR_QUOTA
    job = types.TuningJob(state=types.JobState.JOB_STATE_PENDING, tuning_job_state=state)
    assert "waits for Google's quota" in build_job_state(job, name="n", address="a").note
