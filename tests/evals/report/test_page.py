import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evals import report
from evals.report import facts, sentences, tables
from evals.stored_run import NothingStored
from store.ledger import Store
from store.records import Run, StoredArm

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
def old(tmp_path_factory: pytest.TempPathFactory, made_up_rows) -> str:
    """The page of a run from before there were arms."""
    folder = tmp_path_factory.mktemp("report")
    with Store.open(folder / "run.duckdb") as store:
        store.write(*made_up_rows(iterations=2, questions=20, spoken=HOSTILE))
        report.write_report([store], folder / "report.html")
    assert [path.name for path in folder.glob("*report*")] == ["report.html"]
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def several(seeds_page: Path) -> str:
    """The page of three seeds with several arms."""
    return seeds_page.read_text(encoding="utf-8")


def parsed(text: str) -> Elements:
    elements = Elements()
    elements.feed(text)
    return elements


def test_what_models_said_is_text(old: str) -> None:
    elements = parsed(old)
    assert HOSTILE in elements.text
    assert "script" not in elements.tags
    assert "img" not in elements.tags
    assert not [name for name, _ in elements.attributes if name.startswith("on")]


def test_the_page_needs_no_network_and_forbids_scripts(old: str, several: str) -> None:
    for text in (old, several):
        assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
        elements = parsed(text)
        names = {name for name, _ in elements.attributes}
        assert not names & {"src", "srcset", "action", "xlink:href"}
        assert all(to.startswith("#") for name, to in elements.attributes if name == "href" and to)
        assert not re.search(r"@import|https?://", text)
        assert all(to.startswith("#") for to in re.findall(r"url\(([^)]*)\)", text))


def test_no_two_elements_have_the_same_id_and_references_have_a_target(several: str) -> None:
    ids = re.findall(r' id="([^"]+)"', several)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', several)
    assert {"arms", "agents", "conditions", "zero-shot", "debates", "costs"} <= set(targets)
    assert targets
    assert set(targets) <= set(ids)


def test_a_run_without_arms_is_compared_with_itself_untuned(old: str) -> None:
    text = parsed(old).text
    for part in (
        "made-up",
        "embedded:",
        "The vote of multiagent is right on",
        "of 20 held-out questions after 2 iterations",
        "points on the untuned society",
        "choosing other ways of reasoning",
        "Do the agents still differ?",
        "Every agent",
        "society.others",
        "Pseudo-labels",
        "Debates to read",
    ):
        assert part in text
    assert "What was equal between the arms" not in text


def test_several_arms_and_seeds_are_one_answer(several: str) -> None:
    text = parsed(several).text
    for part in (
        "3 seeds",
        "Do the agents still differ?",
        "single-agent: diversity has",
        "What was equal between the arms",
        "gold answers",
        "Only star is trained on gold answers.",
        "Zero-shot: harder",
        "What the paper reports",
        "the provider gives no log-probabilities",
    ):
        assert part in text


def test_debates_are_shown_with_all_their_turns(old: str) -> None:
    debates = old.count('<details class="debate"')
    assert debates
    assert old.count('class="turn answer"') == debates * 3 * 2
    assert old.count('class="turn summary"') == debates * 3


def test_the_papers_numbers_can_be_left_out(three_seeds) -> None:
    assert "published" in tables.build_tables(facts.collect_facts(three_seeds[:1]))
    assert "published" not in tables.build_tables(facts.collect_facts(three_seeds[:1], quote=False))


def test_different_experiments_stand_side_by_side(society_store, tmp_path: Path) -> None:
    kinds = ("multiagent", "single-agent")
    stores = [
        society_store(name="three", kinds=kinds, questions=6, iterations=1, diverse=False),
        society_store(
            name="hotter", kinds=kinds, questions=6, iterations=1,
            changed={"sampling": {"temperature": 1.0}},
            diverse=False,
        ),
    ]  # fmt: skip
    report.write_report(stores, tmp_path / "both.html")
    text = parsed((tmp_path / "both.html").read_text()).text
    assert "three, hotter" in text
    assert "The experiments differ in sampling." in text
    assert text.count("agents debate arithmetic questions") == 1
    assert "Where the experiments differ" in text
    assert "sampling.temperature" in text
    assert "hotter · one agent alone, greedy" in text


def test_an_unfinished_run_gives_a_page(store_of, tmp_path: Path) -> None:
    report.write_report([store_of(iterations=0, questions=4)], tmp_path / "part.html")
    assert "Not finished: made-up" in (tmp_path / "part.html").read_text()


def test_arms_that_wait_are_named(society_store) -> None:
    store = society_store(kinds=("multiagent",), questions=4, iterations=1)
    store.write(StoredArm("star", 1, "star", "gold", '{"iterations": 1}'))
    [experiment] = facts.collect_facts([store]).experiments
    assert "Nothing evaluated yet: star." in sentences.list_notices(experiment)


def test_a_run_with_nothing_evaluated_gives_a_page(store_of, made_up_rows, tmp_path: Path) -> None:
    only_run = [row for row in made_up_rows(questions=1) if isinstance(row, Run)]
    report.write_report([store_of(only_run)], tmp_path / "none.html")
    assert "No evaluation debate is complete yet" in (tmp_path / "none.html").read_text()


def test_an_empty_database_is_named(store_of, tmp_path: Path) -> None:
    store = store_of([])
    with pytest.raises(NothingStored, match=r"run0\.duckdb holds no run yet"):
        report.write_report([store], tmp_path / "none.html")
    assert not list(tmp_path.glob("*.html"))


def test_gold_that_nobody_knows_leaves_no_accuracy_and_breaks_nothing(
    store_of, made_up_rows, tmp_path: Path
) -> None:
    from dataclasses import replace

    from store.records import Question, Verdict, Vote

    def forgetful():
        for row in made_up_rows(iterations=1, questions=6):
            if isinstance(row, Question):
                yield replace(row, gold=None)
            elif isinstance(row, (Verdict, Vote)):
                yield replace(row, correct=None)
            else:
                yield row

    report.write_report([store_of(forgetful())], tmp_path / "blind.html")
    text = parsed((tmp_path / "blind.html").read_text()).text
    assert "Do the agents still differ?" in text
    assert "is right on" not in text
    assert "none of the 6 evaluation questions has one" in text
    assert "of their readable last answers after 1 iteration;" in text
    assert "1 iteration." in text
    assert "How the agents vote" in text
    assert "No evaluation debate is complete yet" not in text
