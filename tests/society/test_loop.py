"""The outer loop through the scripted provider and a real database."""

import asyncio
import json
from collections import Counter

import pytest

from society.config import load as experiments
from society.config.load import ConfigError
from society.method.experiment import load_experiment, resolve
from society.method.progress import Note, StageFinished, StageStarted
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store


def start(tmp_path, experiment, *overrides, name="run"):
    """Run to the end; returns the run's folder and what the loop said."""
    config = experiments.load_config(str(experiment), overrides)
    folder = folders.locate_run(tmp_path / "runs", name)
    events = []
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, events.append))
    return folder, events


def rows(folder, sql):
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)


def test_two_iterations_from_the_untuned_society_to_the_last_evaluation(tmp_path, experiment):
    folder, events = start(tmp_path, experiment)
    stages = [(e.iteration, e.stage) for e in events if isinstance(e, StageStarted)]
    one = ["debate", "datasets", "finetune", "evaluate sampled", "evaluate greedy"]
    assert stages == [
        (0, "evaluate sampled"),
        (0, "evaluate greedy"),
        *((k, stage) for k in (1, 2) for stage in one),
    ]
    assert sum(isinstance(e, StageFinished) for e in events) == len(stages)
    assert rows(
        folder, "SELECT iteration, split, decoding, count(*) FROM votes GROUP BY ALL ORDER BY ALL"
    ) == [
        (0, "eval", "greedy", 6),
        (0, "eval", "sampled", 6),
        (1, "eval", "greedy", 6),
        (1, "eval", "sampled", 6),
        (1, "train", "sampled", 8),
        (2, "eval", "greedy", 6),
        (2, "eval", "sampled", 6),
        (2, "train", "sampled", 8),
    ]
    [(finished,)] = rows(folder, "SELECT finished_at FROM runs")
    assert finished is not None


def test_a_label_takes_more_than_half_of_the_agents_unless_the_file_says_otherwise(
    tmp_path, experiment
):
    script = tmp_path / "script.jsonl"
    lines = [json.loads(line) for line in script.read_text().splitlines()]
    for line in lines:
        last = line["key"].startswith("train") and line["key"].endswith("r2/answer")
        if last and "/a1/" not in line["key"]:
            line |= {"text": "so I add", "finish_reason": "length"}
    script.write_text("".join(json.dumps(line) + "\n" for line in lines))
    changes = ("iterations=1", "stop_if_unread=0")
    folder, _ = start(tmp_path, experiment, *changes, name="majority")
    labels = "SELECT DISTINCT labelled, below_quorum, coverage FROM pseudo_labels"
    assert rows(folder, labels) == [(0, 4, 0.0)]
    assert rows(folder, "SELECT DISTINCT quorum FROM votes WHERE split = 'train'") == [(2,)]
    assert rows(folder, "SELECT count(*) FROM dataset_examples") == [(0,)]
    folder, _ = start(tmp_path, experiment, "iterations=1", "consensus.quorum=1", name="single")
    assert rows(folder, labels) == [(4, 0, 1.0)]


def test_a_quorum_that_cannot_be_reached_is_refused(experiment):
    with pytest.raises(ConfigError, match=r"consensus\.quorum = 4 leaves the arm 'multiagent'"):
        load_experiment(str(experiment), ["consensus.quorum=4"])
    with pytest.raises(ConfigError, match=r"arm 'pair' without any label: 2 agent"):
        load_experiment(
            str(experiment),
            [
                'arms=["multiagent", {name = "pair", like = "multiagent", agents = 2}]',
                "consensus.quorum=3",
            ],
        )


def test_each_model_descends_from_the_same_agents_model_of_the_iteration_before(
    tmp_path, experiment
):
    folder, _ = start(tmp_path, experiment)
    lineage = rows(
        folder,
        "SELECT m.iteration, m.agent, m.role, p.iteration, p.agent, p.role FROM models m "
        "JOIN models p ON p.model_id = m.parent_id ORDER BY ALL",
    )
    owners = [(agent, role) for agent in (1, 2, 3) for role in ("critic", "generator")]
    # Agents 1 and 2 never erred, so with w = 0.5 their critics learn from what they kept.
    assert lineage == [
        *((1, *owner, None, None, None) for owner in owners),
        *((2, *owner, 1, *owner) for owner in owners),
    ]


def test_a_fresh_start_takes_the_base_every_time(tmp_path, experiment):
    folder, _ = start(tmp_path, experiment, "finetune.init=fresh")
    assert rows(
        folder,
        "SELECT DISTINCT p.artifact, p.iteration FROM models m "
        "JOIN models p ON p.model_id = m.parent_id",
    ) == [(None, None)]


def test_the_tuned_models_speak_in_the_next_debate_and_the_summarizer_stays_the_base(
    tmp_path, experiment
):
    folder, _ = start(tmp_path, experiment)
    spoke = rows(
        folder,
        "SELECT t.iteration, t.round, t.agent, m.agent, m.role, m.iteration FROM turns t "
        "JOIN models m USING (model_id) WHERE t.split = 'train' AND t.kind = 'answer' "
        "AND t.iteration = 2 GROUP BY ALL ORDER BY ALL",
    )
    assert spoke == [
        (2, number, agent, agent, "generator" if number == 1 else "critic", 1)
        for number in (1, 2)
        for agent in (1, 2, 3)
    ]
    assert rows(
        folder,
        "SELECT DISTINCT m.artifact FROM turns t "
        "JOIN models m USING (model_id) WHERE t.kind = 'summary'",
    ) == [(None,)]


def test_a_finished_run_does_nothing_when_started_again(tmp_path, experiment):
    folder, _ = start(tmp_path, experiment)
    tables = (
        "turns",
        "votes",
        "verdicts",
        "datasets",
        "dataset_examples",
        "jobs",
        "models",
        "runs",
    )
    before = {table: Counter(rows(folder, f"FROM {table}")) for table in tables}
    start(tmp_path, experiment)
    assert {table: Counter(rows(folder, f"FROM {table}")) for table in tables} == before


def test_more_iterations_go_on_from_the_stored_ones(tmp_path, experiment):
    folder, _ = start(tmp_path, experiment)
    before = set(rows(folder, "SELECT turn_id, response FROM turns"))
    start(tmp_path, experiment, "iterations=3")
    assert before < set(rows(folder, "SELECT turn_id, response FROM turns"))
    assert rows(folder, "SELECT max(iteration) FROM models") == [(3,)]


def test_another_config_is_refused_and_what_differs_is_named(tmp_path, experiment):
    start(tmp_path, experiment)
    with pytest.raises(ConfigError, match=r"datasets\.w: stored None, now 0\.3"):
        start(tmp_path, experiment, "datasets.w=0.3")
    with pytest.raises(ConfigError, match=r"iterations: stored 2, now 1 \(may only grow\)"):
        start(tmp_path, experiment, "iterations=1")


def test_an_agent_without_examples_keeps_its_model_and_the_run_says_so(tmp_path, experiment):
    script = experiment.parent / "script.jsonl"
    # Agent 3 now gives no readable answer at all.
    lines = [
        line.replace("boxed", "open") if "/a3/" in line else line
        for line in script.read_text().splitlines(keepends=True)
    ]
    script.write_text("".join(lines))
    folder, events = start(tmp_path, experiment)
    kept = [e.text for e in events if isinstance(e, Note) and "keeps its old model" in e.text]
    assert [text.split(" keeps")[0] for text in kept] == [
        "agent 3, generator",
        "agent 3, critic",
    ] * 2
    assert rows(folder, "SELECT DISTINCT agent FROM models WHERE agent IS NOT NULL ORDER BY 1") == [
        (1,),
        (2,),
    ]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 65, "a b"])
def test_a_run_name_is_a_plain_name(tmp_path, name):
    with pytest.raises(ConfigError, match="run name"):
        folders.locate_run(tmp_path, name)


@pytest.mark.parametrize("init", ["own", "base", "generator"])
def test_where_critics_start_from(tmp_path, experiment, init):
    folder, _ = start(tmp_path, experiment, f"finetune.critic_init={init}", "iterations=1")
    start(tmp_path, experiment, f"finetune.critic_init={init}")
    parents = rows(
        folder,
        "SELECT m.agent, m.iteration, p.role, p.agent, p.iteration FROM models m "
        "JOIN models p ON p.model_id = m.parent_id WHERE m.role = 'critic' ORDER BY ALL",
    )
    of = {
        "own": lambda agent, k: ("critic", agent, k - 1) if k > 1 else (None, None, None),
        "base": lambda agent, k: (None, None, None),
        "generator": lambda agent, k: ("generator", agent, k),
    }[init]
    assert parents == [(agent, k, *of(agent, k)) for agent in (1, 2, 3) for k in (1, 2)]
    jobs = rows(folder, "SELECT count(*), count(DISTINCT job_id) FROM jobs")
    assert jobs == [(12, 12)]
