"""The page as a browser shows it: nothing asked of the network, nothing said on the console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
# A page of many charts takes a busy machine longer than the half minute that is the default.
PATIENCE_MS = 240_000

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
    page.set_default_timeout(PATIENCE_MS)
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
    # Folded sections are opened, so that every chart and table is laid out.
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [box for i in range(drawn.count()) if (box := drawn.nth(i).bounding_box())]
    # The chart at the top is there twice, for wide and for narrow screens.
    assert len(boxes) == drawn.count() - 1
    for box in boxes:
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
    cut = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 "
        "&& getComputedStyle(e).overflowX === 'auto' && !e.querySelector('.more')).length"
    )
    assert cut == 0
    assert (round(box["width"]), round(box["height"])) == (36, 12)
    page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_page_has_no_serious_fault_of_accessibility(
    seeds_page: Path, browser: Any, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(seeds_page.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    faults = [
        (each["id"], each["impact"], each["nodes"][0]["html"][:200])
        for each in axe.run(page).response["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    page.close()
    assert faults == []


def test_a_link_to_a_folded_section_opens_it(seeds_page: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(seeds_page.as_uri())
    costs = page.locator("#costs")
    assert not costs.is_visible()
    page.get_by_role("link", name="stage by stage").click()
    assert costs.is_visible()
    page.close()
