"""A causal language model in memory, with its tokenizer and its adapters."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from providers.errors import InvalidSettings, Unsupported
from providers.local.adapter_store import AdapterStore
from providers.local.adapters import ROW_MULTIPLE
from providers.local.attention import may_use_sdpa
from providers.local.conversation import find_ends, find_part_ends, pin_arguments, pin_date
from providers.local.hardware import choose_device, choose_dtype, has_native_bf16
from providers.local.loading import (
    find_input_device,
    load_model,
    load_tokenizer,
    read_gguf_ends,
    require_weights_in_place,
    silence_transformers,
    translate_errors,
    try_templates,
)
from providers.local.lora import add_trainable_adapter, is_adapter
from providers.local.plans import (
    AnswerPlan,
    DecoderKind,
    ScoringWay,
    attends_to_all,
    estimate_slot_bytes,
    find_rope_limit,
    read_context,
)
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource
from providers.opening import BeginStep
from providers.types import Hyperparameters

_UNLIMITED = 2**31 - 1
TUNED_DTYPE = torch.float32
"""The number type of fully fine-tuned models, on disk and in memory.

At usual learning rates most changes of a weight are smaller than a step of bfloat16.
"""


def open_tokenizer(
    source: ModelSource, settings: LocalSettings, dtype: torch.dtype = torch.float32
) -> Any:
    """The model's tokenizer, its chat template pinned to the day and the values of `settings`.

    `dtype` is that of the weights, for the message about too little memory.

    Raises `ModelNotFound` if it cannot be read, and `InvalidSettings` without a chat template.
    """
    with silence_transformers(), translate_errors(source, settings, dtype):
        tokenizer: Any = load_tokenizer(source, settings)
    # The templates of a local model were tried when its files were checked.
    if not source.local:
        try_templates(tokenizer.chat_template, source.name)
    if not tokenizer.chat_template:
        raise InvalidSettings(
            f"the model {source.name!r} has no chat template, so it cannot hold a conversation; "
            "use an instruct model"
        )
    with translate_errors(source, settings, dtype):
        pin_date(tokenizer, settings.template_date)
    pin_arguments(tokenizer, settings.template_arguments)
    return tokenizer


class Backbone:
    """A causal language model with its tokenizer, loaded once and shared by all its adapters.

    `dtype` is that of its weights, if not the one of the settings; `begin` is told what is done,
    and `tokenizer` is the model's if it was opened before. Raises `ModelNotFound` if the files are
    missing or unreadable, and `InvalidSettings` if a setting does not fit the model or the machine.

    ```python
    settings = LocalSettings(device="cpu")
    backbone = Backbone(locate_model("./my-model", settings), settings)
    ids = encode_prompt(backbone.tokenizer, [Message("user", "What is 2+2?")])
    ```
    """

    def __init__(
        self,
        source: ModelSource,
        settings: LocalSettings,
        dtype: torch.dtype | None = None,
        begin: BeginStep = lambda text: None,
        tokenizer: Any = None,
    ) -> None:
        self.device = choose_device(settings)
        self.dtype = dtype or choose_dtype(settings, self.device)
        self.source = source
        self._settings = settings
        if tokenizer is None:
            begin("reading the tokenizer")
            tokenizer = open_tokenizer(source, settings, self.dtype)
        self.tokenizer: Any = tokenizer
        begin("unpacking the weights" if source.gguf_file else "reading the weights")
        with silence_transformers(), translate_errors(source, settings, self.dtype):
            self.model: Any = load_model(source, settings, self.device, self.dtype)
        # A GGUF model or a quantized one may come in another number type than the one asked for.
        self.dtype = self.model.dtype
        self.device = find_input_device(self.model)
        self.model.requires_grad_(False).eval()
        self.adapters = AdapterStore(self.model)
        # Whether several adapters can be trained on it at a time, once that was tried.
        self.shares = False
        self.sharing_fault: str | None = None
        # By the signature of adapters (`AdapterStore.get_signature`); None is the base.
        self.plans: dict[str | None, AnswerPlan] = {None: self.guess_plan()}

    @property
    def body(self) -> Any:
        """The model without its output layer, for passes that only fill the cache."""
        return self.model.base_model

    @property
    def trains_in_bf16(self) -> bool:
        """Whether training computes products in bfloat16: if the hardware does, unless the user
        asked for float32."""
        return self._settings.dtype != "float32" and has_native_bf16(self.device)

    @property
    def layers(self) -> int:
        """How many layers keep keys and values."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def context(self) -> int:
        """The most tokens prompt and answer may have together."""
        stated = read_context(self.model.config.get_text_config())
        # A tokenizer that knows no limit says 10^30.
        return stated or min(int(self.tokenizer.model_max_length), _UNLIMITED)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Every token that ends an answer: what the template ends turns with, which is what
        training teaches, and what tokenizer, model and GGUF file state."""
        stated = self.model.generation_config.eos_token_id
        listed = [stated] if isinstance(stated, int) else stated or []
        found = find_ends(self.tokenizer) | {int(token) for token in listed}
        # The end of a "turn" in a GGUF file may end the thoughts only, as <|end|> of gpt-oss.
        return found | (read_gguf_ends(self.source) - find_part_ends(self.tokenizer))

    @property
    def takes_positions(self) -> bool:
        """Whether the model's forward pass takes `position_ids`."""
        return "position_ids" in inspect.signature(self.model.forward).parameters

    @property
    def takes_logits_to_keep(self) -> bool:
        """Whether the model's forward pass can skip the logits of unneeded positions."""
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters

    @cached_property
    def slot_bytes(self) -> int:
        """Memory of one token's keys and values, in bytes, roughly."""
        return estimate_slot_bytes(self.model.config.get_text_config(), self.dtype.itemsize)

    @cached_property
    def weight_bytes(self) -> int:
        """Memory of the base's weights, in bytes."""
        return sum(weight.numel() * weight.itemsize for weight in self.model.parameters())

    @property
    def place(self) -> str:
        """Where and in which numbers it computes, such as "cpu/torch.float32"."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return f"{name or self.device.type}/{self.dtype}"

    def guess_plan(self) -> AnswerPlan:
        """How this kind of model is answered best, by its config alone."""
        config = self.model.config.get_text_config()
        parameters = inspect.signature(self.model.forward).parameters
        decoder: DecoderKind = "padded"
        if "past_key_values" not in parameters:
            decoder = "batch"
        elif attends_to_all(config) and "flash" not in self.model.config._attn_implementation:
            decoder = "slot"
        limit = find_rope_limit(config)
        # Prompts are read at a length rounded up, which must not pass the limit either.
        return AnswerPlan(decoder, "length", limit and limit - limit % ROW_MULTIPLE)

    def find_plan(self, adapter: str | None) -> AnswerPlan:
        """How rows of this adapter, None for the base, are answered."""
        signature = None if adapter is None else self.adapters.get_signature(adapter)
        return self.plans.get(signature, self.plans[None])

    def choose_scoring(self, adapter: str | None, longest: int) -> ScoringWay:
        """How a text of `longest` tokens is scored under this adapter."""
        return self.find_plan(adapter).choose_scoring(longest)

    @contextlib.contextmanager
    def use_prompt_attention(self) -> Iterator[None]:
        """Use the attention implementation that is faster for whole prompts."""
        # On the CPU that is sdpa. For single tokens against a cache, eager is 2 to 3 times as fast
        # and, unlike sdpa, gives the same bits however many slots the longest neighbor needs.
        if (
            self._settings.attention != "auto"
            or self.device.type != "cpu"
            or not may_use_sdpa(self.model, self.model.config)
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
        require_weights_in_place(self.model, self.source)
        self.adapters.detach()
        # Of the devices that the model lies on only: to look at another card takes memory there.
        used = {weight.device for weight in self.model.parameters()}
        with torch.random.fork_rng(devices=[device for device in used if device.type == "cuda"]):
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
        with silence_transformers(), translate_errors(source, self._settings, self.dtype):
            # A tuned model has changes that only TUNED_DTYPE can hold.
            dtype = self.dtype if start is None else TUNED_DTYPE
            model = load_model(source, self._settings, self.device, dtype)
        return model.requires_grad_(True).train()
