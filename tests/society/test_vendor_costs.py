"""What runs at vendors cost: the estimate contains it, and a cap is never exceeded."""

from __future__ import annotations

import json

import boto3  # noqa: F401
import pytest

from providers.errors import BudgetReached
from society.config import load as experiments
from society.costs import budget
from society.costs.estimate import estimate_cost
from society.method.experiment import resolve
from store.ledger import Store
from tests.providers import bedrock_account, gemini_server
from tests.providers.bedrock_server import KEY_ID, SECRET, TOKEN, serving_bedrock
from tests.society.whole_run import rows, start

CONFIG = """
model = "{model}"
iterations = 1
task = {{ name = "arithmetic" }}
society = {{ agents = 3, rounds = 2, others = "quoted" }}
sampling = {{ top_p = 1.0, max_tokens = 32 }}
train = {{ questions = 30 }}
datasets = {{ critic_loss = "all" }}
evaluation = {{ questions = 2, decodings = ["sampled"] }}
finetune = {{ {finetune} }}
[prices."{model}"]
input_usd = 1.0
output_usd = 10.0
tuned_input_usd = 2.0
tuned_output_usd = 20.0
training_usd = 5.0
[provider]
{provider}
"""


class Gemini:
    """The stand-in, and what it has billed."""

    model = f"gemini:{gemini_server.MODEL}"
    finetune = ""

    def __init__(self, google):
        self.google = google
        self.settings = google.settings

    def list_usage(self):
        return self.google.usage

    def count_trained_tokens(self):
        for job in self.google.jobs.values():
            stats = job["tuningDataStats"]["supervisedTuningDataStats"]
            spec = job["supervisedTuningSpec"]
            yield int(stats["totalBillableTokenCount"]) * spec["hyperParameters"]["epochCount"]

    def count_jobs(self):
        return len(self.google.jobs)


class Bedrock:
    """The stand-in, and what it has billed. AWS does not tell tokens of jobs; by words it is."""

    model = f"bedrock:{bedrock_account.BASE}"
    finetune = "learning_rate = 1e-5"

    def __init__(self, server):
        self.server = server
        self.settings = {
            **server.settings,
            "role_arn": bedrock_account.ROLE,
            "bucket": bedrock_account.BUCKET,
            "poll_s": 0.05,
            "listing_lag_s": 0.1,
        }

    def list_usage(self):
        return self.server.state()["usage"]

    def count_trained_tokens(self):
        state = self.server.state()
        for job in state["jobs"].values():
            name = job["trainingDataConfig"]["s3Uri"].partition(f"{bedrock_account.BUCKET}/")[2]
            lines = map(json.loads, state["objects"][name].splitlines())
            words = sum(
                len(block["text"].split())
                for line in lines
                for message in line["messages"]
                for block in message["content"]
            )
            yield words * int(job["hyperParameters"]["epochCount"])

    def count_jobs(self):
        return len(self.server.state()["jobs"])


@pytest.fixture(params=["gemini", "bedrock"])
def vendor(request, monkeypatch, tmp_path):
    if request.param == "gemini":
        with gemini_server.serving(monkeypatch, tmp_path) as google:
            yield Gemini(google)
        return
    for name, value in (("ACCESS_KEY_ID", KEY_ID), ("SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    with serving_bedrock(job_s=0.1) as server:
        yield Bedrock(server)


@pytest.fixture
def experiment(vendor, tmp_path):
    path = tmp_path / "vendor.toml"
    table = "\n".join(f"{key} = {value!r}" for key, value in vendor.settings.items())
    path.write_text(CONFIG.format(model=vendor.model, provider=table, finetune=vendor.finetune))
    return path


def bill(vendor):
    """USD that the vendor asks for."""
    asked = sum(
        prompt * (2.0 if tuned else 1.0) + written * (20.0 if tuned else 10.0)
        for tuned, prompt, written in vendor.list_usage()
    )
    return (asked + 5.0 * sum(vendor.count_trained_tokens())) / 1e6


def count_spent(folder, config):
    """USD that the run counts as spent, jobs of unknown cost with the most they can have cost."""
    with Store.open(folder.database) as store:
        return budget.open_budget(store, config, budget.load_prices(store, config)).spent_usd


def test_the_estimate_contains_the_bill_and_caps_are_kept_at_every_stage(
    vendor, experiment, tmp_path
):
    config = experiments.load_config(str(experiment))
    estimated = estimate_cost(resolve(config)).usd
    assert estimated is not None
    cap, stops, folder = 0.01 * estimated.high, 0, None
    # Caps that grow stop it in its debates, before jobs, between them and after them.
    while folder is None:
        try:
            folder = start(tmp_path, experiment, f"budget_usd={cap}")
        except BudgetReached:
            stops += 1
        assert bill(vendor) <= cap
        cap = min(3 * cap, estimated.high)
    assert stops >= 2
    tuned = rows(folder, "SELECT count(*) FROM models WHERE artifact IS NOT NULL")
    assert tuned == [(vendor.count_jobs(),)]
    spent = count_spent(folder, config)
    assert estimated.low <= bill(vendor) <= spent + 1e-12
    assert spent <= estimated.high
    # Nothing that was paid before a stop was asked again.
    assert rows(folder, "SELECT count(*) FROM turns") == [(len(vendor.list_usage()),)]
