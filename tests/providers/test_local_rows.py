"""Sampling noise and the choice of tokens."""

import numpy as np
import pytest
import torch

from providers.local.rows import BatchSampling, choose_tokens, draw_noise
from providers.types import Sampling


def drawn(logits, points, **sampling) -> list[int]:
    rows = [Sampling(**sampling)] * len(points)
    logits_B_V = torch.tensor(logits).expand(len(points), -1)
    point_B = torch.tensor(points, dtype=torch.float64)
    return choose_tokens(logits_B_V, BatchSampling.of(rows, torch.device("cpu")), point_B).tolist()


def test_noise_is_a_fixed_stream_of_seed_and_key_alone():
    first = draw_noise(1, "run/it0/q17/a2/r1", 512)
    assert np.array_equal(first, draw_noise(1, "run/it0/q17/a2/r1", 512))
    assert np.array_equal(first[:10], draw_noise(1, "run/it0/q17/a2/r1", 10))
    assert not np.array_equal(first, draw_noise(2, "run/it0/q17/a2/r1", 512))
    assert not np.array_equal(first, draw_noise(1, "run/it0/q17/a2/r2", 512))


def test_noise_is_the_same_on_every_machine():
    assert draw_noise(0, "key", 3).tolist() == pytest.approx(
        [0.07917173847353554, 0.1632317226960096, 0.4421204986076813], abs=0
    )


def test_noise_is_uniform_within_and_across_requests():
    stats = pytest.importorskip("scipy.stats")
    assert stats.kstest(draw_noise(0, "one", 20_000), "uniform").pvalue > 1e-3
    firsts = np.array([draw_noise(0, f"question {i}", 1)[0] for i in range(20_000)])
    assert stats.kstest(firsts, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(firsts[:-1], firsts[1:])[0, 1]) < 0.03


def test_tokens_follow_the_softmax_at_the_temperature():
    stats = pytest.importorskip("scipy.stats")
    logits = [0.5, -1.0, 2.0, 0.0]
    tokens = drawn(logits, draw_noise(5, "many", 40_000).tolist(), temperature=0.7)
    expected = torch.softmax(torch.tensor(logits, dtype=torch.float64) / 0.7, -1) * 40_000
    assert stats.chisquare(np.bincount(tokens, minlength=4), expected.numpy()).pvalue > 1e-3


def test_greedy_takes_the_first_of_equal_maxima_whatever_the_noise():
    assert drawn([1.0, 3.0, 3.0, 2.0], [0.0, 0.5, 0.999], temperature=0.0) == [1, 1, 1]


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = np.log([0.05, 0.5, 0.15, 0.3]).astype(np.float32)
    points = draw_noise(0, "nucleus", 5_000).tolist()
    assert set(drawn(logits, points, temperature=1.0, top_p=0.75)) == {1, 3}
    assert set(drawn(logits, points, temperature=1.0, top_p=0.4)) == {1}
    assert set(drawn(logits, points, temperature=1.0, top_p=1.0)) == {0, 1, 2, 3}


def test_extreme_points_and_logits_give_tokens_of_positive_probability():
    logits = [-1e30, 5.0, -1e30, 4.0, -1e30]
    assert drawn(logits, [0.0, 1 - 2**-53], temperature=1.0) == [1, 3]


def test_greedy_and_sampled_rows_share_a_batch():
    rows = [Sampling(temperature=0.0), Sampling(temperature=1.0), Sampling(1.0, 0.3)]
    logits_B_V = torch.tensor([[0.0, 1.0, 0.5]]).expand(3, -1)
    point_B = torch.tensor([0.99, 0.99, 0.99], dtype=torch.float64)
    choice = BatchSampling.of(rows, torch.device("cpu"))
    assert choose_tokens(logits_B_V, choice, point_B).tolist() == [1, 2, 1]


def test_rounding_noise_moves_a_token_as_rarely_as_it_moves_probability():
    generator = torch.Generator().manual_seed(0)
    logits_B_V = torch.randn(20_000, 300, generator=generator) * 3
    nudged_B_V = logits_B_V + 1e-5 * torch.randn(20_000, 300, generator=generator)
    point_B = torch.from_numpy(draw_noise(0, "coupled", 20_000))
    choice = BatchSampling.of([Sampling()] * 20_000, torch.device("cpu"))
    moved = choose_tokens(logits_B_V, choice, point_B) != choose_tokens(nudged_B_V, choice, point_B)
    assert moved.float().mean() < 1e-3
