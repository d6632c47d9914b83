"""The arms of a stored run, and the one rule that says which of them is the main one."""

import json

import pytest

from evals.arm_kinds import ARM_KINDS
from evals.stored_run import choose_main_arm, find_main_arm, find_untuned_twin, read_arms
from store.ledger import Store
from store.reader import open_reader
from store.records import StoredArm

CHOICES = [
    (["star", "multiagent", "majority"], "multiagent"),
    (["base", "star", "majority"], "star"),
    (["base", "majority"], "base"),
    (["star", ("five-agents", "multiagent")], "five-agents"),
    ([("five-agents", "multiagent"), "multiagent"], "multiagent"),
    (["base", ("untrained", "multiagent", 0)], "base"),
]


@pytest.fixture
def database(tmp_path):
    return tmp_path / "run.duckdb"


def _row(position, entry):
    name, kind, iterations = (
        (entry, entry, 1) if isinstance(entry, str) else (*entry, 1)[:3]
    )  # fmt: skip
    labels = ARM_KINDS[kind].labels
    return StoredArm(name, position, kind, labels, json.dumps({"iterations": iterations}))


@pytest.mark.parametrize(("entries", "main"), CHOICES)
def test_the_main_arm_is_the_trained_society_or_the_first_trained_arm(database, entries, main):
    with Store.open(database) as store:
        store.write(*(_row(position, entry) for position, entry in enumerate(entries)))
        assert choose_main_arm(read_arms(store)).name == main
        assert find_main_arm(store) == main
    with open_reader(database) as reader:
        assert find_main_arm(reader) == main


def test_a_database_without_a_run_has_no_arms(database):
    with Store.open(database) as store:
        assert read_arms(store) == []
        assert find_main_arm(store) == "multiagent"


def test_the_untuned_twin_of_the_main_arm_is_the_debate_of_the_same_shape(database):
    with Store.open(database) as store:
        shape = json.dumps({"agents": 3, "rounds": 2, "others": "quoted", "iterations": 1})
        store.write(
            StoredArm("star", 0, "star", "gold", "{}"),
            StoredArm("multiagent", 1, "multiagent", "final", shape),
            StoredArm("two-agents", 2, "debate", None, json.dumps({"agents": 2})),
            StoredArm("debate", 3, "debate", None, shape),
        )
        arms = read_arms(store)
    twin = find_untuned_twin(arms)
    assert twin is not None
    assert twin.name == "debate"
    assert find_untuned_twin(arms[:3]) is None
