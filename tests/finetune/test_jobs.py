from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from finetune.datasets import DatasetRules, derive_datasets
from finetune.errors import JobChanged, SubmissionUnknown, TuningStopped
from finetune.jobs import KeptModel, TuningFailed, TuningPlan, tune_models
from providers.base import Provider
from providers.errors import (
    AmbiguousSubmission,
    AuthenticationFailed,
    BadRequest,
    InvalidTrainingData,
    Overloaded,
    Unsupported,
)
from providers.types import (
    Capabilities,
    FinetuneSpec,
    Hyperparameters,
    JobHandle,
    JobState,
    ModelRef,
)
from store.ledger import Store
from tests.finetune.vendor import BASE, FAST, Connection, Crash, Vendor

OWNERS = [(agent, role) for role in ("generator", "critic") for agent in (1, 2)]


@pytest.fixture
def plans(store, debate_rows):
    marks = [(True, True), (False, True), (True, True)]
    store.write(*debate_rows({f"q{n}": [marks[n % 3], marks[(n + 1) % 3]] for n in range(9)}))
    datasets = derive_datasets(store, 1, "multiagent", OWNERS, DatasetRules("sample"))
    return [
        TuningPlan("demo", 1, "multiagent", *owner, BASE, datasets[owner], Hyperparameters())
        for owner in OWNERS
    ]


def run(store, plans, provider, **options):
    assert isinstance(provider, Provider)
    providers = {BASE.address: provider}
    tuned = asyncio.run(
        tune_models(providers=providers, store=store, plans=plans, polling=FAST, **options)
    )
    return tuned["multiagent"]


def test_every_model_is_tuned_and_leads_back_to_its_data(store, plans):
    vendor, news = Vendor(), []
    tuned = run(store, plans, Connection(vendor), on_progress=news.append)
    assert list(tuned) == OWNERS
    assert tuned.kept == ()
    assert sorted(vendor.submitted) == sorted(plan.spec(store).name for plan in plans)
    for plan in plans:
        name = plan.spec(store).name
        assert name == (f"demo-multiagent-a{plan.agent}-{plan.role}-it1-{plan.dataset.sha256[:8]}")
        model = store.model(tuned[plan.owner].model_id)
        assert model is not None
        assert (model.parent_id, model.dataset_id, model.job_id) == (
            "base",
            plan.dataset.dataset_id,
            name,
        )
        assert (model.iteration, model.arm, model.agent, model.role) == (
            (1, "multiagent", *plan.owner)
        )
        assert model.sha256 == plan.spec(store).digest
        assert tuned[plan.owner] == ModelRef(model.model_id, model.provider, model.artifact)
        job = store.job(name)
        assert job is not None
        assert (job.status, job.raw_status, job.trained_tokens) == ("succeeded", "done", 123)
        assert job.provider_job_id == f"vendor-{name}"
        assert job.finished_at is not None
        assert [point.step for point in store.training_points(name)] == [1, 2, 3]
    assert store.model("base") is not None
    assert store.rows(
        "SELECT count(*) FROM models AS m LEFT JOIN models AS p ON p.model_id = m.parent_id "
        "LEFT JOIN datasets AS d ON d.dataset_id = m.dataset_id "
        "LEFT JOIN jobs AS j ON j.job_id = m.job_id "
        "WHERE m.job_id IS NOT NULL AND (p.model_id IS NULL OR d.dataset_id IS NULL "
        "OR j.job_id IS NULL)"
    ) == [(0,)]
    mine = [item.status for item in news if (item.agent, item.role) == (1, "critic")]
    assert mine[0] == "intent"
    assert mine[-1] == "succeeded"
    assert max(item.loss for item in news if item.loss) == 1.0


def test_tuning_again_asks_the_provider_for_nothing(store, plans):
    vendor = Vendor()
    first = run(store, plans, Connection(vendor))
    nothing = {call: [AssertionError(call)] for call in ("submit", "find", "poll")}
    again = run(store, plans, Connection(vendor, trouble=nothing))
    assert again == first
    assert len(vendor.submitted) == 4


@pytest.mark.parametrize(
    "trouble",
    [
        {"find": [Crash()]},
        {"submit": [Crash()]},
        {"submitted": [Crash()]},
        {"poll": [Crash()]},
        {"poll": [None, None, Crash()]},
        {"poll": [None] * 8 + [Crash()]},
    ],
)
def test_a_crash_anywhere_is_resumed_without_submitting_twice(store, plans, trouble):
    vendor = Vendor()
    with pytest.raises(Crash):
        run(store, plans, Connection(vendor, trouble=trouble))
    path = store.path
    store.close()
    with Store.open(path) as reopened:
        tuned = run(reopened, plans, Connection(vendor))
        assert len(tuned) == 4
        assert len(vendor.submitted) == len(set(vendor.submitted)) == 4
        assert {job.status for job in reopened.jobs()} == {"succeeded"}
        assert len(reopened.models(1)) == 4


def test_the_intent_is_stored_before_anything_is_submitted(store, plans):
    seen = []

    class Watching(Connection):
        async def submit(self, spec: FinetuneSpec) -> JobHandle:
            job = store.job(spec.name)
            seen.append((job.status, job.digest == spec.digest, job.provider_job_id))
            return await super().submit(spec)

    run(store, plans, Watching(Vendor()))
    assert seen == [("intent", True, None)] * 4


def test_an_interrupted_job_of_a_provider_that_forgets_is_submitted_again(store, plans):
    vendor = Vendor()
    with pytest.raises(Crash):
        run(store, plans[:1], Connection(vendor, trouble={"poll": [None, Crash()]}))
    (job,) = store.jobs()
    assert job.status == "running"

    class Forgetful(Connection):
        async def find(self, spec: FinetuneSpec) -> JobHandle | None:
            return None

        async def poll(self, handle: JobHandle) -> JobState:
            if handle.name not in self.vendor.jobs:
                return JobState("failed", "lost", error="not known here")
            return await super().poll(handle)

    restarted = Vendor()
    run(store, plans[:1], Forgetful(restarted))
    assert restarted.submitted == vendor.submitted
    assert [job.status for job in store.jobs()] == ["succeeded"]


def test_a_job_that_the_provider_lists_late_is_adopted_by_its_id(store, plans):
    vendor = Vendor()
    with pytest.raises(Crash):
        run(store, plans[:1], Connection(vendor, trouble={"poll": [None, Crash()]}))

    class Late(Connection):
        async def find(self, spec: FinetuneSpec) -> JobHandle | None:
            return None

    run(store, plans[:1], Late(vendor))
    assert len(vendor.submitted) == 1


def test_an_ambiguous_submission_is_looked_for_and_adopted(store, plans):
    vendor = Vendor()
    trouble: dict[str, list[BaseException | None]] = {"submitted": [AmbiguousSubmission("reset")]}
    tuned = run(store, plans, Connection(vendor, trouble=trouble))
    assert len(tuned) == 4
    assert len(vendor.submitted) == 4


def test_an_unknown_outcome_stops_and_is_never_sent_again_blindly(store, plans):
    vendor = Vendor()
    provider = Connection(vendor, trouble={"submit": [AmbiguousSubmission("connection reset")]})
    with pytest.raises(TuningFailed, match=r"it is unknown whether job demo.*reset") as error:
        run(store, plans[:1], provider)
    assert isinstance(error.value.__cause__, SubmissionUnknown)
    assert vendor.submitted == []
    (job,) = store.jobs()
    assert (job.status, job.raw_status) == ("intent", "ambiguous")
    vendor.jobs[job.job_id] = plans[0].spec(store)
    tuned = run(store, plans[:1], Connection(vendor))
    assert len(tuned) == 1
    assert vendor.submitted == []


@pytest.mark.parametrize("failures", [1, 2])
def test_what_settles_to_be_absent_is_submitted_again(store, plans, failures):
    vendor = Vendor()
    unknown: list[BaseException | None] = [AmbiguousSubmission("503", settles_in_s=0.01)]
    tuned = run(store, plans[:1], Connection(vendor, trouble={"submit": unknown * failures}))
    assert len(tuned) == len(vendor.submitted) == 1
    assert [job.status for job in store.jobs()] == ["succeeded"]


def test_submitting_again_and_again_ends(store, plans):
    vendor = Vendor()
    unknown: list[BaseException | None] = [AmbiguousSubmission("503", settles_in_s=0.01)] * 3
    with pytest.raises(TuningFailed, match=r"it is unknown whether job demo.*503"):
        run(store, plans[:1], Connection(vendor, trouble={"submit": unknown}))
    assert vendor.submitted == []


@pytest.mark.parametrize("seen_after", [1, 4])
def test_a_lagging_list_makes_no_second_job(store, plans, seen_after):
    lagging = replace(Connection(Vendor()).capabilities, listing_lag_s=0.01)

    class Lagging(Connection):
        looks = 0

        async def find(self, spec: FinetuneSpec) -> JobHandle | None:
            type(self).looks += bool(self.vendor.jobs)
            return None if self.looks <= seen_after else await super().find(spec)

    vendor = Vendor()
    with pytest.raises(Crash):
        run(store, plans[:1], Connection(vendor, trouble={"submitted": [Crash()]}))
    assert [job.provider_job_id for job in store.jobs()] == [None]
    tuned = run(store, plans[:1], Lagging(vendor, capabilities=lagging))
    assert len(tuned) == len(vendor.submitted) == 1

    vendor = Vendor()
    unknown: list[BaseException | None] = [AmbiguousSubmission("503", settles_in_s=0.01)]
    Lagging.looks = 0
    run(store, [replace(plans[1], run="b")], Lagging(vendor, trouble={"submitted": unknown}))
    assert len(vendor.submitted) == 1


@pytest.mark.parametrize("on_failure", ["stop", "keep"])
def test_what_has_run_out_stops_and_the_rerun_trains(store, plans, on_failure):
    class Full(Connection):
        async def poll(self, handle: JobHandle) -> JobState:
            if handle.name.endswith(plans[0].dataset.sha256[:8]):
                return JobState("failed", "failed", error="the disk is full", fatal=True)
            return await super().poll(handle)

    vendor = Vendor()
    with pytest.raises(TuningFailed, match="disk is full; then run again") as error:
        run(store, plans, Full(vendor), on_failure=on_failure)
    assert isinstance(error.value.__cause__, TuningStopped)
    assert "keep" not in str(error.value)
    assert len(store.models(1)) == 3
    again = run(store, plans, Full(vendor), on_failure=on_failure)
    assert again.kept == ()
    assert len(store.models(1)) == 4


def test_a_failed_job_lets_the_others_finish_and_is_named(store, plans):
    vendor = Vendor(fail={plans[3].spec(store).name: "loss is not a number"})
    with pytest.raises(TuningFailed) as error:
        run(store, plans, Connection(vendor))
    message = str(error.value)
    assert "agent 2, critic, iteration 1 of multiagent" in message
    assert "loss is not a number" in message
    assert "run again" in message
    assert len(store.models(1)) == 3
    (failed,) = [job for job in store.jobs() if job.status == "failed"]
    assert (failed.agent, failed.role, failed.error) == (2, "critic", "loss is not a number")


def test_running_again_makes_a_new_attempt_of_the_failed_job_only(store, plans):
    vendor = Vendor(fail={plans[3].spec(store).name: "out of quota"})
    with pytest.raises(TuningFailed):
        run(store, plans, Connection(vendor))
    tuned = run(store, plans, Connection(vendor))
    assert len(tuned) == 4
    assert vendor.submitted[4:] == [f"{plans[3].spec(store).name}-try2"]
    assert len(store.models(1)) == 4
    assert sorted(job.status for job in store.jobs()) == ["failed"] + ["succeeded"] * 4
    assert run(store, plans, Connection(vendor)) == tuned
    assert len(vendor.submitted) == 5


def test_refused_data_is_a_failed_job(store, plans):
    trouble: dict[str, list[BaseException | None]] = {"submit": [InvalidTrainingData("line 3")]}
    with pytest.raises(TuningFailed, match="line 3"):
        run(store, plans, Connection(Vendor(), trouble=trouble))
    assert sorted(job.status for job in store.jobs()) == ["failed"] + ["succeeded"] * 3


def test_passing_troubles_while_polling_are_waited_out(store, plans):
    trouble = {"poll": [None, Overloaded("busy"), Overloaded("busy"), None]}
    assert len(run(store, plans, Connection(Vendor(), trouble=trouble))) == 4
    with pytest.raises(Overloaded):
        run(
            store,
            [replace(plans[0], run="other")],
            Connection(Vendor(), trouble={"poll": [Overloaded("busy")] * 10}),
        )


def test_what_is_fatal_for_the_run_stops_it(store, plans):
    trouble: dict[str, list[BaseException | None]] = {"submit": [AuthenticationFailed("no key")]}
    with pytest.raises(AuthenticationFailed):
        run(store, plans, Connection(Vendor(), trouble=trouble))


def test_too_few_examples_keep_the_old_model_and_say_so(store, plans):
    news = []
    capabilities = Capabilities(
        finetune=True, score=False, sampling_seed=False, min_examples=7, max_parallel_jobs=2
    )
    counts = {plan.owner: plan.dataset.examples for plan in plans}
    assert counts == {
        (1, "generator"): 6,
        (2, "generator"): 6,
        (1, "critic"): 6,
        (2, "critic"): 6,
    }
    vendor = Vendor()
    provider = Connection(vendor, capabilities=capabilities)
    tuned = run(store, plans, provider, on_progress=news.append)
    assert set(tuned.values()) == {BASE}
    assert tuned.kept[0] == KeptModel(1, "generator", "6 examples, the provider needs 7")
    assert vendor.submitted == []
    assert {(job.status, job.error) for job in store.jobs()} == {
        ("skipped", "6 examples, the provider needs 7")
    }
    assert {item.reason for item in news} == {"6 examples, the provider needs 7"}


def test_no_more_jobs_at_a_time_than_the_provider_allows(store, plans):
    provider = Connection(Vendor())
    run(store, plans, provider)
    assert provider.most_active == 2


def test_a_job_described_otherwise_is_refused(store, plans):
    run(store, plans, Connection(Vendor()))
    changed = replace(plans[0], hyperparameters=Hyperparameters(epochs=9))
    with pytest.raises(JobChanged, match="agent 1, generator"):
        run(store, [changed], Connection(Vendor()))


@pytest.mark.parametrize("forgotten", [True, False])
def test_an_interrupted_job_gets_other_settings_only_where_it_is_gone(store, plans, forgotten):
    vendor = Vendor()
    with pytest.raises(Crash):
        run(store, plans[:1], Connection(vendor, trouble={"poll": [None, Crash()]}))
    changed = replace(plans[0], hyperparameters=Hyperparameters(epochs=9))

    class Forgetful(Connection):
        async def poll(self, handle: JobHandle) -> JobState:
            if handle.name not in self.vendor.jobs:
                return JobState("failed", "lost", error="not known here")
            return await super().poll(handle)

    later = Vendor() if forgotten else vendor
    tuned = run(store, [changed], Forgetful(later))
    assert len(tuned) == 1
    trained = {job.status: json.loads(job.settings or "{}") for job in store.jobs()}
    assert trained["succeeded"]["hyperparameters"]["epochs"] == (9 if forgotten else 2)
    assert sorted(trained) == (["cancelled", "succeeded"] if forgotten else ["succeeded"])
    assert len(vendor.submitted) == 1


def test_a_provider_that_cannot_tune_says_so(store, plans):
    provider = Connection(
        Vendor(), capabilities=Capabilities(finetune=False, score=False, sampling_seed=False)
    )
    with pytest.raises(Unsupported, match="vendor:base"):
        run(store, plans, provider)


def test_weights_go_to_no_provider_that_ignores_them(store, debate_rows):
    debates = {"q1": [(True, True)], "q2": [(False, True)], "q3": [(True, True)]}
    for arm, repeat in (("weighted", False), ("repeated", True)):
        store.write(*debate_rows(debates, arm))
        rules = DatasetRules(w=0.5, repeat=repeat)
        dataset = derive_datasets(store, 1, arm, [(1, "critic")], rules)[1, "critic"]
        plan = TuningPlan("demo", 1, arm, 1, "critic", BASE, dataset, Hyperparameters())
        tuning = tune_models(
            providers={BASE.address: Connection(Vendor())},
            store=store,
            plans=[plan],
            polling=FAST,
        )
        if repeat:
            assert asyncio.run(tuning)[arm].kept == ()
            continue
        with pytest.raises(Unsupported, match="vendor:base takes no weights, and dataset weighted"):
            asyncio.run(tuning)


def test_told_to_keep_the_old_model_a_failure_is_final_and_the_others_go_on(store, plans):
    name = plans[3].spec(store).name
    vendor = Vendor(fail={name: "moderation"})
    tuned = run(store, plans, Connection(vendor), on_failure="keep")
    assert tuned[plans[3].owner] == BASE
    [kept] = tuned.kept
    assert (kept.agent, kept.role) == (2, "critic")
    assert "moderation" in kept.reason
    assert sum(model != BASE for model in tuned.values()) == 3
    assert {job.job_id: job.status for job in store.jobs() if name in job.job_id} == {
        name: "failed",
        f"{name}-kept": "skipped",
    }
    vendor.fail.clear()
    for on_failure in ("keep", "stop"):
        assert run(store, plans, Connection(vendor), on_failure=on_failure) == tuned
    assert len(vendor.submitted) == 4


def test_told_to_keep_the_old_model_refused_data_do_not_stop_the_run(store, plans):
    trouble: dict[str, list[BaseException | None]] = {"submit": [BadRequest("line 3")]}
    tuned = run(store, plans, Connection(Vendor(), trouble=trouble), on_failure="keep")
    assert [("line 3" in kept.reason) for kept in tuned.kept] == [True]


def test_told_to_keep_the_old_model_an_unknown_outcome_still_stops(store, plans):
    trouble: dict[str, list[BaseException | None]] = {"submit": [AmbiguousSubmission("reset")]}
    with pytest.raises(TuningFailed, match="it is unknown whether"):
        run(store, plans[:1], Connection(Vendor(), trouble=trouble), on_failure="keep")


def test_a_refused_request_is_a_failed_job_and_the_others_finish(store, plans):
    trouble: dict[str, list[BaseException | None]] = {"submit": [BadRequest("n_epochs")]}
    with pytest.raises(TuningFailed, match="n_epochs"):
        run(store, plans, Connection(Vendor(), trouble=trouble))
    assert len(store.models(1)) == 3


def test_validation_data_need_a_provider_that_takes_them(store, plans):
    measured = [replace(plan, validation_share=0.5) for plan in plans]
    with pytest.raises(Unsupported, match="validation_share = 0"):
        run(store, measured, Connection(Vendor()))


def test_the_minimum_counts_what_is_learnt(store, plans):
    capabilities = Capabilities(
        finetune=True, score=False, sampling_seed=False, min_examples=6, validation=True
    )
    measured = [replace(plan, validation_share=0.5) for plan in plans]
    learnt = len(measured[0].spec(store).examples)
    assert 0 < learnt < 6
    tuned = run(store, measured, Connection(Vendor(), capabilities=capabilities))
    assert tuned.kept[0].reason == f"{learnt} examples, the provider needs 6"
