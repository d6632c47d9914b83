"""Datasets of preferences: which turns their rows name, and what a model is shown of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune.datasets import DatasetRules, derive_datasets
from finetune.errors import DatasetChanged, DatasetDamaged
from finetune.examples import StoredExamples
from tests.finetune.conftest import conversation

RIGHT, WRONG = True, False
DEBATES = {
    "mended": [(WRONG, WRONG, RIGHT), (RIGHT, RIGHT, RIGHT)],
    "spoiled": [(RIGHT, RIGHT, WRONG), (WRONG, WRONG, WRONG)],
    "kept": [(RIGHT, WRONG, RIGHT), (RIGHT, WRONG, WRONG)],
}
OWNERS = [(agent, role) for agent in (1, 2) for role in ("generator", "critic")]
PAIRS = DatasetRules(shape="pairs")


@pytest.fixture
def debated(store, debate_rows):
    store.write(*debate_rows(DEBATES))
    return store


def read(store, dataset):
    return {
        (e.messages[0].content.split()[0], len(e.messages), e.messages[-1].content, e.rejected)
        for e in StoredExamples(store, dataset)
    }


def test_a_generator_prefers_by_its_first_prompt_a_critic_by_its_last(debated):
    built = derive_datasets(debated, 1, "multiagent", OWNERS, PAIRS)
    assert read(debated, built[1, "generator"]) == {
        ("mended", 2, "mended/1/3", "mended/1/1"),
        ("spoiled", 2, "spoiled/1/1", "spoiled/1/3"),
    }
    assert read(debated, built[1, "critic"]) == {
        ("mended", 6, "mended/1/3", "mended/1/1"),
        ("spoiled", 6, "spoiled/1/1", "spoiled/1/3"),
    }
    assert read(debated, built[2, "critic"]) == {("kept", 6, "kept/2/1", "kept/2/3")}
    [example] = StoredExamples(debated, built[2, "critic"])
    sent = [(message.role, message.content) for message in example.messages[:-1]]
    assert sent == [(m["role"], m["content"]) for m in conversation("kept", 2, 3)]
    assert example.loss_on == (5,)
    critic = built[1, "critic"]
    assert (critic.examples, critic.corrected, critic.kept, critic.critics) == (2, None, None, None)


def test_feedback_says_of_every_answer_whether_it_is_wanted(debated):
    rules = DatasetRules(shape="feedback")
    built = derive_datasets(debated, 1, "multiagent", OWNERS, rules)
    told = {
        owner: {(e.messages[-1].content, e.wanted) for e in StoredExamples(debated, dataset)}
        for owner, dataset in built.items()
    }
    assert told[1, "generator"] == {
        ("mended/1/1", False),
        ("spoiled/1/1", True),
        ("kept/1/1", True),
    }
    assert told[2, "critic"] == {("mended/2/3", True), ("spoiled/2/3", False), ("kept/2/3", False)}


def test_pairs_of_all_agents_are_pooled_and_bounded(debated):
    pooled = derive_datasets(debated, 1, "multiagent", [(0, "critic")], PAIRS)[0, "critic"]
    assert {name for name, *_ in read(debated, pooled)} == {"mended", "spoiled", "kept"}
    matched = replace(PAIRS, matched=True)
    with pytest.raises(DatasetChanged):
        derive_datasets(debated, 1, "multiagent", [(0, "critic")], matched)
    [[stored]] = debated.rows("SELECT count(DISTINCT rejected_turn_id) FROM dataset_examples")
    assert stored == pooled.examples == 3


def test_other_preferences_of_the_same_turns_are_another_dataset(debated, debate_rows):
    built = derive_datasets(debated, 1, "multiagent", OWNERS, PAIRS)
    assert derive_datasets(debated, 1, "multiagent", OWNERS, PAIRS) == built
    for shape in ("answers", "feedback"):
        with pytest.raises(DatasetChanged):
            derive_datasets(debated, 1, "multiagent", OWNERS, replace(PAIRS, shape=shape))


def test_a_rejected_answer_that_was_changed_is_found(debated):
    built = derive_datasets(debated, 1, "multiagent", OWNERS, PAIRS)[2, "critic"]
    debated.transact(
        lambda connection: connection.execute(
            "UPDATE turns SET response = 'better' WHERE turn_id = "
            "(SELECT rejected_turn_id FROM dataset_examples WHERE dataset_id = ?)",
            [built.dataset_id],
        )
    )
    with pytest.raises(DatasetDamaged, match="was changed after it was stored"):
        list(StoredExamples(debated, built))
