"""Several jobs trained at a time on one base, by passes that hold a piece of each.

Every job is the same code as by itself (`TrainingRun.train_in_steps`), with its own data, order,
rates, clipping, optimizer, checkpoints and end. A job never waits for another one's step: each pass
takes whatever pieces are wanted next, up to as many tokens as keep the device busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from providers.local.hardware import is_out_of_memory, release_memory
from providers.local.models import LocalModels
from providers.local.pieces import Failure, Piece, Steps
from providers.local.shared_adapter import CannotShare
from providers.local.shared_base import SharedBase, share_base
from providers.local.training_run import TrainingRun

# Tokens of a pass up to which pieces are put together. On a CPU more of them would no longer fit
# into its cache, and each would take longer.
_PASS_TOKENS = {"cpu": 768, "cuda": 32768}

TakeMore = Callable[[], Sequence[TrainingRun]]


def carry_out(
    models: LocalModels, runs: Sequence[TrainingRun], take_more: TakeMore = lambda: ()
) -> None:
    """Carry out jobs that one lane has taken, in passes that they share or in their own.

    A job that may share its passes is trained by the same products if it happens to be alone, so
    that what it learns does not depend on which others are there.
    """
    if models.may_share(runs[0].spec.hyperparameters):
        train_together(models, runs, take_more)
    else:
        _train_apart(models, runs, [])


def train_together(
    models: LocalModels, runs: Sequence[TrainingRun], take_more: TakeMore = lambda: ()
) -> None:
    """Carry jobs out together; `take_more` gives those that join now, asked before every pass.

    On a base that cannot be shared, and for jobs that need passes of their own, one job is carried
    out after the other. An error that is not the provider's own is raised after the last one.

    ```python
    train_together(models, [TrainingRun(spec, workdir / spec.name) for spec in specs])
    ```
    """
    errors: list[Exception] = []
    left = list(runs)
    try:
        with share_base(models.base) as shared:
            left = _Group(models, shared, take_more, errors).train(runs)
    except CannotShare as fault:
        for run in left:
            run.add_note(f"adapters of this model are trained one after the other: {fault}")
    except Exception:
        # The model cannot be loaded: each job will fail by it, and say so.
        if any(run.status == "running" for run in left):
            raise
    _train_apart(models, left, errors)


def _train_apart(models: LocalModels, runs: Sequence[TrainingRun], errors: list[Exception]) -> None:
    """Train one job after the other; then raises the first of `errors`, if there are any."""
    for run in runs:
        try:
            run.train(models)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """A job, and the piece that it waits for."""

    run: TrainingRun
    steps: Steps[None]
    piece: Piece


class _Group:
    def __init__(
        self,
        models: LocalModels,
        shared: SharedBase,
        take_more: TakeMore,
        errors: list[Exception],
    ) -> None:
        self._models, self._shared, self._take_more = models, shared, take_more
        self._errors = errors
        device = models.base.device.type
        self._pass_tokens = _PASS_TOKENS.get(device, _PASS_TOKENS["cpu"])
        # Who has waited longest comes first.
        self._members: deque[_Member] = deque()
        self._left: list[TrainingRun] = []

    def train(self, runs: Sequence[TrainingRun]) -> list[TrainingRun]:
        """Train all that can be trained together; returns the jobs that are still to be done."""
        try:
            for run in runs:
                self._begin(run)
            while True:
                for run in self._take_more():
                    self._begin(run)
                if not self._members:
                    return self._left
                self._pass_on()
        finally:
            for member in self._members:
                member.steps.close()

    def _begin(self, run: TrainingRun) -> None:
        steps = run.train_in_steps(self._models, self._shared)
        self._advance(run, steps, partial(next, steps))

    def _pass_on(self) -> None:
        """One pass, and what its pieces' jobs do next."""
        chosen = self._choose()
        pieces = [member.piece for member in chosen]
        outcomes: Sequence[torch.Tensor | Failure]
        try:
            outcomes = self._shared.backward(pieces)
        except Exception as error:
            if len(chosen) == 1 and not is_out_of_memory(error):
                (member,) = chosen
                self._advance(member.run, member.steps, partial(member.steps.throw, error))
                return
            # Alone, each will show whether the fault is its own.
            most = sum(piece.batch.tokens_B_T.numel() for piece in pieces)
            self._pass_tokens = most // 2 if is_out_of_memory(error) else 0
            outcomes = [Failure.MEMORY if len(chosen) == 1 else Failure.NEIGHBORS] * len(chosen)
        if isinstance(outcomes[0], Failure):
            release_memory()
        for member, outcome in zip(chosen, outcomes, strict=True):
            self._advance(member.run, member.steps, partial(member.steps.send, outcome))

    def _choose(self) -> list[_Member]:
        """The members of the next pass, as many as have room in it."""
        chosen: list[_Member] = []
        tokens = 0
        while self._members:
            tokens += self._members[0].piece.batch.tokens_B_T.numel()
            if chosen and tokens > self._pass_tokens:
                break
            chosen.append(self._members.popleft())
        return chosen

    def _advance(self, run: TrainingRun, steps: Steps[None], go_on: Callable[[], Piece]) -> None:
        """Let a job go on to its next piece, or to its end."""
        try:
            self._members.append(_Member(run, steps, go_on()))
        except StopIteration:
            if run.status == "queued" and not run.stop.is_set():
                self._left.append(run)
        except Exception as error:
            self._errors.append(error)
