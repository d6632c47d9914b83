"""What is paid beside debates and jobs is in `spend` and under the cap; a run says what it cost."""

from __future__ import annotations

import math

import pytest
from typer.testing import CliRunner

from society.cli import app
from store.ledger import Store
from tests.providers.chat_server import Reply, fails, says, serving
from tests.society import api_experiment
from tests.society.api_experiment import ANSWER_USD, PROMPT_USD

SCORING = ('provider.score="vllm"', 'diversity.measures=["nll"]')


class Vendor:
    """Answers, scores like vLLM, keeps the bill; after `dies_at` requests for scores no more."""

    def __init__(self, dies_at=math.inf, tells=True):
        self.dies_at = dies_at
        self.tells = tells
        self.billed = 0.0
        self.scored = []

    def __call__(self, asked):
        if asked.method == "GET":
            return Reply({"data": [{"id": "m", "object": "model"}]})
        body = asked.body
        prompt = 4 + sum(math.ceil(len(m["content"]) / 3) for m in body["messages"])
        scoring = "prompt_logprobs" in body
        if scoring:
            if len(self.scored) >= self.dies_at:
                return fails(401, "key expired")
            self.scored.append(str(body["messages"]) + str(body.get("continue_final_message")))
        written = 1 if scoring else 9
        self.billed += (prompt * PROMPT_USD + written * ANSWER_USD) / 1e6
        reply = says(f"It is \\boxed{{{asked.number % 2}}}.")
        if self.tells:
            reply.body["usage"] = {"prompt_tokens": prompt, "completion_tokens": written}
        else:
            del reply.body["usage"]
        if scoring:
            text = "".join(m["content"] for m in body["messages"])
            tokens = [{str(ord(c)): {"logprob": -0.5, "rank": 1}} for c in text]
            reply.body["prompt_logprobs"] = [None, *tokens]
        return reply


def society(*args):
    done = CliRunner().invoke(app, list(map(str, args)))
    return done.exit_code, done.output


def spend(database):
    with Store.open(database, read_only=True) as store:
        found = store.rows(
            "SELECT stage, sum(calls), sum(estimated), sum(usd) FROM spend GROUP BY stage"
        )
    return {stage: numbers for stage, *numbers in found}


@pytest.mark.parametrize("tells", [True, False])
def test_likelihoods_are_paid_and_kept_one_by_one(tmp_path, tells):
    whole, vendor = Vendor(tells=tells), Vendor(dies_at=0, tells=tells)
    with serving(whole) as server:
        (tmp_path / "whole").mkdir()
        done = api_experiment.run(tmp_path / "whole", server.url, *SCORING)
        assert done.status == 0, done.text
        expected = done.rows("SELECT role, value, pairs FROM diversity ORDER BY ALL")
    needed = len(whole.scored)
    assert needed > 12
    with serving(vendor) as server:
        for start in range(10):
            vendor.dies_at = len(vendor.scored) + 9
            done = api_experiment.run(
                tmp_path, server.url, *SCORING, "provider.limits.max_concurrent=2"
            )
            if done.status == 0:
                break
            assert "key" in done.text
            stops = start + 1
        stored = done.rows("SELECT count(*) FROM likelihoods")
        found = spend(done.database)
        assert done.rows("SELECT role, value, pairs FROM diversity ORDER BY ALL") == expected
    # A likelihood takes two requests; a stop comes between those of three at most.
    assert stops >= 2
    assert len(vendor.scored) <= needed + 3 * stops
    assert len(set(vendor.scored)) == len(set(whole.scored))
    assert stored == [(needed // 2,)]
    calls, estimated, _ = found["diversity"]
    assert calls == len(vendor.scored)
    assert estimated == (0 if tells else calls)
    total = sum(usd for *_, usd in found.values())
    assert vendor.billed <= total + 1e-12
    if tells:
        assert total == pytest.approx(vendor.billed)


def test_likelihoods_keep_to_the_cap(tmp_path):
    vendor = Vendor()
    with serving(vendor) as server:
        done = api_experiment.run(tmp_path, server.url, SCORING[0])
        cap = vendor.billed + 0.0015
        stopped = api_experiment.run(tmp_path, server.url, *SCORING, f"budget_usd={cap}")
        assert stopped.status == 1
        assert "raise budget_usd" in stopped.text
        assert vendor.scored
        assert vendor.billed <= cap
        total = sum(usd for *_, usd in spend(done.database).values())
        assert total == pytest.approx(vendor.billed)


def test_a_question_asked_in_passing_is_paid_under_the_cap(tmp_path):
    vendor = Vendor()
    with serving(vendor) as server:
        done = api_experiment.run(tmp_path, server.url)
        before = spend(done.database)
        ask = ("ask", "run", "1+2*3+4-5*6", "--runs", tmp_path / "runs")
        status, said = society(*ask)
        assert status == 0, said
        after = spend(done.database)
        assert {stage: after[stage] for stage in before} == before
        assert after["ask"][0] == 4
        assert sum(usd for *_, usd in after.values()) == pytest.approx(vendor.billed)
        asked = "SELECT DISTINCT split, task, agent FROM spend WHERE stage = 'ask' ORDER BY agent"
        assert done.rows(asked) == [(None, None, 1), (None, None, 2)]
        api_experiment.run(tmp_path, server.url, f"budget_usd={vendor.billed + 1e-6}")
        billed = vendor.billed
        status, said = society(*ask)
        assert status == 1
        assert "raise budget_usd" in said
        assert "spent so far" in said
        assert vendor.billed == billed


def test_asking_a_run_that_is_going_on_and_pays_has_to_wait(tmp_path):
    with serving(Vendor()) as server:
        done = api_experiment.run(tmp_path, server.url)
        with Store.open(done.database):
            status, said = society("ask", "run", "1+2", "--runs", tmp_path / "runs")
    assert status == 2
    assert "run" in said


def test_a_stopped_run_says_what_it_has_cost(tmp_path):
    vendor = Vendor(tells=False)
    with serving(vendor) as server:
        path = api_experiment.write(tmp_path, server.url)
        runs = tmp_path / "runs"
        status, said = society("run", path, "--runs", runs, "--set", "budget_usd=0.006")
        assert status == 1, said
        assert "spent so far: 0.00" in said
        assert "of budget_usd = 0.006" in said
        assert "count with the most tokens they can have" in said
        status, said = society("run", path, "--runs", runs)
        assert status == 0, said
        assert "spent in all: 0.0" in said
