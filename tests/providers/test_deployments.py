"""Deployments of tuned models at Azure, against a resource manager that remembers and fails."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers.base import Deployment
from providers.errors import (
    AuthenticationFailed,
    InvalidSettings,
    ModelNotFound,
    QuotaExhausted,
    TimedOut,
    Unsupported,
)
from providers.openai.deployments import Deployments, explain_undeployed, name_deployment
from providers.openai.provider import OpenAIProvider
from providers.openai.settings import DeploymentSettings, OpenAISettings, parse_address
from providers.types import Message, Need, Request, Sampling
from tests.providers.azure_account import GROUP, RESOURCE, SUBSCRIPTION, TOKEN
from tests.providers.job_account import BASE
from tests.providers.job_server import Server, serving

TUNED = [f"gpt-4.1-mini-2025-04-14.ft-{n:032x}-agent-a1-generator-it1" for n in range(2)]
VARIABLE = "SOME_AZURE_TOKEN"


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def server(process: Server, monkeypatch) -> Server:
    process.reset()
    monkeypatch.setenv(VARIABLE, TOKEN)
    return process


def settings(server: Server, **changes: object) -> DeploymentSettings:
    written = {
        "subscription": SUBSCRIPTION,
        "resource_group": GROUP,
        "account": RESOURCE,
        "token_env": VARIABLE,
        "url": server.url.removesuffix("/v1"),
    }
    return DeploymentSettings.model_validate(written | changes)


class Time:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@asynccontextmanager
async def opened(
    server: Server, unknown_for: int = 0, **changes: object
) -> AsyncIterator[Deployments]:
    left = iter(range(unknown_for))

    async def answers(name: str) -> bool:
        return next(left, None) is None

    time, chosen = Time(), settings(server, **changes)
    deployments = Deployments(
        chosen, chosen.account or RESOURCE, answers, sleep=time.sleep, clock=time
    )
    try:
        yield deployments
    finally:
        assert next(left, None) is None
        await deployments.close()


def created(server: Server) -> list[dict]:
    return [entry for entry in server.log("PUT") if "/deployments/" in entry["path"]]


async def test_models_are_deployed_once_however_often_it_is_asked_for(server):
    async with opened(server, sku="GlobalStandard", capacity=20) as deployments:
        await deployments.ensure(TUNED)
    async with opened(server, sku="GlobalStandard", capacity=20) as deployments:
        await deployments.ensure(reversed(TUNED))
        standing = await deployments.list_standing([*TUNED, "gpt-4o.ft-unknown"])
    first, second = sorted(
        created(server), key=lambda entry: entry["body"]["properties"]["model"]["name"]
    )
    assert first["body"] == {
        "sku": {"name": "GlobalStandard", "capacity": 20},
        "properties": {"model": {"format": "OpenAI", "name": TUNED[0], "version": "1"}},
    }
    assert first["path"] == (
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/"
        f"Microsoft.CognitiveServices/accounts/{RESOURCE}/deployments/{name_deployment(TUNED[0])}"
    )
    assert first["query"] == {"api-version": ["2024-10-01"]}
    assert second["body"]["properties"]["model"]["name"] == TUNED[1]
    assert standing == [Deployment(artifact, "succeeded", 1.7) for artifact in TUNED]


@pytest.mark.parametrize(
    "wish", [{"deploy": [409, 429]}, {"deployed": ["drop"]}, {"deploy": [503]}]
)
async def test_a_passing_failure_makes_no_second_deployment(server, wish):
    server.tell(**wish)
    async with opened(server) as deployments:
        await deployments.ensure(TUNED[:1])
    assert list(server.state()["deployments"]) == [name_deployment(TUNED[0])]


async def test_a_deployment_that_failed_is_tried_again_by_the_next_start(server):
    server.tell(deploy_state="Failed")
    async with opened(server) as deployments:
        with pytest.raises(Unsupported, match=r"is failed; look for the reason in Azure's portal"):
            await deployments.ensure(TUNED[:1])
        server.tell(deploy_state="Succeeded")
        await deployments.ensure(TUNED[:1])
    assert len(server.state()["deployments"]) == 1


async def test_a_new_deployment_is_asked_only_once_the_server_knows_it(server):
    async with opened(server, unknown_for=7) as deployments:
        await deployments.ensure(TUNED)


async def test_a_deployment_that_takes_too_long_is_waited_for_by_the_next_start(server):
    server.tell(deploy_state="Creating")
    async with opened(server) as deployments:
        with pytest.raises(TimedOut, match=r"not ready after 60 minutes \(state creating\)"):
            await deployments.ensure(TUNED[:1])
    assert len(created(server)) == 1


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        (
            {
                "status": 400,
                "message": "This operation requires 50 new capacity",
                "code": "InsufficientQuota",
            },
            QuotaExhausted,
            r"no quota left .*lower provider\.deployment\.capacity",
        ),
        (
            {
                "status": 403,
                "message": "does not have authorization",
                "code": "AuthorizationFailed",
            },
            AuthenticationFailed,
            r"a role with Microsoft\.CognitiveServices/accounts/deployments/write",
        ),
        (
            {
                "status": 400,
                "message": "The model is not supported",
                "code": "DeploymentModelNotSupported",
            },
            Unsupported,
            r"deploying gpt-4\.1-mini.*The model is not supported",
        ),
    ],
)
async def test_a_refusal_says_what_to_do(server, wish, error, words):
    server.tell(deploy=[wish])
    async with opened(server) as deployments:
        with pytest.raises(error, match=words):
            await deployments.ensure(TUNED[:1])


async def test_a_wrong_resource_is_named(server):
    async with opened(server, resource_group="elsewhere") as deployments:
        with pytest.raises(InvalidSettings, match="no resource me in group elsewhere in subscr"):
            await deployments.ensure(TUNED[:1])
        [found] = await deployments.preflight()
    assert (found.level, "elsewhere" in found.text) == ("error", True)


async def test_the_name_of_another_models_deployment_is_not_taken(server):
    async with opened(server) as deployments:
        await deployments.ensure(["gpt-4.1-mini.ft-0"])
    taken = server.state()["deployments"]["gpt-4.1-mini.ft-0"]["body"]
    taken["properties"]["model"]["name"] = "gpt-4.1-mini.ft-9"
    path = created(server)[0]["path"]
    await put(server, path, taken)
    async with opened(server) as deployments:
        with pytest.raises(InvalidSettings, match=r"is of model 'gpt-4\.1-mini\.ft-9'"):
            await deployments.ensure(["gpt-4.1-mini.ft-0"])
        await deployments.delete("gpt-4.1-mini.ft-0")
    assert len(server.state()["deployments"]) == 1


async def put(server: Server, path: str, body: object) -> None:
    import httpx2

    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = server.url.removesuffix("/v1") + path + "?api-version=1"
    async with httpx2.AsyncClient(headers=headers) as client:
        assert (await client.put(url, json=body)).is_success


async def test_only_the_deployments_of_the_named_models_are_deleted(server):
    async with opened(server) as deployments:
        await deployments.ensure(TUNED)
        await deployments.delete(TUNED[1])
        await deployments.delete(TUNED[1])
        await deployments.delete("gpt-4o.ft-unknown")
        assert await deployments.list_standing(TUNED) == [Deployment(TUNED[0], "succeeded", 0.0)]
    assert list(server.state()["deployments"]) == [name_deployment(TUNED[0])]


@pytest.mark.parametrize(
    ("artifact", "name"),
    [
        ("gpt-4.1-mini-2025-04-14.ft-0a1b", "gpt-4.1-mini-2025-04-14.ft-0a1b"),
        ("ft:gpt-4o-mini:org::id", "ft-gpt-4o-mini-org-id-"),
        (TUNED[0], "gpt-4.1-mini-2025-04-14.ft-"),
    ],
)
def test_a_name_follows_from_the_model_and_is_one_that_azure_takes(artifact, name):
    found = name_deployment(artifact)
    assert found.startswith(name)
    assert 2 <= len(found) <= 64
    assert found == name_deployment(artifact) != name_deployment(artifact + "x")


def write_az(folder: Path, script: str) -> None:
    """A command `az` in front of any other."""
    path = folder / "az"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


async def test_the_token_comes_from_azures_command_line_and_again_when_it_has_expired(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    write_az(tmp_path, f'echo "$@" >> {tmp_path}/asked; cat {tmp_path}/token')
    (tmp_path / "token").write_text("an-old-token-0123456789\n")
    server.tell(token="an-old-token-0123456789")
    async with opened(server, token_env="") as deployments:
        await deployments.ensure(TUNED[:1])
        (tmp_path / "token").write_text(TOKEN)
        server.tell(token=TOKEN)
        await deployments.ensure(TUNED)
    [asked, again] = (tmp_path / "asked").read_text().splitlines()
    assert asked == again
    assert asked.startswith("account get-access-token --resource http://127.0.0.1:")
    assert f"--subscription {SUBSCRIPTION} --query accessToken" in asked


async def test_without_a_token_it_is_said_how_to_get_one(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    async with opened(server, token_env="") as deployments:
        with pytest.raises(AuthenticationFailed, match="install `az` and run `az login`, or set"):
            await deployments.ensure(TUNED)
        write_az(tmp_path, "echo 'Please run az login to setup account.' >&2; exit 1")
        with pytest.raises(AuthenticationFailed, match=r"Please run az login .*token_env"):
            await deployments.ensure(TUNED)
    monkeypatch.setenv(VARIABLE, "a-token-that-is-refused-0123")
    async with opened(server) as deployments:
        with pytest.raises(AuthenticationFailed, match=f"put a fresh one into {VARIABLE}") as found:
            await deployments.ensure(TUNED)
    assert "a-token-that-is-refused" not in str(found.value)


@pytest.mark.parametrize(
    ("target", "written", "words"),
    [
        ("gpt-4.1-mini", {}, r"is for Azure, and api\.openai\.com answers"),
        ("+http://127.0.0.1:1/v1:m", {"account": None}, r"account is not set, and 127\.0\.0\.1"),
        (
            "+http://127.0.0.1:1/v1:m",
            {"skus": "x"},
            r"no key 'deployment\.skus'; did you mean 'sku'\? there are: subscr",
        ),
        ("+http://127.0.0.1:1/v1:m", {"sku": "Cheap"}, r"deployment\.sku is not usable"),
        ("+http://127.0.0.1:1/v1:m", {"subscription": "a/b"}, r"deployment\.subscription is not"),
    ],
)
def test_settings_that_make_no_sense_are_refused(target, written, words):
    table = {"subscription": "s", "resource_group": "g", "account": "me", **written}
    with pytest.raises(InvalidSettings, match=words):
        OpenAISettings.parse({"deployment": table}, parse_address(target))


def connect(server: Server, **changes: object) -> OpenAIProvider:
    address = parse_address(f"+{server.url}:{BASE}")
    chosen = settings(server, **changes)
    return OpenAIProvider(address, OpenAISettings(deployment=chosen), address.text)


async def test_a_provider_deploys_asks_and_deletes_its_tuned_models(server, caplog):
    from tests.providers.job_client import followed, spec

    server.tell(azure=True, job_s=0.0, unknown_for=1)
    provider = connect(server, sku="Standard")
    handle = await provider.submit(spec(start=provider.base))
    tuned = (await followed(provider, handle))[-1].model
    assert tuned is not None
    request = Request(tuned, (Message("user", "Hi"),), Sampling(), "k")
    await provider.close()

    provider = connect(server, sku="Standard")
    with pytest.raises(ModelNotFound, match=r"its deployment is gone .* start again"):
        await provider.complete(request)
    await provider.close()

    provider = connect(server, sku="Standard")
    found = await provider.preflight(Need(True, datetime.now(UTC)))
    assert any("1.70 USD an hour each" in f.text for f in found if f.level == "warning")
    ask = provider.with_deadline(5.0)
    await ask.load_adapters([tuned])
    with pytest.raises(ModelNotFound, match=rf"-g {GROUP} -n {RESOURCE} .* --sku-name Standard"):
        await ask.complete(request)
    await ask.close()
    server.tell(unknown_for=0)
    await provider.load_adapters([provider.base, tuned])
    assert (await provider.complete(request)).finish_reason == "stop"
    await provider.close()
    assert "deploying 1 tuned model(s) on resource me" in caplog.text

    [standing] = await provider.list_deployments([provider.base, tuned])
    await provider.delete_deployment(standing)
    await provider.close()
    assert server.state()["deployments"] == {}
    assert provider.capabilities.deployments


def test_who_deploys_by_hand_gets_the_commands():
    told = explain_undeployed(["gpt-4.1-mini.ft-1", TUNED[0]], "me")
    assert "only once it is deployed" in told
    assert told.count("az cognitiveservices account deployment create -g GROUP -n me ") == 2
    assert f"--deployment-name {name_deployment(TUNED[0])} --model-name {TUNED[0]} " in told


async def test_azure_without_settings_for_it_is_said_before_the_run(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "some-key")
    address = parse_address("+https://no-such-resource.openai.azure.com/openai/v1:gpt-4.1-mini")
    brief = {"api_key_env": "SOME_KEY", "timeout_s": 1.0, "max_attempts": 1}
    provider = OpenAIProvider(address, OpenAISettings.model_validate(brief), address.text)
    found = await provider.preflight(Need(True, datetime.now(UTC)))
    assert any("only once it is deployed" in f.text and f.level == "warning" for f in found)
    await provider.close()
