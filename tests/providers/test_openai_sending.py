"""Chat requests are those of the openai package, byte for byte, and so are their errors."""

from datetime import UTC, datetime

import httpx2
import pytest
from openai import APIConnectionError, APIError, APIStatusError

from providers.openai.client import Connection
from providers.openai.settings import OpenAISettings, parse_address
from tests.providers.chat_server import ChatServer, Reply, fails, says

BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "grüß dich 🙂"}],
    "temperature": 1.0,
    "stop": ["\n\n"],
    "began": datetime(2026, 11, 30, 12, tzinfo=UTC),
}


def connect(url, **settings):
    return Connection(parse_address(f"+{url}:m"), OpenAISettings(**settings))


async def send_both_ways(server, connection, body=BODY):
    """What comes of a request through the sender, and of the same one through the package."""
    url = f"{server.url}/chat/completions"
    package = connection.client.post(
        url, cast_to=httpx2.Response, body=body, options={"idempotency_key": "none"}
    )
    results = []
    for sent in (connection.make_sender(url).post(body), package):
        try:
            results.append(await sent)
        except APIError as error:
            results.append(error)
    return results


async def test_the_same_request_goes_out_as_through_the_package(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "some-key-0123456789")
    async with ChatServer(lambda asked: says("x")) as server:
        for settings in (
            {"api_key_env": ""},
            {"api_key_env": "SOME_KEY", "organization": "org-1", "timeout_s": 7.5},
            {"api_key_env": "SOME_KEY", "headers": {"X-Team": "a", "user-agent": "ours"}},
        ):
            connection = connect(server.url, **settings)
            await send_both_ways(server, connection)
            await connection.close()
            ours, package = server.asked[-2:]
            assert list(ours.headers.items()) == list(package.headers.items())
            assert (ours.method, ours.path, ours.body) == (
                package.method,
                package.path,
                package.body,
            )


async def test_cookies_come_back_to_the_server_that_set_them():
    sets = {"set-cookie": "route=b; Path=/"}
    async with ChatServer(lambda asked: Reply(says("x").body, headers=sets)) as server:
        connection = connect(server.url, api_key_env="")
        sender = connection.make_sender(f"{server.url}/chat/completions")
        await sender.post(BODY)
        await sender.post(BODY)
        await connection.close()
    assert [asked.headers.get("cookie") for asked in server.asked] == [None, "route=b"]


@pytest.mark.parametrize(
    "reply",
    [
        fails(400, "no", code="c", param="seed"),
        fails(429, "slow", headers={"retry-after": "3"}),
        Reply({"message": "bare"}, 403),
        Reply({"error": "words", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}, 502),
        Reply(["a", "list"], 500),
        Reply(
            raw=b" <html>Bad gateway</html>\n", status=502, headers={"content-type": "text/html"}
        ),
        Reply(raw=b"", status=404),
        Reply(raw=b"[" * 100_000, status=500),
        Reply(status=307, headers={"location": "http://127.0.0.1:1/"}),
    ],
    ids=lambda reply: str(reply.status),
)
async def test_a_bad_status_is_the_packages_error(reply):
    async with ChatServer(lambda asked: reply) as server:
        connection = connect(server.url, api_key_env="")
        ours, package = await send_both_ways(server, connection)
        await connection.close()
    assert isinstance(ours, APIStatusError)
    assert (ours.status_code, ours.body) == (package.status_code, package.body)
    assert ours.response.headers == package.response.headers
    assert ours.request_id == package.request_id


async def test_no_server_is_the_packages_error():
    async with ChatServer(lambda asked: says("x")) as server:
        url = server.url
    connection = connect(url, api_key_env="")
    ours, package = await send_both_ways(server, connection)
    await connection.close()
    assert isinstance(ours, APIConnectionError)
    assert type(ours) is type(package)
    assert type(ours.__cause__) is type(package.__cause__)


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), (object(), TypeError)])
async def test_what_json_does_not_have_is_not_sent(value, error):
    async with ChatServer(lambda asked: says("x")) as server:
        connection = connect(server.url, api_key_env="")
        with pytest.raises(error):
            await connection.make_sender(f"{server.url}/chat/completions").post({"top_p": value})
        await connection.close()
    assert not server.asked
