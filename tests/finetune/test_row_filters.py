"""Which of the trainable rows a dataset takes: by the margin of votes, by iteration, by novelty."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune.datasets import DatasetRules, derive_dataset, derive_datasets
from store.records import StoredArm, Turn, Verdict, Vote

RIGHT = (True, True)
CORRECTED = (False, True)
WRONG = (False, False)


def vote(question_id, votes, voters=3, *, iteration=1, arm="multiagent", answer="4"):
    """The vote of the last round."""
    stage = (iteration, "train", arm, "sampled", question_id)
    return Vote(*stage, 2, answer, votes, voters, False)


def rows_of(store, dataset):
    return dict(
        store.rows(
            "SELECT question_id, weight FROM dataset_examples WHERE dataset_id = ?",
            [dataset.dataset_id],
        )
    )


@pytest.fixture
def voted(store, debate_rows):
    """Nine questions with all agents right, and labels with a third to all of the votes."""
    for arm in ("multiagent", "twin"):
        store.write(*debate_rows({f"q{n}": [RIGHT, RIGHT, RIGHT] for n in range(9)}, arm))
        store.write(*[vote(f"q{n}", 1 + n % 3, arm=arm) for n in range(9)])
    return store


@pytest.mark.parametrize("role", ["generator", "critic"])
@pytest.mark.parametrize(
    ("margin", "taken"),
    [((0.6, 1), {1, 2}), ((0.3, 0.7), {0, 1}), ((1, 1), {2}), ((0, 0.1), set())],
)
def test_labels_within_the_margin_are_learnt(voted, role, margin, taken):
    found = derive_dataset(voted, 1, "multiagent", 1, role, DatasetRules(margin=margin))
    assert {int(question[1:]) % 3 for question in rows_of(voted, found)} == taken
    assert found.examples == 3 * len(taken)


def test_rows_weigh_by_their_share_of_votes(voted):
    rules = DatasetRules(margin_weights=True)
    weighed = derive_dataset(voted, 1, "multiagent", 1, "generator", rules)
    weights = rows_of(voted, weighed)
    assert [weights[f"q{n}"] for n in range(3)] == pytest.approx([0.5, 1, 1.5])
    assert sum(weights.values()) == pytest.approx(9)
    rules = DatasetRules(margin_weights=True, repeat=True)
    repeated = derive_dataset(voted, 1, "twin", 1, "generator", rules)
    assert repeated.examples == 3 * (1 + 2 + 3)
    assert "9 conversations come as 18 rows" in str(repeated.note)


def test_both_kinds_of_weights_together_keep_the_share(store, debate_rows):
    marks = {f"q{n}": [CORRECTED if n < 3 else RIGHT, RIGHT, RIGHT] for n in range(12)}
    store.write(*debate_rows(marks), *[vote(f"q{n}", 2 + n % 2) for n in range(12)])
    rules = DatasetRules(w=0.5, margin_weights=True)
    weights = rows_of(store, derive_dataset(store, 1, "multiagent", 1, "critic", rules))
    assert sum(weights[f"q{n}"] for n in range(3)) == pytest.approx(6)
    assert sum(weights.values()) == pytest.approx(12)


def test_earlier_iterations_are_learnt_again_by_the_newest_labels(store, debate_rows):
    for iteration, names in ((1, "ab"), (2, "bc"), (3, "cd")):
        rows = debate_rows({name: [RIGHT] for name in names}, iteration=iteration)
        # Another response each time: equal rows would count once.
        turns = [replace(r, response=f"{r.response} {iteration}") for r in rows[::2]]
        store.write(*turns, *[Verdict(turn.turn_id, True, None) for turn in turns])
    # The label of c was another one in iteration 2.
    labels = [(1, "a", "4"), (1, "b", "4"), (2, "b", "4"), (2, "c", "9"), (3, "c", "4")]
    store.write(*[vote(name, 1, 1, iteration=k, answer=answer) for k, name, answer in labels])
    store.write(vote("d", 1, 1, iteration=3))

    def taken(replay, arm="multiagent", **more):
        rules = DatasetRules(replay=replay, **more)
        dataset = derive_dataset(store, 3, arm, 1, "generator", rules)
        store.transact(lambda c: c.execute("DELETE FROM datasets"))
        found = store.rows(
            "SELECT t.iteration, t.question_id FROM dataset_examples JOIN turns t USING (turn_id) "
            "WHERE dataset_id = ? ORDER BY ALL",
            [dataset.dataset_id],
        )
        store.transact(lambda c: c.execute("DELETE FROM dataset_examples"))
        return found

    assert taken(0) == [(3, "c"), (3, "d")]
    assert taken(1) == [(2, "b"), (3, "c"), (3, "d")]
    assert taken(9) == [(1, "a"), (1, "b"), (2, "b"), (3, "c"), (3, "d")]
    # Half of the questions, the same in every iteration.
    half = taken(9, replay_share=0.5)
    assert set(taken(0)) <= set(half) <= set(taken(9))
    assert ((1, "b") in half) == ((2, "b") in half)


def test_equal_rows_of_two_iterations_count_once(store, debate_rows):
    for iteration in (1, 2):
        store.write(*debate_rows({"q": [RIGHT]}, iteration=iteration))
        store.write(vote("q", 1, 1, iteration=iteration))
    dataset = derive_dataset(store, 2, "multiagent", 1, "critic", DatasetRules(replay=1))
    assert dataset.examples == 1
    [(iteration,)] = store.rows(
        "SELECT iteration FROM dataset_examples JOIN turns USING (turn_id) WHERE dataset_id = ?",
        [dataset.dataset_id],
    )
    assert iteration == 2


def test_labels_of_gold_stay_when_they_are_replayed(store, debate_rows):
    store.write(StoredArm("star", 0, "star", "gold", "{}"))
    for iteration, answer in ((1, "5"), (2, "4")):
        rows = debate_rows({"q": [(True,)]}, "star", iteration)
        turn = replace(rows[0], response=f"said in {iteration}")
        store.write(turn, Verdict(turn.turn_id, True, True))
        store.write(vote("q", 1, 1, iteration=iteration, arm="star", answer=answer))
    dataset = derive_dataset(store, 2, "star", 1, "generator", DatasetRules(replay=1))
    assert dataset.examples == 2


def test_the_most_unlike_answers_are_kept(store, debate_rows):
    said = {
        # Per question: agents 1 and 2 say the same, agent 3 another thing, at other lengths.
        "short": ["4 and 5 is 9", "4 and 5 is 9", "nine it is"],
        "long": ["word " * 50 + "a b c"] * 2 + ["term " * 50 + "x y z"],
        # Agent 1 is the odd one here.
        "odd": ["quite another way", "the usual way here", "the usual way here"],
        # Nobody else has come to the label.
        "alone": ["mine", "", ""],
    }
    made = debate_rows({name: [(True,)] * 3 for name in said})
    turns = [
        replace(turn, response=said[turn.question_id][turn.agent - 1])
        for turn in made
        if isinstance(turn, Turn) and said[turn.question_id][turn.agent - 1]
    ]
    store.write(*turns, *[Verdict(turn.turn_id, True, None) for turn in turns])
    owners = [(agent, "generator") for agent in (1, 2, 3)]
    rules = DatasetRules(novelty=0.5)
    built = derive_datasets(store, 1, "multiagent", owners, rules)
    taken = {agent: set(rows_of(store, dataset)) for (agent, _), dataset in built.items()}
    assert taken[1] == {"alone", "odd"}
    assert len(taken[2]) == 2
    assert taken[3] == {"short", "long"}
    assert derive_datasets(store, 1, "multiagent", owners, rules) == built


def test_critics_may_learn_first_answers_too(store, debate_rows):
    marks = {"kept": [RIGHT], "corrected": [CORRECTED], "lost": [(True, False)], "wrong": [WRONG]}
    store.write(*debate_rows(marks))
    owners = [(1, "generator"), (1, "critic")]
    rules = DatasetRules(first_answers=True, max_examples=3)
    built = derive_datasets(store, 1, "multiagent", owners, rules)
    assert built[1, "generator"].examples == 2
    critic = built[1, "critic"]
    assert (critic.examples, critic.corrected, critic.kept) == (3, 1, 2)
    rounds = store.rows("SELECT dataset_id, round FROM dataset_examples JOIN turns USING (turn_id)")
    assert {round for name, round in rounds if "generator" in name} == {1}
