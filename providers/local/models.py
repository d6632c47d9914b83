"""The models of one provider in memory: the base with its adapters, and full fine-tunes of it."""

from __future__ import annotations

import logging
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from providers.artifact import verify
from providers.errors import OutOfMemory
from providers.local.backbone import TUNED_DTYPE, Backbone, open_tokenizer
from providers.local.hardware import choose_device, is_out_of_memory, release_memory
from providers.local.joint_plan import find_joint_faults
from providers.local.kept_checks import KeptChecks
from providers.local.loading import require_weights_in_place
from providers.local.lora import add_trainable_adapter, is_adapter
from providers.local.peft_adapters import read_signature
from providers.local.plans import Verdict
from providers.local.self_check import check_adapters, check_base
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource, is_built_in
from providers.local.trial_adapters import attach_like, try_training_pass, write_trial_adapter
from providers.opening import BeginStep, tell_opening
from providers.types import Hyperparameters, ModelRef

_log = logging.getLogger(__name__)


class LocalModels:
    """The models of one provider by artifact, loaded at first use. For one thread at a time.

    An artifact is a folder, relative to `workdir` unless it is absolute. Adapters are kept beside
    the base. Of the full fine-tunes, the `settings.full_models` most recently used stay in memory,
    with weights of four bytes, whatever type the base's have. `self_check`: find out how models
    answer right; training needs no answers.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: LocalSettings,
        workdir: Path,
        *,
        self_check: bool = True,
    ) -> None:
        self._source = source
        self._settings = settings
        self._workdir = workdir
        self._base: Backbone | None = None
        self._tokenizer: Any = None
        self._full: OrderedDict[str, Backbone] = OrderedDict()
        self._hashes: dict[str, str] = {}
        # The built-in model's answers are compared by the tests of this package.
        self._is_checked = self_check and not is_built_in(source)
        self._kept = KeptChecks(source, settings)
        self._verdicts: dict[str | None, Verdict] = {}
        self._tried: set[tuple[object, ...]] = set()

    @property
    def base(self) -> Backbone:
        """The untuned model."""
        if self._base is None:
            with self._tell_opening(self._count_opening_steps()) as begin:
                backbone = Backbone(
                    self._source, self._settings, begin=begin, tokenizer=self._tokenizer
                )
                self._tokenizer = backbone.tokenizer
                if self._is_checked:
                    self._check_base(backbone, begin)
            self._base = backbone
        return self._base

    def open_tokenizer(self) -> Any:
        """The model's tokenizer, without the model; read once. From any thread."""
        # A second thread that reads it meanwhile gets an equal one.
        if self._tokenizer is None:
            with self._tell_opening(1) as begin:
                begin("reading the tokenizer")
                self._tokenizer = open_tokenizer(self._source, self._settings)
        return self._tokenizer

    @property
    def verdicts(self) -> dict[str | None, Verdict]:
        """What the self-checks found: None is the base, the others are kinds of adapters."""
        return dict(self._verdicts)

    def may_share(self, how: Hyperparameters) -> bool:
        """Whether jobs with these settings are trained in passes that several of them share."""
        kind = choose_device(self._settings).type
        return not find_joint_faults(self._settings, how, on_cpu=kind == "cpu")

    def expect(self, models: Iterable[ModelRef]) -> None:
        """From now on, accept these models' artifacts only with the hash they are given with."""
        for model in models:
            if model.artifact is not None and model.sha256 is not None:
                self._hashes[model.artifact] = model.sha256

    def verify_folder(self, artifact: str) -> Path:
        """The artifact's folder, once `providers.artifact.verify` has found it unchanged."""
        folder = self._workdir / artifact
        verify(folder, self._hashes.get(artifact))
        return folder

    def find(self, artifact: str | None) -> tuple[Backbone, str | None]:
        """The backbone that answers for an artifact, and the adapter to use on it."""
        if artifact is None:
            return self.base, None
        if artifact in self._full:
            self._full.move_to_end(artifact)
            return self._full[artifact], None
        if artifact not in self.base.adapters.names:
            folder = self.verify_folder(artifact)
            if not is_adapter(folder):
                return self._load_full(artifact, folder), None
            self._load_adapter(artifact, folder)
        return self.base, artifact

    def keep(self, artifacts: Iterable[str]) -> None:
        """Load these and forget all others."""
        kept = list(artifacts)
        # Forget first: old and new models may not fit into memory together.
        for artifact in self._full.keys() - set(kept):
            del self._full[artifact]
        release_memory()
        for artifact in kept:
            self.find(artifact)
        self.base.adapters.keep(frozenset(kept))

    def _load_full(self, artifact: str, folder: Path) -> Backbone:
        # Make room before loading, so that no more than `full_models` are ever in memory.
        while len(self._full) >= self._settings.full_models:
            self._full.popitem(last=False)
            release_memory()
        backbone = Backbone(ModelSource(str(folder), True), self._settings, TUNED_DTYPE)
        # The same architecture as the base, which has been checked.
        backbone.plans = {None: self.base.plans[None]}
        self._full[artifact] = backbone
        return backbone

    def check_tuning(self, hyperparameters: Hyperparameters) -> None:
        """Try adapters as training with `hyperparameters` will make them, each kind once.

        Raises `Unsupported` if the model cannot be trained or could not answer with them, and
        `InvalidSettings` for layers that it lacks.
        """
        require_weights_in_place(self.base.model, self._source)
        if hyperparameters.method != "lora" or hyperparameters.lora in self._tried:
            return

        def attach(model: Any) -> Any:
            return add_trainable_adapter(model, None, hyperparameters)

        base = self.base

        def attach_and_train(model: Any) -> Any:
            tuned = attach(model)
            try_training_pass(tuned, base.device, bf16=base.trains_in_bf16)
            return tuned

        base.adapters.detach()
        steps = 2 if self._is_checked else 1
        with self._tell_opening(steps) as begin, tempfile.TemporaryDirectory() as place:
            begin("trying a training step of an adapter")
            folder = write_trial_adapter(
                base.model, attach_and_train, Path(place) / "trial", seed=0
            )
            if self._is_checked:
                self._check_adapters(read_signature(folder), attach, begin)
        self._tried.add(hyperparameters.lora)

    def write_trial(self, hyperparameters: Hyperparameters, folder: Path) -> None:
        """Write an untrained adapter as training with `hyperparameters` will make it."""
        base = self.base
        base.adapters.detach()
        write_trial_adapter(
            base.model, lambda model: add_trainable_adapter(model, None, hyperparameters), folder, 0
        )

    def _check_base(self, backbone: Backbone, begin: BeginStep) -> None:
        verdict = self._kept.find(backbone.place)
        if verdict is None:
            begin("comparing its answers with those of transformers, once for this model")
            with _translate_memory_errors(self._source):
                verdict = check_base(backbone)
            self._kept.keep(backbone.place, verdict)
        backbone.plans[None] = verdict.plan
        self._tell(None, verdict)

    def _load_adapter(self, artifact: str, folder: Path) -> None:
        signature = read_signature(folder)
        if self._is_checked:
            with self._tell_opening(1) as begin:
                self._check_adapters(signature, attach_like(folder), begin)
        plan = self.base.plans.get(signature, self.base.plans[None])
        self.base.adapters.load(artifact, folder, by_peft=plan.adapters == "peft")

    def _check_adapters(
        self, signature: str, attach: Callable[[Any], Any], begin: BeginStep
    ) -> None:
        base = self.base
        if signature in base.plans:
            return
        require_weights_in_place(base.model, self._source)
        verdict = self._kept.find(base.place, signature)
        if verdict is None:
            begin("comparing answers with adapters with those of PEFT, once for this model")
            with _translate_memory_errors(self._source):
                _, verdict = check_adapters(base, attach)
            self._kept.keep(base.place, verdict, signature)
        base.plans[signature] = verdict.plan
        self._tell(signature, verdict)

    @contextmanager
    def _tell_opening(self, steps: int) -> Iterator[BeginStep]:
        """The steps of opening this model; the one that ships with this package is quick."""
        if is_built_in(self._source):
            yield lambda text: None
            return
        with tell_opening(self._source.gguf_file or self._source.name, steps) as begin:
            yield begin

    def _count_opening_steps(self) -> int:
        """Tokenizer, weights, and the self-check where none is kept."""
        is_tried = self._is_checked and not self._kept.list_bases()
        return 1 + (self._tokenizer is None) + is_tried

    def _tell(self, signature: str | None, verdict: Verdict) -> None:
        self._verdicts[signature] = verdict
        for reason in verdict.reasons:
            _log.warning("%s answers more slowly than it could: %s", self._source.name, reason)


@contextmanager
def _translate_memory_errors(source: ModelSource) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"a few short answers of the model {source.name!r} do not fit into memory ({error}); "
            "free some of the device's memory, or use a smaller model or dtype"
        ) from error
