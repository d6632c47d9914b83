"""One training through the wire: the local trainer's steps, computed by a server.

The order of the examples, the batches, the rates, the loss and the checks are those of
`providers.local`; weights and optimizer are the server's. After a failure whose effect is unknown,
and after a kill, the fit goes back to the last saved state and repeats the steps after it, so that
every optimizer step is in the adapter once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tinker

from providers.artifact import Trained, publish
from providers.errors import (
    ModelNotFound,
    RetryableError,
    StorageFailed,
    TrainingFailed,
)
from providers.local.items import TrainingItem
from providers.local.schedule import (
    compute_learning_rate,
    count_epoch_steps,
    describe_small_reach,
    list_step_members,
)
from providers.local.soundness import SAMPLE, require_finite, require_sound
from providers.local.training_data import TrainingData
from providers.tinker.archive import download_adapter
from providers.tinker.connection import TinkerConnection
from providers.tinker.errors import AdapterGone
from providers.tinker.journal import Journal, open_journal
from providers.tinker.loaded import LoadedModels
from providers.tinker.passes import Pass, build_measurement, build_pass, compute_loss
from providers.tinker.paths import name_state, read_step, sampler_path, split_path, state_path
from providers.tinker.rendering import Renderer
from providers.types import FinetuneSpec, TrainingCheckpoint, TrainingStep

_log = logging.getLogger(__name__)

# After these the fit goes back to a saved state and tries again; others stop it.
_RECOVERABLE = (RetryableError, AdapterGone)
_LONGEST_PAUSE_S = 30.0
# What torch's AdamW has by default, with which models are trained on this machine.
_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


@dataclass(frozen=True)
class Workplace:
    """What all trainings of a provider share; their artifacts go under `workdir`."""

    connection: TinkerConnection
    renderer: Renderer
    loaded: LoadedModels
    workdir: Path


class TrainingStopped(TrainingFailed):
    """The fit was stopped at a saved state, from which the same spec continues."""


class RemoteFit:
    """The training of one spec. `journal` and `notes` may be read while it runs.

    fit = RemoteFit(place, spec)
    await fit.run()
    fit.journal.artifact  # "tinker://…/sampler_weights/society-…"
    """

    def __init__(self, place: Workplace, spec: FinetuneSpec) -> None:
        self.journal: Journal = open_journal(place.workdir / spec.name, spec.digest)
        self.notes: list[str] = []
        self.stopping = False
        self.steps = 0
        self._place = place
        self._spec = spec
        self._settings = place.connection.settings
        self._data = TrainingData([], [], 0)

    async def run(self) -> None:
        """Train to the end, from where the journal says. Raises errors of `providers.errors`."""
        if self.journal.artifact is not None:
            return
        spec, how = self._spec, self._spec.hyperparameters
        # Encode everything first: an unfit example must not end a fit after hours.
        self._data = await asyncio.to_thread(
            self._place.renderer.encode_data, spec, self.notes.append
        )
        if fault := describe_small_reach(how, len(spec.examples)):
            self.notes.append(f"warning: {fault}")
        self.steps = how.epochs * count_epoch_steps(len(self._data.items), how.batch_size)
        failures, since, best = 0, time.monotonic(), len(self.journal.points)
        while True:
            try:
                await self._try()
                return
            except _RECOVERABLE as error:
                if len(self.journal.points) > best:
                    failures, since, best = 0, time.monotonic(), len(self.journal.points)
                failures += 1
                if not self._may_try_again(failures, since):
                    raise
                reason = error
            _log.warning("%s goes back to its last saved state: %s", spec.name, reason)
            await asyncio.sleep(min(_LONGEST_PAUSE_S, 2.0 ** (failures - 2)))

    def _may_try_again(self, failures: int, since: float) -> bool:
        settings = self._settings
        waited = time.monotonic() - since
        return failures < settings.max_attempts and waited < settings.give_up_after_s

    async def _try(self) -> None:
        """One try with an adapter of its own in the server's memory."""
        await self._find_states()
        if self.journal.artifact is not None:
            return
        client = await self._open()
        try:
            await self._train(client)
            artifact = await self._save_sampler(client)
        except BaseException:
            await self._place.loaded.release(client)
            raise
        self._place.loaded.adopt(artifact, client)
        await self._finish(artifact)

    async def _find_states(self) -> None:
        """Ask the server what was saved, since an answer may have been lost."""
        rest, journal = self._place.connection.rest, self.journal
        for run in journal.runs:
            try:
                listed = await self._call("a list", rest.list_checkpoints_async(run))
            except ModelNotFound:
                continue
            found: dict[str, set[int]] = {"training": set(), "sampler": set()}
            for one in listed.checkpoints:
                step = read_step(self._spec, one.checkpoint_id)
                if step is None or step > len(journal.points):
                    continue
                found[one.checkpoint_type].add(step)
                if one.checkpoint_type == "training" and step not in journal.states:
                    journal.add_state(step, state_path(one.tinker_path))
            if all(self.steps in steps for steps in found.values()):
                name = name_state(self._spec, self.steps)
                await self._finish(sampler_path(f"tinker://{run}/{name}"))
                return

    async def _open(self) -> Any:
        """An adapter in the last saved state, or in that of the start."""
        loaded, how, journal = self._place.loaded, self._spec.hyperparameters, self.journal
        facts = {**self._spec.metadata, "name": self._spec.name, "digest": self._spec.digest}
        start = self._spec.start.artifact
        for step in sorted(journal.states, reverse=True):
            try:
                client = await loaded.restore(
                    journal.states[step], how.lora_rank, facts, optimizer=True
                )
            except ModelNotFound as error:
                _log.warning("%s: the state after step %d is gone: %s", facts["name"], step, error)
                continue
            break
        else:
            step = 0
            if start is None:
                client = await loaded.create(how.lora_rank, self._spec.seed, facts)
            else:
                client = await loaded.restore(start, how.lora_rank, facts, optimizer=False)
        try:
            journal.begin(str(client.model_id))
            if max(len(journal.points), journal.intended) > step:
                journal.go_back(step)
            if step == 0 and start is None:
                await loaded.start_clean(client, name_state(self._spec, 0))
        except BaseException:
            await loaded.release(client)
            raise
        return client

    async def _train(self, client: Any) -> None:
        journal, how = self.journal, self._spec.hyperparameters
        epoch = count_epoch_steps(len(self._data.items), how.batch_size)
        while (number := len(journal.points) + 1) <= self.steps:
            if self.stopping:
                await self._save_state(client, number - 1)
                raise TrainingStopped(
                    f"{self._spec.name!r} was stopped after step {number - 1} of {self.steps}; "
                    "submit it again to continue from there"
                )
            await self._step(client, number)
            if number % epoch == 0 and self._data.held_out:
                await self._measure(client, number)
            if number % self._settings.save_every == 0:
                await self._save_state(client, number)
        if self.steps:
            last = await self._read_loss(client, self._list_members(self.steps)[:SAMPLE])
            first = journal.points[0].loss
            require_sound(self._spec.name, first, last, self._place.renderer.vocabulary)

    async def _step(self, client: Any, number: int) -> None:
        """One optimizer step: a pass and what applies it, which the vendor's server does in order.

        SkyRL 0.3.0 looks for passes and then for steps (`process_pending_requests` of its engine).
        If both come in between, it applies the step first, without a gradient. So a server of one's
        own gets the step when the pass is done.
        """
        how, sequences = self._spec.hyperparameters, self._list_members(number)
        work = build_pass(sequences, self._settings.loss_reduction)
        rate = compute_learning_rate(how, number, self.steps)
        clip = {"grad_clip_norm": how.max_grad_norm} if how.max_grad_norm else {}
        adam = tinker.AdamParams(learning_rate=rate, weight_decay=how.weight_decay, **_ADAM, **clip)
        self.journal.intend(number)

        async def send() -> Any:
            passed = client.forward_backward(*work.arguments)
            if self._place.connection.has_slots:
                return await _wait(passed), await _wait(client.optim_step(adam))
            return await asyncio.gather(_wait(passed), _wait(client.optim_step(adam)))

        output, applied = await self._place.connection.call(
            f"optimizer step {number} of {self._spec.name}", send
        )
        loss = compute_loss(output, sequences, weighted=True)
        require_finite(self._spec.name, number, loss, _find_norm(applied))
        tokens = sum(len(one.token_ids) for one in sequences)
        self.journal.add_point(TrainingStep(number, loss, rate), tokens)

    async def _measure(self, client: Any, number: int) -> None:
        loss = await self._read_loss(client, [item.answer for item in self._data.held_out])
        model = self._spec.name if number == self.steps else None
        self.journal.add_measured(TrainingCheckpoint(number, model, loss))

    async def _read_loss(self, client: Any, sequences: list[Any]) -> float:
        work: Pass = build_measurement(sequences)
        output = await self._call("a forward pass", client.forward(*work.arguments))
        return compute_loss(output, sequences, weighted=False)

    async def _save_state(self, client: Any, step: int) -> None:
        if step == 0 or self._is_saved(client, step):
            return
        name = name_state(self._spec, step)
        saved = await self._call("a saved state", client.save_state(name))
        self.journal.add_state(step, state_path(saved.path))

    async def _save_sampler(self, client: Any) -> str:
        """Save what answers, and under the same name what can be trained on."""
        await self._save_state(client, self.steps)
        name = name_state(self._spec, self.steps)
        saved = await self._call("the adapter", client.save_weights_for_sampler(name))
        return sampler_path(saved.path)

    async def _finish(self, artifact: str) -> None:
        sha256 = None
        if self._settings.download:
            sha256 = await self._download(artifact)
        self.journal.finish(artifact, sha256, self._data.left_out)

    async def _download(self, artifact: str) -> str:
        out, journal = self._place.workdir / self._spec.name, self.journal
        partial = out.with_name(f".{out.name}.download")
        connection = self._place.connection
        await download_adapter(connection, artifact, partial)
        facts = Trained(
            out,
            "",
            tuple(journal.points),
            journal.trained_tokens,
            tuple(journal.measured),
            left_out=self._data.left_out,
        )

        def write(folder: Path) -> None:
            for path in partial.iterdir():
                path.replace(folder / path.name)
            partial.rmdir()

        try:
            return (await asyncio.to_thread(publish, out, self._spec, write, facts)).sha256
        except OSError as error:
            raise StorageFailed(
                f"{self._spec.name!r} cannot be written to {out.parent}: {error}; free some space "
                "there, or set provider.download = false: the adapter stays at the server"
            ) from error

    def _is_saved(self, client: Any, step: int) -> bool:
        """Whether the state of a step was saved from this very adapter."""
        path = self.journal.states.get(step)
        return path is not None and split_path(path)[0] == str(client.model_id)

    def _list_members(self, number: int) -> list[Any]:
        """The sequences of step `number`, from 1."""
        items: list[TrainingItem] = self._data.items
        how = self._spec.hyperparameters
        chosen = list_step_members(len(items), how.batch_size, self._spec.seed, number - 1)
        return [items[index].answer for index in chosen]

    async def _call(self, what: str, future: Awaitable[Any]) -> Any:
        return await self._place.connection.call(what, lambda: _wait(future))


async def _wait(future: Awaitable[Any]) -> Any:
    return await future


def _find_norm(applied: Any) -> float:
    """The norm of the step's gradient if the server tells it, else 0."""
    metrics = getattr(applied, "metrics", None) or {}
    return next((float(v) for name, v in metrics.items() if name.endswith("grad_norm")), 0.0)
