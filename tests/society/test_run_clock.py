"""How long the rest of a run takes, by what is planned and the pace so far."""

import itertools

from society.costs.work import plan_work
from society.method.experiment import load_experiment
from society.method.progress import PlannedWork, StageAdvanced, StageFinished, StageStarted
from society.terminal.run_clock import RunClock, find_kind

# Two iterations: an evaluation is 100 turns, a debate 50, and two models are trained.
PLAN = [
    PlannedWork(0, "evaluate", 100, 1000, True),
    *(
        PlannedWork(iteration, kind, units, work, True)
        for iteration in (1, 2)
        for kind, units, work in (
            ("debate", 50, 500),
            ("finetune", 2, 300),
            ("evaluate", 100, 1000),
        )
    ),
]


def watch(plan, *timed):
    """The estimate after events, each with the second at which it comes."""
    ticks = itertools.chain((second for second, _ in timed), itertools.repeat(timed[-1][0]))
    clock = RunClock(plan, lambda: next(ticks))
    for _, event in timed:
        clock(event)
    return clock.estimate()


def test_the_rest_takes_as_long_as_what_was_done():
    started = StageStarted(0, "evaluate sampled", "turns", 100, 0)
    left = watch(PLAN, (0, started), (10, StageAdvanced(50)))
    # 500 of 4600 took ten seconds.
    assert left.seconds == 82
    assert left.trainings == 0
    assert str(left) == "about 1 min 22 s left"
    assert round(left.share, 3) == round(500 / 4600, 3)


def test_training_has_its_own_pace_once_it_was_seen():
    events = [
        (0, StageStarted(1, "debate", "turns", 50, 0)),
        (5, StageFinished(5)),
        (5, StageStarted(1, "finetune", "models", 2, 0)),
        (65, StageFinished(60)),
    ]
    # Evaluations of 10 s each, another debate of 5 s, another training of 60 s.
    assert round(watch(PLAN, *events).seconds) == 10 + 5 + 60 + 10


def test_what_a_provider_trains_is_counted_until_its_time_is_known():
    priced = [PlannedWork(p.iteration, p.kind, p.units, p.work, False) for p in PLAN]
    started = StageStarted(0, "multiagent evaluate sampled", "turns", 100, 0)
    left = watch(priced, (0, started), (20, StageAdvanced(100)))
    assert left.trainings == 4
    assert round(left.seconds) == 60
    assert str(left) == "about 1 min 00 s left and 4 trainings"


def test_what_an_earlier_start_did_is_no_speed_and_nothing_left():
    resumed = StageStarted(2, "debate", "turns", 50, 40)
    left = watch(PLAN, (0, resumed), (4, StageAdvanced(45)))
    # Ten turns of work take eight seconds: 450 of work are left, at 0.08 s each... of 1350 in all.
    assert round(left.seconds) == round((50 + 300 + 1000) * 4 / 50)


def test_nothing_is_told_too_early_or_without_a_plan():
    started = StageStarted(0, "evaluate greedy", "turns", 100, 0)
    assert watch(PLAN, (0, started), (1, StageAdvanced(5))) is None
    # The first answer waits until the model is loaded.
    assert watch(PLAN, (0, started), (60, StageAdvanced(1))) is None
    assert watch([], (0, started), (60, StageAdvanced(5))) is None


def test_stages_are_told_by_their_names_with_or_without_an_arm():
    assert find_kind("debate") == find_kind("alone labels") == "debate"
    assert find_kind("debate evaluate greedy") == find_kind("zero-shot math greedy") == "evaluate"
    assert find_kind("multiagent diversity sampled") is None
    assert find_kind("datasets") is None


def test_the_plan_of_an_experiment_has_every_turn_and_model():
    experiment = load_experiment("demo", ["iterations=2"])
    found = {(each.iteration, each.kind): each for each in plan_work(experiment)}
    assert list(found) == [
        (0, "evaluate"),
        *((k, kind) for k in (1, 2) for kind in ("debate", "finetune", "evaluate")),
    ]
    config = experiment.config
    # Three agents answer twice, and write a summary each in between.
    assert found[1, "debate"].units == config.train.questions * 9
    assert found[2, "finetune"].units == 6
    assert all(each.is_local and each.work > 0 for each in found.values())
