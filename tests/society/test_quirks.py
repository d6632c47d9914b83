"""A small experiment against every quirk of a server: what is stored, said, sent, paid and left."""

from __future__ import annotations

import pytest

from store.ledger import Store
from tests.providers.chat_server import serving
from tests.providers.quirk_server import QUIRKS, QuirkServer
from tests.society import api_experiment
from tests.society.api_experiment import ANSWER_USD, PROMPT_USD

TURNS = 12
CAP_USD = 0.1
# What the tests of single answers cover as well is met in a whole run by `make test-long`.
_LONG = """
finish-COMPLETE finish-FINISHED finish-end_turn finish-eos_token finish-enum finish-null
content-strings content-object content-number content-reasoning choices-two choices-object
usage-floats usage-empty usage-negative usage-zero usage-nan usage-text inside-words
status-402 status-408 status-529 encoding-bom encoding-utf16 encoding-declared
body-list body-spaces body-half body-empty
"""
LONG = set(_LONG.split())
STATUS = {"read": 0, "unread": 1, "stopped": 1, "wrong": 2}


SPENT = "SELECT coalesce(sum(usd), 0)::DOUBLE FROM spend"
TOLD = """
SELECT count(*), count(answer),
    coalesce(count_if(regexp_full_match(response, '\\s*') = (error IS NULL)), 0) FROM turns
"""
ESTIMATED = "SELECT bool_and(tokens_estimated) FROM turns WHERE failure IS NULL"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long if n in LONG else ()) for n in QUIRKS]
)
def test_every_quirk_is_met(tmp_path, name):
    quirk, script = QUIRKS[name], QuirkServer()
    settings = (f"budget_usd={CAP_USD}", *quirk.settings)
    with serving(script) as server:
        outcome = api_experiment.run(tmp_path, server.url, *settings, model=name)
    assert outcome.status == STATUS[quirk.ends], outcome.text
    assert quirk.says in outcome.text
    with Store.open(outcome.database, read_only=True) as store:
        [(spent,)], [(turns, read, unexplained)] = store.rows(SPENT), store.rows(TOLD)
        estimated = store.rows(ESTIMATED)
    assert script.usd(PROMPT_USD, ANSWER_USD) <= spent + 1e-12 <= CAP_USD
    assert unexplained == 0
    if quirk.ends in ("stopped", "wrong"):
        assert read == 0
        return
    assert turns == TURNS
    assert read == (TURNS if quirk.ends == "read" else 0)
    if not name.startswith("refuses"):
        assert set(script.sent.values()) == {quirk.sends}
    sent_empty = [m for asked in server.asked for m in asked.body["messages"] if not m["content"]]
    assert not sent_empty
    if not quirk.tells_usage:
        assert estimated == [(True,)]
    if quirk.ends == "read":
        # Said once, not for every answer.
        assert not quirk.says or outcome.text.count(quirk.says) == 1


def test_there_is_a_quirk_of_every_kind():
    kinds = {name.partition("-")[0] for name in QUIRKS}
    assert kinds >= {"finish", "content", "usage", "inside", "status", "header", "encoding", "body"}
    assert len(QUIRKS) - len(LONG) >= 40
    assert set(QUIRKS) > LONG
