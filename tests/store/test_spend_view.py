"""The view `spend` over hand-written turns, jobs and prices."""

from __future__ import annotations

from datetime import date

import pytest

from store.records import Job, Model, Question
from store.spending import Price

BASE = "openai:m"


@pytest.fixture
def priced(store, make_turn):
    """One question debated by two agents of different models, and what became of three jobs."""
    store.write(
        Price(BASE, False, 1.0, 10.0, "a page", 0.5, 100.0, 0.5, date(2026, 11, 22)),
        Price(BASE, True, 2.0, 20.0, "a page"),
        Model("base", BASE),
        Model("tuned", BASE, artifact="ft:1", job_id="j1", agent=1, role="generator"),
        Model("other", "openai:unknown"),
        Question("q1", "sums", "train", "1+1?"),
        Question("q2", "sums", "eval", "1+2?"),
        make_turn(prompt_tokens=100, completion_tokens=10),
        make_turn(agent=2, model_id="other"),
        make_turn(round=2, kind="summary", prompt_tokens=300, completion_tokens=30),
        make_turn(round=2, prompt_tokens=200, completion_tokens=20),
        make_turn("q2", split="eval", model_id="tuned", prompt_tokens=50, completion_tokens=5),
        make_turn("q3", split="eval", model_id="tuned", prompt_tokens=50, completion_tokens=5),
        make_turn("q1", arm="debate", prompt_tokens=100, completion_tokens=10, shared_turn_id=1),
        *(
            Job(name, 1, "multiagent", agent, "generator", "d", "x", status, given, None, None, n)
            for name, agent, status, given, n in (
                ("j1", 1, "succeeded", "p1", 4000),
                ("j2", 2, "running", "p2", None),
                ("j3", 3, "skipped", None, None),
                ("j4", 3, "intent", None, None),
            )
        ),
    )
    return store


def test_every_stage_role_and_model_is_paid_at_its_own_price(priced):
    found = priced.rows(
        "SELECT stage, task, agent, role, model_id, calls, prompt_tokens, completion_tokens, "
        "trained_tokens, round(usd * 1e6, 6) FROM spend ORDER BY ALL"
    )
    assert found == [
        ("debate", "sums", 1, "critic", "base", 1, 200, 20, 0, 200.0 + 200.0),
        ("debate", "sums", 1, "generator", "base", 1, 100, 10, 0, 100.0 + 100.0),
        ("debate", "sums", 1, "summarizer", "base", 1, 300, 30, 0, 300.0 + 300.0),
        ("debate", "sums", 2, "generator", "other", 1, 10, 20, 0, None),
        ("evaluate", "sums", 1, "generator", "tuned", 1, 50, 5, 0, 100.0 + 100.0),
        ("evaluate", None, 1, "generator", "tuned", 1, 50, 5, 0, 100.0 + 100.0),
        ("finetune", None, 1, "generator", "tuned", 1, 0, 0, 4000, 400000.0),
        ("finetune", None, 2, "generator", None, 1, 0, 0, None, None),
    ]


def test_a_failed_job_that_trained_is_paid_for(priced):
    [job] = [job for job in priced.jobs() if job.job_id == "j2"]
    priced.write(
        Job(job.job_id, 1, job.arm, 2, job.role, "d", "x", "failed", "p2", None, "no", 500)
    )
    assert priced.rows(
        "SELECT round(usd, 9) FROM spend WHERE stage = 'finetune' AND agent = 2"
    ) == [(0.05,)]


def test_without_prices_nothing_is_said_to_be_free(store, make_turn):
    store.write(Model("base", BASE), make_turn())
    assert store.rows("SELECT calls, prompt_tokens, usd FROM spend") == [(1, 10, None)]


def test_a_price_is_replaced_by_its_address_and_kind(priced):
    priced.write(Price(BASE, True, 0.0, 0.0, "mine"))
    assert priced.rows("SELECT tuned, input_usd, source, read_on FROM prices ORDER BY tuned") == [
        (False, 1.0, "a page", date(2026, 11, 22)),
        (True, 0.0, "mine", None),
    ]
