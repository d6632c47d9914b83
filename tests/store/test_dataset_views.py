"""The dataset views against the method, derived again in plain Python from the debates."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import dataclass, replace

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import schema
from store.content import messages_json
from store.ledger import Store
from store.records import Turn, Verdict, Vote

Answer = str | None


@dataclass(frozen=True)
class Debate:
    """answers[m][n]: what agent n+1 answered in round m+1."""

    answers: tuple[tuple[Answer, ...], ...]
    drop_ties: bool = True

    @property
    def label(self) -> Answer:
        counts = Counter(answer for answer in self.answers[-1] if answer is not None)
        if not counts:
            return None
        most = max(counts.values())
        winners = [answer for answer in self.answers[-1] if counts.get(answer) == most]
        return None if self.drop_ties and len(set(winners)) > 1 else winners[0]


def expected_generation(debates):
    return {
        (agent, f"q{number}", 1)
        for number, debate in enumerate(debates)
        for agent, answer in enumerate(debate.answers[0], start=1)
        if debate.label is not None and answer == debate.label
    }


def expected_critic(debates):
    return {
        (agent, f"q{number}", "kept" if first == final else "corrected", len(debate.answers))
        for number, debate in enumerate(debates)
        for agent, (first, final) in enumerate(
            zip(debate.answers[0], debate.answers[-1], strict=True), start=1
        )
        if len(debate.answers) >= 2 and debate.label is not None and final == debate.label
    }


def expected_pairs(debates):
    """Per agent and question the rounds of the better and the worse answer."""
    found = {}
    for number, debate in enumerate(debates):
        last = len(debate.answers)
        for agent, (first, final) in enumerate(
            zip(debate.answers[0], debate.answers[-1], strict=True), start=1
        ):
            if last < 2 or debate.label is None or first is None or final is None:
                continue
            if (first == debate.label) != (final == debate.label):
                rounds = (1, last) if first == debate.label else (last, 1)
                found[agent, f"q{number}"] = rounds
    return found


def expected_feedback(debates, *, critics):
    return {
        (agent, f"q{number}", answer == debate.label)
        for number, debate in enumerate(debates)
        if debate.label is not None and not (critics and len(debate.answers) < 2)
        for agent, answer in enumerate(debate.answers[-1 if critics else 0], start=1)
        if answer is not None
    }


def check_preferences(store, debates, arm):
    last = {f"q{number}": len(debate.answers) for number, debate in enumerate(debates)}
    for view, asked in (("generation", lambda question: 1), ("critic", last.get)):
        pairs = store.rows(
            "SELECT p.agent, p.question_id, b.round, w.round, p.messages, p.chosen, p.rejected, "
            "p.sha256, b.agent = p.agent AND w.agent = p.agent AND b.question_id = p.question_id "
            f"AND w.question_id = p.question_id FROM {view}_pairs AS p "
            "JOIN turns AS b ON b.turn_id = chosen_turn_id "
            "JOIN turns AS w ON w.turn_id = rejected_turn_id WHERE p.arm = ? AND p.iteration = 1",
            [arm],
        )
        assert {row[:2]: row[2:4] for row in pairs} == expected_pairs(debates)
        assert len(pairs) == len(expected_pairs(debates))
        for agent, question, better, worse, messages, chosen, rejected, sha256, own in pairs:
            assert own
            sent = f"{arm} {asked(question)} {agent}"
            assert messages == messages_json([{"role": "user", "content": sent}])
            assert chosen == f"{arm} {question} {better} {agent}"
            assert rejected == f"{arm} {question} {worse} {agent}"
            told = f"{messages}\n{chosen}\n{rejected}"
            assert sha256 == hashlib.sha256(told.encode()).hexdigest()
        feedback = store.rows(
            "SELECT f.agent, f.question_id, f.wanted, t.round, f.messages = t.messages "
            "AND f.response = t.response AND f.sha256 = t.sha256 "
            f"FROM {view}_feedback AS f JOIN turns AS t USING (turn_id) WHERE f.arm = ?",
            [arm],
        )
        expected = expected_feedback(debates, critics=view == "critic")
        assert {row[:3] for row in feedback} == expected
        assert len(feedback) == len(expected)
        assert all(row[3] == asked(row[1]) and row[4] for row in feedback)


def rows_of(debates, arm, make_turn, **scope):
    rows: list[object] = []
    for number, debate in enumerate(debates):
        question_id = f"q{number}"
        for round, answers in enumerate(debate.answers, start=1):
            counts = Counter(answer for answer in answers if answer is not None)
            rows.append(
                Vote(
                    scope.get("iteration", 1),
                    scope.get("split", "train"),
                    arm,
                    scope.get("decoding", "sampled"),
                    question_id,
                    round,
                    debate.label if round == len(debate.answers) else None,
                    max(counts.values(), default=0),
                    sum(counts.values()),
                    list(counts.values()).count(max(counts.values(), default=0)) > 1,
                )
            )
            for agent, answer in enumerate(answers, start=1):
                turn = make_turn(
                    question_id,
                    agent,
                    round,
                    arm=arm,
                    answer=answer,
                    finish_reason="stop" if answer else "length",
                    messages=messages_json([{"role": "user", "content": f"{arm} {round} {agent}"}]),
                    response=f"{arm} {question_id} {round} {agent}",
                    **scope,
                )
                agrees = None if debate.label is None else answer == debate.label
                rows += [turn, Verdict(turn.turn_id, agrees, None)]
                if round > 1:
                    rows.append(
                        make_turn(question_id, agent, round, kind="summary", arm=arm, **scope)
                    )
    return rows


def found_generation(store, arm):
    return store.rows(
        "SELECT g.agent, g.question_id, t.round, g.turn_id, g.messages, g.response, t.sha256, "
        "g.sha256, g.messages = t.messages AND g.response = t.response "
        "FROM generation_examples AS g JOIN turns AS t USING (turn_id) "
        "WHERE g.arm = ? AND g.iteration = 1",
        [arm],
    )


def found_critic(store, arm):
    return store.rows(
        "SELECT c.agent, c.question_id, c.change, t.round, c.sha256 = t.sha256 "
        "AND c.messages = t.messages AND c.response = t.response "
        "AND f.round = 1 AND f.agent = c.agent AND f.question_id = c.question_id "
        "AND f.kind = 'answer' AND t.kind = 'answer' AND t.agent = c.agent "
        "FROM critic_examples AS c JOIN turns AS t USING (turn_id) "
        "JOIN turns AS f ON f.turn_id = c.first_turn_id WHERE c.arm = ? AND c.iteration = 1",
        [arm],
    )


def check(store, debates, arm):
    generation = found_generation(store, arm)
    assert len(generation) == len({row[3] for row in generation})
    assert {row[:3] for row in generation} == expected_generation(debates)
    assert all(row[6] == row[7] and row[8] for row in generation)
    critic = found_critic(store, arm)
    assert len(critic) == len({row[:4] for row in critic})
    assert {row[:4] for row in critic} == expected_critic(debates)
    assert all(row[4] for row in critic)


@st.composite
def societies(draw):
    agents = draw(st.integers(1, 5))
    rounds = draw(st.integers(1, 4))
    answers = st.sampled_from(["1", "2", "3", None])
    one_round = st.tuples(*[answers] * agents)
    debate = st.builds(Debate, st.tuples(*[one_round] * rounds), st.just(draw(st.booleans())))
    return draw(st.lists(debate, min_size=1, max_size=8))


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("views") / "run.duckdb") as opened:
        yield opened


arms = itertools.count()


@settings(max_examples=30)
@given(debates=societies())
def test_views_agree_with_the_method(shared_store, make_turn, debates):
    arm = f"arm{next(arms)}"
    shared_store.write(*rows_of(debates, arm, make_turn))
    check(shared_store, debates, arm)
    check_preferences(shared_store, debates, arm)


GIVEN = [
    Debate((("4", "4", "5"), ("4", "4", "4"))),
    Debate((("5", "5", "4"), ("4", "4", "5"))),
    Debate((("4", "5", None), ("4", "5", None))),
    Debate((("4", "5", "6"), ("4", "5", "6")), drop_ties=False),
    Debate(((None, None, None), (None, None, None))),
    Debate(((None, "4", "4"), ("4", None, "4"))),
]


def test_given_debates(store, make_turn):
    store.write(*rows_of(GIVEN, "multiagent", make_turn))
    assert sorted(row[:2] for row in found_generation(store, "multiagent")) == [
        (1, "q0"),
        (1, "q3"),
        (2, "q0"),
        (2, "q5"),
        (3, "q1"),
        (3, "q5"),
    ]
    assert sorted(row[:3] for row in found_critic(store, "multiagent")) == [
        (1, "q0", "kept"),
        (1, "q1", "corrected"),
        (1, "q3", "kept"),
        (1, "q5", "corrected"),
        (2, "q0", "kept"),
        (2, "q1", "corrected"),
        (3, "q0", "corrected"),
        (3, "q5", "kept"),
    ]
    check(store, GIVEN, "multiagent")
    check_preferences(store, GIVEN, "multiagent")
    assert store.rows("SELECT count(*) FROM critic_pairs") == [(4,)]


def test_three_rounds_compare_the_first_with_the_last(store, make_turn):
    debates = [Debate((("4", "5"), ("5", "4"), ("4", "4")))]
    store.write(*rows_of(debates, "multiagent", make_turn))
    assert sorted(found_critic(store, "multiagent")) == [
        (1, "q0", "kept", 3, True),
        (2, "q0", "corrected", 3, True),
    ]


def test_one_round_teaches_no_critic(store, make_turn):
    debates = [Debate((("4", "4"),))]
    store.write(*rows_of(debates, "multiagent", make_turn))
    assert found_critic(store, "multiagent") == []
    assert len(found_generation(store, "multiagent")) == 2


@pytest.mark.parametrize("scope", [{"split": "eval"}, {"decoding": "greedy"}, {"iteration": 2}])
def test_only_the_sampled_training_debates_of_the_iteration_count(store, make_turn, scope):
    store.write(*rows_of(GIVEN, "multiagent", make_turn, **scope))
    assert found_generation(store, "multiagent") == []
    assert found_critic(store, "multiagent") == []


def test_a_debate_without_its_end_teaches_nothing(store, make_turn):
    unfinished = [
        row
        for row in rows_of(GIVEN, "multiagent", make_turn)
        if isinstance(row, Turn) and row.round == 1
    ]
    store.write(*unfinished)
    assert found_generation(store, "multiagent") == []
    assert found_critic(store, "multiagent") == []


def test_an_agent_without_a_last_turn_is_not_judged_by_an_earlier_one(store, make_turn):
    rows = rows_of([Debate((("4", "4"), ("4", "4"), ("4", "4")))], "multiagent", make_turn)
    missing = {
        row.turn_id for row in rows if isinstance(row, Turn) and (row.agent, row.round) == (2, 3)
    }
    store.write(*(row for row in rows if getattr(row, "turn_id", None) not in missing))
    assert [row[:3] for row in found_critic(store, "multiagent")] == [(1, "q0", "kept")]


@pytest.mark.parametrize("view", ["generation_examples", "critic_examples"])
def test_gold_is_out_of_reach_of_a_dataset(store, view):
    columns = ", ".join(
        f"{name} {kind}"
        for name, kind in store.rows(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'turns'"
        )
    )
    with duckdb.connect() as without_gold:
        without_gold.execute(f"CREATE TABLE turns ({columns})")
        without_gold.execute("CREATE TABLE verdicts (turn_id BIGINT, agrees BOOLEAN)")
        assert without_gold.execute(schema.read_view_sql(view)).fetchall() == []


def test_gold_changes_no_dataset(store, make_turn):
    store.write(*rows_of(GIVEN, "multiagent", make_turn))
    before = sorted(
        found_generation(store, "multiagent") + found_critic(store, "multiagent"), key=str
    )
    store.transact(
        lambda connection: connection.execute(
            "UPDATE verdicts SET correct = turn_id % 2 = 0; UPDATE votes SET correct = false"
        )
    )
    after = found_generation(store, "multiagent") + found_critic(store, "multiagent")
    assert sorted(after, key=str) == sorted(before, key=str)


@pytest.mark.parametrize("blank", ["", " ", "\n\t ", "\u00a0\u2003", "\x0b\x1c\x85"])
@pytest.mark.parametrize("silent_round", [1, 2])
def test_a_conversation_with_an_answer_without_text_is_not_learnt(
    tmp_path, make_turn, blank, silent_round
):
    debate = Debate((("7", "7", "8"), ("7", "7", "7"), ("7", "7", "7")))
    rows = [
        replace(row, response=blank, answer=None)
        if isinstance(row, Turn) and (row.agent, row.round, row.kind) == (3, silent_round, "answer")
        else row
        for row in rows_of([debate], "multiagent", make_turn)
    ]
    with Store.open(tmp_path / "run.duckdb") as store:
        store.write(*rows)
        learnt = store.rows("SELECT agent, change FROM critic_examples ORDER BY agent")
    assert learnt == [(1, "kept"), (2, "kept")]
