"""Under which software and on which machine a run is started, and what is new since then."""

from __future__ import annotations

import json
import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from store.records import Run, RunStart, utc_now

_PACKAGES = (
    "multiagent-finetuning",
    "torch",
    "transformers",
    "peft",
    "duckdb",
    "openai",
    "math-verify",
)


def this_start() -> RunStart:
    """This process, its software and its machine."""
    return RunStart(utc_now(), os.getpid(), versions(), json.dumps(_machine()))


def versions() -> str:
    """The versions that decide what a run's answers and scores are, as a JSON object."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return json.dumps(found)


def changes(before: RunStart | Run, now: RunStart) -> list[str]:
    """What has another version now, in words; what was not recorded before is left out."""
    earlier, current = json.loads(before.versions), json.loads(now.versions)
    return [
        f"{name} {known}, now {current.get(name, 'not installed')}"
        for name, known in earlier.items()
        if current.get(name) != known
    ]


def _machine() -> dict[str, object]:
    found: dict[str, object] = {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
    }
    # Only where models run in this process is torch imported by now.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        ]
    return found
