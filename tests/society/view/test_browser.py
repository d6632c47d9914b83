"""The pages in a real browser: walked, filtered, driven by keys, and attacked.

Needs Playwright and Debian's Chromium (`apt-get install chromium`), which `.ci/run` installs.
"""

import os
import shutil
from urllib.parse import urlsplit

import pytest

from store.ledger import Store

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; install it")

STAGE = "iteration=0&split=eval&arm=multiagent&decoding=sampled"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Watched:
    """A page of a browser whose requests, errors and dialogs are kept."""

    def __init__(self, browser, site, **context):
        self.site = site
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        # A busy machine takes its time; a test that hangs is stopped by its own limit.
        self.page.set_default_timeout(200_000)
        self.requests, self.troubles = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("dialog", lambda dialog: self.troubles.append(dialog.message))

    def _said(self, message):
        if message.type in ("error", "warning"):
            self.troubles.append(message.text)

    def go(self, path):
        return self.page.goto(self.site.url + path)

    def press(self, key):
        """Press a key of the page's, once its script, which is deferred, listens for it."""
        self.page.wait_for_load_state()
        self.page.keyboard.press(key)

    def check(self):
        """Nothing was loaded from elsewhere, nothing went wrong, nothing of a model's ran."""
        assert {urlsplit(url).netloc for url in self.requests} == {f"127.0.0.1:{self.site.port}"}
        assert self.troubles == []
        assert self.page.evaluate("window.hacked") is None


@pytest.fixture
def watched(browser, site):
    page = Watched(browser, site, viewport={"width": 1200, "height": 800})
    yield page
    page.context.close()


def test_the_link_to_a_debate_is_copied(watched):
    page = watched.page
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    watched.go(f"/runs/sums/debate?{STAGE}&question=tied&in=vote%3Dtied")
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Link copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator('[rel="bookmark"]').evaluate("one => one.href")
    assert "in=" not in copied
    watched.check()


def test_from_the_runs_to_a_debate_a_dataset_row_and_a_model(watched):
    page = watched.page
    watched.go("/")
    page.get_by_role("link", name="sums", exact=True).click()
    page.get_by_role("link", name="debates to learn from").click()
    page.get_by_role("link", name="2 + 2?").first.click()
    page.get_by_role("article", name="Agent 1, round 2").get_by_role(
        "link", name="row 1 of"
    ).click()
    page.get_by_role("heading", name="d1").wait_for()
    page.get_by_role("link", name="tuned-critic").click()
    page.get_by_role("group", name="Training loss").wait_for()
    page.get_by_role("link", name="d1").click()
    page.locator("#row-1 a").click()
    page.get_by_role("heading", name="2 + 2?").wait_for()
    watched.check()


@pytest.mark.parametrize(
    ("label", "choice", "expected"),
    [
        ("Questions", "training", {"2 + 2?"}),
        ("Society", "iteration 1", {"2 + 2?", "What is turned-right?", "What is plain-00?"}),
        ("Flipped", "vote turned right", {"What is turned-right?"}),
        ("Flipped", "vote turned wrong", {"What is turned-wrong?"}),
        ("Vote", "tied vote", {"What is tied?"}),
        ("Vote", "no label", {"What is no-answer?"}),
        ("Dissenter", "agent 2", {"What is tied?", "What is dissent?"}),
    ],
)
def test_every_filter_lists_what_it_says(watched, label, choice, expected):
    watched.go("/runs/sums/debates")
    watched.page.get_by_role("combobox", name=label, exact=True).select_option(label=choice)
    watched.page.get_by_role("button", name="Show").click()
    watched.page.locator(".condition").wait_for()
    assert set(watched.page.locator(".debates .question bdi").all_inner_texts()) == expected
    watched.check()


def test_keys_search_walk_and_leaf_through(watched):
    page = watched.page
    watched.go("/runs/sums/debates?iteration=0&split=eval&flip=changed")
    watched.press("/")
    page.keyboard.type("turned")
    watched.press("Enter")
    page.get_by_text("2 debates found").wait_for()
    watched.press("j")
    watched.press("j")
    watched.press("k")
    watched.press("Enter")
    page.get_by_role("heading", name="What is turned-right?").wait_for()
    watched.press("d")
    page.locator("details.changes[open] ins").first.wait_for()
    watched.press("ArrowRight")
    page.get_by_role("heading", name="What is turned-wrong?").wait_for()
    watched.press("ArrowRight")
    page.get_by_text("This is the last debate of the list.").wait_for()
    watched.press("ArrowLeft")
    page.get_by_role("heading", name="What is turned-right?").wait_for()
    watched.press("?")
    page.get_by_role("dialog").wait_for()
    watched.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    watched.press("u")
    page.get_by_text("2 debates found").wait_for()
    watched.check()


def test_a_chart_shows_its_values_at_the_pointer_and_at_the_focus(watched):
    watched.go("/runs/sums")
    bands = watched.page.locator(".chart .band")
    boxes = watched.page.locator(".chart .tip")
    assert boxes.first.evaluate("one => getComputedStyle(one).visibility") == "hidden"
    watched.page.locator(".reach").nth(1).hover()
    boxes.nth(1).locator("text", has_text="iteration 1").wait_for()
    watched.page.mouse.move(0, 0)
    boxes.nth(1).wait_for(state="hidden")
    bands.first.focus()
    boxes.first.locator("text", has_text="untuned").wait_for()
    assert "consensus: 93.2 %" in bands.first.get_attribute("aria-label")
    watched.check()


def test_one_key_shows_the_text_as_it_was_written(watched):
    page = watched.page
    watched.go("/runs/sums/debates?iteration=0&split=eval&flip=wrong_to_right")
    page.locator(".debates a").first.click()
    page.locator(".response math").first.wait_for()
    assert page.locator(".response .source").first.is_hidden()
    watched.press("m")
    page.locator(".response", has_text="\\boxed{5}").first.wait_for()
    page.locator(".response .source").first.wait_for()
    assert page.locator(".response math").first.is_hidden()
    # It stays so on the next page.
    page.reload()
    page.locator(".response .source").first.wait_for()
    page.get_by_role("link", name="Show formulas").click()
    page.locator(".response math").first.wait_for()
    watched.check()


def test_hostile_transcripts_are_harmless(watched):
    page = watched.page
    for path in ("/", "/runs/hostile", "/runs/hostile/models", "/runs/hostile/debates?text=script"):
        watched.go(path)
    page.locator(".debates a").first.click()
    page.get_by_role("article").first.wait_for()
    for fold in page.locator("details").all():
        fold.evaluate("one => { one.open = true; }")
    assert page.locator("main img, main script, main iframe, main b").count() == 0
    # Of links in drawings, too, which have no protocol of their own.
    protocols = "all => all.map(a => new URL(a.getAttribute('href'), location).protocol)"
    assert set(page.locator("main a").evaluate_all(protocols)) == {"http:"}
    assert page.locator(".hidden-character", has_text="RLO").count() > 0
    assert page.locator(".hidden-character", has_text="ESC[31m").count() > 0
    page.wait_for_timeout(200)
    watched.check()


def test_a_script_that_got_in_would_not_run(watched):
    watched.go("/runs/sums")
    watched.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<p id=p onclick='window.hacked=1'>");
            document.getElementById("p").click();
        }"""
    )
    assert watched.page.evaluate("window.hacked") is None
    assert all("Content Security Policy" in trouble for trouble in watched.troubles)
    assert watched.troubles


def test_a_page_follows_its_run_by_itself(browser, tmp_path, serve, write_sums, make_debate):
    path = tmp_path / "going" / "run.duckdb"
    path.parent.mkdir()
    write_sums(path)
    with serve(tmp_path) as site:
        watched = Watched(browser, site)
        watched.go("/runs/going")
        row = watched.page.locator("details:has(#progress) tr", has_text="iteration 1")
        row.filter(has_text="2 of 60").wait_for()
        with Store.open(path) as store:
            gold, rounds = "4", [["4", "4", "4"]]
            store.write(*make_debate((1, "eval", "multiagent", "sampled"), "tied", gold, rounds))
        row.filter(has_text="3 of 60").wait_for(timeout=120_000)
        # While somebody writes without answering, the page is told so and asks again.
        assert all("503" in trouble for trouble in watched.troubles)
        watched.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_of_a_narrow_screen(browser, site, scheme):
    narrow = Watched(browser, site, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    paths = ("", "/debates", "/agents", "/datasets", "/dataset?id=d1", "/models")
    for path in ("/", "/help", *(f"/runs/sums{path}" for path in paths), "/runs/hostile/debates"):
        narrow.go(path)
        wide = narrow.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, path
    narrow.check()
    narrow.context.close()


def test_the_pages_work_without_script(browser, site):
    still = Watched(browser, site, java_script_enabled=False)
    still.go("/runs/sums/debates?flip=right_to_wrong")
    still.page.locator(".debates a").first.click()
    still.page.get_by_role("heading", name="What is turned-wrong?").wait_for()
    still.page.get_by_role("link", name="Show the text as it was written").click()
    still.page.locator(".response .source").first.wait_for()
    still.page.get_by_role("link", name="Next →").click()
    still.page.get_by_text("This is the last debate of the list.").wait_for()
    assert still.troubles == []
    still.context.close()
