"""The estimate before a run, the bill after it, and a cap in between."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.tasks.placeholders import CHARACTERS
from providers.errors import BudgetReached
from providers.scripted import ScriptedProvider
from providers.types import JobState
from society.cli import app
from society.config import load as experiments
from society.config.load import ConfigError
from society.costs import budget
from society.costs.estimate import estimate_cost
from society.method import loop
from society.method.connections import Connections
from society.method.experiment import RunContext, load_experiment, resolve
from society.method.progress import ProgressReporter
from society.runs import folder as folders
from store.ledger import Store
from store.records import Job
from tests.evals.tasks.test_hub_source import serving as hub
from tests.providers.chat_server import says
from tests.providers.chat_server import serving as serving_chat
from tests.providers.job_server import serving
from tests.society import api_experiment

RATES = {
    "input_usd": 2.0,
    "output_usd": 8.0,
    "tuned_input_usd": 3.0,
    "tuned_output_usd": 12.0,
    "training_usd": 25.0,
}
SMALL = ("sampling.max_tokens=8", "sampling.summary_max_tokens=8")
TABLES = {
    "turns": "SELECT turn_id, model_id, messages, response, answer, prompt_tokens FROM turns",
    "votes": "FROM votes",
    "verdicts": "FROM verdicts",
    "datasets": "SELECT * EXCLUDE (created_at) FROM datasets",
    "dataset_examples": "FROM dataset_examples",
    "jobs": "SELECT job_id, digest, status, trained_tokens FROM jobs",
    "models": "SELECT * EXCLUDE (created_at) FROM models",
    "spend": "SELECT * REPLACE (round(usd, 12) AS usd) FROM spend",
}


class Vendor(ScriptedProvider):
    """The scripted models behind an API that bills: it keeps the sum of all its invoices."""

    def __init__(self, experiment):
        lines = (experiment.parent / "script.jsonl").read_text().splitlines()
        texts = {line["key"]: line["text"] for line in map(json.loads, lines)}
        address = f"scripted:{experiment.parent / 'script.jsonl'}"
        super().__init__(lambda request: texts[request.key], address=address)
        self.billed = 0.0
        self.answered = 0
        self.trained = set()

    async def complete(self, request):
        answer = await super().complete(request)
        await asyncio.sleep(0)
        kind = "tuned_" if request.model.artifact else ""
        self.billed += answer.prompt_tokens * RATES[f"{kind}input_usd"] / 1e6
        self.billed += answer.completion_tokens * RATES[f"{kind}output_usd"] / 1e6
        self.answered += 1
        return answer

    async def poll(self, handle):
        state = await super().poll(handle)
        spec = self._jobs[handle.name]
        words = sum(len(m.content.split()) for e in spec.examples for m in e.messages)
        tokens = words * spec.hyperparameters.epochs
        if handle.name not in self.trained:
            self.trained.add(handle.name)
            self.billed += tokens * RATES["training_usd"] / 1e6
        return JobState(
            state.status,
            state.raw_status,
            1.0,
            state.model,
            state.artifact_sha256,
            trained_tokens=tokens,
        )


def settings(experiment, *more):
    address = f"scripted:{experiment.parent / 'script.jsonl'}"
    prices = [f'prices."{address}".{name}={usd}' for name, usd in RATES.items()]
    return experiments.load_config(str(experiment), (*SMALL, *prices, *more))


def run(tmp_path, config, vendor, name="run"):
    """Run to the end, or to what stops it, with every call metered; returns the run's folder."""
    folder = folders.locate_run(tmp_path / "runs", name)
    with folders.start_run(folder, config) as store:
        plain = Connections({config.model: vendor}, config.agent_models, config.model)
        connections = budget.budget_connections(plain, config, store)
        run = RunContext(
            folder.name, resolve(config), store, connections, ProgressReporter(lambda event: None)
        )
        asyncio.run(loop.run_iterations(run))
    return folder


def tables(folder):
    with Store.open(folder.database, read_only=True) as store:
        return {name: sorted(map(repr, store.rows(sql))) for name, sql in TABLES.items()}


def spent(folder):
    with Store.open(folder.database, read_only=True) as store:
        [(usd, unknown)] = store.rows("SELECT sum(usd), count(*) - count(usd) FROM spend")
    assert unknown == 0
    return usd


@pytest.mark.parametrize("more", [(), ("society.others=quoted",), ("iterations=3",)])
def test_the_estimates_range_contains_what_a_run_spends(tmp_path, experiment, more):
    config, vendor = settings(experiment, *more), Vendor(experiment)
    before = estimate_cost(resolve(config))
    folder = run(tmp_path, config, vendor)
    assert spent(folder) == pytest.approx(vendor.billed)
    assert before.usd is not None
    assert before.usd.low <= vendor.billed <= before.usd.high
    assert sum(line.calls.high for line in before.lines if line.stage != "finetune") == (
        vendor.answered
    )


def test_every_stage_of_the_estimate_contains_what_it_came_to(tmp_path, experiment):
    config, vendor = settings(experiment), Vendor(experiment)
    folder = run(tmp_path, config, vendor)
    with Store.open(folder.database, read_only=True) as store:
        found = store.rows(
            "SELECT stage, role, sum(prompt_tokens), sum(completion_tokens), sum(trained_tokens) "
            "FROM spend GROUP BY ALL"
        )
    for stage, role, *tokens in found:
        lines = [
            x for x in estimate_cost(resolve(config)).lines if (x.stage, x.role) == (stage, role)
        ]
        for measured, part in zip(tokens, ("prompt", "completion", "trained"), strict=True):
            ranges = [getattr(line, part) for line in lines]
            assert sum(r.low for r in ranges) <= measured <= sum(r.high for r in ranges), stage


@pytest.mark.long
def test_low_caps_stop_cleanly_and_higher_ones_go_on_to_the_same_tables(tmp_path, experiment):
    whole, vendor = Vendor(experiment), Vendor(experiment)
    expected = run(tmp_path / "uncapped", settings(experiment), whole)
    folder = folders.locate_run(tmp_path / "runs", "run")
    bills = []
    for share in (0.03, 0.3, 0.45, 0.45, 0.6, 0.8, 0.97):
        cap = share * whole.billed
        with pytest.raises(BudgetReached, match="raise budget_usd"):
            run(tmp_path, settings(experiment, f"budget_usd={cap}"), vendor)
        bills.append(vendor.billed)
        assert vendor.billed <= cap
        with Store.open(folder.database, read_only=True) as store:
            assert store.rows("SELECT count(*) FROM turns") == [(vendor.answered,)]
            [(known,)] = store.rows("SELECT coalesce(sum(usd), 0) FROM spend")
        assert known == pytest.approx(vendor.billed)
    assert len(set(bills)) > 3
    run(tmp_path, settings(experiment, "budget_usd=1000"), vendor)
    assert vendor.billed == pytest.approx(whole.billed)
    assert vendor.answered == whole.answered
    assert tables(folder) == tables(expected)


def test_a_cap_at_the_estimates_upper_end_never_stops_a_run(tmp_path, experiment):
    config = settings(experiment)
    usd = estimate_cost(resolve(config)).usd
    assert usd is not None
    run(tmp_path, settings(experiment, f"budget_usd={usd.high}"), Vendor(experiment))


def test_a_job_whose_end_nobody_saw_counts_with_the_most_it_can_cost(tmp_path, experiment):
    config, vendor = settings(experiment), Vendor(experiment)
    folder = run(tmp_path, config, vendor)
    with Store.open(folder.database) as store:
        before = budget.open_budget(store, config, budget.load_prices(store, config)).spent_usd
        job = store.jobs(2)[0]
        open_job = Job(
            job.job_id,
            2,
            job.arm,
            job.agent,
            job.role,
            job.dataset_id,
            job.digest,
            "running",
            job.provider_job_id,
        )
        store.write(open_job)
        after = budget.open_budget(store, config, budget.load_prices(store, config)).spent_usd
    assert before == pytest.approx(vendor.billed)
    assert job.trained_tokens is not None
    assert after >= before
    assert after - before < 10 * job.trained_tokens * 25e-6


def test_prices_stay_what_they_were_when_the_run_began_unless_the_user_says_otherwise(
    tmp_path, experiment
):
    config = settings(experiment)
    with Store.open(tmp_path / "run.duckdb") as store:
        budget.load_prices(store, config)
        [(source, tuned)] = store.rows("SELECT source, input_usd FROM prices WHERE tuned")
        assert (source.startswith("the experiment file"), tuned) == (True, 3.0)
        plain = experiments.load_config(str(experiment))
        found = budget.load_prices(store, plain).at(plain.model, tuned=False)
        assert found is not None
        assert found.input_usd == 0.0
        store.transact(lambda c: c.execute("UPDATE prices SET input_usd = 7, source = 'a page'"))
        found = budget.load_prices(store, plain).at(plain.model, tuned=False)
        assert found is not None
        assert (found.input_usd, found.source) == (7.0, "a page")
        found = budget.load_prices(store, config).at(plain.model, tuned=False)
        assert found is not None
        assert found.input_usd == 2.0


PAID = """
model = "openai:{model}"
iterations = 2
task.name = "arithmetic"
train.questions = 50
evaluation.questions = 20
"""


@pytest.fixture
def paid(tmp_path):
    def write(model):
        path = tmp_path / "paid.toml"
        path.write_text(PAID.format(model=model))
        return str(path)

    return write


def test_a_cap_without_a_price_is_refused_and_the_lines_to_write_are_named(paid):
    with pytest.raises(ConfigError) as error:
        load_experiment(paid("gpt-9"), ["budget_usd=5"])
    assert '[prices."gpt-9"]' in str(error.value)
    assert "training_usd" in str(error.value)
    figures = [f'prices."gpt-9".{name}={usd}' for name, usd in RATES.items()]
    assert load_experiment(paid("gpt-9"), ["budget_usd=5", *figures]).config.budget_usd == 5
    only_asked = ["budget_usd=5", "iterations=0", *figures[:2]]
    assert load_experiment(paid("gpt-9"), only_asked).config.iterations == 0
    with pytest.raises(ConfigError, match=r"prices\.'gpt-8' is neither name nor address"):
        load_experiment(paid("gpt-9"), ["prices.gpt-8.input_usd=1"])
    with pytest.raises(ConfigError, match="budget_usd"):
        load_experiment(paid("gpt-4o-mini"), ["budget_usd=0"])
    with pytest.raises(ConfigError, match="budget_usd"):
        load_experiment(paid("gpt-4o-mini"), ["budget_usd=inf"])


def test_cost_prices_an_experiment_without_a_key(paid, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    shown = CliRunner().invoke(app, ["cost", paid("gpt-4o-mini"), "--set", "budget_usd=0.01"])
    assert shown.exit_code == 0, shown.output
    assert "openai:gpt-4o-mini (tuned)" in shown.output
    assert "budget_usd = 0.01 will stop the run before its end" in shown.output
    assert "0.3 in, 1.2 out" in shown.output
    assert "characters per token" in shown.output


def test_cost_downloads_nothing_and_says_what_it_assumed(tmp_path):
    path = tmp_path / "hub.toml"
    path.write_text(
        """
        model = "openai:gpt-4o-mini"
        arms = ["multiagent", "star"]
        task.name = "gsm8k"
        train.questions = 20
        evaluation.questions = 10
        [[zero_shot]]
        name = "math"
        """
    )

    def refuse(handler):
        handler.asked.append(handler.path)
        handler._send(404, b"")

    with hub({}, do_GET=refuse, do_HEAD=refuse) as (url, asked):
        environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-m", "society", "cost", str(path), "--format", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert asked == []
    assert "questions of gsm8k, math are not on this machine" in done.stderr
    rows = json.loads(done.stdout)
    first = next(row for row in rows if row["stage"] == "evaluate")
    assert first["calls"] == 3 * 2 * 10
    assert first["prompt tokens"] > first["calls"] * CHARACTERS / 4


def test_cost_says_unknown_rather_than_nothing(paid):
    shown = CliRunner().invoke(app, ["cost", paid("gpt-9")])
    assert shown.exit_code == 0
    assert "The cost is unknown" in shown.output
    assert '[prices."openai:gpt-9"]' in shown.output
    rows = json.loads(CliRunner().invoke(app, ["cost", paid("gpt-9"), "--format", "json"]).output)
    assert {row["USD high"] for row in rows} == {None}
    assert all(row["prompt tokens"] or row["trained tokens"] for row in rows)


def test_cost_counts_tokens_although_a_budget_needs_prices(paid):
    budget = ("--set", "budget_usd=5")
    shown = CliRunner().invoke(app, ["cost", paid("gpt-9"), *budget])
    assert shown.exit_code == 0
    assert "Until then a run refuses budget_usd = 5." in shown.output
    refused = CliRunner().invoke(app, ["run", paid("gpt-9"), *budget])
    assert refused.exit_code == 2
    assert '[prices."gpt-9"]' in refused.output


def test_what_the_user_knows_about_answers_sharpens_the_expectation(paid):
    config = experiments.load_config(paid("gpt-4o-mini"))
    guess, told = (
        estimate_cost(resolve(config)),
        estimate_cost(resolve(config), answer_tokens=40, summary_tokens=30),
    )
    assert guess.usd is not None
    assert told.usd is not None
    assert told.usd.expected < guess.usd.expected
    assert told.usd.high == guess.usd.high


def test_more_of_anything_costs_more(paid):
    def high(*more):
        usd = estimate_cost(load_experiment(paid("gpt-4o-mini"), more)).usd
        assert usd is not None
        assert usd.low <= usd.expected <= usd.high
        return usd.high

    base = high()
    for more in (
        "society.agents=4",
        "society.rounds=3",
        "iterations=3",
        "train.questions=60",
        "evaluation.questions=30",
        "sampling.max_tokens=4096",
        "sampling.summary_max_tokens=600",
        "finetune.critic_epochs=3",
    ):
        assert high(more) > base, more
    assert high("datasets.max_examples=10") < base
    assert high("datasets.novelty=0.2") < base
    assert high("datasets.margin_weights=true") > base
    assert high("datasets.critic_first_answers=true") > base
    assert high("iterations=3", "datasets.replay=1") > high("iterations=3")
    assert high("evaluation.decodings=['sampled']") < base


def test_repeated_rows_are_counted(paid):
    def trained(file, *more):
        lines = estimate_cost(load_experiment(file, more)).lines
        [line] = [line for line in lines if (line.stage, line.role) == ("finetune", "critic")]
        return line.trained

    def grows(file, *more):
        """How many times the tokens a share of 0.5 takes, expected and at most."""
        plain, shared = trained(file, *more), trained(file, "datasets.w=0.5", *more)
        return shared.expected / plain.expected, shared.high / plain.high

    expected, high = grows(paid("gpt-4o-mini"), "train.questions=100")
    # 10 corrected conversations come 7 times, to balance 70 kept ones.
    assert expected == pytest.approx(140 / 80)
    assert high == pytest.approx(2.5, rel=0.05)


SERVED = """
model = "openai+{url}:gpt-4o-mini"
iterations = 2
task.name = "arithmetic"
train.questions = 16
evaluation.questions = 4
sampling.max_tokens = 64
sampling.summary_max_tokens = 64
"""


@pytest.mark.long
def test_over_http_the_range_holds_and_a_capped_run_asks_nothing_twice(tmp_path):
    path = tmp_path / "served.toml"
    figures = [f'prices."gpt-4o-mini".{name}={usd}' for name, usd in RATES.items()]

    def go(*more):
        config = experiments.load_config(str(path), (*figures, *more))
        folder = folders.locate_run(tmp_path / "runs", "run")
        with folders.start_run(folder, config) as store:
            plain = Connections.open(config, folder.models)
            connections = budget.budget_connections(plain, config, store)
            run = RunContext(
                folder.name,
                resolve(config),
                store,
                connections,
                ProgressReporter(lambda event: None),
            )

            async def whole():
                try:
                    await loop.run_iterations(run)
                finally:
                    await connections.close()

            asyncio.run(whole())
        return config, folder

    with serving(job_s=0.05) as server:
        path.write_text(SERVED.format(url=server.url))
        with pytest.raises(BudgetReached):
            go("budget_usd=0.2")
        asked = len(server.log("POST", "/chat/completions"))
        config, folder = go("budget_usd=20")
        total = len(server.log("POST", "/chat/completions"))
        tuned = len(server.log("POST", "/fine_tuning/jobs"))
    assert 0 < asked < total
    before = estimate_cost(resolve(config))
    assert before.usd is not None
    assert before.usd.low <= spent(folder) <= before.usd.high
    assert total == sum(line.calls.high for line in before.lines if line.stage != "finetune")
    with Store.open(folder.database, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns") == [(total,)]
        assert store.rows("SELECT count(*) FROM jobs WHERE status = 'succeeded'") == [(tuned,)]


def test_the_documentations_examples_work(paid, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "costs.md").read_text(encoding="utf-8")
    tables = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    for table in tables:
        path = tmp_path / "documented.toml"
        priced = re.search(r'prices."(.+)"', table)
        model = priced[1] if priced else "gpt-4o-mini"
        path.write_text(PAID.format(model=model) + table)
        assert experiments.load_config(str(path), ["budget_usd=9"]).model == f"openai:{model}"
    [query] = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    with Store.open(tmp_path / "run.duckdb") as store:
        assert store.rows(query) == []
    assert len(tables) == 4


NARROW = """
model = "openai+https://models.example/v1:llama-3:free"
iterations = 1
task.name = "arithmetic"
train.questions = 5000
evaluation.questions = 300
[diversity]
measures = ["nll", "kl"]
[provider]
score = "vllm"
api_key_env = ""
[prices."llama-3:free"]
input_usd = 1234.5
output_usd = 99
tuned_input_usd = 3
tuned_output_usd = 4
training_usd = 5
"""


def on_a_terminal(columns, *args):
    """What `society` prints on a terminal so many columns wide, without its colors."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "society", *args]
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(columns)}
    process = subprocess.Popen(command, stdout=other, stderr=other, env=environment)
    os.close(other)
    said = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:
            break
        if not part:
            break
        said += part
    assert process.wait(60) == 0
    os.close(main)
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode())


@pytest.mark.parametrize("columns", [80, 60, 200])
def test_no_figure_is_shortened_and_a_name_is_printed_as_it_is(tmp_path, columns):
    path = tmp_path / "narrow.toml"
    path.write_text(NARROW)
    usd = estimate_cost(load_experiment(str(path))).usd
    assert usd is not None
    assert usd.high > 100_000
    said = on_a_terminal(columns, "cost", str(path))
    assert "…" not in said
    for figure in (usd.low, usd.expected, usd.high):
        assert re.search(rf"(?<!\d){figure:.2f}(?!\d)", said.split("Expected:")[0])
    assert "llama-3:free" in said
    assert "🆓" not in said


def scoring(tmp_path, *lines):
    path = tmp_path / "scoring.toml"
    path.write_text(NARROW)
    config = experiments.load_config(str(path), lines)
    return [line for line in estimate_cost(resolve(config)).lines if line.stage == "diversity"]


def test_what_diversity_asks_for_is_in_the_estimate(tmp_path):
    lines = scoring(tmp_path, "diversity.questions=10", "society.agents=3")
    calls = {(line.role, line.tuned): line.calls.high for line in lines}
    # Untuned, every text is shown once, to the one model there is; tuned, to all three.
    assert calls == {
        ("generator", False): 2 * 10 * 3,
        ("critic", False): 2 * 10 * 3,
        ("generator", True): 2 * 10 * 9,
        ("critic", True): 2 * 10 * 9,
    }
    assert all(line.usd is not None and line.usd.expected > 0 for line in lines)
    base = scoring(tmp_path, 'diversity.measures=["kl_base"]', "diversity.questions=10")
    assert {(line.tuned, line.calls.high) for line in base} == {(True, 60.0), (False, 60.0)}
    assert scoring(tmp_path, 'diversity.measures=["embedding"]') == []
    assert scoring(tmp_path, 'diversity.decodings=["greedy"]', 'diversity.measures=["kl"]') == []


def test_the_estimate_of_diversity_is_what_a_server_is_asked(tmp_path):
    asked = []

    def script(request):
        body = request.body
        asked.append("prompt_logprobs" in body)
        reply = says(f"It is \\boxed{{{request.number}}}.")
        text = "".join(m["content"] for m in body["messages"])
        tokens = [{str(ord(c)): {"logprob": -0.5, "rank": 1}} for c in text]
        reply.body["prompt_logprobs"] = [None, *tokens]
        return reply

    more = ('provider.score="vllm"', 'diversity.measures=["nll"]', "society.agents=3")
    with serving_chat(script) as server:
        done = api_experiment.run(tmp_path, server.url, *more)
        assert done.status == 0, done.text
        path = api_experiment.write(tmp_path, server.url)
        before = estimate_cost(load_experiment(str(path), more))
    likelihoods = [line for line in before.lines if line.stage == "diversity"]
    assert sum(line.calls.high for line in likelihoods) == sum(asked)
    [(spent_usd,)] = done.rows("SELECT sum(usd) FROM spend WHERE stage = 'diversity'")
    assert spent_usd <= sum(line.usd.high for line in likelihoods if line.usd)
