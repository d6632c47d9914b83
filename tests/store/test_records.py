from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from store.content import content_sha256, make_storable, messages_json, turn_id_of
from store.records import StageKey, turn_key


def test_turn_id_is_fixed_for_ever():
    key = turn_key(StageKey(1, "train", "multiagent"), "q1", 2, 3, "answer")
    assert key == '[1,"train","multiagent","sampled","q1",2,3,"answer"]'
    assert turn_id_of(key) == 4128671907366348953


@given(st.text())
def test_turn_id_fits_a_signed_64_bit_integer(key):
    assert 0 <= turn_id_of(make_storable(key)) < 2**63


def test_every_part_of_the_key_makes_another_turn(make_turn):
    base = make_turn()
    others = [
        make_turn(iteration=2),
        make_turn(split="eval"),
        make_turn(arm="other"),
        make_turn(decoding="greedy"),
        make_turn(question_id="q2"),
        make_turn(agent=2),
        make_turn(round=2),
        make_turn(kind="summary"),
    ]
    assert len({turn.turn_id for turn in [base, *others]}) == 9


def test_a_turn_knows_the_hash_of_its_content(make_turn):
    turn = make_turn(messages="[]", response="é")
    assert turn.sha256 == hashlib.sha256("[]\né".encode()).hexdigest()
    assert content_sha256("[]", "é") == turn.sha256


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text())))
def test_messages_survive_json_on_one_line(turns):
    sent = [{"role": role, "content": content} for role, content in turns]
    stored = messages_json(sent)
    assert "\n" not in stored
    assert json.loads(stored) == sent


def test_storable_replaces_only_lone_surrogates():
    assert make_storable("é😀\x00") == "é😀\x00"
    assert make_storable("a\ud800b\udfff") == "a\ufffdb\ufffd"
