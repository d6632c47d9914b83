"""The drawing of a debate's answers: agents by rounds, with a sign for every answer."""

import re

import pytest

from evals.debates import read_debate
from society.view.answer_grid import build_answer_grid, draw_answer_grid
from society.view.drawing import LINES
from society.view.formulas import Typesetter
from store.ledger import Store
from store.records import StageKey

STAGE = StageKey(0, "eval", "multiagent", "sampled")
ADDRESS = "/runs/sums/debate?iteration=0&split=eval&arm=multiagent&decoding=sampled&question="


@pytest.fixture
def build(tmp_path, make_debate):
    """The grid of a debate with these answers of every round."""

    def build_grid(rounds, gold=None):
        with Store.open(tmp_path / "run.duckdb") as store:
            rows = make_debate(("0", "eval", "multiagent", "sampled"), "q", gold, rounds)
            store.write(*rows)
            return build_answer_grid(read_debate(store, STAGE, "q"))

    return build_grid


def draw(grid):
    return draw_answer_grid(grid, Typesetter().typeset_answer)


def numbers(grid, number):
    return [grid.cells[agent, number].number for agent in grid.agents]


def test_equal_answers_share_a_number_and_the_most_frequent_is_the_first(build):
    grid = build([["5", "5", "4"], ["4", "4", "4"]])
    assert numbers(grid, 1) == [2, 2, 1]
    assert numbers(grid, 2) == [1, 1, 1]
    assert [(s.different, s.most, s.readable) for s in grid.spreads] == [(2, 2, 3), (1, 3, 3)]


def test_the_label_is_one_answer_however_it_is_written(build):
    grid = build([["1/2", "0.5", "7"], ["0.5", "0.5", None]], gold="1/2")
    assert numbers(grid, 1) == [1, 1, 2]
    assert numbers(grid, 2) == [1, 1, None]
    assert [(s.different, s.most, s.readable) for s in grid.spreads] == [(2, 2, 3), (1, 2, 2)]


def test_the_gold_answer_is_one_too_where_the_label_is_another(build):
    grid = build([["1/2", "0.5", "7"], ["7", "7", "0.5"]], gold="1/2")
    assert numbers(grid, 1)[0] == numbers(grid, 1)[1] == numbers(grid, 2)[2]
    assert numbers(grid, 1)[2] == numbers(grid, 2)[0] != numbers(grid, 1)[0]


def test_more_answers_than_signs_leave_the_rarest_without_one(build):
    answers = [str(n) for n in range(LINES + 3)]
    grid = build([[*answers, "0"]])
    assert sorted(numbers(grid, 1)) == sorted([0, 0, 0, 1, *range(1, LINES + 1)])
    assert "line-7" not in draw(grid)


def test_a_long_debate_fits_and_a_long_answer_is_cut_within_its_cell(build):
    grid = build([["9" * 300, "1"]] * 9)
    drawn = draw(grid)
    width = int(re.search(r'<svg class="answers" width="(\d+)"', drawn)[1])
    assert width < 800
    assert "9" * 300 in re.search(r"<title>(.*?)</title>", drawn)[1]
    shown = re.search(r'<text class="given"[^>]*>(.*?)</text>', drawn)[1]
    assert shown.endswith("…")
    assert len(shown) < 20


def test_the_page_of_a_debate_has_the_drawing_and_a_table_behind_it(site):
    text = site.get(ADDRESS + "turned-right")[1]
    (drawn,) = re.findall(r'<svg class="answers".*?</svg>', text)
    cells = re.findall(r'<a class="cell ([^"]*)" href="#(turn-\d+)" aria-label="([^"]*)"', drawn)
    assert [name for name, _, _ in cells] == ["line-2", "line-2", *["line-1"] * 4]
    assert all(f'id="{turn}"' in text for _, turn, _ in cells)
    assert cells[0][2] == "Agent 1, round 1: 5, wrong"
    assert "2 of 3 agree" in drawn
    rows = re.sub(r"<[^>]*>", " ", text[text.index('<table class="matrix"') :])
    assert "different answers 2 1" in " ".join(rows.split())


def test_an_answer_that_is_markup_stays_text(build):
    drawn = draw(build([["\\<script>1</script>\x1b[31m", "1"]]))
    assert "<script" not in drawn
    assert "\x1b" not in drawn


def test_formulas_are_shown_as_formulas_beside_their_source(build):
    drawn = draw(build([["\\frac{1}{2}", "0.5", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"]]))
    (shown,) = re.findall(r"<foreignObject.*?</foreignObject>", drawn)
    assert "<mfrac>" in shown
    # One key shows the source, which the box holds too; the pointer shows it as the title.
    assert '<span class="source">\\frac{1}{2}</span>' in shown
    assert "<title>Agent 1, round 1: \\frac{1}{2}</title>" in drawn
    assert re.findall(r'<text class="given"[^>]*>(.*?)</text>', drawn)[0] == "0.5"


def test_a_formula_that_is_too_long_for_its_cell_is_cut_as_it_is_written(build):
    drawn = draw(build([["\\sqrt{" + "9" * 100 + "}", "1"]]))
    assert "foreignObject" not in drawn
    assert re.search(r'<text class="given"[^>]*>\\sqrt{9+…</text>', drawn)
