"""Agreement is read from the votes alone, the same for the report and for the viewer."""

import pytest

from evals.agreement import read_agreements
from society.view import overview
from store.reader import open_reader
from store.records import Question, Run, Vote, utc_now


def votes(question_id, *rounds):
    """The votes of a debate: each round's answer, votes and voters."""
    for number, (answer, count, voters) in enumerate(rounds, start=1):
        yield Vote(
            0,
            "eval",
            "multiagent",
            "sampled",
            question_id,
            number,
            answer,
            count,
            voters,
            False,
            None,
        )


def read(store):
    """(first, last) by the report's reader and by the viewer's."""
    [report] = read_agreements(store)
    store.close()
    with open_reader(store.path) as reader:
        found = overview.read_overview(reader)
    assert found is not None
    [viewer] = found.votings
    assert (report.questions, report.coverage, report.ties) == (
        viewer.questions, viewer.coverage, viewer.ties,
    )  # fmt: skip
    return (report.first, report.last), (viewer.first, viewer.last)


def rows(*debates):
    yield Run("sums", "{}", "0" * 64, 0, "{}", utc_now(), None)
    for place, rounds in enumerate(debates):
        yield Question(f"q{place}", "sums", "eval", "1 + 1", None, None, place)
        yield from votes(f"q{place}", *rounds)


def test_a_round_without_a_readable_answer_has_no_share(store_of):
    unread_first = [(None, 0, 0), ("4", 3, 3)]
    divided = [("4", 2, 4), ("4", 3, 4)]
    report, viewer = read(store_of(rows(unread_first, divided)))
    assert report == viewer == pytest.approx((0.5, 0.875))


def test_a_debate_of_one_round_has_a_last_share_only(store_of):
    report, viewer = read(store_of(rows([("4", 2, 3)])))
    assert report == viewer
    assert report[0] is None
    assert report[1] == pytest.approx(2 / 3)
