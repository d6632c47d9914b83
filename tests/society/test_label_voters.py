"""Labels by more voters, by an earlier society or by an averaged one, through the whole loop."""

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from evals.tasks.arithmetic import create
from providers.errors import InvalidSettings
from providers.types import ModelRef
from society.cli import app
from society.config import load as experiments
from society.config.load import ConfigError
from society.costs.estimate import estimate_cost
from society.method.arms import build_arms
from society.method.averaging import describe_average
from society.method.experiment import resolve
from society.method.failed_requests import withdraw_failed
from society.method.progress import Note, StageAdvanced, StageStarted
from society.runs import folder as folders
from store.ledger import Store
from store.records import StageKey, Turn, Vote
from tests.society.whole_run import rows, start

GOLD = "{labels = 'gold'}"
AGENTS, TRAIN, SAMPLES = 3, 4, 3
ARM = '{name = "%s", like = "multiagent", consensus = %s}'


def write_script(path: Path, iterations: int = 3) -> None:
    """In debates all agents err from question 1 on; answers that only vote on labels are right, but
    for those of agent 3."""
    task, lines = create({}), []

    def say(key, question, error):
        lines.append({"key": key, "text": f"\\boxed{{{int(question.gold) + error}}}"})

    for question in task.questions("eval", 0, 2):
        for agent in range(1, AGENTS + 1):
            for number in (1, 2):
                say(f"eval/{question.question_id}/a{agent}/r{number}/answer", question, 0)
    for k in range(1, iterations + 1):
        for place, question in enumerate(task.questions("train", 0, TRAIN)):
            for agent in range(1, AGENTS + 1):
                for number in (1, 2):
                    key = f"train{k}/{question.question_id}/a{agent}/r{number}/answer"
                    say(key, question, min(place, 1))
                for sample in range(1, SAMPLES + 1):
                    key = f"label{k}/{question.question_id}/a{agent}/r1/answer/s{sample}"
                    say(key, question, 5 * (agent == 3))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def experiment(tmp_path) -> Path:
    write_script(tmp_path / "script.jsonl")
    path = tmp_path / "labels.toml"
    path.write_text(
        f"""
        model = "scripted:{tmp_path / "script.jsonl"}"
        iterations = 3
        [task]
        name = "arithmetic"
        [society]
        agents = {AGENTS}
        others = "quoted"
        [train]
        questions = {TRAIN}
        [evaluation]
        questions = 2
        decodings = ["sampled"]
        """
    )
    return path


def test_more_first_answers_vote_on_labels(tmp_path, experiment):
    stages = []

    def observe(event):
        if isinstance(event, StageStarted):
            stages.append((event.iteration, event.stage, event.total))

    changes = ("iterations=1", "consensus.label_samples=3")
    folder = start(tmp_path, experiment, *changes, observe=observe)
    # Two more answers of three agents, for each of four questions.
    assert stages[1:3] == [(1, "labels", 24), (1, "debate", 24)]
    [(labels, settings)] = rows(folder, "SELECT labels, settings FROM arms")
    assert (labels, json.loads(settings)["label_samples"]) == ("round1", 3)
    # Nine voters: on question 0 all but two are right; on the others the debate's three err alike.
    assert rows(
        folder,
        "SELECT position, v.split, round, votes, voters, v.correct, quorum FROM votes AS v "
        "JOIN questions AS q USING (question_id) "
        "WHERE v.split <> 'eval' AND position < 2 ORDER BY ALL",
    ) == [
        (0, "label", 1, 7, 9, True, 5),
        (0, "train", 1, 3, 3, True, 2),
        (0, "train", 2, 3, 3, True, 2),
        (1, "label", 1, 4, 9, True, 5),
        (1, "train", 1, 3, 3, False, 2),
        (1, "train", 2, 3, 3, False, 2),
    ]
    # All learn from question 0 alone, since nobody agrees with the labels of the others.
    assert rows(
        folder,
        "SELECT DISTINCT q.position FROM dataset_examples JOIN questions AS q USING (question_id)",
    ) == [(0,)]
    assert rows(folder, "SELECT labelled, correct, label_accuracy FROM pseudo_labels") == [
        (4, 4, 1.0)
    ]
    [(agreement,)] = rows(folder, "SELECT agreement FROM label_health")
    assert agreement == pytest.approx((7 / 9 + 3 * 4 / 9) / 4)
    assert rows(
        folder, "SELECT stage, sum(calls) FROM spend WHERE split = 'label' GROUP BY ALL"
    ) == [("debate", 24)]
    shown = CliRunner().invoke(app, ["status", "run", "--runs", str(tmp_path / "runs")])
    assert " labels " in shown.output, shown.output


def test_one_sample_leaves_a_run_as_it_is(tmp_path, experiment):
    folder = start(tmp_path, experiment, "iterations=1")
    assert rows(folder, "SELECT count(*) FROM turns WHERE split = 'label' OR sample > 0") == [(0,)]
    [(settings,)] = rows(folder, "SELECT settings FROM arms")
    assert "label_samples" not in settings
    assert rows(folder, "SELECT label_accuracy FROM pseudo_labels") == [(0.25,)]


def test_an_earlier_society_labels(tmp_path, experiment):
    folder = start(tmp_path, experiment, "consensus.labels=lagged:1")
    assert rows(folder, "SELECT labels FROM arms") == [("lagged:1",)]
    # After iteration 1 the untuned society still labels iteration 2; iteration 3 is labelled by the
    # generators of iteration 1.
    assert rows(
        folder,
        "SELECT t.iteration, coalesce(m.iteration, 0), count(*), count(DISTINCT t.model_id) "
        "FROM turns AS t JOIN models AS m USING (model_id) WHERE split = 'label' "
        "GROUP BY ALL ORDER BY ALL",
    ) == [(1, 0, 12, 1), (2, 0, 12, 1), (3, 1, 12, 3)]
    assert rows(folder, "SELECT DISTINCT voters FROM label_votes") == [(3,)]
    assert rows(folder, "SELECT count(*) FROM models WHERE role = 'generator'") == [(9,)]


def test_an_averaged_society_labels(tmp_path, experiment):
    folder = start(tmp_path, experiment, "consensus.labels=average", "consensus.average_decay=0.25")
    found = rows(
        folder,
        "SELECT m.agent, m.iteration, m.role, p.iteration, p.agent, round(weight, 3), "
        "a.parent_id = m.parent_id FROM averages AS a JOIN models AS m USING (model_id) "
        "JOIN models AS p ON p.model_id = a.parent_id ORDER BY ALL",
    )
    assert found == [
        (agent, 2, "generator", passed, agent, weight, passed == 2)
        for agent in (1, 2, 3)
        for passed, weight in ((1, 0.2), (2, 0.8))
    ]
    # The untuned society labels first, then that of iteration 1, which is its own average.
    assert rows(
        folder,
        "SELECT t.iteration, m.iteration, m.job_id IS NULL, count(*) FROM turns AS t "
        "JOIN models AS m USING (model_id) WHERE split = 'label' GROUP BY ALL ORDER BY ALL",
    ) == [(1, None, True, 12), (2, 1, False, 12), (3, 2, True, 12)]


def test_an_average_weighs_an_agents_tuned_models():
    base, *tuned = (ModelRef(name, "x:", None if name == "b" else name) for name in "bmn")
    assert describe_average("r", [base], 0.5) is None
    assert describe_average("r", [base, tuned[0]], 0.5) is None
    # A model that was kept counts for both iterations.
    kept = describe_average("r", [base, tuned[0], tuned[0], tuned[1]], 0.5)
    assert [(p.model.model_id, round(p.weight, 4)) for p in kept.parts] == [
        ("m", round(0.75 / 1.75, 4)),
        ("n", round(1 / 1.75, 4)),
    ]
    assert describe_average("r", [base, *tuned], 0.0) is None
    assert [p.weight for p in describe_average("r", [base, *tuned], 1.0).parts] == [0.5, 0.5]


def test_a_run_that_stops_among_its_label_votes_goes_on_without_asking_again(tmp_path, experiment):
    changes = ("iterations=2", "consensus.label_samples=3")
    started = []

    class Stopped(Exception):
        pass

    def stop(event):
        if isinstance(event, StageStarted):
            started.append(event.stage)
        # In the midst of the label stage of iteration 2.
        if started.count("labels") == 2 and isinstance(event, StageAdvanced) and event.done >= 10:
            raise Stopped

    with pytest.raises(Stopped):
        start(tmp_path, experiment, *changes, observe=stop)
    folder = folders.locate_run(tmp_path / "runs", "run")
    # Of what is in flight when a process is killed, only a part is stored.
    with duckdb.connect(str(folder.database)) as file:
        part = "DELETE FROM turns WHERE split = 'label' AND iteration = 2 AND sample + agent > 3"
        assert file.execute(part).fetchone() == (12,)
    asked = rows(folder, "SELECT turn_id, created_at FROM turns")
    start(tmp_path, experiment, *changes)
    assert set(asked) <= set(rows(folder, "SELECT turn_id, created_at FROM turns"))
    whole = start(tmp_path, experiment, *changes, name="whole")
    for sql in (
        "SELECT * EXCLUDE (created_at, latency_ms, model_id) FROM turns ORDER BY turn_id",
        "SELECT * FROM votes ORDER BY ALL",
        "SELECT * FROM verdicts ORDER BY ALL",
        "SELECT sha256 FROM datasets ORDER BY dataset_id",
    ):
        assert rows(folder, sql) == rows(whole, sql)
    notes = []
    start(tmp_path, experiment, *changes, observe=lambda e: notes.append(e))
    assert not [e for e in notes if isinstance(e, StageAdvanced) and e.tokens]
    assert not [e for e in notes if isinstance(e, Note) and "asked again" in e.text]


def test_arms_share_what_they_ask_alike(tmp_path, experiment):
    two = ARM % ("two", "{label_samples = 2}"), ARM % ("lag", '{labels = "lagged:1"}')
    folder = start(tmp_path, experiment, f"arms=[{', '.join(two)}]", "iterations=2")
    # In iteration 1 both ask the untuned models the same; in iteration 2 one asks tuned ones.
    assert rows(
        folder,
        "SELECT iteration, arm, count(*), count(shared_turn_id) FROM turns "
        "WHERE split = 'label' GROUP BY ALL ORDER BY ALL",
    ) == [(1, "lag", 12, 12), (1, "two", 12, 0), (2, "lag", 12, 0), (2, "two", 12, 0)]
    lines = estimate_cost(
        resolve(
            experiments.load_config(str(experiment), (f"arms=[{', '.join(two)}]", "iterations=2"))
        )
    ).lines
    calls = {
        (line.arm, line.tuned): line.calls.expected for line in lines if line.stage == "labels"
    }
    assert calls == {(None, False): 24, ("two", True): 12}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("consensus.labels=lagged:0", "no source of labels"),
        ("consensus.labels=gold", "is for the arm star alone"),
        ("consensus={labels = 'final', label_samples = 2}", "cannot vote there"),
        ("consensus={quorum = 7, label_samples = 2}", "quorum = 7 leaves the arm"),
        (f"arms=[{ARM % ('a', GOLD)}]", "is for the arm star alone"),
        (
            "arms=[{name = 'a', like = 'multiagent', labels = 'round1', "
            "consensus = {labels = 'average'}}]",
            "has labels twice",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(experiment, change, message):
    with pytest.raises(ConfigError, match=message):
        resolve(experiments.load_config(str(experiment), [change]))


def test_a_replay_answers_votes_on_labels(tmp_path, experiment):
    changes = ("iterations=1", "consensus.label_samples=2")
    folder = start(tmp_path, experiment, *changes)
    again = start(tmp_path, experiment, *changes, f"model=replay:{folder.path}", name="again")
    votes = "SELECT * FROM votes ORDER BY ALL"
    assert rows(again, votes) == rows(folder, votes)


def test_models_that_cannot_be_averaged_are_refused_before_the_first_call(tmp_path, experiment):
    folder = start(tmp_path, experiment, "iterations=1")
    replayed = "consensus.labels=average", f"model=replay:{folder.path}"
    with pytest.raises(InvalidSettings, match=r"cannot average models; set consensus\.labels"):
        start(tmp_path, experiment, *replayed, name="again")
    again = folders.locate_run(tmp_path / "runs", "again")
    assert rows(again, "SELECT count(*) FROM turns") == [(0,)]


def test_kinds_that_are_made_by_their_labels_keep_them(experiment):
    kinds = "arms=['multiagent', 'round1-labels', 'star', 'majority-ft', 'debate']"
    config = experiments.load_config(
        str(experiment), [kinds, "consensus={labels = 'average', label_samples = 2}"]
    )
    assert {arm.name: (arm.labels, len(arm.samples)) for arm in build_arms(config)} == {
        "multiagent": ("average", 2),
        "round1-labels": ("round1", 1),
        "star": ("gold", 0),
        "majority-ft": ("round1", 1),
        "debate": (None, 0),
    }


def test_a_failed_vote_takes_the_label_that_it_was_to_decide_with_it(tmp_path, experiment):
    """Removing it also removes votes and verdicts of the debate, which are made anew."""
    folder = start(tmp_path, experiment, "iterations=1", "consensus.label_samples=2")
    with Store.open(folder.database) as store:
        labels = StageKey(1, "label", "multiagent")
        assert withdraw_failed(store, labels) == {}
        first: Turn = next(iter(store.turns(labels)))
        store.transact(
            lambda c: c.execute(
                "UPDATE turns SET failure = 'passing' WHERE turn_id = ?", [first.turn_id]
            )
        )
        # What a dataset was built on stays.
        assert withdraw_failed(store, labels) == {}
        store.remove_failed_turns([first.turn_id])
        for stage in (labels, replace(labels, split="train")):
            votes: list[Vote] = store.votes(stage)
            assert first.question_id not in {vote.question_id for vote in votes}
            assert votes
        assert len(store.verdicts(replace(labels, split="train"))) == 6 * (TRAIN - 1)
