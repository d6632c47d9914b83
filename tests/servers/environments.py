"""Environments for servers that nobody here wrote, made once and kept between runs.

    python -m tests.servers.environments [NAME…]

installs those that are missing into the folder SOCIETY_TEST_SERVERS. Where one cannot be installed,
the reason is kept, for the tests to skip with; the exit status is 0 all the same.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.servers.recipes import RECIPES, Recipe

INSTALL_S = 1200.0
"""How long an installation may take."""


class NotInstalled(Exception):
    """There is no environment for a server; the text says why."""


@dataclass(frozen=True)
class Environment:
    """An installed server: `folder` is its virtual environment with the shims and a cache in it."""

    recipe: Recipe
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def shims(self) -> Path:
        return self.folder / "shims"

    def variables(self) -> dict[str, str]:
        """The environment variables that the server is started with."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        own = {name: self.fill_in(text) for name, text in self.recipe.environment.items()}
        path = f"{self.shims}{os.pathsep}{self.folder / 'bin'}{os.pathsep}{kept.get('PATH', '')}"
        return kept | own | {"PATH": path, "PYTHONPATH": str(self.shims)}

    def fill_in(self, text: str) -> str:
        """A text of the recipe with this environment's paths."""
        return text.replace("{python}", str(self.python)).replace(
            "{cache}", str(self.folder / "cache")
        )


def find_environment(recipe: Recipe) -> Environment:
    """The environment of a server. Raises `NotInstalled` with the reason if there is none."""
    home = _find_home()
    folder = home / f"{recipe.name}-{recipe.digest}"
    reason = folder.with_suffix(".reason")
    if reason.exists():
        raise NotInstalled(reason.read_text())
    if not (folder / ".ready").exists():
        raise NotInstalled(f"{recipe.name} is not installed in {home}; make test-servers does that")
    environment = Environment(recipe, folder)
    # Written at every start, since they may change while the packages stay.
    environment.shims.mkdir(exist_ok=True)
    for name, text in recipe.shims.items():
        path = environment.shims / name
        path.write_text(environment.fill_in(text))
        path.chmod(0o755)
    return environment


def install(recipe: Recipe) -> str | None:
    """Make the environment of a server unless it is there; the reason why it cannot be made."""
    folder = _find_home() / f"{recipe.name}-{recipe.digest}"
    reason = folder.with_suffix(".reason")
    if (folder / ".ready").exists():
        return None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        reason.unlink(missing_ok=True)
    except OSError as error:
        return f"{recipe.name} cannot be installed: {error}; set SOCIETY_TEST_SERVERS"
    shutil.rmtree(folder, ignore_errors=True)
    failed = _install_packages(recipe, folder)
    if failed is None:
        for name, written in recipe.written.items():
            path = _find_packages(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(written)
        (folder / ".ready").touch()
        return None
    shutil.rmtree(folder, ignore_errors=True)
    text = f"{recipe.name} cannot be installed: {failed}"
    reason.write_text(text)
    return text


def _install_packages(recipe: Recipe, folder: Path) -> str | None:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    return (
        _run([sys.executable, "-m", "venv", str(folder)], INSTALL_S)
        or _run([*pip, "install", "--quiet", *recipe.packages], INSTALL_S)
        or (
            _run([*pip, "uninstall", "--quiet", "--yes", *recipe.removed], INSTALL_S)
            if recipe.removed
            else None
        )
    )


def _find_packages(folder: Path) -> Path:
    return next((folder / "lib").glob("python3*/site-packages"))


def _find_home() -> Path:
    home = os.environ.get("SOCIETY_TEST_SERVERS")
    if not home:
        raise NotInstalled("SOCIETY_TEST_SERVERS names no folder of servers; use make test-servers")
    return Path(home)


def _run(command: list[str], most_s: float) -> str | None:
    """Run to the end; why it failed, None if it did not."""
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, stdout=pipe, stderr=merged, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=most_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"{' '.join(command[:4])} took more than {most_s:.0f} s"
    if process.returncode == 0:
        return None
    lines = output.strip().splitlines() or [f"exit status {process.returncode}"]
    return next((line for line in lines if line.startswith("ERROR")), lines[-1])


def main() -> None:
    names = sys.argv[1:] or list(RECIPES)
    with ThreadPoolExecutor() as pool:
        for name, failed in zip(
            names, pool.map(install, [RECIPES[name] for name in names]), strict=True
        ):
            print(failed or f"{name} is installed", flush=True)


if __name__ == "__main__":
    main()
