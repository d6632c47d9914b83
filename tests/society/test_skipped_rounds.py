"""Labels from round 1 in iterations whose later rounds scatter the agents, decided without gold."""

import json
import re

import pytest

from providers.errors import AuthenticationFailed
from society.config.load import ConfigError
from society.method.experiment import load_experiment
from society.method.progress import Note, StageStarted
from tests.society.whole_run import rows, start

SKIP = "society.skip_rounds=true"


@pytest.fixture
def scattered(tmp_path, experiment):
    """In iteration 2 the critics take agents apart that agreed: agents 2 and 3 each err alone."""
    script = tmp_path / "script.jsonl"
    lines = [json.loads(line) for line in script.read_text().splitlines()]
    for line in lines:
        which = re.match(r"train2/.*/a([23])/r2/answer", line["key"])
        if which:
            line["text"] = f"I think \\boxed{{90{which[1]}}}"
    script.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return experiment


AGREES = (
    "SELECT turn_id, agrees FROM turns JOIN verdicts USING (turn_id) WHERE split = 'train' AND "
)


def test_labels_come_from_round_1_where_later_rounds_scatter_the_agents(tmp_path, scattered):
    events = []
    folder = start(tmp_path, scattered, SKIP, observe=events.append)
    decided = "SELECT iteration, round, questions, first_share, last_share FROM label_rounds"
    (first, second) = rows(folder, f"{decided} ORDER BY 1")
    # Round 1: three of four questions have two of three agents, one has all.
    assert first == (1, 2, 4, pytest.approx(0.75), pytest.approx(11 / 12))
    assert second == (2, 1, 4, pytest.approx(0.75), pytest.approx(1 / 3))
    [said] = [e.text for e in events if isinstance(e, Note) and "come from round 1" in e.text]
    assert said.startswith("the labels of iteration 2 come from round 1: 75.0 % of the agents")
    labels = "SELECT iteration, labelled, label_accuracy FROM pseudo_labels ORDER BY 1"
    assert rows(folder, labels) == [(1, 4, 1.0), (2, 4, 1.0)]
    agreement = rows(folder, "SELECT agreement FROM label_health ORDER BY iteration")
    assert agreement == [(pytest.approx(11 / 12),), (pytest.approx(0.75),)]
    # The labels are those of an arm that always learns from round 1, and so is what is learnt.
    other = start(
        tmp_path,
        scattered,
        'arms=[{name="multiagent", like="multiagent", labels="round1"}]',
        name="round1",
    )
    assert rows(folder, f"{AGREES} iteration = 2 ORDER BY 1") == rows(
        other, f"{AGREES} iteration = 2 ORDER BY 1"
    )
    learnt = "SELECT turn_id FROM {} WHERE iteration = 2 ORDER BY 1"
    for view in ("generation_examples", "critic_examples"):
        assert rows(folder, learnt.format(view)) == rows(other, learnt.format(view))
    whole = start(tmp_path, scattered, "stop_if_unread=0", name="whole")
    votes = "SELECT * FROM votes WHERE split = 'train' ORDER BY ALL"
    assert rows(folder, votes) == rows(whole, votes)
    assert rows(folder, f"{AGREES} iteration = 1 ORDER BY 1") == rows(
        whole, f"{AGREES} iteration = 1 ORDER BY 1"
    )
    assert rows(whole, "FROM label_rounds") == []


def test_gold_plays_no_part_in_the_decision(tmp_path, scattered):
    # The first round is wrong everywhere and unanimous; the last one is right and scattered.
    script = tmp_path / "script.jsonl"
    lines = [json.loads(line) for line in script.read_text().splitlines()]
    for line in lines:
        if line["key"].startswith("train") and line["key"].endswith("r1/answer"):
            line["text"] = "\\boxed{77}"
    script.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = start(tmp_path, scattered, SKIP)
    assert rows(folder, "SELECT round FROM label_rounds ORDER BY iteration") == [(1,), (1,)]
    assert rows(folder, "SELECT DISTINCT label_accuracy FROM pseudo_labels") == [(0.0,)]


@pytest.mark.parametrize("stage", ["debate", "datasets", "finetune"])
def test_a_run_that_broke_off_decides_once_and_alike(tmp_path, scattered, stage):
    def break_off(event):
        at = isinstance(event, StageStarted) and (event.iteration, event.stage)
        if at == (2, stage):
            raise AuthenticationFailed("the key was refused; set another one")

    with pytest.raises(AuthenticationFailed):
        start(tmp_path, scattered, SKIP, name="broken", observe=break_off)
    broken = start(tmp_path, scattered, SKIP, name="broken")
    folder = start(tmp_path, scattered, SKIP)
    for query in (
        "SELECT * EXCLUDE created_at FROM label_rounds ORDER BY 1",
        "SELECT * FROM verdicts ORDER BY 1",
        "SELECT dataset_id, sha256 FROM datasets ORDER BY 1",
    ):
        assert rows(broken, query) == rows(folder, query)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([SKIP, "society.rounds=1"], "no arm learns from the last of several rounds"),
        ([SKIP, "arms=['round1-labels', 'debate']"], "no arm learns from the last"),
        (
            ['arms=["multiagent", {name="s", like="star", society={skip_rounds=true}}]'],
            "arm 's': society.skip_rounds chooses between the votes",
        ),
        ([SKIP, "society.early_end=true"], 'set early_end = "eval"'),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(experiment, overrides, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_experiment(str(experiment), overrides)
