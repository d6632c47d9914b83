"""Every query of docs/queries.md, on a run of two arms in which all happens that it asks for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune.datasets import DatasetRules, derive_datasets
from store.content import messages_json
from store.ledger import Store
from store.measures import Diversity
from store.records import Job, Model, Question, Run, StoredArm, TrainingPoint, Turn, Verdict, Vote
from store.spending import Price
from tests.store.conftest import query

TEXT = (Path(__file__).parents[2] / "docs" / "queries.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"^### (.+?)\n\n.+?\n\n```sql\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL))
AGENTS = (1, 2, 3)
PLACES = range(7)
ROLES = ("generator", "critic")
START = datetime(2026, 1, 1, tzinfo=UTC)
UNREADABLE, TRUNCATED = "I do not know.", "Let me see, let me see,"


def answer(place: int, iteration: int, agent: int, round: int) -> str:
    """What an agent answers; "1" is right. The comment names what the debate is there for."""
    wrong = {
        0: False,
        1: round == 1 and agent < 3,  # agent 3 resists a wrong majority, the vote flips
        2: round == 2 and agent < 3,  # two agents are talked out of it, agent 3 dissents
        3: True,  # all agree on a wrong answer, always
        4: round == 2,  # a tie of three in the end
        5: False,  # agent 2 is unreadable, agent 3 truncated
        6: iteration == 0,  # training gains it
    }[place]
    if place == 4 and round == 2:
        return str(agent)
    return "2" if wrong else "1"


def response(place: int, iteration: int, agent: int, round: int) -> str:
    if place == 5 and agent > 1:
        return UNREADABLE if agent == 2 else TRUNCATED
    return f"So it is \\boxed{{{answer(place, iteration, agent, round)}}}"


def debate(arm: str, split: str, iteration: int, place: int, rounds: int) -> list[object]:
    """A debate as the engine would have stored it."""
    rows: list[object] = []
    said: dict[int, list[str | None]] = {}
    for number, (round, agent) in enumerate((m, n) for m in range(1, rounds + 1) for n in AGENTS):
        text = response(place, iteration, agent, round)
        found = re.search(r"\d", text)
        said.setdefault(round, []).append(found[0] if found else None)
        tuned = f"m-a{agent}-{ROLES[round - 1]}-it{iteration - (split == 'train')}"
        turn = Turn(
            iteration=iteration,
            split=split,
            arm=arm,
            decoding="sampled",
            question_id=f"{split}-{place}",
            agent=agent,
            round=round,
            kind="answer",
            model_id="base" if tuned.endswith("it0") else tuned,
            messages=messages_json([{"role": "user", "content": f"{split} {place}?"}]),
            response=text,
            answer=found[0] if found else None,
            finish_reason="length" if text == TRUNCATED else "stop",
            prompt_tokens=10 * round,
            completion_tokens=len(text.split()) + iteration,
            latency_ms=100.0 + agent,
            created_at=START + timedelta(seconds=100 * iteration + 10 * place + number),
        )
        if arm == "majority":
            turn = replace(turn, shared_turn_id=replace(turn, arm="multiagent").turn_id)
        rows.append(turn)
    votes = [vote(arm, split, iteration, place, m, answers) for m, answers in said.items()]
    label = votes[-1].answer
    return [
        *rows,
        *votes,
        *(Verdict(t.turn_id, t.answer == label if label else None, t.answer == "1") for t in rows),
    ]


def vote(arm, split, iteration, place, round, answers) -> Vote:
    readable = [each for each in answers if each]
    most = max(readable, key=readable.count)
    tie = len(set(readable)) == len(readable) > 1
    label = None if tie and split == "train" else most
    return Vote(
        *(iteration, split, arm, "sampled", f"{split}-{place}", round, label),
        *(readable.count(most), len(readable), tie, label == "1"),
    )


def tuned(iteration: int) -> list[object]:
    """The jobs and models of a pass."""
    rows: list[object] = []
    for agent in AGENTS:
        for role in ROLES:
            dataset = f"multiagent-a{agent}-{role}-it{iteration}"
            facts = (iteration, "multiagent", agent, role)
            job = Job(f"j-{dataset}", *facts, dataset, "d", "succeeded", "p", trained_tokens=50)
            parent = f"m-a{agent}-{role}-it1" if iteration == 2 else "base"
            rows += [
                job,
                Model(
                    f"m-a{agent}-{role}-it{iteration}",
                    "scripted:x",
                    parent,
                    "artifact",
                    None,
                    dataset,
                    job.job_id,
                    *facts,
                ),
                *(TrainingPoint(job.job_id, step, 2.0 / step, 1e-4) for step in (1, 2, 4)),
            ]
    return rows


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("cookbook") / "run.duckdb"
    with Store.open(path) as store:
        store.write(
            Run("cookbook", "{}", "0", 0, "{}"),
            StoredArm("multiagent", 0, "multiagent", "final", "{}"),
            StoredArm("majority", 1, "majority", None, "{}"),
            Model("base", "scripted:x"),
            *(Price("scripted:x", tuned, 1.0, 2.0, "here", training_usd=3.0) for tuned in (0, 1)),
            *(
                Question(
                    f"{split}-{place}",
                    "sums",
                    split,
                    f"{split} {place}?",
                    "1",
                    position=place,
                    meta=json.dumps({"level": place % 2}),
                )
                for split in ("train", "eval")
                for place in PLACES
            ),
        )
        for place in PLACES:
            for iteration in (1, 2):
                store.write(*debate("multiagent", "train", iteration, place, 2))
            for iteration in (0, 1, 2):
                store.write(*debate("multiagent", "eval", iteration, place, 2))
            store.write(*debate("majority", "eval", 0, place, 1))
        owners = [(agent, role) for agent in AGENTS for role in ROLES]
        for iteration in (1, 2):
            derive_datasets(store, iteration, "multiagent", owners, DatasetRules())
            store.write(*tuned(iteration))
        store.write(
            Diversity(
                *(0, "multiagent", "eval", "sums", "sampled", "generator", "embedding", "all"),
                *("words", 0.25, 0.2, 0.3, 7, 21),
            )
        )
    return path


def test_there_are_many_and_each_has_a_sentence():
    assert len(QUERIES) >= 25
    assert len(QUERIES) == TEXT.count("```sql") == TEXT.count("\n### ")


@pytest.mark.parametrize("title", QUERIES)
def test_a_query_answers_with_rows(database, title):
    found = query(database, QUERIES[title])
    assert found.rows, title
    assert len(set(found.columns)) == len(found.columns)
    assert all(re.fullmatch(r"[a-z_0-9]+", column) for column in found.columns)


EXPECTED = {
    "Which questions flip between the first vote and the last?": [
        ("wrong_to_right", "eval 1?", "1", "2", "1", 3, 3),
        ("right_to_wrong", "eval 2?", "1", "1", "2", 2, 3),
    ],
    "Which questions did training gain and lose?": [("eval 6?", "1", "2", "1", True)],
    "Where does the society agree on a wrong answer?": [
        ("eval 3?", "1", "2", 3),
        ("eval 6?", "1", "2", 3),
    ],
    "Which questions does no arm ever get right?": [("eval 3?", "1", "2", 4)],
    "Which agent dissents, and is it right to?": [
        (1, 1, 6, 2, 1, 33.3),
        (1, 2, 6, 3, 1, 50.0),
        (1, 3, 6, 2, 1, 33.3),
        (2, 1, 6, 0, 0, 0.0),
        (2, 2, 6, 1, 0, 16.7),
        (2, 3, 6, 2, 1, 33.3),
    ],
    "Which agents agree with each other?": [
        (1, 2, 6, 100.0),
        (1, 3, 6, 83.3),
        (2, 1, 6, 100.0),
        (2, 3, 6, 83.3),
        (3, 1, 6, 83.3),
        (3, 2, 6, 83.3),
    ],
    "What does a critic say when it is right to resist?": [
        (3, "eval 1?", "2", "1", "So it is \\boxed{1}")
    ],
    "Which critics only repeat themselves?": [
        (iteration, agent, 7, share)
        for iteration in (0, 2)
        for agent, share in ((1, 71.4), (2, 57.1), (3, 85.7))
    ],
    "How good are the labels by the level of the question?": [
        (1, "0", 4, 75.0, 66.7),
        (1, "1", 3, 100.0, 66.7),
        (2, "0", 4, 75.0, 66.7),
        (2, "1", 3, 100.0, 66.7),
    ],
    "Which training examples were lost to ties?": [
        (iteration, "train 4?", "1", agent, str(agent)) for iteration in (1, 2) for agent in AGENTS
    ],
    "Does the training loss fall?": [
        (iteration, "multiagent", agent, role, 3, 2.0, 0.5)
        for iteration in (1, 2)
        for agent in AGENTS
        for role in ("critic", "generator")
    ],
    "Where does a model come from?": [
        (0, "m-a1-critic-it2", 2, "multiagent-a1-critic-it2", 6, "artifact"),
        (1, "m-a1-critic-it1", 1, "multiagent-a1-critic-it1", 6, "artifact"),
        (2, "base", None, None, None, None),
    ],
    "Do the agents answer with the same words?": [(0, 7, 3.0, 1.43), (2, 7, 3.0, 1.43)],
    "Is the society better than the other arms on the same questions?": [
        ("majority", 0, 7, 71.4, 57.1, 2, 1)
    ],
}


@pytest.mark.parametrize("title", EXPECTED)
def test_a_query_answers_rightly(database, title):
    assert query(database, QUERIES[title]).rows == EXPECTED[title]


def test_a_critics_training_data_are_those_that_were_stored(database):
    title = "What exactly was agent 2's critic trained on in iteration 2?"
    found = query(database, QUERIES[title])
    with Store.open(database, read_only=True) as store:
        stored = store.rows(
            "SELECT position, if(first.agrees, 'kept', 'corrected'), t.messages, t.response "
            "FROM dataset_examples JOIN turns AS t USING (turn_id) "
            "JOIN critic_examples AS c USING (turn_id) "
            "JOIN verdicts AS first ON first.turn_id = c.first_turn_id "
            "WHERE dataset_id = 'multiagent-a2-critic-it2' ORDER BY position"
        )
        assert len(stored) == store.dataset("multiagent-a2-critic-it2").examples
    assert found.rows == stored
