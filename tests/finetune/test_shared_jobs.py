"""Plans of several arms that describe the same training: one job, submitted once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from finetune.datasets import DatasetRules, derive_datasets
from finetune.jobs import TuningPlan, tune_models
from providers.types import Hyperparameters, ModelRef
from store.records import Turn, Verdict
from tests.finetune.vendor import BASE, FAST, Connection, Crash, Vendor

ARMS = ("multiagent", "no-critic")
OWNERS = [(1, "generator"), (2, "generator")]


@pytest.fixture
def plans(store, debate_rows):
    """Two arms whose debates are the same turns, and what follows from them."""
    rows = debate_rows({f"q{n}": [(n % 3 > 0, True), (n % 2 > 0, True)] for n in range(9)})
    store.write(*rows)
    for row in rows:
        if isinstance(row, Turn):
            twin = replace(row, arm="no-critic", shared_turn_id=row.turn_id)
            store.write(twin, Verdict(twin.turn_id, row.answer == "4", None))
    return [
        TuningPlan("demo", 1, arm, *owner, BASE, datasets[owner], Hyperparameters())
        for arm in ARMS
        for datasets in [derive_datasets(store, 1, arm, OWNERS, DatasetRules())]
        for owner in OWNERS
    ]


def run(store, plans, provider, **options):
    return asyncio.run(
        tune_models(
            providers={BASE.address: provider}, store=store, plans=plans, polling=FAST, **options
        )
    )


def test_shared_turns_make_equal_datasets_in_the_same_order(store, plans):
    first, _, twin, _ = (plan.dataset for plan in plans)
    assert first.sha256 == twin.sha256
    assert first.examples == 6


def test_equal_training_is_submitted_once_and_both_arms_have_its_model(store, plans):
    vendor = Vendor()
    tuned = run(store, plans, Connection(vendor))
    assert sorted(name.split("-it")[0] for name in vendor.submitted) == [
        "demo-multiagent-a1-generator",
        "demo-multiagent-a2-generator",
    ]
    assert dict(tuned["no-critic"]) == dict(tuned["multiagent"])
    jobs = {(job.arm, job.agent): job for job in store.jobs(1)}
    for agent in (1, 2):
        follower, leader = jobs["no-critic", agent], jobs["multiagent", agent]
        assert follower.shared_job_id == leader.job_id
        assert (follower.status, follower.provider_job_id) == ("succeeded", None)
    before = store.jobs(1)
    assert {arm: dict(t) for arm, t in run(store, plans, Connection(vendor)).items()} == {
        arm: dict(t) for arm, t in tuned.items()
    }
    assert store.jobs(1) == before
    assert len(vendor.submitted) == 2


def test_other_data_start_or_settings_are_other_jobs(store, plans):
    first, second = plans[0], plans[2]
    other = ModelRef("other", BASE.address, "ft:other")
    for changed in (
        replace(second, start=other),
        replace(second, hyperparameters=Hyperparameters(epochs=3)),
        replace(second, seed=1),
        replace(second, agent=2),
    ):
        assert first.training_key == second.training_key != changed.training_key


def test_a_crash_between_the_two_arms_submits_nothing_again(store, plans):
    vendor = Vendor()
    with pytest.raises(Crash):
        run(store, plans, Connection(vendor, trouble={"poll": [None] * 4 + [Crash()]}))
    tuned = run(store, plans, Connection(vendor))
    assert len(vendor.submitted) == 2
    assert dict(tuned["no-critic"]) == dict(tuned["multiagent"])


def test_where_the_first_arm_keeps_its_old_model_the_other_does_too(store, plans):
    vendor = Vendor(fail={plans[0].spec(store).name: "no"})
    tuned = run(store, plans, Connection(vendor), on_failure="keep")
    assert {(kept.agent, kept.role) for kept in tuned["no-critic"].kept} == {(1, "generator")}
    assert tuned["no-critic"][1, "generator"] == BASE
    assert len(vendor.submitted) == 2
