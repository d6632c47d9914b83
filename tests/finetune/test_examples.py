"""The part of a dataset that is measured and not trained."""

from __future__ import annotations

import pytest

from finetune.datasets import DatasetRules, derive_datasets
from finetune.examples import StoredExamples, is_held_out, split_dataset
from finetune.jobs import TuningPlan
from providers.types import Hyperparameters, ModelRef

BASE = ModelRef("base", "vendor:base")
OWNERS = [(agent, role) for role in ("generator", "critic") for agent in (1, 2)]


@pytest.fixture
def datasets(store, debate_rows):
    marks = [(True, True), (False, True), (True, True)]
    store.write(*debate_rows({f"q{n}": [marks[n % 3], marks[(n + 1) % 3]] for n in range(60)}))
    return derive_datasets(store, 1, "multiagent", OWNERS, DatasetRules())


def questions(examples):
    return {example.messages[0].content.split()[0] for example in examples}


def test_every_conversation_is_on_exactly_one_side(store, datasets):
    for dataset in datasets.values():
        parts = split_dataset(store, dataset, 0.25)
        trained, measured = list(parts.trained), list(parts.measured)
        assert (len(parts.trained), len(parts.measured)) == (len(trained), len(measured))
        assert 0 < len(measured) < len(trained)
        whole = list(StoredExamples(store, dataset))
        assert len(whole) == len(trained) + len(measured)
        assert [example for example in whole if example in trained] == trained
        assert [example for example in whole if example in measured] == measured


def test_what_one_model_is_measured_on_no_other_learns(store, datasets):
    sides = [split_dataset(store, dataset, 0.25) for dataset in datasets.values()]
    trained = set().union(*(questions(parts.trained) for parts in sides))
    measured = set().union(*(questions(parts.measured) for parts in sides))
    assert trained.isdisjoint(measured)


def test_the_share_is_that_of_the_questions():
    count = sum(is_held_out(f"question {n}", 0.2) for n in range(10_000))
    assert 1_850 < count < 2_150
    assert not any(is_held_out(f"question {n}", 0.0) for n in range(100))


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_that_leaves_nothing_is_refused(store, datasets, share):
    with pytest.raises(ValueError, match=str(share)):
        split_dataset(store, datasets[1, "generator"], share)


def test_a_job_without_validation_data_is_described_as_before(store, datasets):
    def plan(share):
        dataset = datasets[1, "generator"]
        hyperparameters = Hyperparameters()
        return TuningPlan(
            "demo", 1, "multiagent", 1, "generator", BASE, dataset, hyperparameters, 0, share
        )

    plain, some, more = (plan(share).spec(store) for share in (0.0, 0.1, 0.3))
    assert (len(plain.validation), plain.validation_sha256) == (0, None)
    assert len(some.validation) > 0
    assert len({plain.digest, some.digest, more.digest}) == 3
    assert plan(0.1).spec(store).digest == some.digest
