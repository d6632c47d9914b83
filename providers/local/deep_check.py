"""What `society doctor` says about a local model's answers: from an earlier check, or by trying."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from providers.errors import ProviderError
from providers.local.kept_checks import KeptChecks
from providers.local.plans import DECODER_NAMES, Verdict
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource, is_built_in
from providers.types import Finding, Hyperparameters

if TYPE_CHECKING:
    from providers.local.models import LocalModels

_CHECK = "answers"


def describe_kept_checks(source: ModelSource, settings: LocalSettings) -> list[Finding]:
    """What earlier self-checks of this model found; loads neither torch nor the model."""
    # The built-in model's answers are compared by the tests of this package.
    if is_built_in(source):
        return []
    found = KeptChecks(source, settings).list_bases()
    if not found:
        text = "was not tried: `society doctor --deep` loads it and compares its answers"
        return [Finding("ok", text, check=_CHECK)]
    return [
        _describe_verdict(f"was tried before ({place})", verdict)
        for place, verdict in found.items()
    ]


def try_model(
    source: ModelSource, settings: LocalSettings, hyperparameters: Hyperparameters | None
) -> list[Finding]:
    """Load the model and check its answers, also with adapters made by `hyperparameters`.

    None: it will not be tuned. Raises no `ProviderError`.
    """
    from providers.local.models import LocalModels

    with tempfile.TemporaryDirectory() as workdir:
        models = LocalModels(source, settings, Path(workdir))
        try:
            _ = models.base
            findings: list[Finding] = []
            if hyperparameters is not None:
                models.check_tuning(hyperparameters)
                findings += _describe_coverage(models, hyperparameters)
        except ProviderError as error:
            return [Finding("error", str(error), check=_CHECK)]
        return [*_describe_all(models.verdicts), *findings]


def _describe_coverage(models: LocalModels, hyperparameters: Hyperparameters) -> Iterator[Finding]:
    """How much of the weights LoRA trains."""
    from providers.local.lora_targets import describe_share

    if hyperparameters.method == "lora":
        with models.base.prepare_training(None, hyperparameters, seed=0) as tuned:
            yield describe_share(tuned)


def _describe_all(verdicts: dict[str | None, Verdict]) -> Iterator[Finding]:
    for signature, verdict in verdicts.items():
        text = "answers as transformers does" if signature is None else "answers with adapters"
        yield _describe_verdict(text, verdict)


def _describe_verdict(text: str, verdict: Verdict) -> Finding:
    text = f"{text}, by {DECODER_NAMES[verdict.plan.decoder]}"
    if not verdict.reasons:
        return Finding("ok", text, check=_CHECK)
    text = f"{text}, more slowly than it could: {'; '.join(verdict.reasons)}"
    return Finding("warning", text, check=_CHECK)
