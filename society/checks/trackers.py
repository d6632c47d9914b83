"""Whether the trackers that an experiment names can be used: their packages, and a key for W&B."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator

from providers import extras
from providers.types import Finding
from society.config.schema import Config
from society.runs.telemetry import is_telemetry_on

_CHECK = "trackers"


def check_trackers(config: Config) -> Iterator[Finding]:
    """A finding for every tracker; nothing is sent, and no package is imported."""
    for name in config.tracking:
        if absent := extras.find_missing(extras.PACKAGES[name]):
            yield Finding(
                "error",
                f"tracking: {name} needs packages that are not installed: {', '.join(absent)}",
                f"{extras.install_command(name)}, or remove {name!r} from tracking",
                _CHECK,
            )
        elif name == "wandb" and not _has_wandb_key():
            yield Finding(
                "warning",
                "tracking: wandb has no key, so nothing will be logged there",
                "set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline",
                _CHECK,
            )
        else:
            yield Finding("ok", f"tracking: {name} is installed", check=_CHECK)


def check_telemetry(config: Config) -> Iterator[Finding]:
    """A finding if spans are asked for."""
    if is_telemetry_on(config):
        if absent := extras.find_missing(extras.PACKAGES["telemetry"]):
            yield Finding(
                "error",
                f"telemetry needs packages that are not installed: {', '.join(absent)}",
                f"{extras.install_command('telemetry')}, or set OTEL_SDK_DISABLED=true",
                _CHECK,
            )
        else:
            yield Finding("ok", "telemetry: spans of debates are sent", check=_CHECK)


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].rstrip("/")
    # Where `wandb login` keeps the key.
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
