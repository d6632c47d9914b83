"""What the doctor says of servers that do not answer its questions as OpenAI does."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler

import pytest
from typer.testing import CliRunner

from providers.openai.models import find_shutdowns
from providers.types import Need
from society.cli import app
from tests.quiet_server import QuietServer

MODEL = "gpt-4o-mini"
DESCRIBED = f"/models/{MODEL}"
JOBS = "/fine_tuning/jobs"
Reply = tuple[int, object] | Callable[[], tuple[int, object]]
LIST = (200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
ONE = (200, {"id": MODEL, "object": "model"})
NO_JOBS = (200, {"object": "list", "data": [], "has_more": False})
NOT_FOUND = (404, {"detail": "Not Found"})
SCOPE = {"message": "You have insufficient permissions. Missing scopes: api.model.read."}


@contextmanager
def serving(replies: Mapping[str, list[Reply]], **headers: str) -> Iterator[str]:
    """A server whose GETs are answered from a list for each path, the last one again and again."""
    left = {path: list(answers) for path, answers in replies.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0].removeprefix("/v1")
            answers = left.get(path, [NOT_FOUND])
            reply = answers.pop(0) if len(answers) > 1 else answers[0]
            status, body = reply() if callable(reply) else reply
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            return

    with QuietServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A_KEY", "sk-test-0123456789abcdef")


def doctor(url: str, *more: str, model: str = MODEL) -> tuple[int, str]:
    usual = [f'model="openai+{url}:{model}"', 'provider.api_key_env="A_KEY"']
    usual += ["sampling.temperature=1", "iterations=0"]
    options = [part for override in (*usual, *more) for part in ("--set", override)]
    done = CliRunner().invoke(app, ["doctor", "demo", *options])
    return done.exit_code, done.output


def levels(said: str, check: str) -> list[str]:
    """The levels of the findings of one check that are not good."""
    return [line.split()[0] for line in said.splitlines() if line.endswith(f"[{check}]")]


@pytest.mark.parametrize(
    "refusal",
    [
        (404, {"detail": "Not Found"}),
        (404, "<html><body>404 page not found</body></html>"),
        (405, {"detail": "Method Not Allowed"}),
        (501, "not implemented"),
        (401, {"error": SCOPE}),
        (403, {"error": SCOPE}),
        (403, {"error": {"message": "this key may only ask for completions", "code": None}}),
        (200, "<!doctype html><title>Welcome</title>"),
        (200, {"object": "error", "message": "no list here"}),
        (200, ""),
        (400, {"error": {"message": "unsupported path"}}),
        (503, {"error": {"message": "warming up"}}),
        (429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
    ],
)
def test_a_list_of_models_that_cannot_be_had_is_a_warning(refusal):
    with serving({"/models": [refusal], DESCRIBED: [refusal]}) as url:
        status, said = doctor(url)
    assert status == 0, said
    assert levels(said, "model") == ["warning"]
    assert "the server does not tell which models it has" in said


@pytest.mark.parametrize(
    "refusal",
    [
        (401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}),
        (401, {"detail": "Unauthorized"}),
        (403, {"error": {"message": "Country, region, or territory not supported"}}),
        (403, {"error": {"message": "The API key was revoked"}}),
        (402, {"error": {"message": "no credit"}}),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}),
        (308, "moved"),
    ],
)
def test_a_key_that_is_refused_and_a_wrong_address_are_errors(refusal):
    with serving({"/models": [refusal], DESCRIBED: [refusal]}, Location="/elsewhere") as url:
        status, said = doctor(url)
    assert status == 2, said
    assert levels(said, "server") == ["error"]


@pytest.mark.parametrize("refusal", [NOT_FOUND, (401, {"detail": "for administrators"})])
def test_the_own_description_is_enough(refusal):
    with serving({"/models": [refusal], DESCRIBED: [ONE]}) as url:
        status, said = doctor(url)
    assert status == 0, said
    assert f"model {MODEL} is there" in said
    assert levels(said, "model") == []


@pytest.mark.parametrize(
    "told",
    [
        [{"id": MODEL}],
        {"data": [{"id": f"models/{MODEL}"}]},
        {"models": [{"name": MODEL}]},
        {"data": [MODEL]},
    ],
)
def test_lists_of_other_forms_are_read(told):
    with serving({"/models": [(200, told)]}) as url:
        status, said = doctor(url)
    assert status == 0, said
    assert f"model {MODEL} is there" in said


def test_a_variant_that_a_router_does_not_list_is_a_warning_and_a_wrong_name_an_error():
    listed = (200, {"data": [{"id": "org/base"}, {"id": "llama3:latest"}]})
    with serving({"/models": [listed]}) as url:
        for model, expected in (("org/base:free", 0), ("llama3", 0), ("org/bsae", 2)):
            status, said = doctor(url, model=model)
            assert status == expected, said
            assert levels(said, "model") == ["error" if expected else "warning"]


@pytest.mark.parametrize(
    "failures",
    [
        [(503, "busy")],
        [(500, "oops"), (502, "<html>bad gateway</html>")],
        [(429, {"error": {"message": "slow down"}})],
    ],
)
def test_passing_failures_are_asked_again(failures):
    well = {"/models": LIST, DESCRIBED: ONE, JOBS: NO_JOBS}
    replies = {path: [*failures, reply] for path, reply in well.items()}
    with serving(replies) as url:
        status, said = doctor(url, "iterations=1", "finetune.learning_rate=1e-4")
    assert status == 0, said
    assert "the fine-tuning endpoint answers" in said
    assert "accepts the key" in said


@pytest.mark.parametrize(
    ("refusal", "level", "words"),
    [
        ((503, "busy"), "warning", "cannot be checked now"),
        ((403, {"error": SCOPE}), "error", "let the key read and write fine-tuning jobs"),
        ((404, {"detail": "Not Found"}), "error", "train elsewhere"),
        ((200, "<html>welcome</html>"), "error", "train elsewhere"),
    ],
)
def test_jobs_that_cannot_be_listed(refusal, level, words):
    with serving({"/models": [LIST], DESCRIBED: [ONE], JOBS: [refusal]}) as url:
        status, said = doctor(url, "iterations=1", "finetune.learning_rate=1e-4")
    assert status == (2 if level == "error" else 0), said
    assert levels(said, "fine-tuning") == [level]
    assert words in said
    assert ("train elsewhere" in said) == ("train elsewhere" in words)


def test_a_server_that_never_answers_is_given_up_soon():
    def never() -> tuple[int, object]:
        time.sleep(8)
        return LIST

    with serving({"/models": [never]}) as url:
        status, said = doctor(url, "provider.timeout_s=0.2", "provider.max_attempts=2")
    assert status == 0, said
    assert levels(said, "server") == ["warning"]
    assert "cannot be looked at now" in said


SOON, LATER = (datetime.now(UTC) + timedelta(days=days) for days in (0.01, 90))


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"shutdown_date": "2026-01-14"}, "error"),
        ({"shutdown_date": f"{SOON:%Y-%m-%dT%H:%M:%SZ}"}, "error"),
        ({"shutdown_date": int(LATER.timestamp())}, "warning"),
        ({"shutdown_date": str(int(LATER.timestamp() * 1000))}, "warning"),
        ({"expiration_date": f"{LATER:%Y-%m-%d}"}, "warning"),
        ({"retirement_date": "2026-01-14"}, "error"),
        ({"deprecation": "2026-01-14T00:00:00Z"}, "error"),
        ({"deprecation": {"inference": int(SOON.timestamp()), "fine_tune": None}}, "error"),
        ({"deprecation": {"fineTune": "2026-01-14"}}, None),
        ({"shutdown_date": None, "deprecation": None}, None),
        ({"shutdown_date": "soon", "deprecation": False}, None),
    ],
)
def test_an_end_is_read_in_every_form(facts, level):
    need = Need(finetune=False, ends_at=datetime.now(UTC) + timedelta(days=1))
    found = [finding.level for finding in find_shutdowns(MODEL, facts, need)]
    assert found == ([level] if level else [])


@pytest.mark.parametrize("where", ["/models", DESCRIBED])
def test_an_end_is_found_in_the_list_and_in_the_description(where):
    model, ended = {"id": MODEL, "shutdown_date": None}, {"shutdown_date": "2026-01-14"}
    listed = (200, {"data": [model | ended if where == "/models" else model]})
    described = (200, model | ended if where == DESCRIBED else model)
    with serving({"/models": [listed], DESCRIBED: [described]}) as url:
        status, said = doctor(url)
    assert (status, levels(said, "ending")) == (2, ["error"]), said


def society(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_what_the_user_knows_better_is_left_out():
    ended = (200, {"id": MODEL, "shutdown_date": "2026-01-14"})
    with serving({"/models": [LIST], DESCRIBED: [ended]}) as url:
        options = ["demo", "--set", f'model="openai+{url}:{MODEL}"', "--set", "iterations=0"]
        options += ["--set", "sampling.temperature=1", "--set", 'provider.api_key_env=""']
        status, said = society("doctor", *options)
        assert status == 2
        assert levels(said, "ending") == ["error"]
        status, said = society("run", *options, "--skip", "disk")
        assert status == 2
        assert "if a check is wrong, skip it: --skip ending" in said
        status, said = society("doctor", *options, "--skip", "ending", "--skip", "sampling")
        assert status == 0, said
        assert "skipped, as requested: ending, sampling" in said
        assert "[sampling]" not in said
        status, said = society("doctor", *options, "--skip", "endings")
        assert status == 2
        assert "--skip 'endings': there is no such check; the checks are: packages, server" in said
        # The run goes on to its first call, which this server does not take.
        status, said = society("run", *options, "--skip", "ending")
        assert "nothing was started" not in said
        assert "the server" in said


def test_a_sweep_leaves_out_checks_too():
    ended = (200, {"id": MODEL, "shutdown_date": "2026-01-14"})
    with serving({"/models": [LIST], DESCRIBED: [ended]}) as url:
        options = ["demo", "--seeds=0,1", "--set", f'model="openai+{url}:{MODEL}"']
        options += ["--set", "iterations=0", "--set", 'provider.api_key_env=""']
        assert society("doctor", *options)[0] == 2
        status, said = society("doctor", *options, "--skip", "ending")
        assert status == 0, said
