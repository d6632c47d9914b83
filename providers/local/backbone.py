"""One base model in memory, its adapters beside it."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from providers.errors import InvalidSettings, ModelNotFound, OutOfMemory, Unsupported
from providers.local.adapters import AdapterBank
from providers.local.conversation import pin_date
from providers.local.factory import Source
from providers.local.settings import LocalSettings
from providers.local.trial import try_template
from providers.types import Hyperparameters

_ADAPTER_CONFIG = "adapter_config.json"


class Backbone:
    """A causal language model with its tokenizer, loaded once and shared by all its adapters.

    Raises `ModelNotFound` where the files are missing or unreadable, `InvalidSettings` where a
    setting does not go with model or machine.
    """

    def __init__(self, source: Source, settings: LocalSettings) -> None:
        self.device = _device(settings)
        self.dtype = _dtype(settings, self.device)
        self.source = source
        self._settings = settings
        with quiet(), _translated(source):
            self.tokenizer: Any = _load_tokenizer(source)
        if not source.local:
            _try_templates(self.tokenizer.chat_template, source.name)
        with quiet(), _translated(source):
            self.model: Any = _load_model(source, settings, self.device, self.dtype)
        if not self.tokenizer.chat_template:
            raise InvalidSettings(
                f"the model {source.name!r} has no chat template, so it cannot hold a "
                f"conversation; use an instruct model"
            )
        with _translated(source):
            pin_date(self.tokenizer, settings.template_date)
        self.dtype = self.model.dtype
        self.model.requires_grad_(False).eval()
        self.bank = AdapterBank(self.model)

    @property
    def body(self) -> Any:
        """The model without its output layer: for passes that only fill the cache."""
        return self.model.base_model

    @property
    def layers(self) -> int:
        """Number of layers that keep keys and values."""
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
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        window = getattr(config, "sliding_window", None)
        if kinds != {"full_attention"} or (window and not hasattr(config, "layer_types")):
            return False
        return self.takes_positions and "flash" not in self.model.config._attn_implementation

    @property
    def takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(self.model.forward).parameters

    @property
    def takes_logits_to_keep(self) -> bool:
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
    def reading(self) -> Iterator[None]:
        """Use the attention that is the faster one for whole prompts.

        On the CPU that is sdpa, while for single tokens against a cache eager is 2 to 3 times as
        fast and, unlike sdpa, gives the same bits however many slots the longest neighbour needs.
        """
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
    def trainable(self, start: Path | None, settings: Hyperparameters, seed: int) -> Iterator[Any]:
        """The model with exactly the weights to be trained requiring gradients, in train mode.

        `start` is the adapter or model folder to go on from, None for the base. LoRA trains one
        adapter on this very base and takes it off again; a full fine-tune trains a copy. In the end
        the base is as before, whatever happened. Fresh weights and dropout draw from torch's global
        generator, which is seeded with `seed` inside and put back afterwards.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if settings.method == "full":
                yield self._copy(start)
                return
            with quiet():
                tuned = self._wrap(start, settings)
            try:
                yield tuned.train()
            finally:
                self.model = tuned.unload().eval()
                self.model.zero_grad(set_to_none=True)
                self.model.requires_grad_(False)

    def _wrap(self, start: Path | None, settings: Hyperparameters) -> Any:
        from peft import LoraConfig, PeftModel, get_peft_model

        if start is not None:
            if not is_adapter(start):
                raise Unsupported(
                    f"LoRA cannot go on from the full fine-tune {str(start)!r}; "
                    f"use method = 'full', or open that folder as the base"
                )
            tuned = PeftModel.from_pretrained(self.model, str(start), is_trainable=True)
            _check_same_shape(tuned.peft_config["default"], settings, start)
            return tuned
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        return get_peft_model(self.model, config)

    def _copy(self, start: Path | None) -> Any:
        if start is not None and is_adapter(start):
            raise Unsupported(
                f"a full fine-tune cannot go on from the adapter {str(start)!r}; "
                f"use method = 'lora'"
            )
        source = self.source if start is None else Source(str(start), True)
        with quiet(), _translated(source):
            model = _load_model(source, self._settings, self.device, self.dtype)
        return model.requires_grad_(True).train()


def is_adapter(folder: Path) -> bool:
    """Whether an artifact folder holds an adapter rather than a whole model."""
    return (folder / _ADAPTER_CONFIG).is_file()


def _check_same_shape(config: Any, settings: Hyperparameters, start: Path) -> None:
    if (config.r, config.lora_alpha) != (settings.lora_rank, settings.lora_alpha):
        raise InvalidSettings(
            f"lora_rank {settings.lora_rank} and lora_alpha {settings.lora_alpha} differ from the "
            f"{config.r} and {config.lora_alpha} of the adapter {str(start)!r} that is to be "
            f"continued; set them alike or start afresh from the base"
        )


def _try_templates(template: str | dict[str, str] | None, name: str) -> None:
    """Those of a local model were tried when its files were looked at."""
    for each in template.values() if isinstance(template, dict) else [template]:
        if each:
            try_template(each, repr(name))


def _load_tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.name, **_files(source))


def _load_model(
    source: Source, settings: LocalSettings, device: torch.device, dtype: torch.dtype
) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    attention = settings.attention
    if attention == "auto":
        attention = "eager" if device.type == "cpu" else "sdpa"
    extra: dict[str, Any] = {"attn_implementation": attention}
    if source.gguf_file is not None:
        extra["quantization_config"] = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        source.name, dtype=dtype, **_files(source), **extra
    )
    return model.to(device)


def _files(source: Source) -> dict[str, Any]:
    options = {
        "gguf_file": source.gguf_file,
        "revision": source.revision,
        "local_files_only": source.local or None,
    }
    return {key: value for key, value in options.items() if value is not None}


def _device(settings: LocalSettings) -> torch.device:
    name = settings.device
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidSettings(
            f"[provider] device = {name!r} is not there ({error}); use 'auto' or 'cpu'"
        ) from None
    return device


def _dtype(settings: LocalSettings, device: torch.device) -> torch.dtype:
    if settings.dtype != "auto":
        chosen: torch.dtype = getattr(torch, settings.dtype)
        return chosen
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


@contextlib.contextmanager
def _translated(source: Source) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(f"the model {source.name!r} does not fit into memory: {error}") from error
    except Exception as error:  # loaders raise what they like, tokenizers a bare Exception
        raise ModelNotFound(f"the model {source.name!r} cannot be loaded: {error}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing progress bars and advice over the run's own display."""
    from transformers.utils import logging as untyped

    transformers_logging: Any = untyped
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    logging.captureWarnings(True)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        logging.captureWarnings(False)
        if bars:
            transformers_logging.enable_progress_bar()
