"""What a fit minimizes, computed for one optimizer step in pieces that fit into memory.

The pieces of a step add up: `begin_step` is told all its members, and each call of `backward` adds
the gradient of some of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch

from providers.hyperparameters import Hyperparameters
from providers.local.conversation import TrainingSequence
from providers.local.items import TrainingItem
from providers.local.loss import (
    MicroBatch,
    Predictions,
    SummedLoss,
    collate_batch,
    cut_step,
)
from providers.local.pieces import Piece
from providers.local.preferences import compute_kto_losses, compute_pair_losses, weigh_kinds


def build_objective(
    settings: Hyperparameters, loss: SummedLoss, device: torch.device, anchor: Predictions | None
) -> TrainingObjective:
    """The objective that `settings` name.

    ```python
    objective = build_objective(settings, loss, torch.device("cpu"), anchor=None)
    ```
    """
    kinds = {"sft": LikelihoodObjective, "kto": KtoObjective}
    return kinds.get(settings.objective, PairObjective)(settings, loss, device, anchor)


class TrainingObjective(ABC):
    """A loss of items and its gradient, with the anchor's term where there is one.

    `mean_weight` is that of a step: over its tokens, or over its preferences.
    """

    def __init__(
        self,
        settings: Hyperparameters,
        loss: SummedLoss,
        device: torch.device,
        anchor: Predictions | None,
    ) -> None:
        self._settings = settings
        self._loss = loss
        self._device = device
        self._anchor = anchor
        self.mean_weight = 1.0
        self._members = 0
        self._targets = 0
        self._wanted_targets = 0
        self._margins: list[float] = []

    def prepare(self, items: Sequence[TrainingItem], token_budget: int) -> list[TrainingItem]:
        """The items with what is computed once, while the model is still the reference."""
        return list(items)

    def list_lengths(self, items: Sequence[TrainingItem]) -> list[int]:
        """How many tokens each item takes in a micro-batch; the last token is never read."""
        return [len(item.answer.token_ids) - 1 for item in items]

    def count_tokens(self, members: Sequence[TrainingItem]) -> int:
        """How many tokens the gradient of the members goes through."""
        return sum(len(sequence.token_ids) for sequence in self._list_trained(members))

    def begin_step(self, members: Sequence[TrainingItem], token_budget: int) -> None:
        """Begin a step of these items, or begin it again."""
        self._members = len(members)
        self._targets = sum(map(_count_targets, self._list_trained(members)))
        self._wanted_targets = sum(_count_targets(item.answer) for item in members if item.wanted)
        self.mean_weight = fmean(item.answer.weight for item in members)
        self._margins = []

    def make_piece(self, members: Sequence[TrainingItem]) -> Piece | None:
        """Some members' share of the step's loss; None if only `backward` can compute it."""
        return None

    def backward(self, members: Sequence[TrainingItem]) -> torch.Tensor:
        """Add the gradient of some members' share of the step's loss; returns that share."""
        loss = self._compute_loss(members, self._anchor)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @property
    def rewards(self) -> tuple[float | None, float | None]:
        """Margin and accuracy of the members that `backward` has had, None where there is none."""
        return None, None

    @torch.no_grad()
    def measure(self, items: Sequence[TrainingItem], token_budget: int) -> float:
        """The loss of items that are not trained on, without dropout, noise or anchor."""
        with self._loss.evaluated():
            self.begin_step(items, token_budget)
            groups = cut_step(self.list_lengths(items), token_budget)
            return sum(
                self._compute_loss([items[index] for index in group], None).item()
                for group in groups
            )

    def compare_likelihoods(
        self, items: Sequence[TrainingItem], token_budget: int
    ) -> tuple[float, float]:
        """The mean loss per token of the items' answers, in nats: before training, and now."""
        answers = [item.answer for item in items]
        before = sum(item.reference[0] for item in items)
        now = sum(self._loss.measure_logprobs(answers, token_budget))
        targets = sum(map(_count_targets, answers))
        return -before / targets, -now / targets

    def _list_trained(self, members: Sequence[TrainingItem]) -> list[TrainingSequence]:
        """The sequences that make up a micro-batch, in its order."""
        return [item.answer for item in members]

    @abstractmethod
    def _compute_loss(
        self, members: Sequence[TrainingItem], anchor: Predictions | None
    ) -> torch.Tensor:
        """The members' share of the step's loss."""

    def _score(
        self, members: Sequence[TrainingItem], anchor: Predictions | None
    ) -> tuple[MicroBatch, torch.Tensor, torch.Tensor]:
        """The members' batch, its N log-probabilities, and the anchor's share of the loss."""
        batch = collate_batch(self._list_trained(members), self._device)
        logprobs_N, nats_N = self._loss.compute_scores(batch, anchor)
        if nats_N is None:
            return batch, logprobs_N, torch.zeros((), device=self._device)
        return batch, logprobs_N, self._settings.anchor * nats_N.sum() / self._targets


class LikelihoodObjective(TrainingObjective):
    """The mean cross-entropy of all trained tokens of a step."""

    def begin_step(self, members: Sequence[TrainingItem], token_budget: int) -> None:
        super().begin_step(members, token_budget)
        answers = [item.answer for item in members]
        weighed = sum(answer.weight * _count_targets(answer) for answer in answers)
        self.mean_weight = weighed / self._targets

    def make_piece(self, members: Sequence[TrainingItem]) -> Piece | None:
        if self._anchor is not None:
            return None
        batch = collate_batch(self._list_trained(members), self._device)
        return Piece(self._loss, batch, self._targets)

    def measure(self, items: Sequence[TrainingItem], token_budget: int) -> float:
        return self._loss.measure(self._list_trained(items), token_budget)

    def _compute_loss(
        self, members: Sequence[TrainingItem], anchor: Predictions | None
    ) -> torch.Tensor:
        batch, logprobs_N, anchored = self._score(members, anchor)
        return anchored - batch.weigh(logprobs_N).sum() / self._targets


class _PreferenceObjective(TrainingObjective):
    """A loss on answers' log-probabilities against those of the model before training."""

    def prepare(self, items: Sequence[TrainingItem], token_budget: int) -> list[TrainingItem]:
        sequences = [sequence for item in items for sequence in item.sequences]
        # The model as it is now is the reference: its adapter is fresh, and changes nothing, or
        # the one that training continues from.
        found = iter(self._loss.measure_logprobs(sequences, token_budget))
        return [replace(i, reference=tuple(next(found) for _ in i.sequences)) for i in items]

    def _add_likelihood(
        self,
        loss: torch.Tensor,
        batch: MicroBatch,
        logprobs_N: torch.Tensor,
        is_wanted_N: torch.Tensor,
    ) -> torch.Tensor:
        """`loss` with the mean loss per wanted token that finetune.sft_weight asks for."""
        weight = self._settings.sft_weight
        if not weight or not self._wanted_targets:
            return loss
        wanted_N = batch.weigh(logprobs_N) * is_wanted_N
        return loss - weight * wanted_N.sum() / self._wanted_targets

    def _read_weights(self, members: Sequence[TrainingItem]) -> torch.Tensor:
        return torch.tensor([item.answer.weight for item in members], device=self._device)


class PairObjective(_PreferenceObjective):
    """DPO or IPO: the mean loss of a step's pairs."""

    def list_lengths(self, items: Sequence[TrainingItem]) -> list[int]:
        # The loss of a pair needs both answers at once.
        return [2 * (max(len(s.token_ids) for s in item.sequences) - 1) for item in items]

    @property
    def rewards(self) -> tuple[float | None, float | None]:
        if not self._margins:
            return None, None
        return fmean(self._margins), fmean(margin > 0 for margin in self._margins)

    def _list_trained(self, members: Sequence[TrainingItem]) -> list[TrainingSequence]:
        rejected = [item.other for item in members if item.other is not None]
        return [item.answer for item in members] + rejected

    def _compute_loss(
        self, members: Sequence[TrainingItem], anchor: Predictions | None
    ) -> torch.Tensor:
        batch, logprobs_N, anchored = self._score(members, anchor)
        beta, objective = self._settings.beta, self._settings.objective
        chosen_P, rejected_P = zip(*(item.reference for item in members), strict=True)
        reference_B = torch.tensor([*chosen_P, *rejected_P], device=self._device)
        ratios_B = batch.sum_rows(logprobs_N) - reference_B
        if objective == "ipo":
            ratios_B = ratios_B / batch.sum_rows(torch.ones_like(logprobs_N))
        wins_P, losses_P = ratios_B.chunk(2)
        self._margins += (beta * (wins_P - losses_P)).detach().tolist()
        found_P = compute_pair_losses(objective, beta, wins_P, losses_P)
        loss = (self._read_weights(members) * found_P).sum() / self._members
        is_chosen_N = batch.rows_N < len(members)
        return anchored + self._add_likelihood(loss, batch, logprobs_N, is_chosen_N)


class KtoObjective(_PreferenceObjective):
    """KTO: the mean loss of a step's answers, each wanted or not."""

    _kind_weights: tuple[float, float] | None = None
    _reference_point = torch.zeros(())

    def prepare(self, items: Sequence[TrainingItem], token_budget: int) -> list[TrainingItem]:
        # The first items are those that are trained on; the others are weighed in the same way.
        if self._kind_weights is None:
            wanted = sum(item.wanted for item in items)
            self._kind_weights = weigh_kinds(wanted, len(items) - wanted)
        return super().prepare(items, token_budget)

    def begin_step(self, members: Sequence[TrainingItem], token_budget: int) -> None:
        super().begin_step(members, token_budget)
        self._wanted_rewards: list[float] = []
        self._unwanted_rewards: list[float] = []
        pairs = [(item.other, item.reference[1]) for item in members if item.other is not None]
        now = self._loss.measure_logprobs([other for other, _ in pairs], token_budget)
        moved = fmean(n - before for n, (_, before) in zip(now, pairs, strict=True))
        self._reference_point = torch.tensor(max(0.0, moved), device=self._device)

    @property
    def rewards(self) -> tuple[float | None, float | None]:
        if not self._wanted_rewards or not self._unwanted_rewards:
            return None, None
        return fmean(self._wanted_rewards) - fmean(self._unwanted_rewards), None

    def _compute_loss(
        self, members: Sequence[TrainingItem], anchor: Predictions | None
    ) -> torch.Tensor:
        batch, logprobs_N, anchored = self._score(members, anchor)
        beta = self._settings.beta
        reference_B = torch.tensor([item.reference[0] for item in members], device=self._device)
        is_wanted_B = torch.tensor([item.wanted for item in members], device=self._device)
        ratios_B = batch.sum_rows(logprobs_N) - reference_B
        rewards = (beta * ratios_B).detach().tolist()
        self._wanted_rewards += [r for r, item in zip(rewards, members, strict=True) if item.wanted]
        self._unwanted_rewards += [
            r for r, item in zip(rewards, members, strict=True) if not item.wanted
        ]
        losses_B = compute_kto_losses(beta, ratios_B, is_wanted_B, self._reference_point)
        kinds_B = torch.where(is_wanted_B, *(self._kind_weights or (1.0, 1.0)))
        loss = (self._read_weights(members) * kinds_B * losses_B).sum() / self._members
        is_wanted_N = is_wanted_B[batch.rows_N]
        return anchored + self._add_likelihood(loss, batch, logprobs_N, is_wanted_N)


def _count_targets(sequence: TrainingSequence) -> int:
    return sum(sequence.trained)
