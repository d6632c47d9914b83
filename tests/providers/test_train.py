"""The trainer computes the loss it says, however the step is cut, and nothing else."""

import itertools
import json
import threading
from dataclasses import replace

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from providers.errors import (
    InvalidSettings,
    InvalidTrainingData,
    OutOfMemory,
    TrainingFailed,
    Unsupported,
)
from providers.local import hardware
from providers.local.conversation import encode_example
from providers.local.loss import SummedLoss, collate_batch, cut_step
from providers.local.schedule import list_step_members
from providers.local.train import load_trained
from providers.types import Example, Message
from tests.providers.training_fixtures import (
    fit,
    make_examples,
    make_model,
    make_spec,
    make_tokenizer,
    with_adapter,
)

EXAMPLES = make_examples(10)
CPU = torch.device("cpu")
KINDS = ["llama", "neox", "gemma2"]


def gradients(model):
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def direct_loss(model, sequences):
    """Mean cross-entropy over the trained tokens, one sequence at a time, from full logits.

    Each token's is multiplied by its sequence's weight.
    """
    losses = []
    for sequence in sequences:
        ids_1_T = torch.tensor([sequence.token_ids])
        logits_T_V = model(ids_1_T).logits[0].float()
        logprobs_T_V = logits_T_V.log_softmax(-1)
        losses += [
            -logprobs_T_V[place - 1, token] * sequence.weight
            for place, token in enumerate(sequence.token_ids)
            if sequence.trained[place]
        ]
    return torch.stack(losses).mean()


def adapter_weights(trained):
    from safetensors.torch import load_file

    return load_file(trained.artifact / "adapter_model.safetensors")


@pytest.mark.parametrize("weights", [(1.0,), (0.25, 1.0, 4.5)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [1, 120, 10_000])
def test_gradient_is_that_of_the_weighted_mean_over_learnt_tokens(kind, budget, weights):
    tokenizer = make_tokenizer()
    sequences = [
        encode_example(tokenizer, replace(example, weight=weight))
        for example, weight in zip(EXAMPLES, itertools.cycle(weights), strict=False)
    ]
    model = make_model(kind).requires_grad_(False)
    model = with_adapter(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    expected_loss = direct_loss(model, sequences)
    expected_loss.backward()
    expected = gradients(model)
    model.zero_grad()

    loss = SummedLoss(model, CPU, bf16=False)
    divisor = sum(sum(sequence.trained) for sequence in sequences)
    lengths = [len(sequence.token_ids) - 1 for sequence in sequences]
    total = sum(
        loss.backward(collate_batch([sequences[i] for i in group], CPU), divisor)
        for group in cut_step(lengths, budget)
    )
    torch.testing.assert_close(total, expected_loss.detach())
    actual = gradients(model)
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_only_learnt_tokens_matter_and_later_messages_are_left_out():
    messages = EXAMPLES[0].messages
    tokenizer = make_tokenizer()
    first = encode_example(tokenizer, Example(messages, (1,)))
    alone = encode_example(tokenizer, Example(messages[:2], (1,)))
    assert first == alone
    batch = collate_batch([first], CPU)
    assert len(batch.targets_N) == sum(first.trained)
    assert batch.targets_N.tolist() == first.token_ids[-sum(first.trained) :]


def test_cut_covers_every_sequence_once_within_the_budget():
    lengths = [5, 300, 7, 7, 120, 130, 8, 2000, 6]
    groups = cut_step(lengths, 256)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= 256
    assert groups[0] == [7]
    assert {2, 3, 6, 8, 0} in [set(group) for group in groups]


def test_every_epoch_is_another_permutation():
    epochs = [
        [list_step_members(10, 4, 7, 3 * epoch + step) for step in range(3)] for epoch in (0, 1)
    ]
    assert [[len(step) for step in epoch] for epoch in epochs] == [[4, 4, 2], [4, 4, 2]]
    flat = [[index for step in epoch for index in step] for epoch in epochs]
    assert sorted(flat[0]) == sorted(flat[1]) == list(range(10))
    assert flat[0] != flat[1]
    assert list_step_members(10, 4, 8, 0) != list_step_members(10, 4, 7, 0)


def test_the_reported_loss_is_the_weighted_mean(tmp_path):
    """A step of heavy examples must not look as if the fit had diverged."""
    heavy = [replace(example, weight=200.0) for example in EXAMPLES[:4]]
    sequences = [encode_example(make_tokenizer(), example) for example in EXAMPLES[:4]]
    with torch.no_grad():
        plain = direct_loss(with_adapter(make_model()), sequences).item()
    trained = fit(
        with_adapter(make_model()), make_spec(heavy, epochs=1), tmp_path / "a", bf16=False
    )
    assert [point.loss for point in trained.points] == pytest.approx([plain], rel=1e-5)
    mixed = [replace(EXAMPLES[0], weight=3.0), EXAMPLES[1]]
    first, second = (
        [encode_example(make_tokenizer(), replace(example, weight=1.0))] for example in mixed
    )
    counts = [3 * sum(first[0].trained), sum(second[0].trained)]
    with torch.no_grad():
        losses = [direct_loss(with_adapter(make_model()), one).item() for one in (first, second)]
    mean = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)
    trained = fit(
        with_adapter(make_model()), make_spec(mixed, epochs=1), tmp_path / "b", bf16=False
    )
    assert trained.points[0].loss == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_falls_and_the_adapter_loads(tmp_path, kind):
    from peft import PeftModel

    progress = []
    model = with_adapter(make_model(kind))
    trained = fit(
        model,
        make_spec(EXAMPLES, epochs=4),
        tmp_path / "a",
        on_point=lambda point, part: progress.append((point, part)),
    )
    assert [point.step for point in trained.points] == list(range(1, 13))
    assert trained.points[-1].loss < 0.97 * trained.points[0].loss
    assert tuple(point for point, _ in progress) == trained.points
    assert progress[-1][1] == 1.0
    sequences = [encode_example(make_tokenizer(), example) for example in EXAMPLES]
    assert trained.trained_tokens == 4 * sum(len(sequence.token_ids) for sequence in sequences)

    loaded = PeftModel.from_pretrained(make_model(kind), trained.artifact)
    tokens = torch.arange(9)[None]
    model.eval()
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    config = json.loads((trained.artifact / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_same_seed_same_weights_other_seed_others(tmp_path):
    spec = make_spec(EXAMPLES)
    one, two, other = (
        fit(with_adapter(make_model(), dropout=0.1), spec, tmp_path / name)
        for name, spec in (("one", spec), ("two", spec), ("other", replace(spec, seed=1)))
    )
    assert one.sha256 == two.sha256
    assert one.points == two.points
    assert one.sha256 != other.sha256


def test_named_adapter_among_others_is_the_one_saved(tmp_path):
    from peft import LoraConfig

    model = with_adapter(make_model(), name="first")
    frozen = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model.add_adapter("second", frozen)
    trained = fit(model, make_spec(EXAMPLES, epochs=1), tmp_path / "a")
    alone = fit(with_adapter(make_model()), make_spec(EXAMPLES, name="b", epochs=1), tmp_path / "b")
    assert trained.sha256 == alone.sha256


def test_continuing_starts_from_the_trained_weights(tmp_path):
    from peft import PeftModel

    first = fit(with_adapter(make_model()), make_spec(EXAMPLES, epochs=3), tmp_path / "a")
    spec = make_spec(EXAMPLES, name="next", epochs=1)
    model = PeftModel.from_pretrained(make_model(), first.artifact, is_trainable=True)
    continued = fit(model, spec, tmp_path / "b")
    fresh = fit(with_adapter(make_model()), spec, tmp_path / "c")
    assert continued.points[0].loss < fresh.points[0].loss


def test_full_fine_tuning_writes_a_model_folder(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = make_model()
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
    trained = fit(model, make_spec(EXAMPLES, method="full", epochs=3), tmp_path / "a")
    assert trained.points[-1].loss < 0.9 * trained.points[0].loss
    loaded = AutoModelForCausalLM.from_pretrained(trained.artifact, dtype=torch.float32)
    tokens = torch.arange(9)[None]
    assert torch.equal(loaded(tokens).logits, model.eval()(tokens).logits)
    tokenizer = AutoTokenizer.from_pretrained(trained.artifact)
    assert tokenizer.chat_template == make_tokenizer().chat_template


@pytest.mark.parametrize(("kind", "attention"), [("llama", "sdpa"), ("gemma2", "eager")])
def test_the_model_is_given_back_as_it_was(tmp_path, kind, attention):
    model = with_adapter(make_model(kind)).eval()
    model.base_model.model.set_attn_implementation("eager")
    during = set()
    fit(
        model,
        make_spec(EXAMPLES, epochs=1),
        tmp_path / "a",
        on_point=lambda point, progress: during.add(model.config._attn_implementation),
    )
    assert during == {attention}
    assert model.config._attn_implementation == "eager"
    assert not model.training
    assert all(weight.grad is None for weight in model.parameters())


def limit_memory(model, tokens):
    """Make the model run out of memory on batches of more than `tokens` padded tokens."""

    def check(module, arguments, named):
        size = (arguments[0] if arguments else named["input_ids"]).numel()
        if size > tokens and not model.is_activation_checkpointing:
            raise torch.OutOfMemoryError(f"{size} tokens")

    model.base_model.register_forward_pre_hook(check, with_kwargs=True)
    return model


def test_out_of_memory_makes_smaller_pieces_of_the_same_step(tmp_path):
    spec = make_spec(EXAMPLES, batch_size=10)
    free = fit(with_adapter(make_model()), spec, tmp_path / "free", bf16=False)
    tight_model = with_adapter(limit_memory(make_model(), 200))
    tight = fit(tight_model, spec, tmp_path / "tight", bf16=False)
    for name, tensor in adapter_weights(tight).items():
        torch.testing.assert_close(tensor, adapter_weights(free)[name], rtol=1e-3, atol=1e-4)


def test_activations_are_recomputed_when_single_examples_do_not_fit(tmp_path):
    spec = make_spec(EXAMPLES, batch_size=10)
    model = make_model()
    free = fit(with_adapter(make_model()), spec, tmp_path / "free", bf16=False)
    tight = fit(with_adapter(limit_memory(model, 10)), spec, tmp_path / "tight", bf16=False)
    assert not model.is_activation_checkpointing
    for name, tensor in adapter_weights(tight).items():
        torch.testing.assert_close(tensor, adapter_weights(free)[name], rtol=1e-3, atol=1e-4)


def test_long_examples_keep_no_more_activations_than_shorter_ones(tmp_path):
    """With the same weights, for a third more time at most; memory is bounded, not measured."""
    long = Example((Message("user", "1+2=3 " * 400), Message("assistant", "4+5=9 " * 20)), (1,))
    kept, hashes = [], set()
    for choice in ("auto", False):
        model = make_model(context=4096)
        layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]

        def note(module, arguments, layers=layers):
            kept.append(sum(not each.gradient_checkpointing for each in layers))

        model.base_model.register_forward_pre_hook(note)
        spec = make_spec((*EXAMPLES, long), epochs=1, gradient_checkpointing=choice)
        hashes.add(fit(with_adapter(model), spec, tmp_path / str(choice)).sha256)
        assert not model.is_activation_checkpointing
        few, all_of_them = min(kept), max(kept)
        assert all_of_them == len(layers)
        assert few == (len(layers) if choice is False else 0)
        kept.clear()
    assert len(hashes) == 1


def test_an_example_that_never_fits_is_an_error(tmp_path):
    model = make_model()

    def check(module, arguments):
        raise torch.OutOfMemoryError("never")

    model.base_model.register_forward_pre_hook(check)
    with pytest.raises(OutOfMemory, match="single example"):
        fit(with_adapter(model), make_spec(EXAMPLES), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_bad_data_is_refused_before_training(tmp_path):
    too_long = Example((Message("user", "x" * 300), Message("assistant", "y")), (1,))
    wrong = Example((Message("user", "x"),), (0,))
    model = with_adapter(make_model())
    for examples, message in (
        ((), "no training examples"),
        ((*EXAMPLES, too_long), "example 10 .* context of 256"),
        ((EXAMPLES[0], wrong), "example 1 .* not the index of an assistant"),
    ):
        with pytest.raises(InvalidTrainingData, match=message):
            fit(model, make_spec(examples), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"learning_rate_multiplier": 2.0}, Unsupported),
        ({"epochs": 0}, InvalidSettings),
        ({"batch_size": 0}, InvalidSettings),
        ({"learning_rate": 0.0}, InvalidSettings),
    ],
)
def test_hyperparameters_it_cannot_honour(tmp_path, changes, error):
    with pytest.raises(error):
        fit(with_adapter(make_model()), make_spec(EXAMPLES, **changes), tmp_path / "a")


def test_a_loss_that_is_not_finite_fails_with_its_step(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match=r"diverged at step 1: its loss is nan"):
        fit(with_adapter(model), make_spec(EXAMPLES), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("HIP out of memory. Tried to allocate 20 MiB"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_memory_that_ran_out_is_known_by_what_libraries_say(error, is_memory):
    assert hardware.is_out_of_memory(error) is is_memory


def test_a_fit_that_moves_nothing_fails(tmp_path):
    with pytest.raises(TrainingFailed, match="lora_B is still zero"):
        fit(with_adapter(make_model()), make_spec(EXAMPLES, learning_rate=1e-60), tmp_path / "a")
    assert load_trained(tmp_path / "a", "x") is None
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_nothing_trainable_fails(tmp_path):
    model = with_adapter(make_model()).requires_grad_(False)
    with pytest.raises(TrainingFailed, match="trainable"):
        fit(model, make_spec(EXAMPLES), tmp_path / "a", stop=threading.Event())
