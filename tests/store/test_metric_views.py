from __future__ import annotations

import pytest
from scipy.stats import binomtest

from store.records import StoredArm, Verdict, Vote

STAGE = (1, "eval", "multiagent", "sampled")
COLUMNS = (
    "SELECT measure, agent, round, correct, total, questions, accuracy, standard_error, ci_low, "
    "ci_high FROM accuracy WHERE iteration = 1 AND split = 'eval' "
    "ORDER BY measure, agent NULLS FIRST, round"
)

# Per question: per round the answers of two agents, and the vote's answer. Gold is always "4".
ANSWERS = {
    "q1": [(("4", "5"), "4"), (("4", "4"), "4")],
    "q2": [(("5", "4"), "5"), (("4", "5"), "4")],
    "q3": [((None, "5"), "5"), (("5", None), "5")],
    "q4": [((None, None), None), ((None, None), None)],
}


@pytest.fixture
def debated(store, make_turn):
    rows: list[object] = []
    for question_id, rounds in ANSWERS.items():
        for round, (answers, label) in enumerate(rounds, start=1):
            parsed = [answer for answer in answers if answer is not None]
            votes = max((parsed.count(answer) for answer in parsed), default=0)
            tie = len(set(parsed)) == 2
            correct = label == "4"
            rows.append(Vote(*STAGE, question_id, round, label, votes, len(parsed), tie, correct))
            for agent, answer in enumerate(answers, start=1):
                turn = make_turn(question_id, agent, round, split="eval", answer=answer)
                rows += [turn, Verdict(turn.turn_id, answer == label, answer == "4")]
    store.write(*rows)
    return store


def test_accuracy_counts_what_has_no_answer_as_wrong(debated):
    counted = [row[:6] for row in debated.rows(COLUMNS)]
    assert counted == [
        ("consensus", None, 2, 2, 4, 4),
        ("majority", None, 1, 1, 4, 4),
        ("single", None, 1, 2, 8, 4),
        ("single", None, 2, 3, 8, 4),
        ("single", 1, 1, 1, 4, 4),
        ("single", 1, 2, 2, 4, 4),
        ("single", 2, 1, 1, 4, 4),
        ("single", 2, 2, 1, 4, 4),
    ]


def test_intervals_are_wilsons_over_questions(debated):
    for _, agent, _, correct, total, questions, accuracy, error, low, high in debated.rows(COLUMNS):
        assert accuracy == correct / total
        if total == questions:
            assert error == pytest.approx((accuracy * (1 - accuracy) / questions) ** 0.5)
            wilson = binomtest(correct, total).proportion_ci(0.95, method="wilson")
            assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
        else:
            assert agent is None
            assert (accuracy * (1 - accuracy) / total) ** 0.5 <= error
            assert error <= (accuracy * (1 - accuracy) / questions) ** 0.5


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (7, 7), (1, 300), (163, 300)])
def test_wilson_at_the_edges(store, correct, total):
    store.write(
        *(
            Vote(*STAGE, f"q{number}", 1, "4", 1, 1, False, number < correct)
            for number in range(total)
        )
    )
    wilson = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    for measure in ("majority", "consensus"):
        ((low, high),) = store.rows(
            "SELECT ci_low, ci_high FROM accuracy WHERE measure = ?", [measure]
        )
        assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
        assert 0 <= low <= high <= 1


def test_without_gold_there_is_no_accuracy(store, make_turn):
    turn = make_turn(split="eval")
    store.write(turn, Verdict(turn.turn_id, True, None), Vote(*STAGE, "q1", 1, "4", 1, 1, False))
    assert store.rows("SELECT * FROM accuracy") == []
    assert store.rows("SELECT * FROM flips") == []


def test_consensus_is_the_share_of_the_plurality(debated):
    found = debated.rows(
        "SELECT round, questions, mean_share, coverage, tie_rate FROM consensus ORDER BY round"
    )
    assert found == [
        (1, 4, pytest.approx((1 / 2 + 1 / 2 + 1) / 3), 0.75, 0.5),
        (2, 4, pytest.approx((1 + 1 / 2 + 1) / 3), 0.75, 0.25),
    ]


def test_flips_follow_each_agent_from_first_to_last_round(debated):
    found = debated.rows(
        "SELECT agent, conversations, wrong_to_right, right_to_wrong, stayed_right, stayed_wrong, "
        "wrong_to_right_rate, right_to_wrong_rate FROM flips ORDER BY agent NULLS FIRST"
    )
    assert found == [
        (None, 8, 2, 1, 1, 4, pytest.approx(2 / 6), 0.5),
        (1, 4, 1, 0, 1, 2, pytest.approx(1 / 3), 0.0),
        (2, 4, 1, 1, 0, 2, pytest.approx(1 / 3), 1.0),
    ]


def test_pseudo_labels_of_training_debates(store):
    stage = (1, "train", "multiagent", "sampled")
    store.write(
        Vote(*stage, "q1", 1, "5", 2, 3, False, False),
        Vote(*stage, "q1", 2, "4", 3, 3, False, True),
        Vote(*stage, "q2", 2, "5", 2, 3, False, False),
        Vote(*stage, "q3", 2, None, 1, 2, True, False),
        Vote(*stage, "q4", 2, "7", 1, 2, True, None),
        Vote(*STAGE, "q5", 2, "4", 1, 2, True, True),
    )
    assert store.rows("SELECT * FROM pseudo_labels") == [
        (1, "multiagent", 4, 3, 0.75, 2, 0.5, 0, 2, 1, 0.5)
    ]


def test_too_few_voters_are_counted_apart_from_ties(store):
    stage = (1, "train", "multiagent", "sampled")
    store.write(
        Vote(*stage, "q1", 2, "4", 2, 2, False, True, quorum=2),
        Vote(*stage, "q2", 2, None, 1, 1, False, False, quorum=2),
        Vote(*stage, "q3", 2, None, 0, 0, False, False, quorum=2),
        Vote(*stage, "q4", 2, None, 1, 2, True, None, quorum=2),
        Vote(*stage, "q5", 2, "9", 1, 1, False, None),
    )
    found = "labelled, tied, below_quorum, known, label_accuracy"
    assert store.rows(f"SELECT {found} FROM pseudo_labels") == [(2, 1, 2, 1, 1.0)]


def two_rounds(arm, *, first_right):
    """Votes of two questions whose rounds disagree; the first is right in round 1 or in round 2."""
    stage = (1, "train", arm, "sampled")
    for question_id in ("q1", "q2"):
        yield Vote(*stage, question_id, 1, "4", 2, 3, False, first_right)
        yield Vote(*stage, question_id, 2, "5", 3, 3, False, not first_right)


def test_pseudo_labels_are_those_the_arm_learns_from(store):
    store.write(
        *two_rounds("multiagent", first_right=True),
        *two_rounds("round1-labels", first_right=True),
        *two_rounds("star", first_right=True),
        *two_rounds("from-before", first_right=True),
        StoredArm("multiagent", 0, "multiagent", "final", "{}"),
        StoredArm("round1-labels", 1, "round1-labels", "round1", "{}"),
        StoredArm("star", 2, "star", "gold", "{}"),
    )
    found = store.rows(
        "SELECT arm, questions, labelled, coverage, tied, tie_rate, correct, label_accuracy "
        "FROM pseudo_labels ORDER BY arm"
    )
    assert found == [
        ("from-before", 2, 2, 1.0, 0, 0.0, 0, 0.0),
        ("multiagent", 2, 2, 1.0, 0, 0.0, 0, 0.0),
        ("round1-labels", 2, 2, 1.0, 0, 0.0, 2, 1.0),
        ("star", 2, 2, 1.0, None, None, None, None),
    ]
    assert {arm for (arm,) in store.rows("SELECT arm FROM label_health")} == {
        "from-before", "multiagent", "round1-labels",
    }  # fmt: skip


def test_label_health_tells_what_changed(store, make_turn):
    def said(iteration, question_id, answers, label, votes, finish_reason="stop"):
        for agent, answer in enumerate(answers, start=1):
            yield make_turn(
                question_id, agent, iteration=iteration, answer=answer, finish_reason=finish_reason
            )
        voters = sum(answer is not None for answer in answers)
        tie = label is None and voters > 0
        stage = (iteration, "train", "multiagent", "sampled")
        yield Vote(*stage, question_id, 1, label, votes, voters, tie, label == "4")

    store.write(
        *said(1, "q1", ["4", "4"], "4", 2),
        *said(1, "q2", ["4", "6"], None, 1),
        *said(1, "q3", ["7", None], "7", 1),
        *said(1, "q4", [None, None], None, 0, finish_reason="length"),
        *said(2, "q1", ["4", "4"], "4", 2),
        *said(2, "q2", ["4", "4"], "4", 2),
    )
    first, second = store.rows(
        "SELECT questions, coverage, tie_rate, label_accuracy, agreement, unanimous, unparsed, "
        "truncated, top_share, entropy_bits, coverage_change, unparsed_change, "
        "label_accuracy_change, entropy_bits_change FROM label_health ORDER BY iteration"
    )
    assert first == pytest.approx(
        (4, 0.5, 0.25, 0.5, 2.5 / 3, 2 / 3, 3 / 8, 0.25, 0.5, 1.0, None, None, None, None)
    )
    assert second == pytest.approx((2, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0.5, -3 / 8, 0.5, -1))


def test_paired_arms_say_right_or_wrong_question_by_question(debated):
    found = debated.rows(
        "SELECT question_id, single, any_right, majority, consensus FROM paired_arms ORDER BY ALL"
    )
    assert found == [
        ("q1", 0.5, True, True, True),
        ("q2", 0.5, True, False, True),
        ("q3", 0.0, False, False, False),
        ("q4", 0.0, False, False, False),
    ]


def test_dissent_counts_answers_that_are_not_the_societys(debated):
    found = debated.rows(
        "SELECT round, agent, answers, dissenting, dissent_rate, right_dissents, right_rate "
        "FROM dissent ORDER BY round, agent NULLS FIRST"
    )
    assert found == [
        (1, None, 6, 2, pytest.approx(1 / 3), 0, 0.0),
        (1, 1, 3, 1, pytest.approx(1 / 3), 0, 0.0),
        (1, 2, 3, 1, pytest.approx(1 / 3), 0, 0.0),
        (2, None, 6, 1, pytest.approx(1 / 6), 0, 0.0),
        (2, 1, 3, 0, 0.0, 0, None),
        (2, 2, 3, 1, pytest.approx(1 / 3), 0, 0.0),
    ]
    tied = debated.rows(
        "SELECT round, agent, tied_answers, tied_dissenting FROM dissent "
        "ORDER BY round, agent NULLS FIRST"
    )
    assert tied == [
        (number, *rest) for number in (1, 2) for rest in [(None, 2, 1), (1, 1, 0), (2, 1, 1)]
    ]


def test_a_tie_in_the_round_the_labels_come_from_is_what_counts(store, make_turn):
    rows: list[object] = []
    for arm in ("multiagent", "round1-labels", "star"):
        for agent in (1, 2):
            turn = make_turn("q1", agent, 1, split="train", arm=arm)
            rows += [turn, Verdict(turn.turn_id, agent == 1, None)]
        stage = (1, "train", arm, "sampled", "q1")
        rows += [Vote(*stage, 1, "4", 1, 2, True), Vote(*stage, 2, "4", 2, 2, False)]
    store.write(
        *rows,
        StoredArm("multiagent", 0, "multiagent", "final", "{}"),
        StoredArm("round1-labels", 1, "round1-labels", "round1", "{}"),
        StoredArm("star", 2, "star", "gold", "{}"),
    )
    found = "arm, answers, dissenting, dissent_rate, tied_answers, tied_dissenting"
    assert store.rows(f"SELECT {found} FROM dissent WHERE agent IS NULL ORDER BY arm") == [
        ("multiagent", 2, 1, 0.5, 0, 0),
        ("round1-labels", 0, 0, None, 2, 1),
        ("star", 2, 1, 0.5, 0, 0),
    ]


def test_readings_tell_the_cut_from_the_unreadable(store, make_turn):
    store.write(
        make_turn("q1", 1, answer="4"),
        make_turn("q1", 2, answer=None),
        make_turn("q1", 3, answer=None, finish_reason="length"),
        make_turn("q2", 1, answer=None, finish_reason="error"),
        make_turn("q2", 1, kind="summary", answer=None),
    )
    found = "agent, answers, unparsed, truncated, failed, unparsed_rate, truncated_rate"
    assert store.rows(f"SELECT {found} FROM readings ORDER BY agent NULLS FIRST") == [
        (None, 4, 3, 1, 1, 0.75, 0.25),
        (1, 2, 1, 0, 1, 0.5, 0.0),
        (2, 1, 1, 0, 0, 1.0, 0.0),
        (3, 1, 1, 1, 0, 1.0, 1.0),
    ]


def test_label_flips_need_no_gold(store, make_turn):
    rows: list[object] = []
    for agent, (first, last) in enumerate([(False, True), (True, False), (True, True)], start=1):
        for number, agrees in ((1, first), (2, last)):
            turn = make_turn("q1", agent, number, split="eval")
            rows += [turn, Verdict(turn.turn_id, agrees, None)]
    store.write(*rows)
    found = "agent, conversations, to_label, from_label, with_label, without_label, to_label_rate"
    assert store.rows(f"SELECT {found} FROM label_flips ORDER BY agent NULLS FIRST") == [
        (None, 3, 1, 1, 1, 0, pytest.approx(1 / 3)),
        (1, 1, 1, 0, 0, 0, 1.0),
        (2, 1, 0, 1, 0, 0, 0.0),
        (3, 1, 0, 0, 1, 0, 0.0),
    ]


def test_progress_counts_turns_and_complete_debates(debated, make_turn):
    debated.write(make_turn("q9", split="eval", kind="summary"))
    ((*_, turns, summaries, shared, asked, told, debates, started, last),) = debated.rows(
        "SELECT * FROM progress"
    )
    assert (turns, summaries, shared, (asked, told), debates) == (16, 1, 0, (170, 340), 4)
    assert started == last == make_turn().created_at.replace(tzinfo=None)
