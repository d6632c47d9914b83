"""What a pass is given: with either reduction the server's gradient is that of the local loss."""

import numpy as np
import pytest

tinker = pytest.importorskip("tinker")

from providers.errors import TrainingFailed  # noqa: E402
from providers.local.conversation import TrainingSequence  # noqa: E402
from providers.tinker.passes import build_measurement, build_pass, compute_loss  # noqa: E402

SEQUENCES = [
    TrainingSequence([1, 2, 3, 4, 5], [False, False, True, True, True], 1.0),
    TrainingSequence([6, 7, 8], [False, False, True], 0.25),
    TrainingSequence([9, 1, 2, 3], [False, True, False, True], 2.0),
]


def expected():
    """The derivative of the local loss by each target's log-probability."""
    targets = sum(sum(one.trained) for one in SEQUENCES)
    return [
        [-one.weight / targets if trained else 0.0 for trained in one.trained[1:]]
        for one in SEQUENCES
    ]


def test_a_server_that_sums_gets_the_weights():
    given = build_pass(SEQUENCES, "sum")
    assert given.loss_fn == "cross_entropy"
    for datum, wanted in zip(given.data, expected(), strict=True):
        np.testing.assert_allclose(-datum.loss_fn_inputs["weights"].to_numpy(), wanted, rtol=1e-6)


def test_a_server_that_divides_gets_what_it_divides_by_as_advantages():
    given = build_pass(SEQUENCES, "mean")
    assert (given.loss_fn, given.loss_fn_config["clip_low_threshold"]) == ("cispo", 1.0)
    for datum, wanted in zip(given.data, expected(), strict=True):
        mask = datum.loss_fn_inputs["weights"].to_numpy()
        advantages = datum.loss_fn_inputs["advantages"].to_numpy()
        # Per example divided by its weights, per step by the number of examples.
        gradient = -mask * advantages / mask.sum() / len(SEQUENCES)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6)


def test_inputs_and_targets_are_shifted_by_one():
    [datum] = build_measurement(SEQUENCES[:1]).data
    assert datum.model_input.to_ints() == [1, 2, 3, 4]
    assert datum.loss_fn_inputs["target_tokens"].to_numpy().tolist() == [2, 3, 4, 5]


class Output:
    def __init__(self, rows):
        self.loss_fn_outputs = [
            {"logprobs": tinker.TensorData.from_numpy(np.asarray(row, dtype=np.float32))}
            for row in rows
        ]


def test_the_loss_is_the_mean_over_trained_tokens():
    output = Output([[-9, -1, -2, -3], [-9, -4], [-5, -9, -7]])
    plain = (1 + 2 + 3 + 4 + 5 + 7) / 6
    weighted = (6 + 0.25 * 4 + 2 * 12) / (3 + 0.25 + 4)
    assert compute_loss(output, SEQUENCES, weighted=False) == pytest.approx(plain)
    assert compute_loss(output, SEQUENCES, weighted=True) == pytest.approx(weighted)


def test_an_answer_of_another_form_is_no_loss():
    with pytest.raises(TrainingFailed, match="2 examples for 3"):
        compute_loss(Output([[-1, -1, -1, -1], [-1, -1]]), SEQUENCES, weighted=True)
    with pytest.raises(TrainingFailed, match="1 log-probabilities for 2 tokens"):
        compute_loss(Output([[-1] * 4, [-1], [-1] * 3]), SEQUENCES, weighted=True)
