"""Debates that end once all agents agree: what is asked, what is stored, what figures say."""

import json
import re
from collections import Counter

import pytest

from evals.debates import read_debate
from evals.diversity.responses import read_responses
from evals.stored_run import read_arms
from providers.errors import AuthenticationFailed
from society import importing
from society.config.load import ConfigError
from society.costs.estimate import estimate_cost
from society.importing import ImportSource, TranscriptError
from society.method.experiment import load_experiment
from society.method.progress import Note, StageAdvanced, StageStarted
from society.runs import folder as folders
from store.ledger import Store
from store.records import StageKey
from tests.society.whole_run import rows, start

ONE = "iterations=1"
ALL = ("society.early_end=true",)
SAID = """
SELECT iteration, split, decoding, question_id, agent, round, kind, messages, response FROM turns
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, scripted):
    """A run with all rounds held."""
    path = tmp_path_factory.mktemp("whole")
    return start(path, scripted(path), ONE)


@pytest.fixture(scope="module")
def ended(tmp_path_factory, scripted):
    """In each stage the agents agree on the first question at once, on the others they do not."""
    path = tmp_path_factory.mktemp("ended")
    return start(path, scripted(path), ONE, *ALL)


def test_no_round_follows_agreement_and_its_vote_is_carried(whole, ended):
    kept, left_out = set(rows(ended, SAID)), set(rows(whole, SAID)) - set(rows(ended, SAID))
    assert kept < set(rows(whole, SAID))
    first = {q for (q,) in rows(ended, "SELECT question_id FROM questions WHERE position = 0")}
    assert {(row[3], row[5]) for row in left_out} == {(question, 2) for question in first}
    carried = rows(
        ended,
        "SELECT position, round, carried_from, count(*) FROM votes JOIN questions "
        "USING (question_id) WHERE carried_from IS NOT NULL GROUP BY ALL",
    )
    # One training stage, and two evaluations with two decodings.
    assert carried == [(0, 2, 1, 5)]
    votes = "SELECT * EXCLUDE carried_from FROM votes ORDER BY ALL"
    assert rows(ended, votes) == rows(whole, votes)


@pytest.mark.parametrize(
    "columns",
    [
        "* EXCLUDE (standard_error, ci_low, ci_high) FROM accuracy",
        "* EXCLUDE carried_rate FROM consensus",
        "* FROM flips",
        "* FROM label_flips",
        "* FROM label_health",
        "* FROM dissent",
        "* FROM debates",
        "* FROM paired_arms",
        "* EXCLUDE (turn_id) FROM conversations",
        "* FROM critic_examples SEMI JOIN (FROM questions WHERE position > 0) USING (question_id)",
    ],
)
def test_where_the_rounds_left_out_would_change_nothing_all_figures_are_those_of_whole_debates(
    whole, ended, columns
):
    assert rows(ended, f"SELECT {columns} ORDER BY ALL") == rows(
        whole, f"SELECT {columns} ORDER BY ALL"
    )


def test_a_critic_learns_nothing_from_a_debate_that_needed_none(ended):
    examples = "SELECT DISTINCT position FROM {} JOIN questions USING (question_id) ORDER BY 1"
    assert rows(ended, examples.format("generation_examples")) == [(0,), (1,), (2,), (3,)]
    assert rows(ended, examples.format("critic_examples")) == [(1,), (2,), (3,)]


def test_training_and_evaluation_can_end_early_each_for_itself(tmp_path, experiment):
    for split in ("train", "eval"):
        folder = start(tmp_path, experiment, ONE, f"society.early_end='{split}'", name=split)
        assert rows(folder, "SELECT DISTINCT split FROM votes WHERE carried_from IS NOT NULL") == [
            (split,)
        ]


def test_a_debate_of_three_rounds_ends_after_the_second_where_agents_agree_then(
    tmp_path, experiment
):
    script = tmp_path / "script.jsonl"
    lines = [json.loads(line) for line in script.read_text().splitlines()]
    more = [line | {"key": line["key"].replace("/r2/", "/r3/")} for line in lines]
    script.write_text("".join(json.dumps(line) + "\n" for line in (*lines, *more)))
    folder = start(tmp_path, experiment, ONE, *ALL, "society.rounds=3")
    found = rows(
        folder,
        "SELECT position, list(carried_from ORDER BY round) FROM votes JOIN (SELECT "
        "question_id, position FROM questions) USING (question_id) WHERE split = 'train' "
        "GROUP BY position ORDER BY ALL",
    )
    later = [None, None, 2]
    assert found == [(0, [None, 1, 1]), (1, [None] * 3), (2, later), (3, later)]
    # A critic learns from the last round that was held.
    learnt = (
        "SELECT DISTINCT position, t.round FROM critic_examples JOIN turns AS t USING (turn_id) "
    )
    learnt += "JOIN questions AS q ON q.question_id = t.question_id ORDER BY ALL"
    assert rows(folder, learnt) == [(1, 3), (2, 2), (3, 2)]


@pytest.mark.parametrize("after", [3, 40])
def test_a_run_that_broke_off_goes_on_without_asking_anything_twice(
    tmp_path, experiment, ended, after
):
    seen = 0

    def break_off(event):
        nonlocal seen
        seen += isinstance(event, StageAdvanced)
        if seen == after:
            raise AuthenticationFailed("the key was refused; set another one")

    with pytest.raises(AuthenticationFailed):
        start(tmp_path, experiment, ONE, *ALL, observe=break_off)
    folder = folders.locate_run(tmp_path / "runs", "run")
    before, all_turns = rows(folder, SAID), Counter(rows(ended, SAID))
    assert before
    assert Counter(before) < all_turns
    start(tmp_path, experiment, ONE, *ALL)
    assert Counter(rows(folder, SAID)) == all_turns
    votes = "SELECT * FROM votes ORDER BY ALL"
    assert rows(folder, votes) == rows(ended, votes)


def test_a_stage_says_what_was_left_out_and_comes_to_its_end(tmp_path, experiment):
    events = []
    start(tmp_path, experiment, *ALL, "iterations=0", observe=events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    said = "1 of 3 debates ended early, all agents agreed: 6 of 27 calls were left out"
    assert notes.count(said) == 2
    assert [e.total for e in events if isinstance(e, StageStarted)] == [27, 27]
    assert [e.done for e in events if isinstance(e, StageAdvanced)].count(27) == 2


def test_whether_debates_end_early_may_not_change_on_a_stored_run(tmp_path, experiment):
    start(tmp_path, experiment, "iterations=0")
    with pytest.raises(ConfigError, match=r"society\.early_end"):
        start(tmp_path, experiment, *ALL)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["society.early_end=true", "society.rounds=1"], "society.early_end = true"),
        (["society.early_end='train'", "arms=['debate']"], "society.early_end = 'train'"),
        (
            ['arms=["multiagent", {name="m", like="majority", society={early_end="eval"}}]'],
            "arm 'm': society.early_end = 'eval'",
        ),
    ],
)
def test_an_early_end_where_no_debate_has_a_second_round_is_refused(experiment, overrides, told):
    with pytest.raises(ConfigError, match=re.escape(told) + " leaves out later rounds"):
        load_experiment(str(experiment), overrides)


def test_an_arm_may_end_its_debates_early_beside_one_that_does_not(tmp_path, experiment, whole):
    arms = 'arms=["multiagent", {name="early", like="multiagent", society={early_end=true}}]'
    folder = start(tmp_path, experiment, ONE, arms)
    carried = "SELECT DISTINCT arm FROM votes WHERE carried_from IS NOT NULL"
    assert rows(folder, carried) == [("early",)]
    untuned = "SELECT count(*), count(shared_turn_id) FROM turns WHERE arm = 'early' "
    assert rows(folder, untuned + "AND iteration = 0") == [(2 * (27 - 6),) * 2]
    first = f"{SAID} WHERE arm = 'multiagent' ORDER BY ALL"
    assert rows(folder, first) == rows(whole, first)


def test_costs_count_the_later_rounds_as_the_most_that_may_be_held(experiment):
    def calls(*overrides):
        found = estimate_cost(load_experiment(str(experiment), overrides))
        return {(line.stage, line.role): line.calls for line in found.lines}

    full, early = calls(), calls("society.early_end='eval'")
    assert full.keys() == early.keys()
    for (stage, role), known in full.items():
        may_be_less = stage == "evaluate" and role != "generator"
        assert early[stage, role].high == known.high
        assert early[stage, role].low == (0 if may_be_less else known.low)


def export(folder, path):
    names = "question question_id gold split iteration decoding agent round kind response model"
    found = rows(
        folder,
        "SELECT question, question_id, gold, t.split, t.iteration, decoding, agent, round, kind, "
        "response, model_id FROM turns t JOIN questions USING (question_id)",
    )
    lines = (json.dumps(dict(zip(names.split(), row, strict=True))) for row in found)
    path.write_text("\n".join(lines))


def test_imported_debates_may_have_ended_early(tmp_path, experiment, ended):
    path = tmp_path / "transcripts.jsonl"
    export(ended, path)
    source = ImportSource(str(experiment), None, None, (ONE, *ALL))
    folder = importing.import_file(path, folders.locate_run(tmp_path / "runs", "in"), source).folder
    for relation in ("votes", "verdicts", "dataset_examples"):
        query = f"SELECT * FROM {relation} ORDER BY ALL"
        assert rows(folder, query) == rows(ended, query)
    plain = ImportSource(str(experiment), None, None, (ONE,))
    with pytest.raises(TranscriptError, match=r"--set society\.early_end=true"):
        importing.import_file(path, folders.locate_run(tmp_path / "runs", "no"), plain)


def test_an_imported_debate_that_ends_without_agreement_is_incomplete(tmp_path):
    def say(question, agent, number, value):
        text = f"\\boxed{{{value}}}"
        return {"question": question, "agent": agent, "round": number, "response": text}

    lines = [say(q, agent, 1, 5) for q in "abc" for agent in (1, 2)]
    lines += [say("d", agent, number, agent) for agent in (1, 2) for number in (1, 2)]
    lines += [say("e", agent, 1, agent) for agent in (1, 2)]
    path = tmp_path / "transcripts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    source = ImportSource(None, "arithmetic", None, ALL)
    target = folders.locate_run(tmp_path / "runs", "in")
    with pytest.raises(TranscriptError, match="ends with round 1 of 2 although not all agents"):
        importing.import_file(path, target, source)
    folder = importing.import_file(path, target, source, skip_incomplete=True).folder
    assert rows(folder, "SELECT rounds, count(*) FROM debates GROUP BY 1") == [(2, 4)]
    assert rows(folder, "SELECT count(carried_from) FROM votes") == [(3,)]


AGREED = "SELECT question_id FROM questions WHERE position = 0 AND split = 'eval'"


def test_diversity_of_critics_is_that_of_debates_that_went_on(ended):
    stage = StageKey(0, "eval", "multiagent", "sampled")
    with Store.open(ended.database, read_only=True) as store:
        found = read_responses(store, stage, "arithmetic", 2)
        [(first,)] = store.rows(
            "SELECT question_id FROM questions WHERE position = 0 AND split = 'eval'"
        )
    assert [len(found[role]) for role in ("generator", "critic")] == [6, 6]
    assert first not in {response.question_id for response in found["critic"]}


def test_report_and_viewer_are_told_that_a_debate_has_ended_early(ended):
    with Store.open(ended.database, read_only=True) as store:
        [(question,)] = store.rows(
            "SELECT question_id FROM questions WHERE position = 0 AND split = 'eval'"
        )
        debate = read_debate(store, StageKey(1, "eval", "multiagent", "sampled"), question)
        assert (len(debate.rounds), debate.left_out, debate.rounds[-1].vote.carried_from) == (
            1,
            1,
            None,
        )
        [arm] = read_arms(store)
        assert arm.early_end is True
