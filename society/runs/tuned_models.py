"""Where the tuned models of a run are: in its own folder, or at a vendor's."""

from __future__ import annotations

from providers import registry
from store.records import Model


def is_local(model: Model) -> bool:
    """Whether a tuned model was made in the run's own folder, be it still there or not."""
    # What a server keeps is named by an address, though its training ran in this process.
    artifact = model.artifact
    return (
        artifact is not None and "://" not in artifact and registry.info(model.provider).in_process
    )


def is_remote(model: Model) -> bool:
    """Whether a tuned model is kept by a vendor or a server."""
    return model.artifact is not None and not is_local(model)
