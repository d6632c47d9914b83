"""A run whose answers nobody can read stops early, says why, and can go on."""

from __future__ import annotations

import asyncio
import json

import pytest

from evals.tasks.arithmetic import create
from society.config import load as experiments
from society.method.experiment import resolve
from society.method.unread import NothingTrainable, describe_unread_answers
from society.runs import folder as folders
from society.runs import runner
from store.records import Turn
from tests.providers.chat_server import Reply, fails, says, serving
from tests.society import api_experiment

MANY = "evaluation.questions=40"
LOOP = "It is \\boxed{4}. " * 8


@pytest.mark.parametrize(
    ("reply", "why", "remedy"),
    [
        (says(None, "length", reasoning_content="Hm, " * 9), "on reasoning", "sampling.max_tokens"),
        (says("<think>Let me see, 2", "length"), "still reasoning", "reasoning off"),
        (says(LOOP, "length"), "never ends its turn", "chat template and the end token"),
        (says("First I add 2 and", "length"), "cut off before the answer", "max_tokens"),
        (says("", "stop"), "ended its answer without a text", "'stop'"),
        (says("The sum is left to the reader.", "stop"), "another form", "task.template"),
        (says(None, refusal="I will not."), "refuses to answer", "another model"),
        (says(None, "SAFETY"), "withheld", "'SAFETY'"),
        (says(None, "weird"), "'weird', which is not known", "empty"),
        (Reply({"candidates": []}), "no choices, but the keys 'candidates'", "ends in /v1"),
    ],
)
def test_a_stage_without_a_readable_answer_stops_and_says_why(tmp_path, reply, why, remedy):
    with serving(lambda asked: reply) as server:
        outcome = api_experiment.run(tmp_path, server.url, "evaluation.questions=100")
    assert outcome.status == 1
    told = outcome.said[-1]
    assert "none of the first 2" in told
    assert why in told
    assert remedy in told
    assert "--name" in told
    assert "stop_if_unread = 0" in told
    stored = outcome.rows("SELECT count(*) FROM turns")[0][0]
    assert 20 <= stored == len(server.asked) < 200


def test_what_is_on_its_way_when_a_run_stops_is_stored(tmp_path):
    def script(asked):
        return Reply(says("no number").body, delay_s=0.3 if asked.number % 3 else 0.0)

    with serving(script) as server:
        outcome = api_experiment.run(tmp_path, server.url, MANY)
    assert outcome.status == 1
    assert outcome.rows("SELECT count(*) FROM turns") == [(len(server.asked),)]


def test_a_sample_of_the_answers_is_shown(tmp_path):
    with serving(lambda asked: says("forty\x1b[31m two " + "x" * 1000)) as server:
        outcome = api_experiment.run(tmp_path, server.url, MANY)
    assert "round 1 (stop): 'forty\\x1b[31m two " in outcome.said[-1]
    assert len(outcome.said[-1]) < 3000


def test_the_run_goes_on_where_the_user_says_so_or_the_server_is_repaired(tmp_path):
    ill = True
    with serving(lambda asked: says("no number" if ill else "\\boxed{4}")) as server:
        first = api_experiment.run(tmp_path, server.url, MANY)
        before = len(server.asked)
        ill = False
        second = api_experiment.run(tmp_path, server.url, MANY)
        assert (first.status, second.status) == (1, 0), second.text
        assert len(server.asked) == 160
        assert before < 160
    assert second.rows("SELECT count(*) FROM turns") == [(160,)]


def test_a_small_stage_is_looked_at_when_it_is_complete_and_0_never_stops(tmp_path):
    with serving(lambda asked: says("no number")) as server:
        first = api_experiment.run(tmp_path, server.url)
        again = api_experiment.run(tmp_path, server.url)
        free = api_experiment.run(tmp_path, server.url, "stop_if_unread=0")
    assert (first.status, again.status, free.status) == (1, 1, 0)
    assert "none of the 12 answers of the stage 'evaluate sampled'" in first.text
    assert len(server.asked) == 12


def test_one_readable_answer_among_the_first_is_enough_and_the_rest_is_told(tmp_path):
    with serving(lambda asked: says("no" if asked.number else "\\boxed{4}")) as server:
        outcome = api_experiment.run(tmp_path, server.url, MANY)
    assert outcome.status == 0
    assert "159 of 160 answers could not be read: 159 × the answer is in another form" in (
        outcome.text
    )


def test_the_same_error_is_told_once(tmp_path):
    with serving(
        lambda asked: fails(400, "odd") if asked.number % 2 else says("\\boxed{4}")
    ) as server:
        outcome = api_experiment.run(tmp_path, server.url, MANY)
    assert sum("odd" in line and "agent" in line for line in outcome.said) == 1


def scripted(folder, answer):
    """An experiment of three agents and one iteration whose answers are a function's."""
    task, lines = create({}), []
    for which, question in [
        *(("eval", q) for q in task.questions("eval", 0, 3)),
        *(("train1", q) for q in task.questions("train", 0, 4)),
    ]:
        for agent in (1, 2, 3):
            for number in (1, 2):
                key = f"{which}/{question.question_id}/a{agent}/r{number}/answer"
                lines.append({"key": key, "text": answer(which, question, agent)})
    script = folder / "script.jsonl"
    script.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / "scripted.toml"
    path.write_text(
        f"""
        model = "scripted:{script}"
        iterations = 1
        task.name = "arithmetic"
        society.others = "quoted"
        train.questions = 4
        evaluation.questions = 3
        evaluation.decodings = ["sampled"]
        """
    )

    def run(*overrides):
        run_folder = folders.locate_run(folder / "runs", "run")
        config = experiments.load_config(str(path), overrides)
        with folders.start_run(run_folder, config) as store:
            asyncio.run(
                runner.run_experiment(run_folder, resolve(config), store, lambda event: None)
            )
            return store.rows("SELECT count(*), count(error) FROM jobs")

    return run


def disagree(which, question, agent):
    return f"\\boxed{{{int(question.gold) + (agent if which == 'train1' else 0)}}}"


def test_an_iteration_that_has_nothing_to_train_on_stops_with_the_reason(tmp_path):
    run = scripted(tmp_path, disagree)
    with pytest.raises(NothingTrainable) as told:
        run()
    assert "none of the 6 models of iteration 1 can be trained" in str(told.value)
    assert "0 of 4 training questions have a label" in str(told.value)
    assert "4 are tied" in str(told.value)
    assert "even number" not in str(told.value)
    assert run("stop_if_unread=0") == [(6, 6)]


def test_two_agents_that_tie_are_told_that_three_tie_less(tmp_path):
    with pytest.raises(NothingTrainable, match=r"even number of agents ties often: three"):
        scripted(tmp_path, disagree)("society.agents=2")


def turn(question, response, finish_reason="stop", error=None):
    asked = (1, "eval", "multiagent", "sampled", question, 1, 1, "answer", "m", "[]")
    return Turn(*asked, response, None, finish_reason, 1, 1, 1.0, error)


def test_causes_come_with_the_most_frequent_first():
    turns = [*(turn(f"q{n}", "x") for n in range(3)), turn("q9", "", error="nobody was there")]
    lines = describe_unread_answers(turns, create({})).splitlines()
    assert lines[0].startswith("  3 × the answer is in another form")
    assert lines[1] == "  1 × empty: nobody was there"
