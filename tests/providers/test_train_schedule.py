"""Learning rates over a fit."""

from itertools import pairwise

import pytest

from providers.local.schedule import compute_learning_rate
from providers.types import Hyperparameters


def rates(steps=20, **changes):
    hyperparameters = Hyperparameters(learning_rate=1.0, **changes)
    return [compute_learning_rate(hyperparameters, step, steps) for step in range(1, steps + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_is_linear_to_the_peak(schedule):
    assert rates(schedule=schedule, warmup=0.2)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_decay_falls_at_each_step_and_never_to_zero(schedule):
    decay = rates(schedule=schedule, warmup=0.0)
    assert decay[0] == 1.0
    assert all(later < earlier for earlier, later in pairwise(decay))
    assert 0 < decay[-1] < 0.06


def test_constant_stays():
    assert set(rates(schedule="constant", warmup=0.0)) == {1.0}


def test_one_step_learns():
    assert rates(steps=1, warmup=0.03) == [1.0]
