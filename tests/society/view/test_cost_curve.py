"""Tokens and money by time: the sums of the view `spend`, at the moments of the calls."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from society.view.cost_curve import draw_money, read_cost_curve
from society.view.drawing import MOST_BANDS
from store.ledger import Store
from store.records import Job, Model, Run, Turn
from store.spending import Charge, Price
from tests.society.view.conftest import START

HOUR = timedelta(hours=1)


def write_paid(path, make_debate, prices):
    """Debates of ten hours, one in each but for a rest of four, a job, and a question in passing.

    Evaluation in batches, and one attempt whose answer is a turn, so that it must not count twice.
    """
    rows = []
    for number in (*range(4), *range(8, 11)):
        stage = (0, "train" if number < 4 else "eval", "multiagent", "sampled")
        rows += [
            replace(row, created_at=START + number * HOUR) if isinstance(row, Turn) else row
            for row in make_debate(stage, f"q{number}", "4", [["4", "5"]])
        ]
    answered = next(row for row in rows if isinstance(row, Turn))
    job = Job("j", 1, "multiagent", 1, "critic", "d", "x", provider_job_id="v", status="succeeded",
              trained_tokens=5000, finished_at=START + 9 * HOUR)  # fmt: skip
    config = json.dumps({"evaluation": {"batch": True}, "task": {"name": "sums"}})
    with Store.open(path) as store:
        store.write(
            Run("paid", config, "0" * 64, 3, "{}", START, START),
            Model("base", "vendor:m"),
            *prices,
            *rows,
            job,
            Charge("a", "answered", "ask", "base", 100, 7, False, created_at=START + 10 * HOUR),
            Charge("f", "failed", "debate", "base", 40, 0, True, created_at=START + HOUR),
            Charge("s", "sent", "debate", "base", 40, 9, True, turn_id=answered.turn_id,
                   created_at=START),
        )  # fmt: skip


@pytest.fixture(scope="module")
def paid(tmp_path_factory, make_debate):
    runs = tmp_path_factory.mktemp("paid")
    price = Price("vendor:m", False, 2.0, 8.0, "a list", training_usd=25.0, batch_factor=0.5)
    for name, prices in (("paid", [price]), ("unpriced", [])):
        (runs / name).mkdir()
        write_paid(runs / name / "run.duckdb", make_debate, prices)
    return runs


def test_the_last_sums_are_those_of_the_view_of_spending(paid):
    with Store.open(paid / "paid" / "run.duckdb", read_only=True) as store:
        last = read_cost_curve(store).points[-1]
        sums = (
            "SELECT sum(prompt_tokens), sum(completion_tokens), sum(trained_tokens), sum(usd) "
            "FROM spend"
        )
        (spent,) = store.rows(sums)
    assert (last.prompt_tokens, last.completion_tokens, last.trained_tokens) == spent[:3]
    assert last.usd == pytest.approx(spent[3])
    # Seven debates of two answers, a question in passing, an attempt that failed, a job.
    assert last.calls == 14 + 2 + 1


def test_sums_grow_at_the_calls_and_are_level_while_nothing_is_asked(paid):
    with Store.open(paid / "paid" / "run.duckdb", read_only=True) as store:
        curve = read_cost_curve(store)
    hours = [curve.count_elapsed(point.until) / 3600 for point in curve.points]
    assert hours == [0, 1, 2, 3, 8, 9, 10]
    assert len(curve.points) <= MOST_BANDS
    usd = [point.usd for point in curve.points]
    assert usd == sorted(usd)
    (line,) = re.findall(r'<polyline class="line" points="([^"]*)"', draw_money(curve))
    places = [tuple(map(float, place.split(","))) for place in line.split()]
    # Two places for every point: before and after its calls.
    after_third, before_eighth = places[7], places[8]
    assert after_third[0] < before_eighth[0]
    assert after_third[1] == before_eighth[1]


def test_the_page_draws_them_only_where_something_was_paid(paid, serve):
    with serve(paid) as site:
        status, text, _ = site.get("/runs/paid")
        assert status == 200
        assert "USD so far" in text
        assert 'aria-label="after 10 h 00 min: USD: ' in text
        assert "questions asked beside the run" in text
        assert text.count('data-label="until"') == 7
        status, text, _ = site.get("/runs/unpriced")
        assert status == 200
        assert "USD so far" not in text
