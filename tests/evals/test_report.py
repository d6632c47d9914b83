import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from evals import report
from evals.intervals import Rate
from evals.reading import NothingStored
from evals.report import facts
from evals.report.chart import Series, accuracy_curves, sparkline
from store.records import Run

HOSTILE = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7*7 }}&amp;'


class Elements(HTMLParser):
    """What a browser would make of the page: tags, attributes, text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, made_up_rows) -> str:
    from store.ledger import Store

    folder = tmp_path_factory.mktemp("report")
    with Store.open(folder / "run.duckdb") as store:
        store.write(*made_up_rows(iterations=2, questions=30, spoken=HOSTILE))
        report.write(store, folder / "report.html")
    assert [path.name for path in folder.glob("*report*")] == ["report.html"]
    return (folder / "report.html").read_text(encoding="utf-8")


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def test_what_models_said_is_text(page: str) -> None:
    elements = parsed(page)
    assert HOSTILE in elements.text
    assert "script" not in elements.tags
    assert "img" not in elements.tags
    assert not [name for name, _ in elements.attributes if name.startswith("on")]


def test_the_page_needs_no_network_and_forbids_scripts(page: str) -> None:
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    elements = parsed(page)
    assert not {name for name, _ in elements.attributes} & {"src", "href", "srcset", "action"}
    assert not re.search(r"url\(|@import|https?://", page)


def test_it_tells_what_was_run_and_what_came_out(page: str) -> None:
    text = parsed(page).text
    for part in (
        "made-up",
        "embedded:",
        "From untuned to iteration 2, on the same questions",
        "Round-1 majority, greedy",
        "from choosing other ways of reasoning",
        "society.others",
        "Pseudo-labels",
        "Debates to read",
    ):
        assert part in text


def test_debates_are_shown_with_all_their_turns(page: str) -> None:
    debates = page.count("<details")
    assert debates
    assert page.count('class="turn answer"') == debates * 3 * 2
    assert page.count('class="turn summary"') == debates * 3


def test_headlines_hold_the_paired_numbers(store_of) -> None:
    found = facts.read(store_of(iterations=2, questions=20))
    assert (found.first, found.last) == (0, 2)
    assert len(found.headlines) == 6
    assert len(found.tunings) == 12
    assert all(len(tuning.losses) == 16 for tuning in found.tunings)
    assert [(cost.iteration, cost.stage) for cost in found.costs[:5]] == [
        (0, "evaluation, greedy"),
        (0, "evaluation, sampled"),
        (1, "training debate"),
        (1, "6 fine-tuning jobs"),
        (1, "evaluation, greedy"),
    ]
    for flips in found.flips:
        assert flips.wrong_to_right + flips.right_to_wrong <= flips.answers == 60


def test_an_unfinished_run_gives_a_page(store_of, tmp_path: Path) -> None:
    report.write(store_of(iterations=0, questions=4), tmp_path / "part.html")
    assert "not finished" in (tmp_path / "part.html").read_text()


def test_a_run_with_nothing_evaluated_gives_a_page(store_of, made_up_rows, tmp_path: Path) -> None:
    only_run = [row for row in made_up_rows(questions=1) if isinstance(row, Run)]
    report.write(store_of(only_run), tmp_path / "none.html")
    assert "No evaluation debate is complete yet" in (tmp_path / "none.html").read_text()


def test_an_empty_database_is_named(store_of, tmp_path: Path) -> None:
    store = store_of([])
    with pytest.raises(NothingStored, match=r"run0\.duckdb holds no run yet"):
        report.write(store, tmp_path / "none.html")
    assert not list(tmp_path.glob("*.html"))


def test_curve_labels_do_not_overlap_and_are_escaped() -> None:
    near = [
        Series(f"<{kind}>", kind, {0: Rate(0.5, 0.4, 0.6, 9), 1: Rate(0.7 + i / 1000, 0.6, 0.8, 9)})
        for i, kind in enumerate(("consensus", "majority", "greedy", "single"))
    ]
    svg = str(accuracy_curves(near, "a & b"))
    heights = sorted(float(y) for y in re.findall(r'class="name \w+" x="\d+" y="([\d.]+)"', svg))
    assert len(heights) == 4
    assert all(b - a >= 14 for a, b in pairwise(heights))
    assert "&lt;consensus&gt;" in svg
    assert 'aria-label="a &amp; b"' in svg


def test_charts_of_little_data() -> None:
    assert accuracy_curves([], "none") == ""
    assert sparkline([1.0], "one") == ""
    assert "<polyline" in sparkline([1.0, 1.0], "flat")
    one = accuracy_curves([Series("x", "consensus", {0: Rate(1.0, 1.0, 1.0, 3)})], "one")
    assert "nan" not in one
