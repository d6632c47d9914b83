"""What a fit says of itself: held-out losses, its distance from the base, what it left out."""

import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch

from providers.errors import InvalidSettings, InvalidTrainingData
from providers.local.conversation import encode_example
from providers.local.drift import measure_drift
from providers.local.schedule import describe_small_reach
from providers.local.train import TrainingStopped, load_trained
from providers.types import Hyperparameters
from tests.providers.training_fixtures import (
    fit,
    make_examples,
    make_model,
    make_spec,
    make_tokenizer,
    with_adapter,
)

EXAMPLES = make_examples(10)
HELD_OUT = make_examples(4, seed=9)
CPU = torch.device("cpu")


def encode(examples):
    return [encode_example(make_tokenizer(), example) for example in examples]


@torch.no_grad()
def read_log_probabilities(model, sequence):
    """By the model's own forward pass, at the places of the trained tokens."""
    ids_1_T = torch.tensor([sequence.token_ids])
    places = [place - 1 for place, trained in enumerate(sequence.trained) if trained]
    return model.eval()(ids_1_T).logits[0, places].double().log_softmax(-1)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_distance_from_the_base_is_the_divergence_along_the_answers(tmp_path, kind):
    spec = make_spec(EXAMPLES, epochs=6, learning_rate=3e-2)
    trained = fit(model := with_adapter(make_model(kind)), spec, tmp_path / "a")
    base, nats = make_model(kind), []
    for sequence in encode(EXAMPLES):
        p_N_V, q_N_V = (
            read_log_probabilities(model, sequence),
            read_log_probabilities(base, sequence),
        )
        nats += ((p_N_V.exp() * (p_N_V - q_N_V)).sum(-1)).tolist()
    expected = sum(nats) / len(nats)
    assert expected > 0.005
    assert measure_drift(model, None, encode(EXAMPLES), CPU, bf16=False) == pytest.approx(
        expected, rel=1e-4
    )
    # In training the products may be bfloat16.
    assert trained.base_kl == pytest.approx(expected, rel=0.2)
    assert load_trained(tmp_path / "a", spec.digest) == trained


def test_a_full_fine_tune_is_compared_with_the_model_it_is_a_copy_of(tmp_path):
    spec = make_spec(EXAMPLES, method="full", learning_rate=1e-3)
    assert fit(make_model(), spec, tmp_path / "a").base_kl is None
    base = make_model().eval()
    assert fit(make_model(), spec, tmp_path / "b", base=base).base_kl > 1e-3
    assert measure_drift(make_model(), base, encode(EXAMPLES), CPU, bf16=False) == 0.0


def test_a_rate_that_moves_nothing_is_told_from_one_that_does(tmp_path):
    """Before the training by rate and steps, after it by the distance from the base."""
    small = Hyperparameters(learning_rate=1e-5, batch_size=192)
    assert "6 optimizer steps at a learning rate of 1e-05" in describe_small_reach(small, 500)
    assert describe_small_reach(replace(small, learning_rate=1e-4), 500) is None
    assert describe_small_reach(replace(small, batch_size=4), 500) is None
    assert describe_small_reach(replace(small, method="full"), 500) is None
    tiny = make_spec(EXAMPLES, learning_rate=1e-6)
    assert describe_small_reach(tiny.hyperparameters, len(EXAMPLES)) is not None
    assert fit(with_adapter(make_model()), tiny, tmp_path / "a").base_kl < 1e-4


def test_held_out_examples_are_measured_after_each_epoch_and_not_trained_on(tmp_path):
    spec = replace(make_spec(EXAMPLES, epochs=3), validation=HELD_OUT, validation_sha256="v" * 64)
    trained = fit(model := with_adapter(make_model()), spec, tmp_path / "a", bf16=False)
    assert [(one.step, one.model) for one in trained.measured] == [
        (3, None),
        (6, None),
        (9, spec.name),
    ]
    losses = [one.loss for one in trained.measured]
    chosen = [
        -logprobs_N_V[n, token].item()
        for sequence in encode(HELD_OUT)
        for logprobs_N_V in [read_log_probabilities(model, sequence)]
        for n, token in enumerate(
            [
                t
                for t, is_trained in zip(sequence.token_ids, sequence.trained, strict=True)
                if is_trained
            ]
        )
    ]
    assert losses[-1] == pytest.approx(sum(chosen) / len(chosen), rel=1e-4)
    assert losses[-1] < losses[0]
    bare = fit(
        with_adapter(make_model()), make_spec(EXAMPLES, epochs=3), tmp_path / "b", bf16=False
    )
    assert bare.sha256 == trained.sha256
    # A fit that was stopped after its first epoch has the same losses in the end.
    stop, resumed = threading.Event(), with_adapter(make_model())

    def stop_after_four(point, progress):
        if point.step == 4:
            stop.set()

    with pytest.raises(TrainingStopped):
        fit(resumed, spec, tmp_path / "c", bf16=False, stop=stop, on_point=stop_after_four)
    again = fit(with_adapter(make_model()), spec, tmp_path / "c", bf16=False)
    assert again.measured == trained.measured


def test_long_examples_are_left_out_by_choice_counted_and_said(tmp_path):
    lengths = sorted(len(sequence.token_ids) for sequence in encode(EXAMPLES))
    notes = []
    spec = make_spec(EXAMPLES, max_example_tokens=lengths[6])
    trained = fit(with_adapter(make_model()), spec, tmp_path / "a", on_note=notes.append)
    left = sum(length > lengths[6] for length in lengths)
    assert trained.left_out == left > 0
    assert notes == [
        f"{left} of 10 examples are longer than finetune.max_example_tokens = {lengths[6]} and are "
        "left out"
    ]
    short = [
        e for e, s in zip(EXAMPLES, encode(EXAMPLES), strict=True) if len(s.token_ids) <= lengths[6]
    ]
    assert (
        trained.sha256 == fit(with_adapter(make_model()), make_spec(short), tmp_path / "b").sha256
    )
    with pytest.raises(InvalidTrainingData, match="all 10 examples are longer than"):
        fit(with_adapter(make_model()), make_spec(EXAMPLES, max_example_tokens=3), tmp_path / "c")


def test_recomputed_activations_give_the_same_weights(tmp_path):
    hashes = {
        choice: fit(
            with_adapter(make_model()),
            make_spec(EXAMPLES, gradient_checkpointing=choice),
            tmp_path / str(choice),
        ).sha256
        for choice in ("auto", True, False)
    }
    assert len(set(hashes.values())) == 1
    model = with_adapter(make_model())
    model.get_base_model().supports_gradient_checkpointing = False
    with pytest.raises(InvalidSettings, match="gradient_checkpointing = true"):
        fit(model, make_spec(EXAMPLES, gradient_checkpointing=True), tmp_path / "x")


MAPPED = """
import ctypes, sys
import torch
from providers.local.recomputation import Recomputation
from tests.providers.training_fixtures import make_model

class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")]
    _fields_ += [(name, ctypes.c_size_t) for name in ("fordblks", "keepcost")]

count = getattr(ctypes.CDLL(None), "mallinfo2", None)
if count is None:
    sys.exit("no glibc of 2.33 or later")
count.restype = Counts
layers = Recomputation(make_model())
for share in (0.5, 0.0, 1.0):
    layers.set_share(share)
    before = count().hblks
    blocks = [torch.ones(1_000_000) for _ in range(5)]
    print(count().hblks - before)
    del blocks
"""


def test_blocks_go_back_to_the_system_while_activations_are_computed_again():
    command = [sys.executable, "-c", MAPPED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "no glibc" in done.stderr:
        pytest.skip(done.stderr)
    recomputing, usual, all_again = map(int, done.stdout.split())
    assert (recomputing, all_again) == (5, 5), done.stderr
    assert usual < 5


def test_noise_on_embeddings_is_of_training_only_and_the_same_each_time(tmp_path):
    plain = fit(with_adapter(make_model()), make_spec(EXAMPLES), tmp_path / "a")
    noisy = [
        fit(model := with_adapter(make_model()), make_spec(EXAMPLES, neftune_alpha=5.0), place)
        for place in (tmp_path / "b", tmp_path / "c")
    ]
    assert noisy[0].sha256 == noisy[1].sha256 != plain.sha256
    assert noisy[0].points[0].loss != plain.points[0].loss
    ids = torch.arange(9)[None]
    model.train()
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_rounding_in_half_precision_is_no_distance(tmp_path):
    """An adapter too weak to change anything flips roundings as a strong one does."""
    sequences = encode(EXAMPLES)
    weak, strong = (with_adapter(make_model().to(torch.bfloat16)) for _ in range(2))
    for model, strength in ((weak, 1e-6), (strong, 0.3)):
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=strength)
    assert measure_drift(weak, None, sequences, CPU, bf16=True) < 1e-5
    assert measure_drift(strong, None, sequences, CPU, bf16=True) > 1e-3
