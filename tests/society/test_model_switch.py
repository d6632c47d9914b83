"""One experiment file at every vendor: only `--set model=…` changes, and `society doctor` says what
each of them lacks."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

import boto3  # noqa: F401
import pytest
from typer.testing import CliRunner

from providers.embedded import MODEL_DIR
from society.cli import app
from store.ledger import Store
from tests.providers import bedrock_account, bedrock_server, gemini_server, job_server
from tests.providers.job_account import BASE
from tests.providers.tinker_server import serving_tinker

FILE = """
model = "embedded:"
iterations = {iterations}
stop_if_unread = 0
task = {{ name = "arithmetic" }}
society = {{ agents = 2, rounds = 1, others = "quoted" }}
sampling = {{ temperature = 0.7, top_p = 1.0, max_tokens = 96 }}
train = {{ questions = 40 }}
datasets = {{ critic_loss = "all" }}
evaluation = {{ questions = 1, decodings = ["sampled"] }}
{tables}
"""
_VARIABLES = (
    *("OPENAI_API_KEY", "TINKER_API_KEY", "GEMINI_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"),
    *("GOOGLE_CLOUD_PROJECT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"),
)


@pytest.fixture(autouse=True)
def without_accounts(monkeypatch, tmp_path):
    """Nothing of the machine's own accounts, and an empty home."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def write(tables, iterations=1):
    """The experiment file, with the settings of every vendor under its scheme."""
    text = ""
    for scheme, settings in tables.items():
        values = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
        text += f"[providers.{scheme}]\n{values}\n"
    path = Path("experiment.toml")
    path.write_text(FILE.format(tables=text, iterations=iterations))
    return path


def society(command, path, address, *more):
    """Status and output of a command, which must not show a traceback."""
    done = CliRunner().invoke(app, [command, str(path), "--set", f'model="{address}"', *more])
    assert "Traceback" not in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(done.output.split())


def test_only_the_model_changes_between_all_of_them(monkeypatch, tmp_path):
    with ExitStack() as stack:
        google = stack.enter_context(gemini_server.serving(monkeypatch, tmp_path))
        aws = stack.enter_context(bedrock_server.serving_bedrock())
        openai = stack.enter_context(job_server.serving())
        wire = stack.enter_context(serving_tinker(tmp_path))
        monkeypatch.setenv("TINKER_TELEMETRY", "0")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", bedrock_server.KEY_ID)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bedrock_server.SECRET)
        tables = {
            "gemini": google.settings,
            "bedrock": aws.settings,
            "openai": {"max_attempts": 3},
            "tinker": {"tokenizer": str(MODEL_DIR)},
            "local": {"device": "cpu"},
            "embedded": {"device": "cpu"},
        }
        models = {
            "gemini": f"gemini:{gemini_server.MODEL}",
            "bedrock": f"bedrock:{bedrock_account.BASE}",
            "openai": f"openai+{openai.url}:{BASE}",
            "tinker": f"tinker+{wire.url}:embedded",
            "local": f"local:{MODEL_DIR}",
            "embedded": "embedded:",
        }
        path = write(tables, iterations=0)
        for name, address in models.items():
            status, output = society("run", path, address, "--name", name, "--runs", "runs")
            assert status == 0, output
            with Store.open(Path("runs") / name / "run.duckdb", read_only=True) as store:
                assert store.rows("SELECT count(*), count(DISTINCT agent) FROM turns") == [(2, 2)]
                assert store.rows("SELECT DISTINCT provider FROM models") == [(address,)]


ROLE = "arn:aws:iam::123456789012:role/tuning"
LACKING = {
    "openai, a key": ("openai:gpt-4.1-mini", {}, {}, ["OPENAI_API_KEY"]),
    "gemini, credentials": (
        "gemini:gemini-3.5-flash",
        {},
        {"bucket": "b"},
        ["no application-default credentials", "gcloud auth application-default login"],
    ),
    "gemini, a key": (
        "gemini:gemini-3.5-flash",
        {},
        {"api_key_env": "GEMINI_API_KEY"},
        ["GEMINI_API_KEY", "has no tuning jobs"],
    ),
    "gemini, a bucket": (
        "gemini:gemini-3.5-flash",
        {},
        {},
        ["provider.bucket is not set", "gcloud storage buckets create"],
    ),
    "bedrock, a region": ("bedrock:amazon.nova-micro-v1:0", {}, {}, ["region is not set"]),
    "bedrock, credentials": (
        "bedrock:amazon.nova-micro-v1:0",
        {},
        {"region": "us-east-1", "role_arn": ROLE, "bucket": "bucket"},
        ["AWS credentials are missing", "aws configure"],
    ),
    "bedrock, a role": (
        "bedrock:amazon.nova-micro-v1:0",
        {"AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "x" * 40},
        {"region": "us-east-1", "endpoint_url": "STAND-IN"},
        ["role_arn is not set", "bucket is not set", "write it into [provider]"],
    ),
    "tinker, a key": ("tinker:Qwen/Qwen3-8B", {}, {}, ["TINKER_API_KEY"]),
    "local, a folder": ("local:./nowhere", {}, {}, ["nowhere"]),
}


@pytest.mark.parametrize(
    ("address", "variables", "settings", "words"), LACKING.values(), ids=LACKING
)
def test_the_doctor_says_what_a_model_lacks(address, variables, settings, words, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        if settings.get("endpoint_url") == "STAND-IN":
            server = stack.enter_context(bedrock_server.serving_bedrock())
            settings = {**settings, "endpoint_url": server.url}
        status, output = society("doctor", write({address.partition(":")[0]: settings}), address)
    assert status != 0
    for word in words:
        assert word in output, output


def test_a_table_of_neither_a_model_nor_a_scheme_is_misspelled():
    status, output = society("doctor", write({"gemni": {"bucket": "b"}}), "embedded:")
    assert status != 0
    assert "providers.'gemni' is the address of no model" in output
    assert "gemini" in output


def test_the_doctor_finds_nothing_missing_for_the_built_in_model():
    status, output = society("doctor", write({}), "embedded:")
    assert status == 0, output
    assert not re.search(r"\berror\b", output)
