"""No key, header or token is seen anywhere, also when the server repeats it."""

import asyncio
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from providers import registry
from providers.errors import ProviderError
from providers.secrets import HIDDEN, Secrets
from providers.types import Message, Need, Request, Sampling
from society.cli import main as society
from tests.providers.chat_server import ChatServer, Reply, fails, says

KEY = "sk-proj-Zq8Zq8Zq8Zq8Zq8Zq8"
PLAIN_KEY = "plainkeywithoutanyprefix"
HEADER = "header-value-7f3a9c"
SETTINGS = {"api_key_env": "SOME_KEY", "headers": {"X-Own": "env:SOME_HEADER"}, "max_attempts": 1}


@pytest.fixture(params=[KEY, PLAIN_KEY])
def key(request, monkeypatch):
    monkeypatch.setenv("SOME_KEY", request.param)
    monkeypatch.setenv("SOME_HEADER", HEADER)
    return request.param


def echo(asked):
    """Everything secret that came in, in every form a server might repeat it."""
    headers = asked.headers
    return (
        f"You sent {headers['authorization']} and Authorization: {headers['authorization']}, "
        f"x-own={headers['x-own']}, {json.dumps(dict(headers))}"
    )


REPLIES = {
    "error": lambda asked: fails(400, echo(asked)),
    "401": lambda asked: fails(401, f"Incorrect API key provided: {echo(asked)}"),
    "quota": lambda asked: fails(429, echo(asked), code="insufficient_quota"),
    "server": lambda asked: fails(500, echo(asked)),
    "page": lambda asked: Reply(raw=f"<html>{echo(asked)}</html>".encode(), status=502),
    "parameter": lambda asked: fails(400, f"Unknown parameter: 'seed' {echo(asked)}"),
    "detail": lambda asked: Reply({"detail": [{"msg": echo(asked), "input": echo(asked)}]}, 422),
    "inside": lambda asked: Reply({"error": {"message": echo(asked)}}),
    "no json": lambda asked: Reply(raw=b"{" + echo(asked).encode()),
    "cut in the key": lambda asked: fails(500, "x" * 390 + asked.headers["authorization"]),
    "truncated": lambda asked: Reply({"x": echo(asked)}, fault="truncated"),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_no_error_log_or_traceback_holds_a_secret(key, reply, caplog):
    def script(asked):
        return reply(asked) if "chat" in asked.path else fails(403, echo(asked))

    async with ChatServer(script) as server:
        provider = registry.connect(f"openai+{server.url}:m", SETTINGS, Path())
        request = Request(provider.base, (Message("user", "Hi"),), Sampling(), "k")
        shown = [repr(provider), repr(vars(provider))]
        with caplog.at_level(logging.DEBUG):
            try:
                await provider.complete(request)
            except ProviderError as error:
                shown += [str(error), repr(error), *traceback.format_exception(error)]
            else:
                pytest.fail("the call was expected to fail")
            need = Need(finetune=True, ends_at=datetime.now(UTC))
            shown += map(repr, await provider.preflight(need))
        await provider.close()
    assert key in str(server.asked[0].headers)
    no_secret_in("\n".join([*shown, caplog.text]), key)


def no_secret_in(text, key):
    for secret in (key, key[:12], HEADER):
        assert secret not in text


async def test_an_answer_that_repeats_the_key_loses_it_and_nothing_else(key):
    async with ChatServer(lambda a: says(f"Your key: {a.headers['authorization']} ok")) as server:
        provider = registry.connect(f"openai+{server.url}:m", SETTINGS, Path())
        request = Request(provider.base, (Message("user", "Hi"),), Sampling(), "k")
        assert (await provider.complete(request)).text == f"Your key: Bearer {HIDDEN} ok"
        await provider.close()


def test_a_short_key_changes_no_answer_but_no_message_shows_it():
    secrets = Secrets({"key": "EMPTY"})
    assert secrets.redact_answer("The set is EMPTY.") == "The set is EMPTY."
    assert "EMPTY" not in secrets.scrub("key EMPTY refused")


@pytest.mark.parametrize(
    "text",
    [
        "Bearer abcd1234abcd1234",
        "authorization: Bearer abcd1234abcd1234",
        '{"Authorization": "Bearer abcd1234abcd1234"}',
        "api-key: abcd1234abcd1234",
        "x-api-key=abcd1234abcd1234",
        "sk-abcd1234abcd1234",
        "http://me:abcd1234abcd1234@proxy:3128",
        "eyJhbcd1234abcd1234.eyJabcd1234abcd1234.abcd1234abcd1234",
    ],
)
def test_whatever_looks_like_a_key_is_taken_out_of_messages(text):
    assert "abcd1234" not in Secrets().scrub(f"before {text} after")


@pytest.mark.parametrize(
    "text",
    ["the model sk is unknown", "maximum context length is 4096 tokens", "a bearer of news"],
)
def test_messages_without_secrets_stay_readable(text):
    assert Secrets({"key": KEY}).scrub(text) == text or "bearer" in text


EXPERIMENT = """
model = "openai+{url}:m"
iterations = 0
[provider]
api_key_env = "SOME_KEY"
max_attempts = 2
headers = {{ X-Own = "env:SOME_HEADER" }}
[task]
name = "arithmetic"
[sampling]
max_tokens = 64
[evaluation]
questions = 3
decodings = ["greedy"]
"""


@pytest.mark.parametrize("ending", ["finished", "stopped"])
async def test_neither_the_run_folder_nor_the_terminal_holds_a_secret(
    key, ending, tmp_path, monkeypatch, capfd
):
    def script(asked):
        if "chat" not in asked.path:
            return Reply({"object": "list", "data": [{"id": "m", "object": "model"}]})
        if asked.number % 5 == 1:
            return fails(400, echo(asked))
        if ending == "stopped" and asked.number > 15:
            return fails(401, echo(asked))
        return says(f"\\boxed{{1}} {echo(asked)}")

    monkeypatch.chdir(tmp_path)
    async with ChatServer(script) as server:
        (tmp_path / "api.toml").write_text(EXPERIMENT.format(url=server.url))
        status = await asyncio.to_thread(run_society, ["run", "api.toml"])
    assert status == (0 if ending == "finished" else 1)
    printed = capfd.readouterr()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".duckdb" for path in files)
    kept = b"\n".join(path.read_bytes() for path in files).decode("latin-1")
    kept += "".join(stored(path) for path in files if path.suffix == ".duckdb")
    no_secret_in(printed.out + printed.err + kept, key)
    assert HIDDEN in kept


def stored(path):
    """Everything in a database, which compresses what it writes."""
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = [
            name for (name,) in connection.sql("SELECT table_name FROM duckdb_tables()").fetchall()
        ]
        return str([connection.sql(f"FROM {table}").fetchall() for table in tables])


def run_society(arguments):
    before, sys.argv = sys.argv, ["society", *arguments]
    try:
        society()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv = before
    return 0
