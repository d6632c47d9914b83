"""What a notebook shows: a debate and accuracies, with all text of models as text."""

import asyncio
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import society
from evals.invisible import HIDDEN
from evals.metrics import MEASURES
from evals.report.accuracies import read_accuracies
from evals.report.seeds import group_runs
from society.method.voting import Tally
from society.runs.accuracy_table import AccuracyRow, AccuracyTable
from society.runs.answer import build_answer
from store.ledger import Store
from store.records import StageKey, Turn
from tests.society.test_hostile_run import ATTACK
from tests.society.whole_run import start

TAGS = {"div", "p", "b", "br", "table", "caption", "thead", "tbody", "tr", "th", "td", "pre"}
TAGS |= {"details", "summary"}


class Elements(HTMLParser):
    """The tags and attributes of a piece of HTML, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        # Of plain text; text that is marked as HTML escapes what is added to it.
        self.feed(html.encode().decode())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def make_turn(agent, number, answer, kind="answer", **more):
    return Turn(
        *(2, "eval", "multiagent", "sampled", "asked", agent, number, kind, "model", "[]"),
        response=f"{ATTACK} by {agent}",
        answer=answer,
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        latency_ms=1.0,
        **more,
    )


@pytest.fixture
def hostile():
    """A debate of two rounds whose every text is an attack."""
    turns = [
        make_turn(2, 1, None, error=ATTACK),
        make_turn(1, 1, ATTACK),
        make_turn(3, 1, "7", thought=f"{ATTACK} thought"),
        *(make_turn(agent, 2, None, kind="summary") for agent in (1, 2, 3)),
        *(make_turn(agent, 2, "7.0" if agent == 2 else "7") for agent in (1, 2, 3)),
    ]
    tallies = [
        Tally(ATTACK, frozenset({ATTACK}), 1, 2, True),
        Tally("7", frozenset({"7", "7.0"}), 3, 3, False),
    ]
    return build_answer(f"{ATTACK} question", 3, 2, tallies, turns)


def test_a_debate_is_a_table_of_plain_text(hostile):
    html = hostile._repr_html_()
    found = Elements(html)
    assert found.tags <= TAGS
    assert found.attributes == {"style", "class"}
    assert not HIDDEN.search(html)
    assert found.text.count("<script>window.hacked=1</script>") >= 12
    assert "The society of iteration 2 answers 7 (3 of 3 agents)" in found.text
    assert "1 of 3, a tie" in found.text
    # Another spelling of the winning answer agrees with the vote; another answer does not.
    assert found.text.count("✓") == 4
    assert found.text.count("≠ vote") == 1
    heads = [found.text.index(f"agent {agent}") for agent in (1, 2, 3)]
    assert heads == sorted(heads)


def test_a_debate_is_a_few_lines_of_text(hostile):
    lines = repr(hostile).splitlines()
    assert len(lines) == 4
    assert not any(HIDDEN.search(line) for line in lines)
    assert lines[2] == "  round 2: agent 1: 7, agent 2: 7.0, agent 3: 7"
    assert lines[3] == "the society of iteration 2 answers 7 (3 of 3 agents)"
    silent = build_answer("?", 1, 0, [Tally(None, frozenset(), 0, 0, False)], [])
    assert repr(silent).endswith(
        "the untuned society answers nothing: no agent stated a final answer"
    )


def test_names_in_a_table_of_accuracies_are_plain_text():
    table = AccuracyTable(
        tuple(
            AccuracyRow(ATTACK, ATTACK, 0, "sampled", measure, 0.5, 0.25, 0.75, 10)
            for measure in MEASURES
        )
    )
    found = Elements(table._repr_html_())
    assert found.tags <= TAGS
    assert "50.0 (25.0–75.0)" in found.text
    assert not HIDDEN.search(repr(table))
    assert "no accuracy" in repr(AccuracyTable(()))
    assert "no accuracy" in AccuracyTable(())._repr_html_()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scripted):
    """A folder with a run whose calls have a price, and answers to one more question."""
    home = tmp_path_factory.mktemp("finished")
    path = scripted(home)
    lines = (home / "script.jsonl").read_text()
    for agent in (1, 2, 3):
        for key in ("r1/answer", "r2/summary", "r2/answer"):
            lines += f'{{"key": "eval/asked/a{agent}/{key}", "text": "\\\\boxed{{-27}}"}}\n'
    (home / "script.jsonl").write_text(lines)
    start(home, path, name="free")
    price = f'{{"scripted:{home / "script.jsonl"}" = {{input_usd = 1.0, output_usd = 1.0}}}}'
    start(home, path, "iterations=0", f"prices={price}", name="paid")
    return home


def test_the_accuracies_are_those_of_the_report(finished):
    pytest.importorskip("pandas")
    with society.load(finished / "runs/free") as run:
        table = run.accuracy()
        [group] = group_runs([run.store])
        reported = read_accuracies(group.runs)
        for row in table.rows:
            stage = StageKey(row.iteration, "eval", row.arm, row.decoding)
            rate = reported.find(stage, row.measure).rate
            assert (row.accuracy, row.low, row.high) == (rate.value, rate.low, rate.high)
            assert row.questions == rate.total
        assert len(table.rows) == len(table.frame()) == 18
        assert "consensus" in repr(table).splitlines()[0]


async def test_a_run_is_asked_while_the_loop_goes_on(finished):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    with society.load("free", finished / "runs") as run:
        going = asyncio.create_task(tick())
        both = await asyncio.gather(run.ask_async("1+1"), run.ask_async("1+1", 0))
        going.cancel()
        assert [found.iteration for found in both] == [2, 0]
        assert {found.answer for found in both} == {"-27"}
        assert [vote.votes for vote in both[0].rounds] == [3, 3]
        assert ticks > 10
        # In the same loop, which waits meanwhile.
        assert run.ask("1+1").answer == "-27"
        with pytest.raises(society.config.load.ConfigError, match="is empty"):
            await run.ask_async(" ")


async def test_what_an_answer_costs_is_stored(finished, tmp_path):
    shutil.copytree(finished / "runs/paid", tmp_path / "paid")
    with society.load(tmp_path / "paid") as run:
        await asyncio.gather(run.ask_async("1+1"), run.ask_async("1+1"))
        [(calls,)] = run.query("SELECT sum(calls) FROM spend WHERE stage = 'ask'").rows
        assert calls == 18
    with Store.open(tmp_path / "paid/run.duckdb", read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns WHERE question_id = 'asked'") == [(0,)]


def test_a_run_is_opened_by_its_name_or_its_folder(finished, monkeypatch):
    monkeypatch.chdir(finished / "runs/free")
    for where in (Path(), "../free", finished / "runs/free", str(finished / "runs/free")):
        with society.load(where) as run:
            assert run.name == "free"
    assert repr(run) == f"<run free in {finished / 'runs'}/>"
