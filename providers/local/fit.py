"""The optimizer's side of training: step after step, each in pieces that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from providers.errors import InvalidSettings, OutOfMemory, TrainingFailed
from providers.local.anchor import build_anchor
from providers.local.attention import may_use_sdpa
from providers.local.checkpoint import FitState
from providers.local.conversation import TrainingSequence
from providers.local.drift import measure_drift
from providers.local.hardware import has_native_bf16, is_out_of_memory, release_memory
from providers.local.items import TrainingItem
from providers.local.loss import SummedLoss, cut_step, unwrap_model
from providers.local.memory import KEPT_TOKENS
from providers.local.objectives import build_objective
from providers.local.pieces import Failure, Steps
from providers.local.recomputation import Recomputation
from providers.local.schedule import (
    compute_learning_rate,
    count_epoch_steps,
    list_step_members,
)
from providers.local.shared_adapter import SharedAdapter, TooLargeToShare
from providers.local.soundness import SAMPLE, require_finite, require_sound
from providers.types import FinetuneSpec, TrainingCheckpoint, TrainingStep

# Padded tokens of a micro-batch at first: what keeps the cores busy. A CPU's are busy with few
# tokens, and what a pass keeps of each is the most of what training holds.
_TOKEN_BUDGET = {"cpu": 512, "cuda": 32768}


class Fit:
    """One fit between two optimizer steps: weights, optimizer, and the steps done so far.

    `steps` is how many optimizer steps the whole fit has, `points` are those that are done, and
    `trained_tokens` counts the tokens they went through. `base` is the untrained model of a full
    fine-tune; `held_out` items are only measured.

    ```python
    fit = Fit(model, spec, items, torch.device("cpu"), bf16=None)
    fit.prepare()
    while len(fit.points) < fit.steps:
        print(complete(fit.take_step()).loss)
    fit.close()
    ```
    """

    def __init__(
        self,
        model: nn.Module,
        spec: FinetuneSpec,
        items: Sequence[TrainingItem],
        device: torch.device,
        bf16: bool | None,
        base: nn.Module | None = None,
        held_out: Sequence[TrainingItem] = (),
    ) -> None:
        self.points: list[TrainingStep] = []
        self.measured: list[TrainingCheckpoint] = []
        self.trained_tokens = 0
        self._spec = spec
        self._device = device
        self._causal = unwrap_model(model)
        # One that shares its base with others: what belongs to the base is not its to change.
        self._shared = model if isinstance(model, SharedAdapter) else None
        self._token_budget = _TOKEN_BUDGET.get(device.type, _TOKEN_BUDGET["cpu"])
        self._recomputation = Recomputation(self._causal)
        self._recompute = spec.hyperparameters.gradient_checkpointing is True
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
        if self._attention == "eager" and may_use_sdpa(self._causal, self._causal.config):
            # Eager attention suits decoding; in training it would keep every layer's T x T weights.
            self._causal.set_attn_implementation("sdpa")
        self._model = model
        self._bf16 = has_native_bf16(device) if bf16 is None else bf16
        loss = SummedLoss(model, device, bf16=self._bf16)
        anchor = build_anchor(model, hyperparameters, loss, self._trainable, base, bf16=self._bf16)
        self._objective = build_objective(hyperparameters, loss, device, anchor)
        self._items = list(items)
        self._held_out = list(held_out)
        self._noise = _add_noise(self._causal, hyperparameters.neftune_alpha)
        if self._recompute and not self._recomputation.is_possible:
            raise InvalidSettings(
                "finetune.gradient_checkpointing = true: this model cannot compute activations "
                'again; set it to "auto"'
            )
        self._epoch_steps = count_epoch_steps(len(items), hyperparameters.batch_size)
        self.steps = hyperparameters.epochs * self._epoch_steps

    def prepare(self) -> None:
        """Compute what the objective needs of the untrained model; before the first step."""
        self._items = self._prepare_items(self._items)
        self._held_out = self._prepare_items(self._held_out)

    def take_step(self) -> Steps[TrainingStep]:
        """Do the next optimizer step.

        If memory runs out, the step is cut into smaller pieces; its result stays the same. Raises
        `TrainingFailed`, or `OutOfMemory` if a single example does not fit.
        """
        hyperparameters = self._spec.hyperparameters
        number = len(self.points) + 1
        members = self._list_members(number)
        loss = yield from self._find_gradient(members, number)
        # A max_grad_norm of 0 means no clipping; the norm is needed all the same.
        norm = nn.utils.clip_grad_norm_(
            self._trainable.values(), hyperparameters.max_grad_norm or math.inf
        ).item()
        require_finite(self._spec.name, number, loss, norm)
        rate = compute_learning_rate(hyperparameters, number, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.points.append(TrainingStep(number, loss, rate, *self._objective.rewards))
        self.trained_tokens += self._objective.count_tokens(members)
        return self.points[-1]

    def measure_drift(
        self, base: nn.Module | None, sequences: Sequence[TrainingSequence]
    ) -> float | None:
        """How far the model is from the base now; see `drift.measure_drift`."""
        return measure_drift(self._model, base, sequences, self._device, bf16=self._bf16)

    @property
    def ends_epoch(self) -> bool:
        """Whether the last step was the last one of an epoch."""
        return len(self.points) % self._epoch_steps == 0

    def measure(self) -> None:
        """Add the loss of the held-out items, if there are any, to `measured`."""
        if not self._held_out:
            return
        loss = self._objective.measure(self._held_out, self._token_budget)
        # The weights of the last step are the job's model; earlier ones are not kept.
        model = self._spec.name if len(self.points) == self.steps else None
        self.measured.append(TrainingCheckpoint(len(self.points), model, loss))

    def require_sound(self) -> Steps[None]:
        """Raise `TrainingFailed` if the fit has diverged.

        A step's loss is that before its update, so the effect of the last update shows only here: a
        few examples of the last step must not be much less likely than the first step's were, and
        wanted answers not much less likely than they were before the training.
        """
        first, last = yield from self._compare_likelihoods()
        vocabulary = int(self._causal.config.get_text_config().vocab_size)
        require_sound(self._spec.name, first, last, vocabulary)

    def _compare_likelihoods(self) -> Steps[tuple[float, float]]:
        """The loss in nats per token at first, and that of a few examples now."""
        if self._spec.hyperparameters.objective != "sft":
            # The last step may have no answer that is wanted.
            wanted = [item for item in self._items if item.wanted] or self._items
            return self._objective.compare_likelihoods(wanted[:SAMPLE], self._token_budget)
        last = len(self.points)
        loss = yield from self._find_gradient(self._list_members(last)[:SAMPLE], last)
        self._optimizer.zero_grad()
        return self.points[0].loss, loss

    def checkpoint(self) -> FitState:
        """The state now. Its tensors are those of the fit: write it before the next step."""
        return FitState(
            digest=self._spec.digest,
            points=tuple(self.points),
            measured=tuple(self.measured),
            trained_tokens=self.trained_tokens,
            token_budget=self._token_budget,
            recompute=self._recompute,
            weights={name: weight.detach() for name, weight in self._trainable.items()},
            optimizer=self._optimizer.state_dict(),
        )

    def resume(self, checkpoint: FitState) -> None:
        """Continue from `checkpoint`, with the same results as without the interruption."""
        with torch.no_grad():
            for name, weight in self._trainable.items():
                weight.copy_(checkpoint.weights[name])
        self._optimizer.load_state_dict(dict(checkpoint.optimizer))
        self.points = list(checkpoint.points)
        self.measured = list(checkpoint.measured)
        self.trained_tokens = checkpoint.trained_tokens
        self._token_budget = checkpoint.token_budget
        self._recompute = checkpoint.recompute

    def close(self) -> None:
        """Leave the model computing as it did before the fit, without gradients kept."""
        self._optimizer.zero_grad()
        if self._noise is not None:
            self._noise.remove()
        if self._causal.config._attn_implementation != self._attention:
            self._causal.set_attn_implementation(self._attention)
        self._recomputation.set_share(0)

    def _prepare_items(self, items: Sequence[TrainingItem]) -> list[TrainingItem]:
        while True:
            try:
                return self._objective.prepare(items, self._token_budget)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._reduce_memory(items)

    def _list_members(self, number: int) -> list[TrainingItem]:
        """The examples of step `number`, from 1."""
        batch_size, seed = self._spec.hyperparameters.batch_size, self._spec.seed
        # The permutation follows from seed and step alone, so that a resume needs no state of it.
        chosen = list_step_members(len(self._items), batch_size, seed, number - 1)
        return [self._items[index] for index in chosen]

    def _find_gradient(self, members: Sequence[TrainingItem], number: int) -> Steps[float]:
        """Compute the step's gradient in place, in pieces that fit; returns its loss."""
        while isinstance(found := (yield from self._try_gradient(members, number)), Failure):
            # If it ran out for other fits' pieces beside this one's, those will be apart.
            if found is Failure.MEMORY:
                self._reduce_memory(members)
        return found

    def _try_gradient(self, members: Sequence[TrainingItem], number: int) -> Steps[float | Failure]:
        """Compute the step's gradient in place; returns its loss, or why there is none."""
        lengths = self._objective.list_lengths(members)
        # Before every try: one that ran out of memory has left parts of a gradient.
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        try:
            with self._seed_dropout(number):
                self._objective.begin_step(members, self._token_budget)
                for group in cut_step(lengths, self._token_budget):
                    chosen = [members[index] for index in group]
                    self._choose_recomputation(len(group) * max(lengths[index] for index in group))
                    if (piece := self._objective.make_piece(chosen)) is None:
                        total += self._objective.backward(chosen)
                        continue
                    if isinstance(found := (yield piece), Failure):
                        return found
                    total += found
            # The gradient is divided by the number of tokens or examples, so that over an epoch
            # every example pulls by its weight, whichever others share its step. The loss that is
            # reported is the weighted mean, which can be compared from step to step.
            return total.item() / self._objective.mean_weight
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise TrainingFailed(f"step {number} of {self._spec.name!r}: {error}") from error
        return Failure.MEMORY

    def _seed_dropout(self, step: int) -> AbstractContextManager[None]:
        """Draw this step's dropout by its number, so that a resume draws the same."""
        seed = (self._spec.seed * 1_000_003 + step) % (1 << 63)
        if self._shared is not None:
            return self._shared.seed_dropout(seed)
        return _seed_generators(seed, self._device)

    def _reduce_memory(self, members: Sequence[TrainingItem]) -> None:
        """Make the next try need less memory: half the tokens at a time, then recomputation."""
        self._optimizer.zero_grad()
        release_memory()
        longest = max(self._objective.list_lengths(members))
        if self._token_budget > longest:
            self._token_budget //= 2
        elif self._shared is not None:
            raise TooLargeToShare(f"an example of {longest} tokens needs recomputation")
        elif self._recompute or not self._may_recompute():
            raise OutOfMemory(
                f"{self._spec.name!r}: a single example of {longest} tokens does not fit into the "
                f"memory of {self._device}; free memory that other processes hold there, leave "
                "long examples out (finetune.max_example_tokens), or take a smaller model"
                + ("" if self._may_recompute() else '; or set gradient_checkpointing = "auto"')
            )
        else:
            self._recompute = True

    def _may_recompute(self) -> bool:
        wanted = self._spec.hyperparameters.gradient_checkpointing is not False
        return wanted and self._recomputation.is_possible

    def _choose_recomputation(self, tokens: int) -> None:
        """Let a long pass keep no more activations than one of `KEPT_TOKENS`."""
        if self._shared is not None or not self._may_recompute():
            return
        kept = KEPT_TOKENS.get(self._device.type, KEPT_TOKENS["cpu"])
        self._recomputation.set_share(1.0 if self._recompute else max(0.0, 1 - kept / tokens))


def _add_noise(causal: Any, alpha: float | None) -> Any:
    """Let the model add NEFTune's noise to embeddings while it trains; what removes it again.

    Uniform in ±alpha / √(tokens · width), see arXiv 2310.05914. It draws from torch's global
    generator, as dropout does.
    """
    if alpha is None:
        return None

    def disturb(module: nn.Module, inputs: object, states_B_T_D: torch.Tensor) -> torch.Tensor:
        if not (causal.training and torch.is_grad_enabled()):
            return states_B_T_D
        size = alpha / math.sqrt(states_B_T_D.shape[-2] * states_B_T_D.shape[-1])
        return states_B_T_D + torch.empty_like(states_B_T_D).uniform_(-size, size)

    return causal.get_input_embeddings().register_forward_hook(disturb)


@contextmanager
def _seed_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators with this seed, and afterwards as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
