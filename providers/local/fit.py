"""The optimizer's side of training: one step after the other, in pieces that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from providers.errors import OutOfMemory, TrainingFailed
from providers.local.checkpoint import Checkpoint
from providers.local.conversation import Encoded
from providers.local.loss import SummedLoss, causal_model
from providers.local.memory import ran_out
from providers.local.microbatches import collate, cut, step_members, steps_per_epoch
from providers.types import FinetuneSpec, Hyperparameters, TrainingPoint

# Padded tokens in one micro-batch to begin with: what fits a CPU's caches, or fills a GPU's cores.
_TOKEN_BUDGET = {"cpu": 1024, "cuda": 32768}
# How many examples tell whether a fit has diverged, and the least rise of the loss, in nats per
# token, that says so: half the way from where it began to guessing among all tokens.
_SAMPLE = 8
_LEAST_RISE = 1.0
_SLOWER = (
    "lower the learning rate (finetune.learning_rate), or look for broken weights in the model it "
    "starts from"
)


def learning_rate(hyperparameters: Hyperparameters, step: int, steps: int) -> float:
    """The rate of step `step` of `steps`, from 1: linear warm-up, then the schedule towards 0."""
    peak = hyperparameters.learning_rate
    warmup = math.ceil(hyperparameters.warmup * steps)
    if step <= warmup:
        return peak * step / warmup
    gone = (step - 1 - warmup) / max(1, steps - warmup)
    match hyperparameters.schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - gone)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * gone))


class Fit:
    """One fit between its steps: weights, optimizer, and what has been done.

    `steps` is the number of optimizer steps of the whole fit, `points` those that are done,
    `trained_tokens` the tokens they went through.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: FinetuneSpec,
        sequences: list[Encoded],
        device: torch.device,
        bf16: bool | None,
    ) -> None:
        self.points: list[TrainingPoint] = []
        self.trained_tokens = 0
        self._spec = spec
        self._sequences = sequences
        self._device = device
        self._causal = causal_model(model)
        self._token_budget = _TOKEN_BUDGET.get(device.type, _TOKEN_BUDGET["cpu"])
        self._recompute = False
        self._trainable = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        if not self._trainable:
            raise TrainingFailed(f"{spec.name!r}: no parameter of the model is trainable")
        for weight in self._trainable.values():
            # Half precision would round small updates away.
            weight.data = weight.data.float()
        hyperparameters = spec.hyperparameters
        self._optimizer = torch.optim.AdamW(
            self._trainable.values(),
            lr=hyperparameters.learning_rate,
            weight_decay=hyperparameters.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self._attention = self._causal.config._attn_implementation
        if self._attention == "eager" and _may_use_sdpa(self._causal):
            # Eager attention suits decoding; here it would keep every layer's T x T weights.
            self._causal.set_attn_implementation("sdpa")
        self._loss = SummedLoss(model, device, bf16=native_bf16(device) if bf16 is None else bf16)
        self.steps = hyperparameters.epochs * steps_per_epoch(
            len(sequences), hyperparameters.batch_size
        )

    def step(self) -> TrainingPoint:
        """Do the next optimizer step.

        Memory that runs out makes its pieces smaller, not its result another. Raises
        `TrainingFailed` or, where a single example does not fit, `OutOfMemory`.
        """
        hyperparameters = self._spec.hyperparameters
        number = len(self.points) + 1
        members = self._members(number)
        while (loss := self._try_gradient(members, number)) is None:
            self._relieve(members)
        norm = nn.utils.clip_grad_norm_(
            self._trainable.values(), hyperparameters.max_grad_norm or math.inf
        ).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingFailed(
                f"{self._spec.name!r} diverged at step {number}: its loss is {loss:.3g} nats per "
                f"token and its gradient norm {norm:.3g}; {_SLOWER}"
            )
        rate = learning_rate(hyperparameters, number, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.points.append(TrainingPoint(number, loss, rate))
        self.trained_tokens += sum(len(sequence.token_ids) for sequence in members)
        return self.points[-1]

    def require_sound(self) -> None:
        """Raise `TrainingFailed` where the last steps have left no model worth keeping.

        Every step's loss is that before its update, so the last one shows only here: a few examples
        of the last step must not be much less likely than the first step's were.
        """
        last, first = len(self.points), self.points[0].loss
        members = self._members(last)[:_SAMPLE]
        while (loss := self._try_gradient(members, last)) is None:
            self._relieve(members)
        self._optimizer.zero_grad()
        guessing = math.log(max(2, int(self._causal.config.get_text_config().vocab_size)))
        most = max(first + _LEAST_RISE, (first + guessing) / 2)
        if not loss <= most:
            raise TrainingFailed(
                f"{self._spec.name!r} diverged: its loss was {first:.3g} nats per token before the "
                f"first step and is {loss:.3g} after the last; {_SLOWER}"
            )

    def checkpoint(self) -> Checkpoint:
        """The state now. Its tensors are the live ones: write it before the next step."""
        return Checkpoint(
            digest=self._spec.digest,
            points=tuple(self.points),
            trained_tokens=self.trained_tokens,
            token_budget=self._token_budget,
            recompute=self._recompute,
            weights={name: weight.detach() for name, weight in self._trainable.items()},
            optimizer=self._optimizer.state_dict(),
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from `checkpoint` as if there had been no break."""
        with torch.no_grad():
            for name, weight in self._trainable.items():
                weight.copy_(checkpoint.weights[name])
        self._optimizer.load_state_dict(dict(checkpoint.optimizer))
        self.points = list(checkpoint.points)
        self.trained_tokens = checkpoint.trained_tokens
        self._token_budget = checkpoint.token_budget
        if checkpoint.recompute:
            self._recompute_activations()

    def close(self) -> None:
        """Leave the model computing as it did before the fit, without gradients kept."""
        self._optimizer.zero_grad()
        if self._causal.config._attn_implementation != self._attention:
            self._causal.set_attn_implementation(self._attention)
        if self._recompute:
            self._causal.activation_checkpointing_disable()

    def _members(self, number: int) -> list[Encoded]:
        """The examples of step `number`, from 1."""
        batch_size, seed = self._spec.hyperparameters.batch_size, self._spec.seed
        chosen = step_members(len(self._sequences), batch_size, seed, number - 1)
        return [self._sequences[index] for index in chosen]

    def _try_gradient(self, members: list[Encoded], number: int) -> float | None:
        """Loss of the step, its gradient in place; None if memory ran out."""
        targets = sum(sum(sequence.trained) for sequence in members)
        lengths = [len(sequence.token_ids) - 1 for sequence in members]
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        try:
            with _noise(self._spec.seed, number, self._device):
                for group in cut(lengths, self._token_budget):
                    batch = collate([members[index] for index in group], self._device)
                    total += self._loss.backward(batch, targets)
            return total.item()
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise TrainingFailed(f"step {number} of {self._spec.name!r}: {error}") from error
        return None

    def _relieve(self, members: list[Encoded]) -> None:
        """Make the next try need less: half the tokens at a time, at last recomputation."""
        self._optimizer.zero_grad()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        longest = max(len(sequence.token_ids) - 1 for sequence in members)
        if self._token_budget > longest:
            self._token_budget //= 2
        elif self._recompute or not self._recompute_activations():
            raise OutOfMemory(
                f"{self._spec.name!r}: a single example of {longest} tokens does not fit into the "
                f"memory of {self._device}; free memory that other processes hold there, shorten "
                "the examples or take a smaller model"
            )

    def _recompute_activations(self) -> bool:
        """Trade time for memory from now on; False if the model cannot."""
        if not getattr(self._causal, "supports_gradient_checkpointing", False):
            return False
        self._causal.activation_checkpointing_enable({"use_reentrant": False})
        self._recompute = True
        return True


def native_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware; emulation is far slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def _may_use_sdpa(causal: Any) -> bool:
    """Whether SDPA computes what eager attention does; a soft cap it would drop silently."""
    capped = getattr(causal.config.get_text_config(), "attn_logit_softcapping", None)
    return bool(getattr(causal, "_supports_sdpa", False)) and not capped


@contextmanager
def _noise(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators seeded for this step, so that a resume draws the same dropout."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((seed * 1_000_003 + step) % (1 << 63))
        yield
