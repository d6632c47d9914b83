"""The models in memory: one base with its adapters, and full fine-tunes of it."""

from __future__ import annotations

import contextlib
import inspect
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from providers.artifact import verify
from providers.errors import InvalidSettings, Unsupported
from providers.local.adapters import AdapterBank
from providers.local.conversation import pin_date
from providers.local.hardware import choose_device, choose_dtype, release_memory
from providers.local.loading import (
    load_model,
    load_tokenizer,
    silence_transformers,
    translate_errors,
    try_templates,
)
from providers.local.lora import add_trainable_adapter, is_adapter
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource
from providers.types import Hyperparameters, ModelRef


class Backbone:
    """A causal language model with its tokenizer, loaded once and shared by all its adapters.

    Raises `ModelNotFound` if the files are missing or unreadable, and `InvalidSettings` if a
    setting does not fit the model or the machine.

    ```python
    settings = LocalSettings(device="cpu")
    backbone = Backbone(locate_model("./my-model", settings), settings)
    ids = encode_prompt(backbone.tokenizer, [Message("user", "What is 2+2?")])
    ```
    """

    def __init__(self, source: ModelSource, settings: LocalSettings) -> None:
        self.device = choose_device(settings)
        self.dtype = choose_dtype(settings, self.device)
        self.source = source
        self._settings = settings
        with silence_transformers(), translate_errors(source):
            self.tokenizer: Any = load_tokenizer(source)
        # The templates of a local model were tried when its files were checked.
        if not source.local:
            try_templates(self.tokenizer.chat_template, source.name)
        with silence_transformers(), translate_errors(source):
            self.model: Any = load_model(source, settings, self.device, self.dtype)
        if not self.tokenizer.chat_template:
            raise InvalidSettings(
                f"the model {source.name!r} has no chat template, so it cannot hold a "
                f"conversation; use an instruct model"
            )
        with translate_errors(source):
            pin_date(self.tokenizer, settings.template_date)
        # A GGUF model or a quantized one may come in another number type than the one asked for.
        self.dtype = self.model.dtype
        self.model.requires_grad_(False).eval()
        self.bank = AdapterBank(self.model)

    @property
    def body(self) -> Any:
        """The model without its output layer, for passes that only fill the cache."""
        return self.model.base_model

    @property
    def layers(self) -> int:
        """How many layers keep keys and values."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def context(self) -> int:
        """The most tokens prompt and answer may have together."""
        config = self.model.config.get_text_config()
        return int(
            getattr(config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        )

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        found: set[int] = set()
        for stated in (self.model.generation_config.eos_token_id, self.tokenizer.eos_token_id):
            if stated is not None:
                found.update([stated] if isinstance(stated, int) else stated)
        return frozenset(found)

    @property
    def attends_to_all(self) -> bool:
        """Whether every layer attends to all earlier tokens, so that slots can be a row's own."""
        config = self.model.config.get_text_config()
        # A model with sliding windows either lists its layers' kinds or sets one window for all.
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        window = getattr(config, "sliding_window", None)
        if kinds != {"full_attention"} or (window and not hasattr(config, "layer_types")):
            return False
        return self.takes_positions and "flash" not in self.model.config._attn_implementation

    @property
    def takes_positions(self) -> bool:
        """Whether the model's forward pass takes `position_ids`."""
        return "position_ids" in inspect.signature(self.model.forward).parameters

    @property
    def takes_logits_to_keep(self) -> bool:
        """Whether the model's forward pass can skip the logits of unneeded positions."""
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters

    @property
    def slot_bytes(self) -> int:
        """Memory of one token's keys and values, in bytes."""
        config = self.model.config.get_text_config()
        heads = int(config.num_attention_heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        shared = int(getattr(config, "num_key_value_heads", None) or heads)
        return 2 * self.layers * shared * size * self.dtype.itemsize

    @contextlib.contextmanager
    def use_prompt_attention(self) -> Iterator[None]:
        """Use the attention implementation that is faster for whole prompts."""
        # On the CPU that is sdpa. For single tokens against a cache, eager is 2 to 3 times as fast
        # and, unlike sdpa, gives the same bits however many slots the longest neighbor needs.
        if (
            self._settings.attention != "auto"
            or self.device.type != "cpu"
            or not self.model._supports_sdpa
        ):
            yield
            return
        self.model.set_attn_implementation("sdpa")
        try:
            yield
        finally:
            self.model.set_attn_implementation("eager")

    @contextlib.contextmanager
    def prepare_training(
        self, start: Path | None, settings: Hyperparameters, seed: int
    ) -> Iterator[Any]:
        """The model in train mode, with gradients for exactly the weights to be trained.

        `start` is the adapter or model folder that training continues from, None for the base.
        LoRA trains one adapter on this base and takes it off again; a full fine-tune trains a copy.
        The base is unchanged afterwards, also after an error. Fresh weights and dropout draw from
        torch's global generator, which is seeded with `seed` inside and restored afterwards.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if settings.method == "full":
                yield self._load_trainable_copy(start)
                return
            with silence_transformers():
                tuned = add_trainable_adapter(self.model, start, settings)
            try:
                yield tuned.train()
            finally:
                # PEFT has put its own layers into the model; unload takes them out again.
                self.model = tuned.unload().eval()
                self.model.zero_grad(set_to_none=True)
                self.model.requires_grad_(False)

    def _load_trainable_copy(self, start: Path | None) -> Any:
        if start is not None and is_adapter(start):
            raise Unsupported(
                f"a full fine-tune cannot continue from the adapter {str(start)!r}; "
                f"use method = 'lora'"
            )
        source = self.source if start is None else ModelSource(str(start), True)
        with silence_transformers(), translate_errors(source):
            model = load_model(source, self._settings, self.device, self.dtype)
        return model.requires_grad_(True).train()


class LocalModels:
    """The models of one provider by artifact, loaded at first use. For one thread at a time.

    An artifact is a folder, relative to `workdir` unless it is absolute. Adapters are kept beside
    the base. Of the full fine-tunes, the `settings.full_models` most recently used stay in memory.
    """

    def __init__(self, source: ModelSource, settings: LocalSettings, workdir: Path) -> None:
        self._source = source
        self._settings = settings
        self._workdir = workdir
        self._base: Backbone | None = None
        self._full: OrderedDict[str, Backbone] = OrderedDict()
        self._hashes: dict[str, str] = {}

    @property
    def base(self) -> Backbone:
        """The untuned model."""
        if self._base is None:
            self._base = Backbone(self._source, self._settings)
        return self._base

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
        if artifact not in self.base.bank.names:
            folder = self.verify_folder(artifact)
            if not is_adapter(folder):
                return self._load_full(artifact, folder), None
            self.base.bank.load(artifact, folder)
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
        self.base.bank.keep(frozenset(kept))

    def _load_full(self, artifact: str, folder: Path) -> Backbone:
        # Make room before loading, so that no more than `full_models` are ever in memory.
        while len(self._full) >= self._settings.full_models:
            self._full.popitem(last=False)
            release_memory()
        backbone = Backbone(ModelSource(str(folder), True), self._settings)
        self._full[artifact] = backbone
        return backbone
