from __future__ import annotations

import hashlib
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.datasets import SHARED_AGENT, DatasetRules, derive_dataset, derive_datasets
from finetune.errors import DatasetChanged, DatasetDamaged
from finetune.examples import StoredExamples
from finetune.mixture import mix_conversations
from providers.types import Message
from store.content import content_sha256, turn_id_of
from store.ledger import Store
from store.records import StageKey, turn_key

OWNERS = [(agent, role) for role in ("generator", "critic") for agent in (1, 2, 3)]
STAYED, CORRECTED, LOST, WRONG = (True, True), (False, True), (True, False), (False, False)


def drawn(question_ids, count, seed):
    """The `count` question ids with the smallest hash of (seed, id)."""
    return set(
        sorted(question_ids, key=lambda q: (hashlib.sha256(f"{seed}:{q}".encode()).digest(), q))[
            :count
        ]
    )


def expected_questions(debates, agent, role, rules):
    marks = {question_id: agents[agent - 1] for question_id, agents in debates.items()}
    if role == "generator":
        found = [question_id for question_id, agrees in marks.items() if agrees[0]]
        return drawn(found, rules.max_examples or len(found), rules.seed)
    ended_right = [q for q, agrees in marks.items() if len(agrees) > 1 and agrees[-1]]
    corrected = [q for q in ended_right if not marks[q][0]]
    kept = [q for q in ended_right if marks[q][0]]
    mixture = mix_conversations(
        len(corrected), len(kept), rules.critics, rules.w, rules.max_examples
    )
    return drawn(corrected, mixture.corrected, rules.seed) | drawn(kept, mixture.kept, rules.seed)


def stored_rows(store, dataset):
    return store.rows(
        "SELECT question_id, turn_id FROM dataset_examples WHERE dataset_id = ? ORDER BY position",
        [dataset.dataset_id],
    )


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("datasets") / "run.duckdb") as opened:
        yield opened


arms = itertools.count()


@settings(max_examples=15)
@given(data=st.data())
def test_datasets_agree_with_a_plain_derivation(shared_store, debate_rows, data):
    rounds = data.draw(st.integers(1, 3))
    marks = st.tuples(*[st.booleans()] * rounds)
    debates = data.draw(
        st.dictionaries(st.text("abcé", min_size=1), st.tuples(marks, marks, marks), min_size=1)
    )
    rules = DatasetRules(
        critics=data.draw(st.sampled_from(["all", "sample"])),
        w=data.draw(st.sampled_from([None, 0.0, 0.3, 0.5, 1.0])),
        seed=data.draw(st.integers(0, 3)),
        max_examples=data.draw(st.none() | st.integers(1, 4)),
    )
    arm = f"arm{next(arms)}"
    shared_store.write(*debate_rows(debates, arm))
    built = derive_datasets(shared_store, 1, arm, OWNERS, rules)
    assert list(built) == OWNERS
    for (agent, role), dataset in built.items():
        found = stored_rows(shared_store, dataset)
        expected = expected_questions(debates, agent, role, rules)
        assert {question_id for question_id, _ in found} == expected
        assert [turn_id for _, turn_id in found] == sorted(turn_id for _, turn_id in found)
        assert dataset.examples == len(expected)
        round = 1 if role == "generator" else rounds
        for question_id, turn_id in found:
            key = turn_key(StageKey(1, "train", arm), question_id, agent, round, "answer")
            assert turn_id == turn_id_of(key)
        if role == "critic":
            assert dataset.examples == dataset.corrected + dataset.kept


def many(count):
    kinds = itertools.cycle([STAYED, STAYED, CORRECTED, LOST, WRONG])
    return {f"q{number:03}": [next(kinds), next(kinds), STAYED] for number in range(count)}


def test_every_row_leads_to_its_turn_and_to_the_hash(store, debate_rows):
    store.write(*debate_rows(many(50)))
    for dataset in derive_datasets(store, 1, "multiagent", OWNERS, DatasetRules(seed=5)).values():
        turns = store.rows(
            "SELECT t.messages, t.response, t.agent, t.split FROM dataset_examples AS e "
            "JOIN turns AS t USING (turn_id, question_id) WHERE dataset_id = ? ORDER BY position",
            [dataset.dataset_id],
        )
        assert len(turns) == dataset.examples > 0
        assert {turn[2:] for turn in turns} == {(dataset.agent, "train")}
        rows = "\n".join(content_sha256(*turn[:2]) for turn in turns)
        content = f"final\n{hashlib.sha256(rows.encode()).hexdigest()}"
        assert dataset.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_building_again_finds_what_is_stored(store, debate_rows):
    store.write(*debate_rows(many(30)))
    first = derive_datasets(store, 1, "multiagent", OWNERS, DatasetRules())
    assert derive_datasets(store, 1, "multiagent", OWNERS, DatasetRules()) == first
    assert derive_dataset(store, 1, "multiagent", 2, "critic", DatasetRules()) == first[2, "critic"]
    assert len(store.datasets()) == 6
    assert store.rows("SELECT count(*) FROM dataset_examples") == [
        (sum(dataset.examples for dataset in first.values()),)
    ]


def test_the_order_of_arrival_changes_nothing(store, tmp_path, debate_rows):
    rows = debate_rows(many(40))
    store.write(*rows)
    with Store.open(tmp_path / "other.duckdb") as other:
        other.write(*reversed(rows))
        for owner, dataset in derive_datasets(
            other, 1, "multiagent", OWNERS, DatasetRules()
        ).items():
            assert (
                dataset.sha256
                == derive_dataset(store, 1, "multiagent", *owner, DatasetRules()).sha256
            )


def test_the_seed_decides_the_sample(store, debate_rows):
    store.write(*debate_rows(many(60)))
    store.write(*debate_rows(many(60), arm="twin"))
    one = derive_dataset(store, 1, "multiagent", 1, "critic", DatasetRules("sample", seed=1))
    two = derive_dataset(store, 1, "twin", 1, "critic", DatasetRules("sample", seed=2))
    assert one.examples == two.examples
    assert stored_rows(store, one) != stored_rows(store, two)


def test_a_dataset_is_immutable(store, debate_rows):
    store.write(*debate_rows(many(30)))
    derive_datasets(store, 1, "multiagent", OWNERS, DatasetRules(w=0.5))
    with pytest.raises(DatasetChanged, match=r"w: stored 0\.5, now 1\.0"):
        derive_dataset(store, 1, "multiagent", 1, "critic", DatasetRules(w=1.0))
    store.write(*debate_rows({"late": [STAYED, STAYED, STAYED]}))
    with pytest.raises(DatasetChanged, match=r"a1-generator-it1 .*sha256"):
        derive_datasets(store, 1, "multiagent", OWNERS, DatasetRules(w=0.5))


def test_one_side_only_is_noted(store, debate_rows):
    store.write(*debate_rows({f"q{n}": [STAYED, CORRECTED, WRONG] for n in range(4)}))
    built = derive_datasets(store, 1, "multiagent", OWNERS, DatasetRules(w=0.5))
    facts = {
        owner: (dataset.corrected, dataset.kept, dataset.note is not None)
        for owner, dataset in built.items()
    }
    assert facts == {
        (1, "generator"): (None, None, False),
        (2, "generator"): (None, None, True),
        (3, "generator"): (None, None, True),
        (1, "critic"): (0, 4, True),
        (2, "critic"): (4, 0, True),
        (3, "critic"): (0, 0, True),
    }


def read_weights(store, dataset):
    return store.rows(
        "SELECT question_id, weight FROM dataset_examples WHERE dataset_id = ? ORDER BY position",
        [dataset.dataset_id],
    )


def test_weights_of_the_two_sides_reach_the_share(store, debate_rows):
    store.write(*debate_rows(many(50)))
    weighted = derive_dataset(store, 1, "multiagent", 1, "critic", DatasetRules(w=0.5))
    assert (weighted.corrected, weighted.kept) == (10, 20)
    assert (weighted.critics, weighted.w) == ("all", 0.5)
    weights = read_weights(store, weighted)
    assert sorted({weight for _, weight in weights}) == [0.75, 1.5]
    assert sum(weight for _, weight in weights) == 30
    assert [example.weight for example in StoredExamples(store, weighted)] == [
        weight for _, weight in weights
    ]
    store.write(*debate_rows(many(50), arm="twin"))
    plain = derive_dataset(store, 1, "twin", 1, "critic", DatasetRules())
    assert plain.examples == weighted.examples
    assert plain.sha256 != weighted.sha256
    assert {weight for _, weight in read_weights(store, plain)} == {1}


def test_rows_are_repeated_for_a_provider_without_weights(store, debate_rows):
    store.write(*debate_rows(many(50)))
    rules = DatasetRules(w=0.5, repeat=True)
    repeated = derive_dataset(store, 1, "multiagent", 1, "critic", rules)
    assert (repeated.examples, repeated.corrected, repeated.kept) == (40, 20, 20)
    assert "30 conversations come as 40 rows, 0.500 of them corrected (w = 0.5)" in repeated.note
    rows = read_weights(store, repeated)
    assert {weight for _, weight in rows} == {1}
    # All conversations come once before any comes twice.
    assert len({question_id for question_id, _ in rows[:30]}) == 30
    assert len(StoredExamples(store, repeated)) == len(list(StoredExamples(store, repeated))) == 40
    assert derive_dataset(store, 1, "multiagent", 1, "critic", rules) == repeated
    store.write(*debate_rows(many(50), arm="twin"))
    whole = derive_dataset(store, 1, "twin", 1, "critic", DatasetRules(repeat=True))
    assert (whole.examples, whole.note) == (30, None)


def test_no_debates_no_rows(store):
    built = derive_datasets(store, 1, "multiagent", OWNERS, DatasetRules())
    assert {dataset.examples for dataset in built.values()} == {0}
    assert list(StoredExamples(store, built[1, "critic"])) == []
    assert derive_datasets(store, 1, "multiagent", [], DatasetRules()) == {}


def test_a_shared_model_learns_from_all_agents(store, debate_rows):
    store.write(*debate_rows(many(20), arm="single-agent"))
    owners = [(SHARED_AGENT, "generator"), (SHARED_AGENT, "critic")]
    pooled = derive_datasets(store, 1, "single-agent", owners, DatasetRules(w=0.0))
    ((agents, rows),) = store.rows(
        "SELECT count(DISTINCT t.agent), count(*) FROM dataset_examples AS e "
        "JOIN turns AS t USING (turn_id) WHERE dataset_id = ?",
        [pooled[0, "generator"].dataset_id],
    )
    ((learnable,),) = store.rows("SELECT count(*) FROM generation_examples")
    assert (agents, rows) == (3, learnable)
    with pytest.raises(ValueError, match="pooled"):
        derive_datasets(store, 1, "single-agent", [(0, "critic"), (1, "critic")], DatasetRules())


@pytest.mark.parametrize(("critic_loss", "learn"), [("final", (5,)), ("all", (1, 3, 5))])
def test_examples_are_the_prompt_as_sent_and_the_response(store, debate_rows, critic_loss, learn):
    store.write(*debate_rows({"q1": [(True, True, True)]}))
    rules = DatasetRules(critic_loss=critic_loss)
    examples = StoredExamples(store, derive_dataset(store, 1, "multiagent", 1, "critic", rules))
    ((sent,),) = store.rows("SELECT messages FROM turns WHERE round = 3")
    (example,) = examples
    assert examples[0] == example
    assert examples[-1:] == (example,)
    assert len(examples) == 1
    *prompt, response = example.messages
    plain = [{"role": message.role, "content": message.content} for message in prompt]
    assert json.dumps(plain, ensure_ascii=False) == sent
    assert response == Message("assistant", "q1/1/3")
    assert example.loss_on == learn
    generator = StoredExamples(
        store, derive_dataset(store, 1, "multiagent", 1, "generator", rules)
    )[0]
    assert [message.role for message in generator.messages] == ["user", "assistant"]
    assert generator.loss_on == (1,)


def test_a_changed_or_missing_turn_is_noticed(store, debate_rows):
    store.write(*debate_rows({"q1": [STAYED], "q2": [STAYED]}))
    dataset = derive_dataset(store, 1, "multiagent", 1, "generator", DatasetRules())
    store.transact(lambda c: c.execute("UPDATE turns SET response = 'x' WHERE question_id = 'q1'"))
    with pytest.raises(DatasetDamaged, match="was changed"):
        list(StoredExamples(store, dataset))
    store.transact(lambda c: c.execute("DELETE FROM turns WHERE question_id = 'q1'"))
    with pytest.raises(DatasetDamaged, match="not stored"):
        list(StoredExamples(store, dataset))
