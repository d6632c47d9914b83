"""The losses on preferences and the anchor, against plain sums over full logits."""

import threading
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid

from providers.errors import InvalidSettings, InvalidTrainingData, OutOfMemory
from providers.local.anchor import build_anchor
from providers.local.checkpoint import load_checkpoint
from providers.local.items import add_mismatched, encode_item
from providers.local.loss import SummedLoss, cut_step
from providers.local.objectives import build_objective
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

CPU = torch.device("cpu")
BASE = make_examples(8)
PAIRS = tuple(
    replace(example, rejected="the total is " + "so " * (n % 5) + str(n))
    for n, example in enumerate(BASE)
)
JUDGED = tuple(replace(example, wanted=n % 4 != 0) for n, example in enumerate(BASE))
EXAMPLES = {"sft": BASE, "dpo": PAIRS, "ipo": PAIRS, "kto": JUDGED}


def disturb(model, seed):
    """Other values of the trainable weights, the same at each call."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)


def read_logprobs(model, sequence):
    """Over the vocabulary, at the places of the trained tokens; and those tokens."""
    ids_1_T = torch.tensor([sequence.token_ids])
    places = [place for place, trained in enumerate(sequence.trained) if trained]
    logits_N_V = model(ids_1_T).logits[0, [place - 1 for place in places]]
    return logits_N_V.log_softmax(-1), torch.tensor(sequence.token_ids)[places]


def sum_logprobs(model, sequence):
    logprobs_N_V, targets_N = read_logprobs(model, sequence)
    return logprobs_N_V.gather(-1, targets_N[:, None]).sum()


def compute_by_hand(settings, model, reference, anchor, items):
    """The loss of a step, one sequence at a time."""

    def ratio(sequence):
        with torch.no_grad():
            before = sum_logprobs(reference, sequence)
        return sum_logprobs(model, sequence) - before

    beta, losses = settings.beta, []
    if settings.objective == "sft":
        tokens = sum(sum(item.answer.trained) for item in items)
        losses = [-sum_logprobs(model, item.answer) * len(items) / tokens for item in items]
    if settings.objective == "dpo":
        losses = [-logsigmoid(beta * (ratio(i.answer) - ratio(i.other))) for i in items]
    if settings.objective == "ipo":
        means = [
            ratio(i.answer) / sum(i.answer.trained) - ratio(i.other) / sum(i.other.trained)
            for i in items
        ]
        losses = [(mean - 1 / (2 * beta)) ** 2 for mean in means]
    if settings.objective == "kto":
        moved = torch.stack([ratio(item.other) for item in items]).mean().detach().clamp(min=0)
        assert moved > 0
        heavy = sum(i.wanted for i in items) / sum(not i.wanted for i in items)
        losses = [
            1 - torch.sigmoid(beta * (ratio(i.answer) - moved))
            if i.wanted
            else heavy * (1 - torch.sigmoid(beta * (moved - ratio(i.answer))))
            for i in items
        ]
    loss = torch.stack(losses).mean()
    if settings.sft_weight:
        wanted = [item.answer for item in items if item.wanted]
        tokens = sum(sum(answer.trained) for answer in wanted)
        likelihood = torch.stack([sum_logprobs(model, answer) for answer in wanted]).sum()
        loss = loss - settings.sft_weight * likelihood / tokens
    if settings.anchor:
        judged = [
            s
            for item in items
            for s in (item.sequences if settings.objective in ("dpo", "ipo") else [item.answer])
        ]
        nats = []
        for sequence in judged:
            with torch.no_grad():
                p_N_V, _ = read_logprobs(anchor, sequence)
            q_N_V, _ = read_logprobs(model, sequence)
            nats.append((p_N_V.exp() * (p_N_V - q_N_V)).sum(-1))
        loss = loss + settings.anchor * torch.cat(nats).mean()
    return loss


def read_gradients(model):
    return {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


def encode(examples, objective):
    items = [encode_item(make_tokenizer(), example, objective) for example in examples]
    return add_mismatched(items, 256) if objective == "kto" else items


CASES = [
    ("llama", "lora", {"objective": "dpo"}),
    ("llama", "lora", {"objective": "ipo", "beta": 0.5}),
    ("llama", "lora", {"objective": "kto", "beta": 0.3}),
    ("llama", "lora", {"objective": "dpo", "sft_weight": 0.7, "anchor": 0.4}),
    ("llama", "lora", {"objective": "kto", "sft_weight": 0.7, "anchor": 0.4, "anchor_to": "base"}),
    ("llama", "lora", {"objective": "sft", "anchor": 0.5}),
    ("llama", "lora", {"objective": "sft", "anchor": 0.5, "anchor_to": "base"}),
    ("gemma2", "lora", {"objective": "dpo", "sft_weight": 0.7, "anchor": 0.4}),
    ("llama", "full", {"objective": "dpo", "anchor": 0.4}),
    ("neox", "full", {"objective": "sft", "anchor": 0.5, "anchor_to": "base"}),
]


@pytest.mark.parametrize(("kind", "method", "changes"), CASES)
def test_loss_and_gradient_are_those_of_the_formulas(kind, method, changes):
    settings = Hyperparameters(method=method, **changes)
    base = make_model(kind)
    model = make_model(kind)
    if method == "lora":
        model = with_adapter(model.requires_grad_(False))
        disturb(model, 1)
    start = deepcopy(model)
    items = encode(EXAMPLES[settings.objective], settings.objective)
    # The last head computes logits in pieces of 20 rows, and again on the way back.
    for budget, logits in ((1, None), (100_000, None), (100_000, 320 * 20)):
        tuned = deepcopy(start)
        loss = SummedLoss(tuned, CPU, bf16=False, logits_at_once=logits)
        trainable = {n: w for n, w in tuned.named_parameters() if w.requires_grad}
        anchor = build_anchor(tuned, settings, loss, trainable, base, bf16=False)
        objective = build_objective(settings, loss, CPU, anchor)
        ready = objective.prepare(items, budget)
        disturb(tuned, 5)
        objective.begin_step(ready, budget)
        total = sum(
            objective.backward([ready[index] for index in group])
            for group in cut_step(objective.list_lengths(ready), budget)
        )
        actual = read_gradients(tuned)
        tuned.zero_grad()
        expected = compute_by_hand(
            settings, tuned, start, base if settings.anchor_to == "base" else start, items
        )
        expected.backward()
        torch.testing.assert_close(total, expected.detach(), rtol=1e-5, atol=1e-5)
        by_hand = read_gradients(tuned)
        assert actual.keys() == by_hand.keys()
        for name, gradient in actual.items():
            torch.testing.assert_close(gradient, by_hand[name], rtol=1e-3, atol=1e-5)
        if settings.objective != "sft":
            assert objective.rewards[0] is not None


def limit_memory(model, tokens):
    """Make the model run out of memory on batches of more than `tokens` padded tokens."""

    def check(module, arguments, named):
        size = (arguments[0] if arguments else named["input_ids"]).numel()
        if size > tokens:
            raise torch.OutOfMemoryError(f"{size} tokens")

    model.base_model.register_forward_pre_hook(check, with_kwargs=True)
    return model


@pytest.mark.parametrize("objective", ["dpo", "ipo", "kto"])
def test_training_comes_to_prefer_what_is_wanted(tmp_path, objective):
    spec = make_spec(EXAMPLES[objective], epochs=4, objective=objective)
    spec = replace(spec, validation=EXAMPLES[objective][:3], validation_sha256="v" * 64)
    trained = fit(with_adapter(make_model()), spec, tmp_path / "a", bf16=False)
    first, last = trained.points[0], trained.points[-1]
    assert first.reward_margin == pytest.approx(0.0, abs=1e-4)
    assert last.reward_margin > 0.01
    assert last.reward_accuracy == (None if objective == "kto" else 1.0)
    assert last.loss < first.loss
    held_out = [one.loss for one in trained.measured]
    assert len(held_out) == 4
    assert held_out[-1] < held_out[0]
    assert load_trained(tmp_path / "a", spec.digest) == trained


def test_a_step_of_pairs_is_cut_where_memory_ends_and_no_pair_is(tmp_path):
    spec = make_spec(PAIRS, epochs=1, batch_size=8, objective="dpo")
    free = fit(with_adapter(make_model()), spec, tmp_path / "free", bf16=False)
    longest = max(
        2 * (len(s.token_ids) - 1) for item in encode(PAIRS, "dpo") for s in item.sequences
    )
    tight = fit(
        with_adapter(limit_memory(make_model(), longest)), spec, tmp_path / "tight", bf16=False
    )
    assert tight.points[0].loss == pytest.approx(free.points[0].loss, rel=1e-5)
    full = limit_memory(make_model(), longest - 1)
    with pytest.raises(OutOfMemory, match="a single example of"):
        fit(with_adapter(full), make_spec(PAIRS, name="x", objective="dpo"), tmp_path / "x")


def test_a_stopped_fit_goes_on_from_the_same_reference(tmp_path):
    spec = make_spec(PAIRS, objective="dpo", sft_weight=0.5, anchor=0.2)
    whole = fit(with_adapter(make_model(), dropout=0.1), spec, tmp_path / "whole")
    stop = threading.Event()

    def stop_after_two(point, part):
        if point.step == 2:
            stop.set()

    with pytest.raises(TrainingStopped):
        fit(
            with_adapter(make_model(), dropout=0.1),
            spec,
            tmp_path / "a",
            on_point=stop_after_two,
            stop=stop,
        )
    assert load_checkpoint(tmp_path / "a", spec.digest).points == whole.points[:2]
    resumed = fit(with_adapter(make_model(), dropout=0.1), spec, tmp_path / "a")
    assert resumed.points == whole.points
    assert resumed.sha256 == whole.sha256


def test_an_anchor_keeps_the_tuned_model_near(tmp_path):
    distances = [
        fit(
            with_adapter(make_model()),
            make_spec(BASE, name=f"w{anchor}", epochs=6, learning_rate=3e-2, anchor=anchor),
            tmp_path / f"w{anchor}",
            bf16=False,
        ).base_kl
        for anchor in (0.0, 10.0, 100.0)
    ]
    assert distances[0] > 1.2 * distances[1] > 1.5 * distances[2] > 0


def test_pairs_that_are_too_long_are_left_out_by_their_longer_answer(tmp_path):
    longer = replace(PAIRS[0], rejected="so " * 90)
    most = max(len(s.token_ids) for item in encode(PAIRS, "dpo") for s in item.sequences)
    changes = {"objective": "dpo", "max_example_tokens": most}
    spec = make_spec((longer, *PAIRS[1:]), epochs=1, **changes)
    assert fit(with_adapter(make_model()), spec, tmp_path / "a").left_out == 1


@pytest.mark.parametrize(
    ("examples", "changes", "error", "message"),
    [
        (BASE, {"objective": "dpo"}, InvalidTrainingData, "no example for finetune.objective"),
        (PAIRS, {}, InvalidTrainingData, "no example for finetune.objective = 'sft'"),
        (PAIRS, {"objective": "kto"}, InvalidTrainingData, "no example for"),
        (BASE, {"beta": 0.2}, InvalidSettings, "finetune.beta = 0.2 belongs to preferences"),
        (BASE, {"sft_weight": 1.0}, InvalidSettings, "finetune.sft_weight = 1.0 belongs to"),
        (BASE, {"anchor_to": "base"}, InvalidSettings, "has no effect without an anchor"),
        (PAIRS, {"objective": "dpo", "beta": 0.0}, InvalidSettings, "beta = 0.0 must be above 0"),
        (
            BASE,
            {"method": "full", "anchor": 1.0, "anchor_to": "base"},
            InvalidSettings,
            "base of this full fine-tune is not at hand",
        ),
        (
            [replace(PAIRS[0], loss_on=(1, 3))],
            {"objective": "dpo"},
            InvalidTrainingData,
            "a preference is about the last message",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, examples, changes, error, message):
    full = changes.get("method") == "full"
    model = make_model() if full else with_adapter(make_model())
    with pytest.raises(error, match=message):
        fit(model, make_spec(examples, **changes), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
