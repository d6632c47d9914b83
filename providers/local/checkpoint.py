"""Trained models on disk: artifacts that appear whole or not at all, checkpoints to resume from.

Beside an artifact `OUT` live, while it is being made, `.OUT.partial/` and `.OUT.checkpoint`; both
are left behind by a crash and removed by the next success. Imports no torch until it writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from providers.base import FinetuneSpec, TrainingPoint

MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)

# What torch, zipfile and pickle say of a file that is cut off, overwritten or of another kind.
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
class Trained:
    """A finished fit.

    `sha256` is over the names and bytes of the artifact's weight files. `trained_tokens` counts
    the tokens of all sequences gone through, prompts included and padding not, over all epochs.
    """

    artifact: Path
    sha256: str
    points: tuple[TrainingPoint, ...]
    trained_tokens: int


@dataclass(frozen=True)
class Checkpoint:
    """A fit between two optimizer steps; everything that decides how it goes on.

    `weights` and `optimizer` hold the trainable tensors and the optimizer's state dict, both on
    the CPU when written. `token_budget` and `recompute` are what memory has allowed so far.
    """

    digest: str
    points: tuple[TrainingPoint, ...]
    trained_tokens: int
    token_budget: int
    recompute: bool
    weights: Mapping[str, Any]
    optimizer: Mapping[str, Any]


def finished(out: Path, digest: str) -> Trained | None:
    """The artifact at `out` if it is whole and was made by the spec with this digest, else None."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        if manifest["digest"] != digest or manifest["sha256"] != weights_sha256(out):
            return None
        points = tuple(TrainingPoint(*point) for point in manifest["points"])
        return Trained(out, manifest["sha256"], points, manifest["trained_tokens"])
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, ValueError):
        return None


def publish(
    out: Path,
    spec: FinetuneSpec,
    write: Callable[[Path], None],
    points: tuple[TrainingPoint, ...],
    trained_tokens: int,
) -> Trained:
    """Let `write` fill a temporary sibling of `out`, add the manifest and rename it to `out`.

    Everything is on disk before the rename, so `out` is never seen half-written. The checkpoint
    is removed afterwards. Raises `OSError` when the disk refuses; `out` does not exist then.
    """
    partial = _sibling(out, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        sha256 = weights_sha256(partial)
        manifest = {
            "digest": spec.digest,
            "sha256": sha256,
            "name": spec.name,
            "base": spec.start.address,
            "start": asdict(spec.start),
            "dataset_sha256": spec.dataset_sha256,
            "examples": len(spec.examples),
            "hyperparameters": asdict(spec.hyperparameters),
            "seed": spec.seed,
            "metadata": dict(spec.metadata),
            "trained_tokens": trained_tokens,
            "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
            "points": [[point.step, point.loss, point.learning_rate] for point in points],
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in sorted(partial.rglob("*")):
            _sync(path)
        _sync(partial)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(out.parent)
    clean(out)
    return Trained(out, sha256, points, trained_tokens)


def clean(out: Path) -> None:
    """Remove what an unfinished fit has left beside `out`."""
    shutil.rmtree(_sibling(out, "partial"), ignore_errors=True)
    _sibling(out, "checkpoint").unlink(missing_ok=True)
    _sibling(out, "checkpoint.partial").unlink(missing_ok=True)
    _sibling(out, "checkpoint.damaged").unlink(missing_ok=True)


def save_checkpoint(out: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint of the fit towards `out`; the last one stays until it is whole."""
    import torch

    partial = _sibling(out, "checkpoint.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    fields = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    fields["points"] = [
        (point.step, point.loss, point.learning_rate) for point in checkpoint.points
    ]
    fields["sha256"] = _content_sha256(fields)
    with partial.open("wb") as stream:
        torch.save(fields, stream)
    _sync(partial)
    partial.replace(_sibling(out, "checkpoint"))
    _sync(out.parent)


def load_checkpoint(out: Path, digest: str) -> Checkpoint | None:
    """The last checkpoint towards `out`, tensors on the CPU; None if absent or of another spec.

    A file that is damaged is renamed to `.OUT.checkpoint.damaged`, with a warning that names it,
    and None comes back: the fit begins anew, for its dataset is stored elsewhere.
    """
    from providers.local.memory import ran_out

    path = _sibling(out, "checkpoint")
    try:
        fields = _read_checkpoint(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _DAMAGED as error:
        if ran_out(error):
            raise
        aside = _sibling(out, "checkpoint.damaged")
        path.replace(aside)
        _log.warning(
            "the checkpoint %s cannot be used (%s); it is set aside as %s, and the training "
            "begins anew",
            path,
            " ".join(str(error).split())[:200] or type(error).__name__,
            aside.name,
        )
        return None
    if fields["digest"] != digest:
        return None
    return Checkpoint(**fields)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """The fields of the checkpoint at `path`. Raises one of `_DAMAGED` unless it is whole."""
    import torch

    with path.open("rb") as stream:
        if not is_zipfile(stream):
            raise ValueError("it is cut off, or was never one")
        stream.seek(0)
        fields = torch.load(stream, map_location="cpu", weights_only=True)
    known = {*Checkpoint.__dataclass_fields__, "sha256"}
    if not isinstance(fields, dict) or fields.keys() != known:
        raise ValueError(f"it does not hold {', '.join(sorted(known))}")
    stored = fields.pop("sha256")
    if stored != _content_sha256(fields):
        raise ValueError("its content is not what was written")
    return fields | {"points": tuple(TrainingPoint(*point) for point in fields["points"])}


def _content_sha256(fields: Mapping[str, Any]) -> str:
    """SHA-256 over a checkpoint's values. torch reads a tensor with flipped bits as it is."""
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


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the names and bytes of the folder's safetensors files, in order of name."""
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.safetensors file")
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _sibling(out: Path, suffix: str) -> Path:
    return out.with_name(f".{out.name}.{suffix}")


def _sync(path: Path) -> None:
    """Have the file's bytes, or the folder's entries, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems cannot sync a folder.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
