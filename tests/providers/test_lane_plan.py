"""How many jobs are trained at a time, by settings and machine."""

import doctest

import pytest

from providers.errors import InvalidSettings
from providers.local import lane_plan
from providers.local.lane_plan import is_worth_starting, plan_lanes
from providers.local.machine import count_cores, find_free_ram, list_cards
from providers.local.settings import LocalSettings


def plan(kind="cpu", cards=(), **settings):
    return plan_lanes(LocalSettings(**settings), kind, cards)


def test_the_cpu_is_shared_only_if_the_threads_of_a_job_are_set():
    cores = count_cores()
    assert plan().lanes == 1
    assert plan().threads is None
    assert plan(threads=1).lanes == cores
    assert plan(threads=2 * cores).lanes == 1


def test_a_number_of_workers_shares_the_cores():
    cores = count_cores()
    chosen = plan(training_workers=2)
    assert (chosen.lanes, chosen.threads) == (2, max(1, cores // 2))
    assert plan(training_workers=3, threads=5).threads == 5
    assert not chosen.is_automatic
    assert "training_workers = 2" in str(chosen)
    # Alone, a job has the threads that it always had.
    assert plan(training_workers=1).threads is None


def test_every_card_has_a_lane():
    chosen = plan("cuda", ("2", "5"))
    assert (chosen.lanes, chosen.cards) == (2, ("2", "5"))
    assert chosen.is_automatic
    assert plan("cuda", ("2", "5"), training_workers=3).cards == ("2", "5", "2")
    assert plan("cuda", ("2", "5"), device="cuda:1").cards == ("5",)
    assert plan("cuda", ("2", "5"), device_map="auto").lanes == 1


def test_one_device_of_another_kind_has_one_lane():
    assert plan("mps", threads=1).lanes == 1
    assert plan("cuda").lanes == 1


def test_a_worker_has_to_save_time():
    assert is_worth_starting([100], [100], start_s=10)
    assert is_worth_starting([10], [10] * 5, start_s=10)
    # It would be ready when the work is done.
    assert not is_worth_starting([4], [4], start_s=10)
    assert not is_worth_starting([100], [], start_s=10)
    # A short job more does not move the end of two long ones.
    assert not is_worth_starting([100, 100], [1], start_s=10)


def test_the_example_of_the_documentation_holds():
    assert doctest.testmod(lane_plan).failed == 0


@pytest.mark.parametrize(
    ("visible", "cards"), [("", ()), ("3,GPU-1f", ("3", "GPU-1f")), ("1,-1,2", ("1",))]
)
def test_cards_are_those_that_cuda_shows(monkeypatch, visible, cards):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list_cards() == cards


def test_the_machine_has_cores_and_memory():
    assert count_cores() >= 1
    assert find_free_ram() > 0


@pytest.mark.parametrize("workers", [0, -1, "many", 1.5])
def test_what_is_no_number_of_workers_is_refused(workers):
    with pytest.raises(InvalidSettings, match=r"\[provider\] training_workers"):
        LocalSettings.read({"training_workers": workers})


def test_a_model_on_several_devices_has_no_workers():
    with pytest.raises(InvalidSettings, match="training_workers = 2 does not go with device_map"):
        LocalSettings.read({"training_workers": 2, "device_map": "auto"})
