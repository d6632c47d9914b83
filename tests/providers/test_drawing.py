"""Sampling noise and the choice of tokens."""

import numpy as np
import pytest
import torch

from providers.local.drawing import BatchSampling, choose_tokens, draw_noise
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


SETTINGS = [
    Sampling(temperature=0.7, top_k=5),
    Sampling(temperature=1.3, top_p=0.8, top_k=40),
    Sampling(min_p=0.1),
    Sampling(temperature=0.6, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.1),
    Sampling(repetition_penalty=1.5),
    Sampling(repetition_penalty=0.8, top_k=1),
    Sampling(top_k=10_000),
    Sampling(top_p=0.5),
    Sampling(),
]


def transformers_probs(logits_1_V, tokens, sampling):
    """What `generate` of transformers would draw from, by its own processors."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=9, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1
    )
    settings = GenerationConfig(
        do_sample=sampling.temperature > 0,
        temperature=sampling.temperature or None,
        top_k=sampling.top_k or None,
        top_p=sampling.top_p,
        min_p=sampling.min_p or None,
        repetition_penalty=sampling.repetition_penalty,
    )
    processors = LlamaForCausalLM(config)._get_logits_processor(settings, input_ids_seq_length=1)
    return torch.softmax(processors(torch.tensor([tokens]), logits_1_V), -1)


def test_the_settings_keep_what_transformers_processors_keep():
    generator = torch.Generator().manual_seed(3)
    words, points = 300, (np.arange(4096) + 0.5) / 4096
    for sampling in SETTINGS:
        logits_1_V = torch.randn(1, words, generator=generator) * 4
        tokens = torch.randint(words, (40,), generator=generator).tolist()
        expected = transformers_probs(logits_1_V, tokens, sampling)[0]
        chosen = choose_tokens(
            logits_1_V.expand(len(points), -1),
            BatchSampling.of([sampling] * len(points), torch.device("cpu")),
            torch.from_numpy(points),
            [np.array(tokens)] * len(points),
        )
        # Points on a grid hit every token as often as its probability says, to within one.
        counts = torch.bincount(chosen, minlength=words)
        assert (counts - expected * len(points)).abs().max() < 1.01, sampling
        assert not counts[expected == 0].any(), sampling


def test_rows_with_and_without_each_setting_share_a_batch():
    generator = torch.Generator().manual_seed(5)
    logits_B_V = torch.randn(len(SETTINGS), 50, generator=generator) * 3
    point_B = torch.rand(len(SETTINGS), generator=generator, dtype=torch.float64)
    known = [np.arange(n, 2 * n) for n in range(len(SETTINGS))]
    device = torch.device("cpu")
    together = choose_tokens(logits_B_V, BatchSampling.of(SETTINGS, device), point_B, known)
    alone = [
        choose_tokens(
            logits_B_V[i : i + 1],
            BatchSampling.of([sampling], device),
            point_B[i : i + 1],
            known[i : i + 1],
        ).item()
        for i, sampling in enumerate(SETTINGS)
    ]
    assert together.tolist() == alone


def test_a_repetition_penalty_changes_greedy_answers_as_in_transformers():
    logits_1_V = torch.tensor([[2.0, 1.9, -1.0, -1.1]])
    greedy = Sampling(temperature=0.0, repetition_penalty=1.2)
    choice = BatchSampling.of([greedy], torch.device("cpu"))
    point_1 = torch.zeros(1, dtype=torch.float64)
    assert choose_tokens(logits_1_V, choice, point_1, [np.array([0, 0])]).tolist() == [1]
    assert transformers_probs(logits_1_V, [0, 0], greedy).argmax(-1).tolist() == [1]
    # A token that the model reads and cannot write has no logit.
    assert choose_tokens(logits_1_V, choice, point_1, [np.array([7])]).tolist() == [0]
