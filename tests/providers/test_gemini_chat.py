"""Chat with Gemini against a stand-in whose requests google-genai's own types parse."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime

import pytest

from providers import registry
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ContextOverflow,
    InvalidSettings,
    ModelNotFound,
    Overloaded,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestFailed,
    RetryableError,
    TimedOut,
    Unsupported,
    UnusableAnswer,
)
from providers.types import Message, ModelRef, Need, Sampling
from providers.usage import FREE, Usage, current_attempts
from tests.providers.gemini_client import ADDRESS, ask, provider
from tests.providers.gemini_server import MODEL, TOKEN, Google, say, serving


@pytest.fixture
def google(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path) as running:
        yield running


async def answer(google: Google, *messages: Message, settings=None, **sampling):
    async with provider(google, **(settings or {})) as opened:
        return await opened.complete(ask(*messages, **sampling))


async def test_a_conversation_is_sent_in_google_s_shape_and_its_answer_is_read(google):
    found = await answer(
        google,
        Message("system", "Be brief."),
        Message("user", "What is 2+3?"),
        Message("assistant", "6"),
        Message("user", "Look again."),
        settings={"thinking_budget": 0},
        temperature=0.5,
        top_k=20,
        stop=("END",),
    )
    [body] = google.asked("POST generateContent")
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]
    config = body["generationConfig"]
    assert {k: v for k, v in config.items() if k != "seed"} == {
        "temperature": 0.5,
        "topP": 1.0,
        "topK": 20.0,
        "maxOutputTokens": 64,
        "stopSequences": ["END"],
        # As the package writes it; Google takes both spellings.
        "thinkingConfig": {"thinking_budget": 0},
    }
    assert 0 <= config["seed"] < 2**31
    assert found.text.startswith("I work it out.")
    assert (found.finish_reason, found.error, found.thought) == ("stop", None, None)
    assert (found.prompt_tokens, found.completion_tokens) == (6, 8)
    assert google.log[0][1] == f"Bearer {TOKEN}"


async def test_thoughts_are_billed_and_kept_apart(google):
    reply = say("4", prompt=11)
    reply["candidates"][0]["content"]["parts"].insert(0, {"text": "2+2…", "thought": True})
    reply["usageMetadata"] |= {"thoughtsTokenCount": 30, "totalTokenCount": 42}
    google.script = lambda body: reply
    found = await answer(google)
    assert (found.text, found.thought) == ("4", "2+2…")
    assert (found.prompt_tokens, found.completion_tokens) == (11, 31)


BLOCKED = {
    "promptFeedback": {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": "no"},
    "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
}
USAGE = {"promptTokenCount": 9, "totalTokenCount": 9}
EMPTY = {
    "blocked prompt": (BLOCKED, "filtered", "the prompt is blocked: PROHIBITED_CONTENT (no)"),
    "safety": (
        {"candidates": [{"finishReason": "SAFETY"}], "usageMetadata": USAGE},
        "filtered",
        "no text, finish reason SAFETY",
    ),
    "recitation": (
        {"candidates": [{"finishReason": "RECITATION", "finishMessage": "a song"}]},
        "filtered",
        "no text, finish reason RECITATION (a song)",
    ),
    "empty candidate": ({"candidates": [{}]}, "error", "no text, finish reason missing"),
    "no parts": (
        {"candidates": [{"content": {"role": "model"}, "finishReason": "STOP"}]},
        "stop",
        "no text, finish reason STOP",
    ),
    "only thoughts": (
        {
            "candidates": [{"content": {"parts": []}, "finishReason": "MAX_TOKENS"}],
            "usageMetadata": {**USAGE, "thoughtsTokenCount": 64, "totalTokenCount": 73},
        },
        "length",
        "all tokens went into thoughts (64); raise sampling.max_tokens, or lower "
        "provider.thinking_budget",
    ),
    "unknown reason": (
        {"candidates": [{"finishReason": "A_NEW_REASON"}], "usageMetadata": USAGE},
        "error",
        "no text, finish reason A_NEW_REASON",
    ),
}


@pytest.mark.filterwarnings("ignore:A_NEW_REASON")
@pytest.mark.parametrize(("reply", "reason", "error"), EMPTY.values(), ids=EMPTY)
async def test_an_answer_without_text_is_stored_as_what_it_is(google, reply, reason, error):
    google.script = lambda body: reply
    found = await answer(google)
    assert (found.text, found.finish_reason, found.error) == ("", reason, error)
    assert found.estimated == ("usageMetadata" not in reply)
    assert len(google.asked("POST generateContent")) == 1


async def test_a_stop_for_safety_in_the_middle_keeps_the_text(google):
    google.script = lambda body: say("Half an", finishReason="SAFETY")
    found = await answer(google)
    assert (found.text, found.finish_reason, found.error) == ("Half an", "filtered", None)


def refusal(code, status, message, **detail):
    details = [{"@type": "type.googleapis.com/google.rpc.X", **detail}] if detail else []
    return {"code": code, "status": status, "message": message, "details": details}


NOT_THERE = "Publisher Model `m` was not found or your project does not have access to it."
REFUSALS = {
    "credentials": (refusal(401, "UNAUTHENTICATED", "bad token"), AuthenticationFailed, "log in"),
    "permission": (
        refusal(403, "PERMISSION_DENIED", "Permission 'aiplatform.endpoints.predict' denied"),
        AuthenticationFailed,
        "roles Vertex AI User",
    ),
    "switched off": (
        refusal(403, "PERMISSION_DENIED", "API has not been used", reason="SERVICE_DISABLED"),
        Unsupported,
        "gcloud services enable",
    ),
    "billing": (
        refusal(403, "PERMISSION_DENIED", "This API method requires billing to be enabled."),
        QuotaExhausted,
        "link a billing account",
    ),
    "region": (refusal(404, "NOT_FOUND", NOT_THERE), ModelNotFound, "set provider.location"),
    "place": (
        refusal(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
        Unsupported,
        "provider.location",
    ),
    "too long": (
        refusal(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum"),
        ContextOverflow,
        "lower sampling.max_tokens",
    ),
    "malformed": (refusal(400, "INVALID_ARGUMENT", "no such field"), BadRequest, "no such field"),
    "quota of the day": (
        refusal(429, "RESOURCE_EXHAUSTED", "quota", violations=[{"quotaId": "XPerDayPerProject"}]),
        QuotaExhausted,
        "quota of the day",
    ),
}


@pytest.mark.parametrize(("wish", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_says_what_to_do(google, wish, kind, words):
    google.fail["POST generateContent"] = [wish]
    with pytest.raises(kind, match=words):
        await answer(google)
    assert len(google.asked("POST generateContent")) == 1


class Counter:
    """A payer that records how every attempt ended."""

    is_reserved = True

    def __init__(self):
        self.told = []

    def report_all(self):
        return

    async def reserve(self):
        return

    async def begin(self):
        return

    def record_answer(self, usage):
        self.told.append(usage)

    def record_failure(self, usage=None):
        self.told.append(usage)


async def test_passing_failures_are_repeated_and_each_attempt_is_counted(google):
    busy = refusal(429, "RESOURCE_EXHAUSTED", "quota", retryDelay="0.1s")
    google.fail["POST generateContent"] = [busy, 500]
    counter = Counter()
    current_attempts.set(counter)
    found = await answer(google)
    assert found.finish_reason == "stop"
    used = Usage(found.prompt_tokens, found.completion_tokens)
    assert counter.told == [FREE, None, used]
    assert len(google.asked("POST generateContent")) == 3


@pytest.mark.parametrize(
    ("wish", "kind"),
    [
        (refusal(429, "RESOURCE_EXHAUSTED", "quota"), RateLimited),
        (503, Overloaded),
        (504, TimedOut),
        ("drop", RetryableError),
    ],
)
async def test_a_failure_that_stays_is_given_up(google, wish, kind):
    google.fail["POST generateContent"] = [wish] * 3
    with pytest.raises(kind, match="given up after 2 attempt"):
        await answer(google, settings={"max_attempts": 2})


async def test_a_response_of_another_form_is_refused_for_this_request(google):
    google.script = lambda body: {}
    with pytest.raises(UnusableAnswer, match="without a candidate"):
        await answer(google)


async def test_a_tuned_model_is_asked_at_its_endpoint(google):
    endpoint = "projects/a-project/locations/us-central1/endpoints/99"
    tuned = ModelRef("tuned", ADDRESS, endpoint)
    async with provider(google) as opened:
        with pytest.raises(ModelNotFound):
            await opened.complete(ask(model=tuned))


async def test_with_a_key_models_are_asked_at_the_developer_api_and_never_tuned(
    google, monkeypatch
):
    monkeypatch.setenv("A_KEY", "AIzaSy-not-a-real-key-0123")
    settings = {"api_key_env": "A_KEY", "endpoint": google.url, "max_attempts": 1}
    opened = registry.connect(ADDRESS, settings, None)
    found = await opened.complete(ask())
    assert found.finish_reason == "stop"
    assert not opened.capabilities.finetune
    with pytest.raises(Unsupported, match="remove it to use Vertex AI"):
        await opened.find(None)
    [error] = [f for f in await opened.preflight(need(finetune=True)) if f.level == "error"]
    assert "has no tuning jobs" in error.text
    google.script = lambda body: {"candidates": [], "modelVersion": 3 * [1]}
    with pytest.raises(ProviderError) as caught:
        await opened.complete(ask())
    await opened.close()
    assert "AIza" not in "".join(traceback.format_exception(caught.value))


def need(**changes):
    return Need(finetune=changes.pop("finetune", False), ends_at=datetime.now(UTC), **changes)


async def test_no_token_is_in_errors_or_logs(google, caplog):
    echo = f"you sent Bearer {TOKEN} and {TOKEN}"
    google.fail["POST generateContent"] = [refusal(403, "PERMISSION_DENIED", echo)]
    with pytest.raises(AuthenticationFailed) as caught:
        await answer(google)
    google.script = lambda body: say(f"I saw {TOKEN}")
    assert (await answer(google)).text == "I saw [secret]"
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert TOKEN not in shown
    assert "[secret]" in str(caught.value)


async def test_missing_credentials_are_said_with_the_remedy(google, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    with pytest.raises(AuthenticationFailed, match="gcloud auth application-default login"):
        await answer(google)


WRONG = [
    ({"api_key": "AIzaSy0123456789"}, "a key does not belong"),
    ({"api_key_env": "K", "bucket": "b"}, "bucket belongs to Vertex AI"),
    ({"thinking_budget": 1, "thinking_level": "low"}, "exclude each other"),
    ({"tuning_location": "global"}, "has no tuning jobs"),
    ({"endpoint": "http://example.com"}, "write an https URL"),
    ({"regoin": "x"}, "has no key 'regoin'; there are: .*tuning_location"),
]


@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_wrong_settings_are_said_before_anything_is_sent(settings, words):
    with pytest.raises(InvalidSettings, match=words) as caught:
        registry.check(ADDRESS, settings)
    assert "AIza" not in str(caught.value)


@pytest.mark.parametrize("target", ["", "a b", "../x"])
def test_a_wrong_address_is_said(target):
    with pytest.raises(InvalidSettings, match=r"gemini:gemini-3\.5-flash"):
        registry.check(f"gemini:{target}", {})


def test_what_gemini_does_not_take_of_sampling_is_named(google):
    opened = registry.connect(ADDRESS, google.settings, None)
    assert opened.validate_sampling(Sampling(top_k=5, stop=("a",))) == []
    refused = " ".join(opened.validate_sampling(Sampling(min_p=0.1, stop=tuple("abcdef"))))
    assert "sampling.min_p = 0.1" in refused
    assert "at most 5" in refused


async def test_doctor_sees_model_jobs_and_bucket_without_spending(google):
    async with provider(google) as opened:
        findings = await opened.preflight(need(finetune=True))
    assert [(f.level, f.check) for f in findings] == [
        ("ok", "model"),
        ("ok", "fine-tuning"),
        ("ok", "fine-tuning"),
    ]
    assert {name for name, _, _ in google.log} == {"POST countTokens", "GET tuningJobs"}
    async with provider(google, bucket="another") as opened:
        findings = await opened.preflight(need(finetune=True))
    [error] = [f.text for f in findings if f.level == "error"]
    assert "bucket does not exist" in error


async def test_doctor_names_a_missing_model_and_a_bucket_that_is_not_set(google, tmp_path):
    settings = {key: value for key, value in google.settings.items() if key != "bucket"}
    opened = registry.connect("gemini:gemini-9", settings, tmp_path)
    conversation = tuple(Message(role, "x") for role in ("user", "assistant") * 2)
    findings = await opened.preflight(need(finetune=True, conversations=(conversation,)))
    await opened.close()
    text = json.dumps([(f.level, f.text, f.remedy) for f in findings])
    assert "has no model 'gemini-9'" in text
    assert "provider.bucket is not set" in text
    assert "gemini-9 is not among the models" in text
    assert "Google does not say whether its jobs learn the earlier ones" in text


async def test_calls_to_a_dead_address_cost_nothing_and_say_so(google):
    counter = Counter()
    current_attempts.set(counter)
    with pytest.raises(RetryableError, match="could not be made"):
        await answer(google, settings={"endpoint": "http://127.0.0.1:9", "max_attempts": 1})
    assert counter.told == [FREE]


async def test_a_request_that_keeps_failing_while_others_are_answered_fails_alone(google):
    def script(body):
        if "poison" in json.dumps(body):
            raise ValueError("the stand-in")
        return

    google.script = script
    async with provider(google, max_attempts=1) as opened:
        await opened.complete(ask())
        google.fail["POST generateContent"] = [500]
        with pytest.raises(RequestFailed, match="while the server answers others"):
            await opened.complete(ask(Message("user", "poison")))


async def test_doctor_compares_the_day_on_which_a_model_may_end(google):
    late = datetime(2027, 6, 1, tzinfo=UTC)
    async with provider(google) as opened:
        findings = await opened.preflight(Need(finetune=False, ends_at=late))
    [warning] = [finding for finding in findings if finding.check == "ending"]
    assert "may retire gemini-3.5-flash from 2027-05-19 on" in warning.text
    assert warning.level == "warning"


def test_prices_are_found_without_the_version():
    assert registry.locate_price(f"{ADDRESS}-001").name == MODEL
