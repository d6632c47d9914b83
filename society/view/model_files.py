"""Where the files of a tuned model are, and the Python that loads them elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass

from evals.loading_code import write_loading_code
from society.runs.folder import RunFolder


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The folder of a model on this machine, and code to load it; `code` is None if the folder
    holds neither an adapter nor a whole model."""

    path: str
    code: str | None


def find_model_files(folder: RunFolder, artifact: str | None) -> ModelFiles | None:
    """The files of an artifact; None where no folder of the run is one, such as of a model that
    its provider keeps."""
    if not artifact or "\0" in artifact:
        return None
    path = (folder.models / artifact).resolve()
    # An artifact is a name that a provider gave: one that leads elsewhere is not followed.
    if not path.is_relative_to(folder.models.resolve()) or not path.is_dir():
        return None
    if (path / "adapter_config.json").is_file():
        base = _read_base(folder, artifact)
        if base is None:
            return ModelFiles(str(path), None)
        return ModelFiles(str(path), write_loading_code(str(path), base))
    whole = (path / "config.json").is_file()
    return ModelFiles(str(path), write_loading_code(str(path), None) if whole else None)


def _read_base(folder: RunFolder, artifact: str) -> str | None:
    try:
        text = (folder.models / artifact / "adapter_config.json").read_text(encoding="utf-8")
        base = json.loads(text).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return base if isinstance(base, str) and base else None
