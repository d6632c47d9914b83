"""Every provider with a stand-in passes the checks of `providers.conformance`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from providers import registry
from providers.conformance import CHECKS, Failure, NotConformant, StandIn, check_chat, check_jobs
from providers.scripted import ScriptedProvider
from providers.types import Completion, JobState
from tests.providers import gemini_client, job_client, test_bedrock_jobs, tinker_client
from tests.providers.bedrock_server import KEY_ID, SECRET, BedrockServer, serving_bedrock
from tests.providers.gemini_server import Google, serving
from tests.providers.job_account import BASE
from tests.providers.job_server import Server
from tests.providers.job_server import serving as serving_jobs
from tests.providers.tinker_server import TinkerServer, serving_tinker


class OpenAIStandIn:
    """The job server, at an address of OpenAI's shape."""

    def __init__(self, server: Server) -> None:
        self._server = server
        address = f"openai+{server.url}:{BASE}"
        start = replace(job_client.SPEC.start, model_id=address, address=address)
        self.spec = replace(job_client.SPEC, start=start)

    def connect(self):
        settings = {"api_key_env": "", "poll_s": 0.01, "listing_lag_s": 0.1, "max_attempts": 3}
        return registry.connect(self.spec.start.address, settings, Path())

    def fail_chat(self, failure: Failure) -> bool:
        code = {"rate limit": 429, "overload": 503, "credentials": 401, "form": 400}.get(failure)
        wish: object = code
        if failure == "model":
            wish = {"status": 404, "message": "no such model", "code": "model_not_found"}
        if failure == "length":
            wish = {"status": 400, "message": "too long", "code": "context_length_exceeded"}
        self._server.tell(chatted=[wish])
        return True

    def lose_answer(self) -> bool:
        self._server.tell(created=["drop"])
        return True

    def hold_jobs(self) -> None:
        self._server.tell(job_s=300.0)

    def count_jobs(self) -> int:
        return len(self._server.state()["jobs"])


class BedrockStandIn:
    """The stand-in of Bedrock, with moto's bucket."""

    def __init__(self, server: BedrockServer) -> None:
        self._server = server
        self.spec = test_bedrock_jobs.SPEC

    def connect(self):
        return test_bedrock_jobs.connect(self._server)

    def fail_chat(self, failure: Failure) -> bool:
        wish = {
            "rate limit": ("ThrottlingException", "Too many requests"),
            "overload": ("ServiceUnavailableException", "busy"),
            "credentials": ("UnrecognizedClientException", "no"),
            "model": ("ResourceNotFoundException", "end of its life"),
            "length": ("ValidationException", "Input is too long for requested model."),
            "form": ("ValidationException", "something else"),
        }[failure]
        self._server.tell(chat=[wish])
        return True

    def lose_answer(self) -> bool:
        self._server.tell(created=["drop"])
        return True

    def hold_jobs(self) -> None:
        self._server.tell(job_s=300.0)

    def count_jobs(self) -> int:
        return len(self._server.state()["jobs"])


class GeminiStandIn:
    """Google's stand-in and the emulated bucket."""

    spec = gemini_client.SPEC

    def __init__(self, google: Google) -> None:
        self._google = google

    def connect(self):
        return registry.connect(gemini_client.ADDRESS, self._google.settings, Path())

    def fail_chat(self, failure: Failure) -> bool:
        code, status, message = {
            "rate limit": (429, "RESOURCE_EXHAUSTED", "quota"),
            "overload": (503, "UNAVAILABLE", "The model is overloaded."),
            "credentials": (401, "UNAUTHENTICATED", "bad token"),
            "model": (404, "NOT_FOUND", "Publisher Model `m` was not found."),
            "length": (400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum"),
            "form": (400, "INVALID_ARGUMENT", "no such field"),
        }[failure]
        wish = {"code": code, "status": status, "message": message}
        self._google.fail["POST generateContent"] = [wish]
        return True

    def lose_answer(self) -> bool:
        self._google.fail["POST tuningJobs"] = ["late"]
        return True

    def hold_jobs(self) -> None:
        self._google.job_s = 300.0

    def count_jobs(self) -> int:
        return len(self._google.jobs)


class TinkerStandIn:
    """The stand-in of Tinker's wire, whose jobs are the trainings of this process."""

    def __init__(self, server: TinkerServer, folder: Path) -> None:
        self._server, self._folder = server, folder
        self.spec = tinker_client.make_spec(server)

    def connect(self):
        return tinker_client.connect(self._server, self._folder, max_attempts=3)

    def fail_chat(self, failure: Failure) -> bool:
        status, message = {
            "rate limit": (429, "busy"),
            "overload": (503, "busy"),
            "credentials": (401, "no such key"),
            "model": (400, "Engine is configured for another base model"),
            "length": (400, "the prompt is too long"),
            "form": (400, "something else"),
        }[failure]
        # The first two pass by themselves: the SDK, or the limiter, asks again.
        if failure in ("rate limit", "overload"):
            return False
        self._server.tell(answer={"asample": {"status": status, "body": {"detail": message}}})
        return True

    def lose_answer(self) -> bool:
        self._server.tell(drop=[{"path": "create_model", "nth": 1, "done": True}])
        return True

    def hold_jobs(self) -> None:
        self._server.tell(step_s=300.0)

    def count_jobs(self) -> int:
        made = [one["body"]["user_metadata"] for one in self._server.log("create_model")]
        begun = {facts["digest"] for facts in made if "digest" in facts}
        for journal in self._folder.glob(".*.training"):
            begun.add(json.loads(journal.read_text().splitlines()[0])["digest"])
        return len(begun)


@pytest.fixture(scope="module")
def job_server() -> Iterator[Server]:
    with serving_jobs() as server:
        yield server


@pytest.fixture(scope="module")
def bedrock_server() -> Iterator[BedrockServer]:
    with serving_bedrock() as server:
        yield server


@pytest.fixture(params=["openai", "gemini", "bedrock", "tinker"])
def stand_in(request, monkeypatch, tmp_path) -> Iterator[StandIn]:
    if request.param == "openai":
        server = request.getfixturevalue("job_server")
        server.reset()
        yield OpenAIStandIn(server)
        return
    if request.param == "bedrock":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        bedrock = request.getfixturevalue("bedrock_server")
        bedrock.reset()
        bedrock.tell(job_s=0.05, deploy_s=0.05)
        yield BedrockStandIn(bedrock)
        return
    if request.param == "tinker":
        with serving_tinker(tmp_path / "server") as tinker:
            yield TinkerStandIn(tinker, tmp_path / "models")
        return
    with serving(monkeypatch, tmp_path) as google:
        yield GeminiStandIn(google)


@pytest.mark.parametrize("name", CHECKS)
async def test_a_provider_of_this_project_conforms(name, stand_in):
    await CHECKS[name](stand_in)


class Careless(ScriptedProvider):
    """Loses the tokens of answers and forgets its jobs."""

    async def complete(self, request):
        return Completion("5", "stop", 0, 0, 0.0)

    async def poll(self, handle):
        return JobState("failed", "lost")


class CarelessStandIn:
    spec = replace(gemini_client.SPEC)

    def __init__(self) -> None:
        self._provider = Careless(str)

    def connect(self):
        return self._provider

    def count_jobs(self) -> int:
        return 1


async def test_what_a_provider_lacks_is_said():
    with pytest.raises(NotConformant, match="tokens are missing"):
        await check_chat(CarelessStandIn())
    with pytest.raises(NotConformant, match="the job failed"):
        await check_jobs(CarelessStandIn())
