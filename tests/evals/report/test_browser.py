"""The page as a browser shows it: nothing asked of the network, nothing said on the console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")

if not CHROMIUM.exists():
    pytest.skip("no chromium on this machine", allow_module_level=True)
sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 390)])
def test_the_page_opens_quietly_and_fits(
    seeds_page: Path, browser: Any, scheme: str, width: int
) -> None:
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=True
    )
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(seeds_page.as_uri())
    assert asked == [seeds_page.as_uri()]
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    drawn = page.locator("svg.chart")
    assert drawn.count() > 10
    for box in (drawn.nth(i).bounding_box() for i in range(drawn.count())):
        assert box is not None
        assert box["width"] > 250
        assert box["x"] + box["width"] <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    line = page.evaluate(
        "getComputedStyle(document.querySelector('svg.chart path[style*=\"--blue\"]')).stroke"
    )
    assert (background, line) == (
        ("rgb(252, 252, 250)", "rgb(0, 114, 178)")
        if scheme == "light"
        else ("rgb(22, 24, 27)", "rgb(90, 180, 236)")
    )
    marks = page.locator("svg.swatch")
    assert marks.count() > 20
    box = marks.first.bounding_box()
    assert box is not None
    assert (round(box["width"]), round(box["height"])) == (36, 12)
    page.close()
