"""Trained models on disk: folders that appear complete or not at all, verified when they are used.

This module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from providers.errors import ModelDamaged, ModelNotFound
from providers.types import FinetuneSpec, TrainingCheckpoint, TrainingStep

MANIFEST = "manifest.json"
_REMEDY = (
    "put the folder back from a copy, or have its training done again: society run … --retrain"
)


@dataclass(frozen=True)
class Trained:
    """A finished fit.

    `sha256` is over the names and bytes of the artifact's weight files. `trained_tokens` counts
    the tokens of all sequences over all epochs, with prompts and without padding. `measured` are
    the losses on validation data, `base_kl` the mean KL to the base in nats per trained token, None
    if it was not measured. `left_out` examples were too long to train on.
    """

    artifact: Path
    sha256: str
    points: tuple[TrainingStep, ...]
    trained_tokens: int
    measured: tuple[TrainingCheckpoint, ...] = ()
    base_kl: float | None = None
    left_out: int = 0


def load_trained(out: Path, digest: str) -> Trained | None:
    """The artifact at `out` if it is complete and made by the spec with this digest, else None."""
    try:
        manifest = read_manifest(out, digest)
        if manifest is None:
            return None
        points = tuple(TrainingStep(*point) for point in manifest["points"])
        return Trained(
            out,
            manifest["sha256"],
            points,
            manifest["trained_tokens"],
            tuple(TrainingCheckpoint(*one) for one in manifest.get("measured", ())),
            manifest.get("base_kl"),
            manifest.get("left_out", 0),
        )
    except (OSError, KeyError, TypeError, ValueError):
        return None


def read_manifest(out: Path, digest: str) -> dict[str, Any] | None:
    """The manifest of the artifact at `out` if it is complete and has this digest, else None."""
    try:
        manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        whole = manifest["digest"] == digest and not _find_faults(out, manifest)
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return manifest if whole else None


def verify(folder: Path, sha256: str | None = None) -> None:
    """Raise unless the artifact at `folder` is what its training wrote.

    Every file is compared with its hash in the manifest, and the weights with `sha256`, the run's
    own record, if it has one. Without a record, a folder without a manifest is accepted: it comes
    from another program. Raises `ModelNotFound` if there is no folder, and `ModelDamaged` naming
    what is missing or changed.
    """
    if not folder.is_dir():
        raise ModelNotFound(
            f"the tuned model {folder.name!r} is not in {str(folder.parent)!r}; was the run folder "
            f"moved without it, or cleaned? Otherwise {_REMEDY}"
        )
    if sha256 is None and not (folder / MANIFEST).exists():
        return
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["name"] != folder.name:
            faults = [f"it holds the model {manifest['name']!r}"]
        else:
            faults = _find_faults(folder, manifest)
        if not faults and sha256 not in (None, manifest["sha256"]):
            # The folder is consistent in itself; somebody replaced it with another training's.
            faults = ["its weights are not those that this run has trained and stored"]
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        faults = [f"{MANIFEST} cannot be read ({error})"]
    if faults:
        raise ModelDamaged(
            f"the tuned model in {str(folder)!r} is not as it was trained: {'; '.join(faults)}; "
            f"{_REMEDY}"
        )


def publish(
    out: Path,
    spec: FinetuneSpec,
    write: Callable[[Path], None],
    fit: Trained,
) -> Trained:
    """Let `write` fill a temporary sibling of `out`, add the manifest and rename it to `out`.

    `fit` says how the training went; the result is the same with the artifact's place and hash.
    Raises `OSError` if the disk refuses; `out` does not exist then.
    """

    def fill(folder: Path) -> Mapping[str, object]:
        write(folder)
        return {
            "digest": spec.digest,
            "name": spec.name,
            "base": spec.start.address,
            "start": spec.start.identity,
            "dataset_sha256": spec.dataset_sha256,
            "examples": len(spec.examples),
            "hyperparameters": spec.hyperparameters.facts,
            "seed": spec.seed,
            "metadata": dict(spec.metadata),
            "trained_tokens": fit.trained_tokens,
            "measured": [[one.step, one.model, one.loss] for one in fit.measured],
            "base_kl": fit.base_kl,
            "left_out": fit.left_out,
            "points": [list(point.values) for point in fit.points],
        }

    return replace(fit, artifact=out, sha256=publish_folder(out, fill))


def publish_folder(out: Path, write: Callable[[Path], Mapping[str, object]]) -> str:
    """Let `write` fill a temporary sibling of `out`, add the manifest and rename it to `out`.

    `write` returns what the manifest says, with "digest" and "name"; the result is the hash of the
    weights. Raises `OSError` if the disk refuses; `out` does not exist then.
    """
    partial = get_hidden_path(out, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        facts = write(partial)
        sha256 = weights_sha256(partial)
        manifest = {
            **facts,
            "sha256": sha256,
            "files": _hash_files(partial),
            "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        # All bytes are on disk before the rename, so that a power cut leaves no `out` with empty
        # files.
        for path in sorted(partial.rglob("*")):
            sync(path)
        sync(partial)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(out.parent)
    return sha256


def set_aside(out: Path) -> Path:
    """Rename `out` to a hidden sibling, in place of the one that was set aside before."""
    aside = get_hidden_path(out, "damaged")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    out.replace(aside)
    return aside


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the names and bytes of the folder's safetensors files, in order of name."""
    # The weights alone, without tokenizer and configuration: the same training gives the same hash
    # also after an upgrade that writes those files differently.
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


def get_hidden_path(out: Path, suffix: str) -> Path:
    """The hidden file or folder beside the artifact `out` that is used while it is made."""
    return out.with_name(f".{out.name}.{suffix}")


def sync(path: Path) -> None:
    """Write the file's bytes, or the folder's entries, to disk."""
    # A folder has entries of its own that a rename must find, and it opens for reading only.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems cannot sync a folder.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _find_faults(folder: Path, manifest: Mapping[str, object]) -> list[str]:
    """How an artifact differs from its manifest; empty if it does not."""
    known = manifest.get("files")
    if not isinstance(known, Mapping):
        # Manifests of before November 2026 have a hash of the weights only.
        changed = manifest["sha256"] != weights_sha256(folder)
        return ["its weights have changed"] if changed else []
    found = _hash_files(folder)
    missing = sorted(known.keys() - found.keys())
    changed_files = sorted(name for name in known.keys() & found if known[name] != found[name])
    return [
        *(f"{name} is missing" for name in missing),
        *(f"{name} has changed" for name in changed_files),
    ]


def _hash_files(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            hashes[path.relative_to(folder).as_posix()] = digest
    return hashes
