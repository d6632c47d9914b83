"""Checkpoints of a running fit, beside the artifact it will make.

While an artifact `OUT` is being made, `.OUT.partial/` and `.OUT.checkpoint` lie beside it. A crash
leaves both behind; the next success removes them. Imports no torch until it reads or writes.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from providers.artifact import get_hidden_path, sync
from providers.types import TrainingCheckpoint, TrainingStep

_log = logging.getLogger(__name__)

# What torch, zipfile and pickle raise for a file that is cut off, overwritten or of another kind.
_DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class FitState:
    """A fit between two optimizer steps: everything that decides the steps to come.

    `weights` and `optimizer` hold the trainable tensors and the optimizer's state dict, both on the
    CPU once read. `token_budget` and `recompute` are the memory limits found so far.
    """

    digest: str
    points: tuple[TrainingStep, ...]
    measured: tuple[TrainingCheckpoint, ...]
    trained_tokens: int
    token_budget: int
    recompute: bool
    weights: Mapping[str, Any]
    optimizer: Mapping[str, Any]


def remove_leftovers(out: Path) -> None:
    """Remove the files that an unfinished fit has left beside `out`."""
    shutil.rmtree(get_hidden_path(out, "partial"), ignore_errors=True)
    get_hidden_path(out, "checkpoint").unlink(missing_ok=True)
    get_hidden_path(out, "checkpoint.partial").unlink(missing_ok=True)
    get_hidden_path(out, "checkpoint.damaged").unlink(missing_ok=True)


def save_checkpoint(out: Path, checkpoint: FitState) -> None:
    """Write the checkpoint of the fit that makes `out`; it replaces the last one once complete."""
    import torch

    partial = get_hidden_path(out, "checkpoint.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    fields = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    fields["points"] = [point.values for point in checkpoint.points]
    fields["measured"] = [(one.step, one.model, one.loss) for one in checkpoint.measured]
    fields["sha256"] = _hash_fields(fields)
    # Write, sync, rename, sync the folder: after a power cut there is the old file or the new one.
    with partial.open("wb") as stream:
        torch.save(fields, stream)
    sync(partial)
    partial.replace(get_hidden_path(out, "checkpoint"))
    sync(out.parent)


def load_checkpoint(out: Path, digest: str) -> FitState | None:
    """The last checkpoint of the fit that makes `out`; None if absent or of another spec.

    The tensors are on the CPU. A damaged file is renamed to `.OUT.checkpoint.damaged`, with a
    warning that names it, and the result is None: the fit can start over, as its dataset is stored
    in the run's database.
    """
    from providers.local.hardware import is_out_of_memory

    path = get_hidden_path(out, "checkpoint")
    try:
        fields = _read_checkpoint(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _DAMAGED as error:
        # The file may be intact; another try with more memory can use it.
        if is_out_of_memory(error):
            raise
        aside = get_hidden_path(out, "checkpoint.damaged")
        path.replace(aside)
        _log.warning(
            "the checkpoint %s cannot be used (%s); it is set aside as %s, and the training "
            "starts over",
            path,
            " ".join(str(error).split())[:200] or type(error).__name__,
            aside.name,
        )
        return None
    if fields["digest"] != digest:
        return None
    return FitState(**fields)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """The fields of the checkpoint at `path`. Raises one of `_DAMAGED` unless it is intact."""
    import torch

    with path.open("rb") as stream:
        if not is_zipfile(stream):
            raise ValueError("it is cut off, or is no checkpoint")
        stream.seek(0)
        # weights_only: a pickle could run any code, and the file may have been replaced.
        fields = torch.load(stream, map_location="cpu", weights_only=True)
    known = {*FitState.__dataclass_fields__, "sha256"}
    if not isinstance(fields, dict) or fields.keys() != known:
        raise ValueError(f"it does not hold {', '.join(sorted(known))}")
    stored = fields.pop("sha256")
    if stored != _hash_fields(fields):
        raise ValueError("its content is not what was written")
    return fields | {
        "points": tuple(TrainingStep(*point) for point in fields["points"]),
        "measured": tuple(TrainingCheckpoint(*one) for one in fields["measured"]),
    }


def _hash_fields(fields: Mapping[str, Any]) -> str:
    """SHA-256 over a checkpoint's values: torch does not notice a tensor's flipped bits."""
    import torch

    digest = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                digest.update(repr(key).encode())
                add(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                add(inner)
        elif isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
        else:
            digest.update(repr(value).encode())

    add(fields)
    return digest.hexdigest()
