"""No page has a serious fault of accessibility, by axe-core; none is wider than its screen."""

import os
import shutil

import pytest

from society.view.asking import AskingDesk
from tests.society.view.conftest import served, write_hostile, write_sums
from tests.society.view.crowd import write_shapes
from tests.society.view.endpoint.conftest import make_run

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; install it"),
    pytest.mark.long,
    pytest.mark.timeout(3600),
]
STAGE = "iteration=0&split=eval&arm=multiagent&decoding=sampled"
PAGES = [
    "/",
    "/help",
    "/beside",
    "/beside?run=arms.seed-0&run=arms.seed-1&run=arms.seed-2",
    "/nothing",
    *(
        f"/runs/{run}"
        for run in ("one-arm", "eight-agents", "no-gold", "mostly-cut", "paid", "arms.seed-0")
    ),
    *(
        f"/runs/{run}/{path}"
        for run in ("eight-agents", "mostly-cut")
        for path in ("debates", "agents", f"debate?{STAGE}&question=q000")
    ),
    f"/runs/one-arm/compare?{STAGE}&question=q001",
    f"/runs/no-gold/debates?{STAGE}",
    "/runs/arms.seed-0/datasets",
    "/runs/arms.seed-0/models",
    "/runs/one-arm/model?id=multiagent-a1-critic-it1",
    "/runs/one-arm/exports",
    "/runs/sums/dataset?id=d1",
    "/runs/hostile/debates",
    "/runs/first/ask",
    "/runs/one-arm/ask",
]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    runs = tmp_path_factory.mktemp("shapes") / "runs"
    write_shapes(runs)
    for name, write in (("sums", write_sums), ("hostile", write_hostile)):
        (runs / name).mkdir()
        write(runs / name / "run.duckdb")
    make_run(runs, "first", model="embedded:")
    with served(runs, desk=AskingDesk()) as site:
        yield site


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_page_has_a_serious_fault_or_is_wider_than_its_screen(browser, shown, width, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=False
    )
    page = context.new_page()
    page.set_default_timeout(300_000)
    faults, wide = [], []
    for path in PAGES:
        page.goto(shown.url + path)
        # What is folded is looked at too.
        for fold in page.locator("details").all():
            fold.evaluate("one => { one.open = true; }")
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(path)
        for fault in axe.Axe().run(page).response["violations"]:
            if fault["impact"] in ("serious", "critical"):
                nodes = [node["html"][:160] for node in fault["nodes"][:3]]
                faults.append((path, fault["id"], fault["help"], nodes))
    context.close()
    assert faults == []
    assert wide == []
