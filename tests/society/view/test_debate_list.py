"""Which debates a filter lists, page by page, and which one comes next."""

from itertools import pairwise, product
from urllib.parse import parse_qsl

import pytest

from society.view import debate_list, search
from society.view.debate_list import DebateKey
from society.view.filters import BadAddress, Filter
from store.ledger import Store
from store.reader import open_reader
from store.records import Question

UNTUNED = {"iteration": 0, "split": "eval", "arm": "multiagent", "decoding": "sampled"}


@pytest.fixture(scope="module")
def reader(runs):
    with open_reader(runs / "sums" / "run.duckdb") as opened:
        yield opened


def listed(reader, **wanted):
    page = debate_list.read_page(reader, Filter(**{**UNTUNED, **wanted}), None, None)
    return [row.key.question_id for row in page.rows]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"flip": "wrong_to_right"}, ["turned-right"]),
        ({"flip": "right_to_wrong"}, ["turned-wrong"]),
        ({"flip": "changed"}, ["turned-right", "turned-wrong", "other-wrong"]),
        ({"vote": "tied"}, ["tied"]),
        ({"vote": "wrong"}, ["turned-wrong", "other-wrong", "rewritten"]),
        ({"vote": "none"}, ["no-answer"]),
        ({"vote": "divided"}, ["turned-wrong", "tied", "dissent", "no-gold"]),
        ({"dissent": 2}, ["tied", "dissent"]),
        ({"dissent": 3}, ["turned-wrong", "no-gold"]),
        ({"dissent": 2, "vote": "tied"}, ["tied"]),
        ({"task": "another"}, []),
        ({"iteration": 1}, ["turned-right", "plain-00"]),
        ({"iteration": 1, "split": "train"}, ["learn-a", "learn-b"]),
    ],
)
def test_a_filter_lists_what_it_says(reader, wanted, expected):
    assert listed(reader, **wanted) == expected
    assert debate_list.count_debates(reader, Filter(**{**UNTUNED, **wanted})) == len(expected)


def test_pages_are_complete_and_do_not_overlap(reader):
    first = debate_list.read_page(reader, Filter(), None, None)
    second = debate_list.read_page(reader, Filter(), first.rows[-1].key, None)
    assert (first.earlier, first.later, second.earlier, second.later) == (False, True, True, False)
    keys = [row.key for row in (*first.rows, *second.rows)]
    assert len(keys) == len(set(keys)) == debate_list.count_debates(reader, Filter())
    back = debate_list.read_page(reader, Filter(), None, second.rows[0].key)
    assert [row.key for row in back.rows] == [row.key for row in first.rows]


def test_a_row_says_what_the_debate_came_to(reader):
    (row,) = debate_list.read_page(
        reader, Filter(**UNTUNED, flip="right_to_wrong"), None, None
    ).rows
    assert (row.question, row.gold, row.first_answer, row.answer) == (
        "What is turned-wrong?",
        "4",
        "4",
        "5",
    )
    assert [(one.first_correct, one.correct, one.agrees) for one in row.agents] == [
        (True, False, True),
        (True, False, True),
        (False, True, False),
    ]


def test_neighbours_stay_within_the_filter(reader):
    wanted = Filter(**UNTUNED, flip="changed")
    keys = [row.key for row in debate_list.read_page(reader, wanted, None, None).rows]
    assert debate_list.find_neighbor(reader, wanted, keys[0], back=False) == keys[1]
    assert debate_list.find_neighbor(reader, wanted, keys[1], back=True) == keys[0]
    assert debate_list.find_neighbor(reader, wanted, keys[-1], back=False) is None
    assert debate_list.find_neighbor(reader, wanted, keys[0], back=True) is None


def test_a_search_finds_questions_and_responses(reader):
    by_question = search.search_debates(reader, Filter(text="is TURNED-"), 0)
    assert sorted({row.key.question_id for row in by_question.rows}) == [
        "turned-right",
        "turned-wrong",
    ]
    by_response = search.search_debates(reader, Filter(text="boxed{9}"), 0)
    assert [row.key.question_id for row in by_response.rows] == ["dissent"]
    assert by_response.next_row is None
    assert search.search_debates(reader, Filter(text="100% _certain_"), 0).rows == ()


def test_a_search_goes_on_without_repeating_itself(reader):
    wanted = Filter(text="thinks about it")
    found, start = [], 0
    while start is not None:
        part = search.search_debates(reader, wanted, start)
        found += [row.key for row in part.rows]
        start = part.next_row
    assert len(found) == len(set(found)) == debate_list.count_debates(reader, Filter())


def test_a_search_has_neighbours_too(reader):
    wanted = Filter(text="is plain-0")
    keys = [row.key for row in search.search_debates(reader, wanted, 0).rows]
    for one, other in pairwise(keys):
        assert search.find_neighbor(reader, wanted, one, back=False) == other
        assert search.find_neighbor(reader, wanted, other, back=True) == one
    assert search.find_neighbor(reader, wanted, keys[0], back=True) is None


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, make_debate):
    """Writes a run of so many iterations of so many debates; the votes of `turned` turn right."""

    def write(iterations, number, turned):
        path = tmp_path_factory.mktemp("evaluated") / "run.duckdb"
        asked = [
            Question(f"q{n:03}", "sums", "eval", f"What is {n}?", "4", None, n)
            for n in range(number)
        ]
        rows = []
        for iteration, n in product(range(iterations), range(number)):
            first = ["5", "5", "4"] if (iteration, n) in turned else ["4", "4", "4"]
            stage = (iteration, "eval", "multiagent", "sampled")
            rows += make_debate(stage, asked[n].question_id, "4", [first, ["4", "4", "4"]])
        with Store.open(path) as store:
            store.write(*asked, *rows)
        return path

    return write


@pytest.fixture(scope="module")
def many(evaluated):
    """Two evaluations of 200 debates each, far more matches than a search looks at in one step."""
    with open_reader(evaluated(2, 200, {(0, 3), (0, 190), (1, 3), (1, 190)})) as opened:
        yield opened


@pytest.mark.parametrize("wanted", [{}, {"iteration": 0}, {"iteration": 1}])
def test_a_search_of_many_steps_finds_everything_once_and_in_order(many, wanted):
    found, start = [], 0
    while start is not None:
        part = search.search_debates(many, Filter(**wanted, text="thinks about it"), start)
        assert len(part.rows) in (0, debate_list.PAGE)
        found += [(row.key.stage.iteration, row.key.question_id) for row in part.rows]
        start = part.next_row
    iterations = [wanted["iteration"]] if wanted else [0, 1]
    assert found == [(iteration, f"q{n:03}") for iteration in iterations for n in range(200)]


def test_a_search_finds_what_is_many_matches_away(many):
    wanted = Filter(iteration=1, flip="changed", text="thinks about it")
    part = search.search_debates(many, wanted, 0)
    keys = [row.key for row in part.rows]
    assert ([key.question_id for key in keys], part.next_row) == (["q003", "q190"], None)
    assert search.find_neighbor(many, wanted, keys[0], back=False) == keys[1]
    assert search.find_neighbor(many, wanted, keys[1], back=True) == keys[0]
    assert search.find_neighbor(many, wanted, keys[1], back=False) is None
    assert search.find_neighbor(many, wanted, keys[0], back=True) is None


@pytest.fixture(scope="module")
def spread(evaluated):
    """20 iterations of seven debates; in one of the last, one vote turns right."""
    with open_reader(evaluated(20, 7, {(17, 4)})) as opened:
        yield opened


@pytest.mark.parametrize("flip", [None, "changed", "wrong_to_right", "right_to_wrong"])
def test_pages_over_many_iterations_are_in_order_and_complete(spread, flip):
    wanted = Filter(flip=flip)
    keys, after = [], None
    while True:
        page = debate_list.read_page(spread, wanted, after, None)
        keys += [row.key for row in page.rows]
        if not page.later:
            break
        after = keys[-1]
    every = debate_list.find_keys(spread, wanted, None, None, back=False)
    assert keys == every
    assert (
        debate_list.count_debates(spread, wanted)
        == len(every)
        == {None: 140, "right_to_wrong": 0}.get(flip, 1)
    )
    back, before = list(page.rows), page.rows[0].key if page.rows else None
    while before is not None and (page := debate_list.read_page(spread, wanted, None, before)).rows:
        back, before = [*page.rows, *back], page.rows[0].key
    assert [row.key for row in back] == keys


def test_a_filter_survives_its_address():
    wanted = Filter(2, "eval", "star", "greedy", "gsm8k", "changed", "tied", 3, "a&b=c é\u202e")
    assert Filter.parse(dict(parse_qsl(wanted.query()))) == wanted


@pytest.mark.parametrize(
    "query",
    [
        {"iteration": "x"},
        {"iteration": "-1"},
        {"iteration": "²"},
        {"split": "test"},
        {"flip": "wrong"},
        {"text": "x" * 301},
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(query):
    with pytest.raises(BadAddress, match=next(iter(query)) if "text" not in query else "search"):
        Filter.parse(query)


@pytest.mark.parametrize("text", ["", "!", "e30", "WzFd", "WyJ4Il0", "é"])
def test_a_place_that_is_none_is_refused(text):
    with pytest.raises(BadAddress):
        DebateKey.decode(text)
