"""`stop = "labels"`: an arm that stops by its signs, what it takes to go on, and who is asked."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from evals.choices import find_choice, find_society
from evals.report import write_report
from society.config.load import ConfigError, load_config
from society.method.experiment import load_experiment, resolve
from society.method.progress import Note
from society.runs import folder as folders
from society.runs import runner, summary
from society.runs.ask import find_iteration
from society.runs.sweep_record import MemberRecord, SweepRecord
from society.sweeps.results import read_results
from store.ledger import Store

DECIDED = "SELECT arm, iteration, chosen, stops, iterations FROM choices ORDER BY arm, iteration"
PASSES = "SELECT arm, max(iteration) FROM turns WHERE split = 'train' GROUP BY arm ORDER BY arm"


@pytest.fixture
def start(tmp_path, experiment):
    """Run the scripted experiment to its end; returns what the run said."""

    def run(*changes):
        config = load_config(str(experiment), ['stop="labels"', "iterations=3", *changes])
        events = []
        folder = folders.locate_run(tmp_path / "runs", "run")
        with folders.start_run(folder, config) as store:
            asyncio.run(runner.run_experiment(folder, resolve(config), store, events.append))
        return [event.text for event in events if isinstance(event, Note)]

    return run


@pytest.fixture
def opened(tmp_path):
    def open_run(**options):
        return Store.open(tmp_path / "runs" / "run" / "run.duckdb", **options)

    return open_run


def change_answers(experiment, change):
    """Rewrite what the script answers to evaluation questions, from now on."""
    script = experiment.parent / "script.jsonl"
    lines = [json.loads(line) for line in script.read_text().splitlines()]
    for line in lines:
        if line["key"].startswith("eval") and line["key"].endswith("answer"):
            line["text"] = change(line["text"])
    script.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_society_that_gets_no_better_stops_and_the_untuned_one_is_chosen(tmp_path, start, opened):
    said = start()
    with opened(read_only=True) as store:
        # The script answers alike in all iterations: no later society has more support.
        assert store.rows(DECIDED) == [
            ("multiagent", 1, 0, False, 3),
            ("multiagent", 2, 0, True, 3),
        ]
        assert store.rows(PASSES) == [("multiagent", 2)]
        assert store.run().finished_at is not None
        assert find_society(store, "multiagent") == 0
        shown = io.StringIO()
        summary.show_summary(store, shown)
        turns = store.rows("SELECT count(*) FROM turns")
        write_report([store], tmp_path / "report.html")
    stopped = "training stops after iteration 2 of 3. The signs choose the untuned society"
    assert any(text.startswith(stopped) for text in said)
    assert stopped in shown.getvalue()
    page = (tmp_path / "report.html").read_text()
    assert stopped in page
    assert "Gold, which took no part: it is right on 100.0 %, the best (iteration 0)" in page
    # A finished run says so again, and asks nothing.
    assert any(text.startswith(stopped) for text in start())
    with opened(read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns") == turns


def test_a_sweep_shows_the_chosen_society_beside_the_last(tmp_path, start):
    start()
    member = MemberRecord(run="run", point="", seed=0, settings={})
    found = read_results(SweepRecord(experiment="x", members=[member]), tmp_path / "runs")
    sampled = [row.society for row in found if row.decoding == "sampled"]
    assert sampled == ["untuned", "2", "chosen 0"]


def test_more_iterations_go_on_and_decide_again(start, opened):
    start()
    start("iterations=4")
    with opened(read_only=True) as store:
        assert store.rows(DECIDED)[1:] == [
            ("multiagent", 2, 0, True, 3),
            ("multiagent", 3, 0, True, 4),
        ]
        assert store.rows(PASSES) == [("multiagent", 3)]


def test_without_stop_the_run_goes_on_and_the_last_society_counts(start, opened):
    start()
    start("stop=never")
    with opened(read_only=True) as store:
        assert store.rows(PASSES) == [("multiagent", 3)]
        assert find_choice(store, "multiagent") is None
        assert find_society(store, "multiagent") == 3
    # Asked again, it is decided once more: over all societies that there are by now.
    start()
    with opened(read_only=True) as store:
        assert store.rows(DECIDED)[-1] == ("multiagent", 3, 0, True, 3)


def test_a_run_that_was_killed_before_the_decision_comes_to_the_same_one(start, opened):
    start()
    with opened() as store:
        before = store.rows(f"{DECIDED}")
        signs = store.rows("SELECT signs FROM choices ORDER BY iteration")
        store.transact(lambda c: c.execute("DELETE FROM choices WHERE iteration = 2"))
        store.transact(lambda c: c.execute("UPDATE runs SET finished_at = NULL"))
    start()
    with opened(read_only=True) as store:
        assert store.rows(DECIDED) == before
        assert store.rows("SELECT signs FROM choices ORDER BY iteration") == signs


def test_an_arm_that_is_added_later_trains_while_the_first_has_stopped(start, opened):
    start()
    start('arms=["multiagent", "majority-ft"]')
    with opened(read_only=True) as store:
        assert store.rows(PASSES) == [("majority-ft", 2), ("multiagent", 2)]
        assert [row[0] for row in store.rows(DECIDED)] == ["majority-ft"] * 2 + ["multiagent"] * 2


def test_the_society_with_most_support_is_the_one_that_answers(experiment, start, opened):
    start("iterations=1", "stop=never")
    # The second society answers something that no juror has said.
    change_answers(experiment, lambda text: "round 2: \\boxed{-7}")
    start("iterations=2")
    with opened(read_only=True) as store:
        [(signs,)] = store.rows("SELECT signs FROM choices WHERE iteration = 2")
        assert [each["support"] for each in json.loads(signs)] == pytest.approx([2 / 3, 2 / 3, 0])
        assert store.rows(DECIDED)[-1] == ("multiagent", 2, 0, True, 2)
        config = load_config(str(experiment), ["iterations=2"])
        assert find_iteration(store, config) == 0
        assert find_iteration(store, config, 2) == 2
        with pytest.raises(ConfigError, match=r"--iteration 3: .* \(there: 0, 1, 2\)"):
            find_iteration(store, config, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["iterations=0"], "nothing is trained"),
        (['arms=["debate"]'], "nothing is trained"),
        (['evaluation.decodings=["greedy"]'], 'add "sampled" to evaluation.decodings'),
        (["sampling.temperature=0"], "sampling.temperature above 0"),
        (["society.agents=1", "society.rounds=1"], "the arm 'multiagent' has one agent"),
    ],
)
def test_signs_that_an_experiment_cannot_give_are_refused(experiment, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(str(experiment), ['stop="labels"', *changes])
