"""The views `debates` and `conversations`, given and expected."""

from __future__ import annotations

import pytest

from store.records import Question, StoredArm, Verdict, Vote

STAGE = (1, "eval", "multiagent", "sampled")

# Per question and round: the answers of two agents, and the vote (label, votes, voters, tie).
# Gold is "4"; the debate's own label is that of the last round.
DEBATES = {
    "turned right": [(("5", "5"), ("5", 2, 2, False)), (("4", "4"), ("4", 2, 2, False))],
    "turned wrong": [(("4", "4"), ("4", 2, 2, False)), (("5", "4"), ("5", 1, 2, True))],
    "stayed right": [(("4", "5"), ("4", 1, 2, True)), (("4", None), ("4", 1, 1, False))],
    "no label": [(("5", "5"), ("5", 2, 2, False)), (("5", "6"), (None, 1, 2, True))],
    "one round": [(("4", "4"), ("4", 2, 2, False))],
}


@pytest.fixture
def debated(store, make_turn):
    rows: list[object] = []
    for position, (question_id, rounds) in enumerate(DEBATES.items()):
        rows.append(Question(question_id, "sums", "eval", "2+2?", "4", position=position))
        final = rounds[-1][1][0]
        for number, (answers, vote) in enumerate(rounds, start=1):
            rows.append(Vote(*STAGE, question_id, number, *vote, vote[0] == "4"))
            for agent, answer in enumerate(answers, start=1):
                turn = make_turn(question_id, agent, number, split="eval", answer=answer)
                agrees = None if final is None else answer == final
                rows += [turn, Verdict(turn.turn_id, agrees, answer == "4")]
    store.write(*rows)
    return store


def test_a_debate_goes_from_its_first_vote_to_its_last(debated):
    found = debated.rows(
        "SELECT question_id, rounds, first_answer, answer, votes, voters, tie, first_correct, "
        "correct, flip FROM debates ORDER BY position"
    )
    assert found == [
        ("turned right", 2, "5", "4", 2, 2, False, False, True, "wrong_to_right"),
        ("turned wrong", 2, "4", "5", 1, 2, True, True, False, "right_to_wrong"),
        ("stayed right", 2, "4", "4", 1, 1, False, True, True, "stayed_right"),
        ("no label", 2, "5", None, 1, 2, True, False, False, "stayed_wrong"),
        ("one round", 1, "4", "4", 2, 2, False, True, True, None),
    ]


def test_a_conversation_knows_its_turns_and_what_they_were_worth(debated, make_turn):
    found = debated.rows(
        "SELECT agent, rounds, first_turn_id, first_answer, first_agrees, first_correct, turn_id, "
        "answer, agrees, correct FROM conversations WHERE question_id = 'stayed right' "
        "ORDER BY agent"
    )
    ids = [
        [make_turn("stayed right", agent, number, split="eval").turn_id for number in (1, 2)]
        for agent in (1, 2)
    ]
    assert found == [
        (1, 2, ids[0][0], "4", True, True, ids[0][1], "4", True, True),
        (2, 2, ids[1][0], "5", False, False, ids[1][1], None, False, False),
    ]


def test_without_a_label_nobody_agrees_or_dissents(debated):
    found = debated.rows(
        "SELECT DISTINCT first_agrees, agrees FROM conversations WHERE question_id = 'no label'"
    )
    assert found == [(None, None)]


def test_stages_are_kept_apart(debated):
    debated.write(Vote(2, "eval", "star", "greedy", "one round", 1, "5", 1, 1, False, False))
    found = debated.rows(
        "SELECT iteration, arm, task, decoding, answer FROM debates "
        "WHERE question_id = 'one round' ORDER BY iteration"
    )
    assert found == [
        (1, "multiagent", "sums", "sampled", "4"),
        (2, "star", "sums", "greedy", "5"),
    ]


def test_a_debate_without_gold_has_no_flip(store):
    store.write(Vote(*STAGE, "q", 1, "5", 1, 2, True), Vote(*STAGE, "q", 2, "4", 2, 2, False))
    assert store.rows("SELECT first_answer, answer, correct, flip FROM debates") == [
        ("5", "4", None, None)
    ]


def test_a_tie_counts_in_the_round_that_the_label_comes_from(store):
    store.write(
        StoredArm("first", 0, "multiagent", "round1", "{}"),
        StoredArm("gold", 1, "star", "gold", "{}"),
        *(
            Vote(1, split, arm, "sampled", "q", number, "4", 1, 2, tie)
            for split, arm in (("train", "first"), ("eval", "first"), ("train", "gold"))
            for number, tie in ((1, True), (2, False))
        ),
        Vote(1, "train", "other", "sampled", "q", 1, "4", 1, 2, False),
        Vote(1, "train", "other", "sampled", "q", 2, "4", 1, 2, True),
    )
    assert store.rows("SELECT split, arm, tied FROM label_ties ORDER BY ALL") == [
        ("eval", "first", False),
        ("train", "first", True),
        ("train", "gold", False),
        ("train", "other", True),
    ]
