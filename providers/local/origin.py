"""Where others get a base model, and under which licence, as its own card says."""

from __future__ import annotations

from pathlib import Path

from providers.base import BaseOrigin
from providers.local.source import ModelSource, find_folder

_CARD = "README.md"


def find_origin(source: ModelSource) -> BaseOrigin:
    """The origin of a model; its card is asked for at the hub if it is not on this disk.

    find_origin(locate_model("Qwen/Qwen3-0.6B", settings)).license  # "apache-2.0"
    """
    name = str(Path(source.name).resolve()) if source.local else source.name
    return BaseOrigin(name, source.local, source.revision, _read_license(source))


def _read_license(source: ModelSource) -> str | None:
    from huggingface_hub import RepoCard, hf_hub_download

    folder = find_folder(source)
    card = None if folder is None else folder / _CARD
    # Neither a missing card nor a hub that is silent keeps a model from being exported.
    try:
        if (card is None or not card.is_file()) and not source.local:
            card = Path(hf_hub_download(source.name, _CARD, revision=source.revision))
        if card is None or not card.is_file():
            return None
        data = RepoCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except Exception:
        return None
    # "other" is explained by a name of its own.
    found = data.get("license_name") or data.get("license")
    return found if isinstance(found, str) else None
