"""Sweeps together, runs beside each other, and a question in two debates side by side."""

import json
import re
from urllib.parse import urlencode

import pytest

from society.view.beside import decode_stage, encode_stage
from society.view.filters import BadAddress
from store.records import StageKey
from tests.society.view.conftest import served
from tests.society.view.crowd import write_crowd
from tests.society.view.test_pages import links, words

STAGE = {"iteration": 0, "split": "eval", "arm": "multiagent", "decoding": "sampled"}
SHAPES = {
    "grid.a.seed-0": {"seed": 0},
    "grid.a.seed-1": {"seed": 1, "arms": 8},
    "other": {"seed": 2, "gold": False, "agents": 2},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside") / "runs"
    for name, shape in SHAPES.items():
        (folder / name).mkdir(parents=True)
        write_crowd(folder / name / "run.duckdb", questions=3, iterations=1, **shape)
    members = [
        {"run": f"grid.a.seed-{n}", "point": "a", "seed": n, "settings": {"society.agents": 3}}
        for n in range(3)
    ]
    (folder / "grid").mkdir()
    (folder / "grid" / "sweep.json").write_text(json.dumps({"experiment": "x", "members": members}))
    return folder


@pytest.fixture(scope="module")
def shown(runs):
    with served(runs) as site:
        yield site


def compare(site, run="grid.a.seed-0", **more):
    query = urlencode(STAGE | {"question": "q000"} | more)
    return site.get(f"/runs/{run}/compare?{query}")


def test_the_runs_of_a_sweep_stand_together(shown):
    _, text, _ = shown.get("/")
    said = words(text)
    assert "Sweep grid" in said
    assert "society.agents = 3 seed 0 seed 1 seed 2 not started" in said
    # Those that are in no sweep come after it, and no run comes twice.
    assert said.index("Other runs") > said.index("seed 2")
    assert links(text).count("/runs/other") == 1
    assert links(text).count("/runs/grid.a.seed-0") == 1
    means = re.search(r"not started ([0-9.]+) % ([0-9.]+)–([0-9.]+)", said)
    mean, low, high = map(float, means.groups())
    assert low <= mean <= high


def test_a_sweep_whose_record_is_broken_says_so_and_its_runs_are_listed(tmp_path, runs):
    folder = tmp_path / "runs"
    (folder / "broken").mkdir(parents=True)
    (folder / "broken" / "sweep.json").write_text("{")
    (folder / "other").symlink_to(runs / "other")
    with served(folder) as site:
        _, text, _ = site.get("/")
    assert "cannot be read" in words(text)
    assert "/runs/other" in links(text)


def test_runs_stand_beside_each_other_with_what_differs(shown):
    _, text, _ = shown.get("/beside?run=grid.a.seed-0&run=grid.a.seed-1&run=other")
    said = words(text)
    assert "society.agents 3 3 2" in said
    assert "seed 0 1 2" in said
    assert "majority" in said
    assert 'aria-label="iteration 1: grid.a.seed-0: ' in text
    assert "iterations" not in said.partition("Settings that differ")[2].partition("Other runs")[0]


def test_which_runs_is_asked_and_too_many_are_refused(shown):
    status, text, _ = shown.get("/beside")
    assert status == 200
    assert text.count('type="checkbox"') == 3
    query = "&".join(f"run=r{n}" for n in range(7))
    assert shown.get(f"/beside?{query}")[0] == 400
    assert shown.get("/beside?run=nope")[0] == 404


def test_two_iterations_of_a_question_stand_side_by_side(shown):
    status, text, _ = compare(shown)
    said = words(text)
    assert status == 200
    assert "multiagent, untuned, held-out questions, sampled" in said
    assert "multiagent, iteration 1, held-out questions, sampled" in said
    assert text.count("<article") == 2 * 2 * 3
    assert "<math" in text


def test_a_question_of_two_runs_stands_side_by_side(shown):
    _, text, _ = compare(shown, beside_run="other")
    said = words(text)
    assert "grid.a.seed-0: multiagent, untuned" in said
    assert "other: multiagent, untuned" in said
    # Two agents there, three here.
    assert said.count("No answer here.") == 2
    chosen = encode_stage(StageKey(1, "eval", "majority", "sampled"))
    _, text, _ = compare(shown, beside_run="grid.a.seed-1", beside=chosen)
    assert "grid.a.seed-1: majority, iteration 1" in words(text)


def test_the_form_finds_the_question_again(shown):
    _, text, _ = compare(shown)
    (at,) = re.findall(r'name="at" value="([^"]*)"', text)
    _, again, _ = shown.get(f"/runs/grid.a.seed-0/compare?at={at}&beside_run=other&beside=")
    assert "other: multiagent, untuned" in words(again)
    (raw,) = [link for link in links(again) if "raw=1" in link]
    assert 'class="raw"' in shown.get(raw)[1]


def test_a_question_that_the_other_run_lacks_is_said_to_be_lacking(shown, runs):
    chosen = encode_stage(StageKey(7, "eval", "multiagent", "sampled"))
    assert "Nothing stands beside it" in words(compare(shown, beside=chosen)[1])
    assert compare(shown, question="nope")[0] == 404
    assert compare(shown, beside="1 eval sampled")[0] == 400


@pytest.mark.parametrize("arm", ["multiagent", "an arm with blanks"])
def test_a_stage_comes_back_from_an_address(arm):
    stage = StageKey(3, "train", arm, "greedy")
    assert decode_stage(encode_stage(stage)) == stage


@pytest.mark.parametrize("text", ["x", "1 eval sampled", "1 eval x a", "x eval sampled a"])
def test_what_is_no_stage_is_refused(text):
    with pytest.raises(BadAddress):
        decode_stage(text)


def test_many_arms_are_drawn_in_several_charts_of_one_scale(shown):
    _, text, _ = shown.get("/runs/grid.a.seed-1")
    charts = re.findall(r'<svg class="chart".*?</svg>', text, re.S)
    assert len(charts) == 2
    assert len({tuple(re.findall(r'tick end"[^>]*>([^<]*)', chart)) for chart in charts}) == 1
    legends = re.findall(r'<figcaption class="legend">(.*?)</figcaption>', text, re.S)
    shown_arms = [words(legend).split() for legend in legends]
    assert all(arms[0] == "multiagent" for arms in shown_arms)
    assert len({arm for arms in shown_arms for arm in arms}) == 8
