from collections import defaultdict
from dataclasses import replace

import pytest

from evals import metrics
from evals.intervals import wilson
from store.records import Question, Run, Turn, Verdict, Vote


@pytest.fixture(scope="module")
def recorded(made_up_rows):
    return list(made_up_rows(iterations=2, questions=25, seed=3))


@pytest.fixture
def store(store_of, recorded):
    return store_of(recorded)


def answers(recorded, iteration, decoding, round_, split="eval"):
    right = {v.turn_id: v.correct for v in recorded if isinstance(v, Verdict)}
    by_question = defaultdict(list)
    for turn in recorded:
        if isinstance(turn, Turn) and turn.kind == "answer":
            where = (turn.iteration, turn.decoding, turn.round, turn.split)
            if where == (iteration, decoding, round_, split):
                by_question[turn.question_id].append(right[turn.turn_id])
    return {question: sum(marks) / len(marks) for question, marks in by_question.items()}


def votes(recorded, iteration, decoding, round_, split="eval"):
    return [
        vote
        for vote in recorded
        if isinstance(vote, Vote)
        and (vote.iteration, vote.decoding, vote.round, vote.split)
        == (iteration, decoding, round_, split)
    ]


def test_table_has_a_row_per_society_and_decoding(store) -> None:
    assert [(row.iteration, row.decoding) for row in metrics.read_society_accuracies(store)] == [
        (i, decoding) for i in range(3) for decoding in ("sampled", "greedy")
    ]


def test_table_agrees_with_counting_by_hand(store, recorded) -> None:
    for row in metrics.read_society_accuracies(store):
        at = (recorded, row.iteration, row.decoding)
        single = answers(*at, 1)
        assert row.single.value == pytest.approx(sum(single.values()) / len(single))
        for found, round_ in ((row.majority, 1), (row.consensus, 2)):
            right = [vote.correct for vote in votes(*at, round_)]
            assert found.value == pytest.approx(sum(right) / 25)
            assert (found.low, found.high) == pytest.approx(wilson(sum(right) / 25, 25))
        last = [vote for vote in votes(*at, 2) if vote.voters]
        assert row.consensus_rate == pytest.approx(
            sum(v.votes / v.voters for v in last) / len(last)
        )


def test_labels_agree_with_counting_by_hand(store, recorded) -> None:
    found = metrics.read_label_health(store)
    assert [labels.iteration for labels in found] == [1, 2]
    for labels in found:
        cast = votes(recorded, labels.iteration, "sampled", 2, split="train")
        labelled = [vote for vote in cast if vote.answer is not None]
        assert labels.questions == 25
        assert labels.coverage == pytest.approx(len(labelled) / 25)
        assert labels.ties == pytest.approx(sum(vote.tie for vote in cast) / 25)
        assert labels.accuracy is not None
        assert labels.accuracy.total == len(labelled)
        assert labels.accuracy.value == pytest.approx(
            sum(bool(vote.correct) for vote in labelled) / len(labelled)
        )


@pytest.mark.parametrize("decoding", metrics.DECODINGS)
def test_comparison_pairs_by_question(store, recorded, decoding) -> None:
    change = metrics.compare_iterations(store, "consensus", decoding, 0, 2)
    before = {v.question_id: v.correct for v in votes(recorded, 0, decoding, 2)}
    after = {v.question_id: v.correct for v in votes(recorded, 2, decoding, 2)}
    assert change is not None
    assert change.gained == sum(after[q] and not before[q] for q in before)
    assert change.lost == sum(before[q] and not after[q] for q in before)
    single = metrics.compare_iterations(store, "single", decoding, 0, 2)
    first, last = answers(recorded, 0, decoding, 1), answers(recorded, 2, decoding, 1)
    assert single is not None
    assert single.difference == pytest.approx(sum(last[q] - first[q] for q in first) / len(first))
    assert single.p_value is None


def test_only_questions_that_both_have_answered_are_compared(store_of, recorded) -> None:
    dropped = {q.question_id for q in recorded if isinstance(q, Question) and q.position >= 10}
    partly = store_of(
        row
        for row in recorded
        if not (isinstance(row, Vote) and row.iteration == 2 and row.question_id in dropped)
    )
    change = metrics.compare_iterations(partly, "majority", "greedy", 0, 2)
    assert change is not None
    assert change.total == 10
    assert metrics.compare_iterations(partly, "majority", "greedy", 0, 7) is None


def test_a_store_without_debates_has_an_empty_table(store_of) -> None:
    empty = store_of([Run("empty", "{}", "0" * 64, 0, "{}")])
    assert metrics.read_society_accuracies(empty) == []
    assert metrics.read_label_health(empty) == []


def test_unknown_gold_counts_nowhere(store_of, recorded) -> None:
    unknown = store_of(
        Verdict(row.turn_id, row.agrees, None)
        if isinstance(row, Verdict)
        else replace(row, correct=None)
        if isinstance(row, Vote)
        else row
        for row in recorded
    )
    assert metrics.read_society_accuracies(unknown) == []
    assert [labels.accuracy for labels in metrics.read_label_health(unknown)] == [None, None]
