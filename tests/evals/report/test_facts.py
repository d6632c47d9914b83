import json

import pytest

from evals import metrics, stored_run
from evals.report import facts, figures, seeds, sentences, tables
from evals.report.accuracies import AccuracyKey
from evals.report.figures.figure import ArmLine, DataPoint, Panel, align_panels
from evals.report.seeds import SameRun
from store import records
from store.records import StageKey


@pytest.fixture(scope="module")
def found(three_seeds) -> facts.ExperimentFacts:
    [experiment] = facts.collect_facts(three_seeds).experiments
    return experiment


def test_accuracies_are_those_of_the_view(three_seeds, found) -> None:
    rows = three_seeds[1].rows(
        "select if(task = 'harder', task, null), arm, iteration, decoding, measure, accuracy "
        "from accuracy "
        "where split = 'eval' and agent is null and (measure <> 'single' or round = 1)"
    )
    assert len(rows) > 100
    for task, arm, iteration, decoding, measure, value in rows:
        each = found.accuracies.by_key[
            AccuracyKey(StageKey(iteration, "eval", arm, decoding), task, measure)
        ]
        assert dict(each.seeds)[1] == pytest.approx(value)


def test_a_question_counts_once_however_many_seeds_ask_it(found) -> None:
    each = found.accuracies.find(StageKey(2, "eval", "multiagent", "sampled"), "consensus")
    assert each is not None
    assert [seed for seed, _ in each.seeds] == [0, 1, 2]
    assert each.rate.total == 16
    assert each.rate.value == pytest.approx(sum(value for _, value in each.seeds) / 3)


def test_a_copy_of_a_run_makes_no_interval_narrower_and_is_named(society_store) -> None:
    options = {"kinds": ("multiagent",), "questions": 8, "iterations": 1}
    stores = [society_store(name=name, **options) for name in ("one", "two")]
    [alone] = facts.collect_facts(stores[:1]).experiments
    [both] = facts.collect_facts(stores).experiments
    for key, each in alone.accuracies.by_key.items():
        if key.quantity == "consensus":
            assert both.accuracies.by_key[key].rate == each.rate
    assert "one, two have the same settings and the same seed" in " ".join(
        sentences.list_notices(both)
    )


def test_a_single_seed_has_the_views_own_interval(three_seeds) -> None:
    [alone] = facts.collect_facts(three_seeds[:1]).experiments
    [(low, high)] = three_seeds[0].rows(
        "select ci_low, ci_high from accuracy where arm = 'majority' and measure = 'consensus' "
        "and split = 'eval' and decoding = 'sampled' and task = 'arithmetic'"
    )
    each = alone.accuracies.find(StageKey(0, "eval", "majority", "sampled"), "consensus")
    assert each is not None
    assert (each.rate.low, each.rate.high) == pytest.approx((low, high))


def test_the_society_is_compared_with_every_arm_at_its_last_iteration(found) -> None:
    votes = found.verdicts[0]
    assert (votes.measure, votes.decoding, votes.task) == ("consensus", "sampled", None)
    assert [
        (each.other, each.comparison.a.stage.iteration, each.comparison.b.stage.iteration)
        for each in votes.verdicts
    ] == [
        ("multiagent", 2, 0),
        ("single-agent", 2, 2),
        ("single-agent-matched", 2, 2),
        ("no-critic", 2, 2),
        ("star", 2, 2),
        ("majority", 2, 0),
        ("base", 2, 0),
    ]
    assert [each.untuned for each in votes.verdicts] == [True] + [False] * 6
    for each in votes.verdicts:
        assert len(each.comparison.runs) == 3
        assert each.p_value >= each.comparison.p_value
    assert {each.measure for each in found.verdicts} == {"consensus", "single"}
    assert {each.task for each in found.verdicts} == {None, "harder"}


def test_a_single_agents_interval_is_that_of_the_view_and_the_summary(three_seeds) -> None:
    store = three_seeds[0]
    [experiment] = facts.collect_facts([store]).experiments
    for row in metrics.read_society_accuracies(store):
        for measure in metrics.MEASURES:
            found = experiment.accuracies.find(
                StageKey(row.iteration, "eval", "multiagent", row.decoding), measure
            )
            [(low, high, value)] = store.rows(
                "select ci_low, ci_high, accuracy from accuracy where arm = 'multiagent' "
                "and split = 'eval' and agent is null and task = 'arithmetic' and measure = ? "
                "and iteration = ? and decoding = ? order by round limit 1",
                [measure, row.iteration, row.decoding],
            )
            rate = row.rate(measure)
            assert (rate.low, rate.high, rate.value) == pytest.approx((low, high, value))
            assert (found.rate.low, found.rate.high) == pytest.approx((low, high))


def test_better_is_said_only_where_test_and_interval_agree(found) -> None:
    for verdicts in found.verdicts:
        for each in verdicts.verdicts:
            change = each.comparison.by_question
            if each.outcome == "better":
                assert change.low > 0
                assert each.p_value < 0.05
            if each.outcome == "worse":
                assert change.high < 0


def test_an_untuned_debate_takes_the_place_of_the_untuned_society(society_store) -> None:
    store = society_store(kinds=("multiagent", "debate"), questions=8, iterations=1)
    [experiment] = facts.collect_facts([store]).experiments
    assert [each.other for each in experiment.verdicts[0].verdicts] == ["debate"]


def test_a_task_that_is_no_longer_there_costs_the_styles_only(society_store) -> None:
    store = society_store(
        kinds=("multiagent",), questions=4, iterations=1,
        changed={"task": {"name": "gone_with_the_wind:Task"}},
    )  # fmt: skip
    [experiment] = facts.collect_facts([store]).experiments
    assert experiment.styles == ()
    assert experiment.verdicts


def test_what_was_equal_is_measured(found) -> None:
    assert found.parity is not None
    properties = {each.name: each for each in found.parity.properties}
    names = found.parity.arms
    assert names[:3] == ("multiagent", "single-agent", "single-agent-matched")

    def of(name: str, arm: str):
        place = names.index(arm)
        return properties[name].values[place], properties[name].equal[place]

    assert of("training data", "single-agent")[0].text == "pooled"
    assert of("labels from", "star")[0].text == "gold answers"
    assert of("labels from", "single-agent")[1] is True
    assert of("examples per generator", "single-agent")[1] is False
    assert of("examples per generator", "single-agent-matched")[1] is True
    assert of("generators tuned per iteration", "multiagent")[0].count == 3
    assert of("generators tuned per iteration", "single-agent")[0].count == 1
    assert of("calls per question", "multiagent")[0].count == 9
    assert of("calls per question", "majority")[0].count == 3
    assert of("examples per critic", "no-critic") == (of("w", "base")[0], None)
    assert of("training questions per iteration", "star")[0].count == 16


def test_optimizer_steps_are_those_of_the_job_that_was_taken_over(society_store) -> None:
    store = society_store(kinds=("multiagent",), questions=6, iterations=1)
    store.write(
        records.StoredArm(
            "twin", 1, "multiagent", "final", json.dumps({"agents": 3, "iterations": 1})
        ),
        records.Dataset("twin-d", 1, "twin", 1, "generator", 90, "0" * 64, "final", 0),
        records.Job(
            "twin-job", 1, "twin", 1, "generator", "twin-d", "0" * 64, "succeeded",
            shared_job_id="multiagent-a1-generator-it1",
        ),
    )  # fmt: skip
    [experiment] = facts.collect_facts([store]).experiments
    [twin] = [job for job in experiment.tunings if job.arm == "twin"]
    [first] = [
        job
        for job in experiment.tunings
        if (job.arm, job.agent, job.role) == ("multiagent", 1, "generator")
    ]
    assert twin.shared
    assert twin.losses == first.losses
    assert not [cost for cost in experiment.costs if cost.arm == "twin"]


def test_shared_turns_cost_nothing(three_seeds, found) -> None:
    untuned = {cost.arm for cost in found.costs if cost.iteration == 0}
    assert untuned == {"multiagent"}
    [paid] = [
        cost
        for cost in found.costs
        if (cost.arm, cost.iteration, cost.stage) == ("multiagent", 0, "evaluation, greedy")
    ]
    assert (paid.answers, paid.summaries, paid.jobs) == (3 * 16 * 6, 3 * 16 * 3, None)
    assert paid.usd is None


def test_labels_of_an_arm_that_learns_from_gold_are_left_out(found) -> None:
    assert {each.arm for each in found.labels} == {
        "multiagent", "single-agent", "single-agent-matched", "no-critic",
    }  # fmt: skip
    for each in found.labels:
        assert 0 < each.coverage <= 1
        assert each.accuracy is None or each.accuracy.low < each.accuracy.value


def test_a_diversity_that_cannot_be_had_is_none_and_says_why(found) -> None:
    missing = [each for each in found.diversities if each.scale.measure == "kl"]
    assert missing
    assert {each.value for each in missing} == {None}
    assert {each.note for each in missing} == {"the provider gives no log-probabilities"}
    assert "kl" not in str([panel.title for panel in figures.learning.build_diversity_by_iteration(
        facts.Facts((found,), (), ())).panels])  # fmt: skip


def test_runs_that_differ_in_the_seed_are_one_experiment(three_seeds, society_store) -> None:
    hotter = society_store(
        name="hotter", kinds=("multiagent",), questions=4, iterations=1,
        changed={"sampling": {"temperature": 1.0}},
    )  # fmt: skip
    found = seeds.group_runs([three_seeds[2], hotter, three_seeds[0]])
    assert [each.label for each in found] == ["arms", "hotter"]
    assert [run.seed for run in found[0].runs] == [0, 2]
    differing = dict(seeds.list_differing_settings(found))
    assert differing["sampling.temperature"] == ("0.6", "1.0")
    assert "seed" not in differing


def test_a_run_named_twice_is_refused(three_seeds) -> None:
    with pytest.raises(SameRun, match="is named twice"):
        facts.collect_facts([three_seeds[0], three_seeds[0]])
    with pytest.raises(ValueError, match="at least one run"):
        facts.collect_facts([])


def test_a_seed_that_lags_behind_does_not_mix_iterations(society_store) -> None:
    options = {"kinds": ("multiagent", "majority"), "questions": 8}
    ahead = society_store(seed=0, iterations=2, **options)
    behind = society_store(seed=1, iterations=1, changed={"iterations": 2}, **options)
    [experiment] = facts.collect_facts([ahead, behind]).experiments
    assert experiment.last == 1
    [majority] = [v for v in experiment.verdicts[0].verdicts if v.other == "majority"]
    assert majority.comparison.a.stage.iteration == 1
    assert len(majority.comparison.runs) == 2


def test_the_arm_of_an_old_run_follows_from_its_config(store_of) -> None:
    store = store_of(iterations=1, questions=4)
    assert store.run() is not None
    [only] = stored_run.read_arms(store)
    assert (only.name, only.kind, only.agents, only.rounds) == ("multiagent", "multiagent", 3, 2)
    assert only.trained


def test_every_figure_and_table_has_facts_of_every_arm(three_seeds) -> None:
    whole = facts.collect_facts(three_seeds)
    drawn = figures.build_figures(whole)
    assert list(drawn) == [
        "differences",
        "figure-1-accuracy",
        "figure-3-diversity",
        "figure-4-accuracy-diversity",
        "figure-5-zero-shot",
        "pseudo-labels",
        "flips",
        "losses",
    ]
    arms_evaluated = {arm.name for arm in whole.experiments[0].arms}
    assert set(drawn["figure-1-accuracy"].arms) == arms_evaluated
    written = tables.build_tables(whole)
    column = [row[0].shown for row in written["table-1"].rows]
    assert column == [arm.name for arm in whole.experiments[0].arms]


def test_figure_points_are_the_tables_numbers(three_seeds) -> None:
    whole = facts.collect_facts(three_seeds)
    table = tables.build_tables(whole)["accuracy"]
    names = [column.name for column in table.columns]
    shown = {
        (row[0].shown, row[1].shown, row[2].shown): row[names.index("consensus")].fields
        for row in table.rows
    }
    panels = figures.build_figures(whole)["figure-1-accuracy"].panels
    [panel] = [panel for panel in panels if panel.title == "vote of the last round, sampled"]
    for arm, point in ((line.arm, point) for line in panel.lines for point in line.points):
        society = f"iteration {point.x:.0f}" if point.x else "untuned"
        told = [float(field) for field in shown[arm, society, "sampled"]]
        assert told == pytest.approx([100 * v for v in (point.y, point.low, point.high)], rel=1e-4)


def test_comparable_panels_share_their_axis(three_seeds, society_store) -> None:
    kinds = ("multiagent", "single-agent")
    other = society_store(
        name="other", kinds=kinds, questions=6, iterations=1, changed={"train": {"questions": 6}}
    )
    panels = figures.build_figures(facts.collect_facts([three_seeds[0], other]))[
        "figure-1-accuracy"
    ].panels
    assert len(panels) >= 4
    assert len({panel.limits for panel in panels}) == 1


@pytest.mark.parametrize(
    ("share", "limits"), [(1.0, (0.95, 1.0)), (0.0, (0.0, 0.05)), (0.5, (0.5, 0.55))]
)
def test_the_axis_of_a_single_share_ends_at_100_percent(share, limits) -> None:
    line = ArmLine("multiagent", (DataPoint(0.3, share), DataPoint(0.4, share)))
    panel = Panel("sums", "against", "entropy", "accuracy of the vote, %", (line,))
    [aligned] = align_panels([panel])
    assert aligned.limits == pytest.approx(limits)


def test_seeds_that_begin_with_the_same_digit_leave_the_experiments_name(society_store) -> None:
    few = {"iterations": 1, "questions": 2, "kinds": ("multiagent",), "diverse": False}
    stores = [society_store(seed=seed, name=f"sums.seed-{seed}", **few) for seed in (11, 12)]
    assert facts.collect_facts(stores).title == "sums"
