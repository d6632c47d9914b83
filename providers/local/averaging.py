"""Averages of tuned models: the weighted mean of what their trainings have changed.

An adapter adds scale · B·A to a layer. The mean of several such products is one product of the
factors side by side, whose rank is the sum of theirs. It is brought back to the rank of the newest
adapter by the singular values of a small matrix: with QR factorizations of both sides, no matrix
has more rows and columns than the summed rank, beside the factors themselves. The loss of that, by
the Eckart-Young theorem the least possible, is reported. Full fine-tunes are averaged weight by
weight, without loss.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from providers.artifact import MANIFEST
from providers.errors import Unsupported
from providers.local.lora import is_adapter
from providers.types import Hyperparameters

_DOWN = (".lora_A.weight", ".lora_embedding_A")
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Part:
    """The folder of a tuned model, and its weight in the average."""

    folder: Path
    weight: float


def find_averaging_faults(hyperparameters: Hyperparameters) -> tuple[str, ...]:
    """Why models tuned like this cannot be averaged, each with its remedy."""
    return tuple(
        f"finetune.{name} = true makes adapters that cannot be averaged; remove it, or take labels "
        'from "round1" or "lagged:1"'
        for name in ("use_dora", "lora_experts")
        if getattr(hyperparameters, name)
    )


def write_average(parts: Sequence[Part], folder: Path) -> float:
    """Write the average of `parts`, ordered from old to new, into `folder`; returns the share of
    it that is lost (see `AveragedModel`).

    Raises `Unsupported` for parts that cannot be averaged.
    """
    adapters = [is_adapter(part.folder) for part in parts]
    if not any(adapters):
        _write_mean(parts, folder)
        return 0.0
    if not all(adapters):
        whole = parts[adapters.index(False)].folder.name
        raise Unsupported(
            f"{whole!r} is a whole model and others are adapters, so they cannot be averaged; "
            "keep finetune.method the same in all iterations"
        )
    return _write_mean_adapter([_Adapter(part) for part in parts], folder)


class _Adapter:
    """The factors of one adapter."""

    def __init__(self, part: Part) -> None:
        from peft import PeftConfig
        from peft.utils import load_peft_weights

        self.folder, self.weight = part.folder, part.weight
        self.config: Any = PeftConfig.from_pretrained(str(part.folder))
        self.tensors: Mapping[str, torch.Tensor] = load_peft_weights(str(part.folder), device="cpu")
        ups = {_name_up(key) for key in self.downs}
        odd = sorted(self.tensors.keys() - ups - set(self.downs))
        matrices = all(tensor.ndim == 2 for tensor in self.tensors.values())
        if odd or not matrices or self.config.use_dora or self.config.target_parameters:
            what = (
                odd[0] if odd else f"its kind of layer, or {self.config.peft_type.value} settings"
            )
            raise Unsupported(
                f"the adapter in {str(part.folder)!r} has more than pairs of matrices ({what}), so "
                'it cannot be averaged; take labels from "round1" or "lagged:1"'
            )

    @property
    def downs(self) -> list[str]:
        """The names of the factors that layers apply first."""
        return [key for key in self.tensors if key.endswith(_DOWN)]

    def scale(self, down: str) -> float:
        """What the product of this pair of factors is multiplied by."""
        path = down.removeprefix("base_model.model.")
        path = path.removesuffix(".weight").rpartition(".")[0]
        rank = self.tensors[down].shape[0]
        alpha = (self.config.alpha_pattern or {}).get(path, self.config.lora_alpha)
        return float(alpha / (rank**0.5 if self.config.use_rslora else rank))


def _name_up(down: str) -> str:
    return down.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")


def _write_mean_adapter(parts: Sequence[_Adapter], folder: Path) -> float:
    from safetensors.torch import save_file

    newest = parts[-1]
    if missing := sorted({down for part in parts for down in part.downs} - set(newest.downs)):
        raise Unsupported(
            f"the adapter in {str(newest.folder)!r} has no layer {missing[0]!r}, which an earlier "
            "one has, so they cannot be averaged; keep finetune.target_modules the same"
        )
    averaged: dict[str, torch.Tensor] = {}
    lost = total = 0.0
    for down in newest.downs:
        first, second, squares = _average_products(parts, down)
        averaged[down], averaged[_name_up(down)] = first, second
        rank = newest.tensors[down].shape[0]
        lost += float(squares[rank:].sum())
        total += float(squares.sum())
    save_file(averaged, folder / _WEIGHTS, metadata={"format": "pt"})
    shutil.copy(newest.folder / "adapter_config.json", folder)
    return (lost / total) ** 0.5 if total else 0.0


def _average_products(
    parts: Sequence[_Adapter], down: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The factors of the average of one layer, and the squares of all its singular values.

    Shapes: K inputs, N outputs, R the parts' ranks together, r the rank of the newest.
    """
    having = [part for part in parts if down in part.tensors]
    newest = having[-1]
    a_R_K = torch.cat([part.tensors[down].double() for part in having])
    b_N_R = torch.cat(
        [part.weight * part.scale(down) * part.tensors[_name_up(down)].double() for part in having],
        dim=1,
    )
    left, left_R_R = torch.linalg.qr(b_N_R)
    right, right_R_R = torch.linalg.qr(a_R_K.T)
    u, values, v = torch.linalg.svd(left_R_R @ right_R_R.T, full_matrices=False)
    rank = newest.tensors[down].shape[0]
    root = values[:rank].sqrt()
    first = root[:, None] * (v[:rank] @ right.T)
    second = (left @ u[:, :rank]) * root / newest.scale(down)
    old = newest.tensors[down], newest.tensors[_name_up(down)]
    return _fit(first, old[0]), _fit(second, old[1]), values.square()


def _fit(factor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`factor` in the shape and type of `like`, with zeros where the average has a lower rank."""
    fitted = torch.zeros_like(like)
    fitted[: factor.shape[0], : factor.shape[1]] = factor.to(like.dtype)
    return fitted


def _write_mean(parts: Sequence[Part], folder: Path) -> None:
    """Average whole models of one layout, file by file."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    newest = parts[-1].folder
    for path in sorted(newest.iterdir()):
        if path.suffix != ".safetensors":
            if path.is_file() and path.name != MANIFEST:
                shutil.copy(path, folder)
            continue
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file(dict(_average_file(parts, path.name)), folder / path.name, metadata=metadata)


def _average_file(parts: Sequence[Part], name: str) -> Iterator[tuple[str, torch.Tensor]]:
    from contextlib import ExitStack

    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(part.folder / name, "pt")) for part in parts]
            for key in files[-1].keys():  # noqa: SIM118 (no mapping)
                tensors = [file.get_tensor(key) for file in files]
                mean = sum(
                    part.weight * tensor.double()
                    for part, tensor in zip(parts, tensors, strict=True)
                )
                yield key, torch.as_tensor(mean).to(tensors[-1].dtype).contiguous()
        except (SafetensorError, FileNotFoundError) as error:
            raise Unsupported(
                f"models of different layouts cannot be averaged ({error}); take labels from "
                '"round1" or "lagged:1"'
            ) from error
