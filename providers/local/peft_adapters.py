"""Adapters applied by PEFT's own layers, one adapter at a time.

This is slower than `adapters.AdapterBank`, which adds the updates of several adapters in one pass,
and it applies whatever PEFT can load: weight-decomposed adapters (DoRA), adapters on fused experts
(`target_parameters`), on quantized layers, on embeddings. It is also what the bank is measured by.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from providers.errors import ModelNotFound, Unsupported
from providers.local.loading import silence_transformers
from providers.local.lora_targets import keep_names

# What an adapter's config says about its origin, not about how it is applied.
_ORIGIN = ("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping")
# These initializations write into the base's own weights, which all adapters share.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "orthogonal")


@dataclass(frozen=True, slots=True)
class _StoredAdapter:
    """An adapter in memory: where it came from, PEFT's config of it, and its tensors by key."""

    folder: Path
    config: Any
    tensors: dict[str, torch.Tensor]
    signature: str


def read_signature(folder: Path) -> str:
    """What decides how the adapter in `folder` is applied, as canonical text.

    Two adapters with the same signature differ in their numbers only.
    """
    return describe_config(_read_json(folder))


def describe_config(config: dict[str, Any]) -> str:
    """The signature of an adapter with this `adapter_config.json`."""
    kept = {key: value for key, value in config.items() if key not in _ORIGIN and value is not None}
    if isinstance(modules := kept.get("target_modules"), list):
        kept["target_modules"] = sorted(modules)
    return json.dumps(kept, sort_keys=True)


class PeftAdapters:
    """The adapters of one base model that PEFT applies; its layers are in the model while needed.

    ```python
    adapters = PeftAdapters(model)
    adapters.load("agent1", Path("models/agent1"))
    with adapters.apply("agent1"):
        model(input_ids)
    adapters.detach()  # the model has its own layers again, for training
    ```
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._stored: dict[str, _StoredAdapter] = {}
        self._tuned: Any = None
        self._active: str | None = None

    @property
    def names(self) -> frozenset[str]:
        """The names the adapters were loaded under."""
        return frozenset(self._stored)

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter folder; whether it fits the base shows when it is first applied.

        Raises `ModelNotFound` if there is none, and `Unsupported` if it would change the base.
        """
        if name in self._stored:
            return
        from peft import PeftConfig
        from peft.utils import load_peft_weights

        signature = read_signature(folder)
        config: Any = PeftConfig.from_pretrained(str(folder))
        start = str(getattr(config, "init_lora_weights", ""))
        if start.startswith(_CHANGES_BASE):
            raise Unsupported(
                f"the adapter in {str(folder)!r} belongs to a changed base (init_lora_weights = "
                f"{start!r}); convert it to plain LoRA, or merge it into a model folder"
            )
        tensors = load_peft_weights(str(folder), device="cpu")
        self._stored[name] = _StoredAdapter(folder, config, tensors, signature)

    def keep(self, names: frozenset[str]) -> None:
        """Forget all adapters but these."""
        self._stored = {name: one for name, one in self._stored.items() if name in names}
        if self._active not in self._stored:
            self.detach()

    @contextmanager
    def apply(self, name: str) -> Iterator[None]:
        """Apply this adapter to every row of the passes inside.

        Raises `Unsupported` if PEFT cannot put it on this base.
        """
        if self._active != name:
            self._activate(name)
        self._tuned.base_model.enable_adapter_layers()
        try:
            yield
        finally:
            # The layers stay in the model, since the next batch likely needs them again.
            self._tuned.base_model.disable_adapter_layers()

    def detach(self) -> None:
        """Take PEFT's layers out of the model."""
        if self._tuned is not None:
            self._tuned, self._active = None, None
            remove_peft_layers(self._model)

    def _activate(self, name: str) -> None:
        wanted = self._stored[name]
        active = self._stored.get(self._active or "")
        if active is None or active.signature != wanted.signature:
            self.detach()
            self._attach(wanted)
        self._active = None
        self._fill(wanted)
        self._active = name

    def _attach(self, adapter: _StoredAdapter) -> None:
        """Put PEFT's layers for adapters of this configuration into the model."""
        from copy import deepcopy

        from peft import get_peft_model

        config = deepcopy(adapter.config)
        config.inference_mode = True
        try:
            with silence_transformers(), torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with keep_names(self._model):
                    self._tuned = get_peft_model(self._model, config)
        except Exception as error:
            remove_peft_layers(self._model)
            raise Unsupported(
                f"PEFT cannot put the adapter in {str(adapter.folder)!r} on this base: {error}"
            ) from error
        self._tuned.eval()

    def _fill(self, adapter: _StoredAdapter) -> None:
        """Write an adapter's numbers into the layers."""
        from peft import set_peft_model_state_dict

        try:
            with keep_names(self._model):
                found: Any = set_peft_model_state_dict(self._tuned, adapter.tensors)
        except RuntimeError as error:
            self._refuse(adapter, str(error))
        absent = [key for key in found.missing_keys if ".lora_" in key]
        if found.unexpected_keys or absent:
            layer = [*found.unexpected_keys, *absent][0]
            self._refuse(adapter, f"no layer {layer!r}")

    def _refuse(self, adapter: _StoredAdapter, reason: str) -> None:
        self.detach()
        raise Unsupported(f"the adapter in {str(adapter.folder)!r} is for another base: {reason}")


def remove_peft_layers(model: nn.Module) -> None:
    """Put the model's own layers back wherever PEFT has put one of its own, even half-way."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            own: Any = child
            while isinstance(own, BaseTunerLayer | AuxiliaryTrainingWrapper):
                own = (
                    own.get_base_layer() if isinstance(own, BaseTunerLayer) else own.original_module
                )
            if own is not child:
                setattr(parent, name, own)
    # Left behind, PEFT would count it as an adapter that is still there.
    if "peft_config" in vars(model):
        del model.peft_config


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    except FileNotFoundError:
        raise ModelNotFound(
            f"there is no adapter in {str(folder)!r}; was it moved or deleted?"
        ) from None
    except ValueError as error:
        raise ModelNotFound(f"the adapter in {str(folder)!r} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ModelNotFound(f"the adapter in {str(folder)!r} is damaged: its config is no object")
    return content
