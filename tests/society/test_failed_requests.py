"""Requests that fail for good: they stop no run, and are asked again when it is started again."""

from __future__ import annotations

from functools import partial

import pytest

from store.ledger import Store
from tests.providers.chat_server import Reply, fails, says, serving
from tests.society import api_experiment

FAILED = "SELECT count(*) FROM turns WHERE finish_reason = 'error'"


def first_prompt(asked):
    return asked.body["messages"][0]["content"]


class Poisoned:
    """Answers everything but conversations about one question, while it is `ill`."""

    def __init__(self, reply) -> None:
        self.reply = reply
        self.ill = True
        self.known: list[str] = []

    def __call__(self, asked):
        prompt = first_prompt(asked)
        if prompt not in self.known:
            self.known.append(prompt)
        if self.ill and self.known.index(prompt) == 0:
            return self.reply
        return says("It is \\boxed{4}.")


CUT = Reply({"choices": [{"message": {"content": ""}, "error": {"code": 502, "message": "x"}}]})
LATE = Reply(says("It is \\boxed{4}.").body, delay_s=2)
FLAGGED = fails(403, "your input was flagged", metadata={"reasons": ["violence"]})
POISONS = [
    (fails(500, "worker crashed"), "passing"),
    (LATE, "passing"),
    (fails(400, "gateway says no"), "refused"),
    (Reply(raw=b"<html>Access denied</html>", status=403), "refused"),
    pytest.param(CUT, "passing", marks=pytest.mark.long),
    pytest.param(Reply(raw=b"<html>sorry</html>"), "passing", marks=pytest.mark.long),
    pytest.param(Reply(fault="reset"), "passing", marks=pytest.mark.long),
    pytest.param(FLAGGED, "refused", marks=pytest.mark.long),
    pytest.param(Reply({"candidates": []}), "refused", marks=pytest.mark.long),
]


def named(reply):
    return f"{reply.status} {reply.fault or ''} {reply.raw or reply.body}"[:50]


@pytest.mark.parametrize(
    ("reply", "failure"),
    POISONS,
    ids=lambda value: named(value) if isinstance(value, Reply) else value,
)
def test_one_poisoned_question_is_a_failure_of_its_turns_and_is_repaired(tmp_path, reply, failure):
    script = Poisoned(reply)
    with serving(script) as server:
        run = partial(api_experiment.run, tmp_path, server.url, "provider.timeout_s=0.5")
        first = run()
        assert first.status == 0, first.text
        failed = "SELECT count(*), count(DISTINCT question_id), min(failure), max(failure) "
        failed += "FROM turns WHERE finish_reason = 'error' AND response = ''"
        assert first.rows(failed) == [(4, 1, failure, failure)]
        assert first.rows("SELECT count(*) FROM turns WHERE (error IS NULL) = (response = '')") == [
            (0,)
        ]
        assert first.rows("SELECT voters FROM votes WHERE round = 2 ORDER BY voters") == [
            (0,),
            (2,),
            (2,),
        ]
        answered = first.rows("SELECT turn_id, created_at FROM turns WHERE failure IS NULL")

        second = run()
        assert second.status == 0, second.text
        assert "4 requests that failed are asked again" in second.text
        kind = "passing" if failure == "passing" else "final"
        assert second.rows(failed) == [(4, 1, kind, kind)]

        script.ill = False
        before = len(server.asked)
        third = run()
    assert third.status == 0
    assert len(server.asked) - before == (4 if failure == "passing" else 0)
    if failure == "passing":
        assert third.rows(FAILED) == [(0,)]
        assert third.rows("SELECT DISTINCT voters FROM votes") == [(2,)]
    rows = "SELECT turn_id, created_at FROM turns WHERE failure IS NULL"
    assert set(answered) <= set(third.rows(rows))
    assert third.rows(
        "SELECT (SELECT count(*) = count(DISTINCT turn_id) FROM turns), "
        "(SELECT count(*) = count(DISTINCT turn_id) FROM verdicts), (SELECT count(*) FROM votes)"
    ) == [(True, True, 6)]


def test_a_request_that_was_too_long_is_not_asked_again(tmp_path):
    script = Poisoned(fails(400, code="context_length_exceeded"))
    with serving(script) as server:
        first = api_experiment.run(tmp_path, server.url)
        assert first.rows("SELECT DISTINCT failure FROM turns WHERE error IS NOT NULL") == [
            ("final",)
        ]
        before = len(server.asked)
        assert api_experiment.run(tmp_path, server.url).status == 0
    assert len(server.asked) == before


@pytest.mark.parametrize("reply", [fails(500), fails(503), fails(403), Reply(raw=b"<html>")])
def test_a_server_that_fails_always_stops_the_run_and_the_next_start_finishes_it(tmp_path, reply):
    script = Poisoned(says("x"))
    with serving(lambda asked: reply if script.ill else says("\\boxed{4}")) as server:
        first = api_experiment.run(tmp_path, server.url)
        assert first.status == 1
        script.ill = False
        second = api_experiment.run(tmp_path, server.url)
    assert second.status == 0, second.text
    assert second.rows(FAILED) == [(0,)]
    assert second.rows("SELECT count(*) FROM turns") == [(12,)]


def test_most_questions_that_fail_stop_the_run(tmp_path):
    known: list[str] = []

    def script(asked):
        prompt = first_prompt(asked)
        if prompt not in known:
            known.append(prompt)
        return says("\\boxed{4}") if known.index(prompt) < 2 else fails(500)

    with serving(script) as server:
        outcome = api_experiment.run(tmp_path, server.url, "evaluation.questions=12")
    assert outcome.status == 1
    assert "given up after 2 attempt(s)" in outcome.text


def test_a_server_that_is_gone_is_no_questions_fault(tmp_path):
    with serving(lambda asked: says("x")) as server:
        url = server.url
    outcome = api_experiment.run(tmp_path, url)
    assert outcome.status == 1
    assert "could not be made" in outcome.text


def test_a_poisoned_question_that_is_left_alone_after_a_kill_does_not_stop_every_start(tmp_path):
    script = Poisoned(fails(500))
    with serving(script) as server:
        api_experiment.run(tmp_path, server.url)
        database = tmp_path / "runs" / "run" / "run.duckdb"
        with Store.open(database) as store:
            failed = store.rows("SELECT turn_id FROM turns WHERE failure IS NOT NULL")
            store.remove_failed_turns([turn for (turn,) in failed])
        statuses = [api_experiment.run(tmp_path, server.url).status for _ in range(4)]
    assert statuses[-1] == 0, statuses


def test_only_failures_can_be_withdrawn(tmp_path):
    with serving(Poisoned(fails(500))) as server:
        outcome = api_experiment.run(tmp_path, server.url)
    with Store.open(outcome.database) as store:
        store.remove_failed_turns([turn for (turn,) in store.rows("SELECT turn_id FROM turns")])
        assert store.rows("SELECT count(*), count(failure) FROM turns") == [(8, 0)]
        assert store.rows("SELECT count(*) FROM votes") == [(4,)]
        assert store.rows("SELECT count(*) FROM verdicts ANTI JOIN turns USING (turn_id)") == [(0,)]


def test_a_failure_that_later_answers_rest_on_stays(tmp_path):
    """Agent 1 fails in round 1 only: what the others answered afterwards has seen it."""
    first: list[str] = []

    def script(asked):
        prompt = first_prompt(asked)
        if len(asked.body["messages"]) == 1 and (not first or first == [(prompt)]):
            if not first:
                first.append(prompt)
            seen[prompt] = seen.get(prompt, 0) + 1
            if seen[prompt] == 1:
                return fails(400, "no")
        return says("\\boxed{4}")

    seen: dict[str, int] = {}
    with serving(script) as server:
        outcome = api_experiment.run(tmp_path, server.url)
        assert outcome.rows(FAILED) == [(1,)]
        before = len(server.asked)
        again = api_experiment.run(tmp_path, server.url)
    assert len(server.asked) == before
    assert again.rows(FAILED) == [(1,)]
