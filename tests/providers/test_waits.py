"""How long servers ask to wait: one reader for all vendors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest
from botocore.exceptions import ClientError

from providers.bedrock.errors import AwsErrors
from providers.errors import RetryableError
from providers.gemini.errors import Place, translate_error
from providers.limits.waits import parse_duration, parse_retry_after
from providers.openai.errors import classify_refusal, parse_refusal
from providers.secrets import Secrets


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12s", 12.0),
        ("6m0s", 360.0),
        ("1ms", 0.001),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400.0),
        ("250µs", 0.00025),
        ("7", 7.0),
        ("0.5", 0.5),
        ("", None),
        ("soon", None),
        ("5s soon", None),
        ("-1", None),
        ("nan", None),
    ],
)
def test_durations_are_read_as_servers_write_them(text, seconds):
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


def test_the_hint_is_the_most_exact_one_that_is_there():
    assert parse_retry_after({}) is None
    assert parse_retry_after({"retry-after": "3"}) == 3.0
    assert parse_retry_after({"retry-after": "3", "retry-after-ms": "250"}) == 0.25
    later = datetime.now(UTC) + timedelta(seconds=100)
    dated = parse_retry_after({"retry-after": format_datetime(later, usegmt=True)})
    assert dated is not None
    assert 90 < dated <= 100
    assert parse_retry_after({"retry-after": "tomorrow"}) is None
    assert parse_retry_after({"retry-after": ""}) is None


def hint_of_openai(headers):
    return classify_refusal(parse_refusal(429, {}, headers, Secrets()), "m")


def hint_of_bedrock(headers):
    answer = {
        "Error": {"Code": "ThrottlingException", "Message": "slow down"},
        "ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": headers},
    }
    found = AwsErrors(Secrets(), "us-east-1", "m").translate(ClientError(answer, "Converse"))
    assert found is not None
    return found.error


def hint_of_gemini(headers):
    request = httpx2.Request("GET", "https://storage.googleapis.com/")
    response = httpx2.Response(429, headers=headers, json={}, request=request)
    error = httpx2.HTTPStatusError("slow down", request=request, response=response)
    found = translate_error(error, Secrets(), Place("m", "global"))
    assert found is not None
    return found.error


@pytest.mark.parametrize("read", [hint_of_openai, hint_of_bedrock, hint_of_gemini])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({}, None),
    ],
)
def test_all_vendors_take_the_same_hints(read, headers, seconds):
    error = read(headers)
    assert isinstance(error, RetryableError)
    assert error.retry_after_s == seconds
