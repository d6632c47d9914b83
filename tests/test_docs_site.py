"""The documentation site is built without a warning, and asks no other host for anything."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SITE = ROOT / "zensical.toml"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the built pages."""
    pytest.importorskip("zensical", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / SITE.name).write_text(SITE.read_text("utf-8"))
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout
    return folder / "site"


def list_pages(nav: list[dict[str, object]]) -> list[str]:
    """The files that a navigation names, in their order."""
    pages: list[str] = []
    for entry in nav:
        for target in entry.values():
            pages += [target] if isinstance(target, str) else list_pages(target)
    return pages


def test_the_navigation_has_every_page_once():
    named = list_pages(tomllib.loads(SITE.read_text("utf-8"))["project"]["nav"])
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    tables = {name for name in there if "/tables/" in name}
    assert sorted(named) == sorted(there - tables)


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site):
    pages = list_pages(tomllib.loads(SITE.read_text("utf-8"))["project"]["nav"])
    for page in pages:
        folder = site / page.removesuffix("README.md").removesuffix(".md")
        html = (folder / "index.html").read_text("utf-8")
        for tag in re.findall(r"<(?:link|script|img|iframe)\b[^>]*>", html):
            loaded = re.findall(r'\b(?:src|href)="?(https?:[^"\s>]*)', tag)
            assert not loaded or 'rel="canonical"' in tag, f"{page}: {tag}"


def test_keys_and_tables_are_in_the_pages(site):
    config = (site / "config/index.html").read_text("utf-8")
    assert "<table" in config
    assert "template_date" in config
    assert (site / "improvement/index.html").is_file()
    assert (site / "paper-embedded/figures/figure-1-accuracy.png").is_file()
