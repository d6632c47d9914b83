"""What of [sampling] an experiment has from its models."""

from __future__ import annotations

from providers.types import Finding
from society.method.experiment import Experiment


def describe_model_defaults(experiment: Experiment) -> list[Finding]:
    """What is taken from the model with `sampling.defaults = "model"`; none if nothing is."""
    taken = experiment.model_defaults
    if not taken:
        return []
    values = ", ".join(f"{name} {value:g}" for name, value in taken.items())
    return [Finding("ok", f"sampling, from the model's generation_config.json: {values}")]
