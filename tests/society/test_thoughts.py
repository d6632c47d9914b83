"""Thoughts are kept in the store and told apart from answers: scripted models, a real store."""

import pytest

from evals.tasks.arithmetic import create
from providers.scripted import ScriptedProvider
from providers.types import Completion, Message, ModelRef, Sampling
from society.method.agents import Society
from society.method.debate import Debate, DebateRules
from society.method.reuse import SharedAnswers
from society.method.unread import find_cause
from society.prompts import Wording
from store.ledger import Store
from store.records import StageKey

TASK = create({"seed": 3})
QUESTION = TASK.questions("train", 0, 1)[0]
SAMPLED = Sampling(max_tokens=64)
STAGE = StageKey(1, "train", "multiagent", "sampled")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "run.duckdb") as opened:
        yield opened


async def debate(store, script, *, others="quoted", thoughts="hidden", stage=STAGE, shared=None):
    """The requests of one debate of two agents, by the end of their key."""
    provider, base = ScriptedProvider(script), ModelRef("scripted:", "scripted:")
    rules = DebateRules(2, others, SAMPLED, SAMPLED, drop_ties=True, wording=Wording(thoughts))
    society = Society.from_bases([base] * 2, base)
    engine = Debate(society, TASK, {"scripted:": provider}, store, stage, rules, shared=shared)
    assert [found async for found in engine.run([QUESTION])] == [QUESTION]
    return {request.key.split("/", 2)[2]: request for request in provider.requests}


THINKING = {
    "tags": "<think>\nsecret: maybe 5\n</think>\n\nI say \\boxed{7}",
    "opened by the prompt": "secret: maybe 5\n</think>\n\nI say \\boxed{7}",
    "harmony": "<|channel|>analysis<|message|>secret: maybe 5<|end|><|start|>assistant"
    "<|channel|>final<|message|>I say \\boxed{7}",
    "gemma": "<|channel>thought\nsecret: maybe 5<channel|>I say \\boxed{7}",
    "magistral": "[THINK]secret: maybe 5[/THINK]I say \\boxed{7}",
    "reasoning tags": "<reasoning>secret: maybe 5</reasoning>\nI say \\boxed{7}",
}


@pytest.mark.parametrize("response", THINKING.values(), ids=THINKING)
async def test_others_read_the_answer_and_only_the_agent_itself_its_thought(store, response):
    asked = await debate(store, lambda request: response)
    critic = asked["a1/r2/answer"].messages
    assert critic[1] == Message("assistant", response)
    assert "Solution 1:\nI say \\boxed{7}\n" in critic[2].content
    assert "secret" not in critic[2].content
    assert store.rows("SELECT DISTINCT response, answer, thought FROM turns") == [
        (response, "7", None)
    ]


async def test_the_summarizer_sees_no_thoughts_and_its_own_is_not_shown(store):
    def script(request):
        said = "a summary" if request.key.endswith("summary") else "I say \\boxed{7}"
        return f"<think>secret</think>{said}"

    asked = await debate(store, script, others="summarized")
    assert "I say" in asked["a1/r2/summary"].messages[0].content
    assert "a summary" in asked["a1/r2/answer"].messages[-1].content
    shown = [asked[key].messages[-1].content for key in ("a1/r2/summary", "a1/r2/answer")]
    assert not any("secret" in text for text in shown)


async def test_thoughts_are_quoted_where_that_is_asked_for(store):
    asked = await debate(store, lambda request: THINKING["tags"], thoughts="quoted")
    assert f"Solution 1:\n{THINKING['tags']}\n" in asked["a1/r2/answer"].messages[2].content


@pytest.mark.parametrize(
    ("finish", "why"),
    [("length", "raise sampling.max_tokens"), ("stop", "ended its response within its thought")],
)
async def test_a_thought_without_an_end_is_no_response_and_says_so(store, finish, why):
    cut = "<think>\nsecret: \\boxed{5}"

    def script(request):
        if request.key.endswith("a1/r1/answer"):
            return Completion(cut, finish, 5, 64, 1.0)
        return "I say \\boxed{7}"

    asked = await debate(store, script)
    assert asked["a1/r2/answer"].messages[1] == Message("assistant", "(no response)")
    assert "Solution 1:\n(no response)" in asked["a2/r2/answer"].messages[2].content
    [turn] = [turn for turn in store.turns(STAGE) if turn.agent == 1 and turn.round == 1]
    assert (turn.response, turn.thought, turn.answer) == ("", cut, None)
    assert why in turn.error
    assert "reasoning" in find_cause(turn, TASK).text or why in find_cause(turn, TASK).text
    # Nobody learns from a conversation in which a placeholder stands for an answer.
    assert store.rows("SELECT DISTINCT agent FROM critic_examples") == [(2,)]


async def test_a_thought_that_a_server_returns_apart_is_kept_and_sent_to_nobody(store):
    def script(request):
        return Completion("I say \\boxed{7}", "stop", 5, 9, 1.0, thought="secret")

    asked = await debate(store, script)
    assert asked["a1/r2/answer"].messages[1] == Message("assistant", "I say \\boxed{7}")
    assert not any("secret" in m.content for r in asked.values() for m in r.messages)
    assert store.rows("SELECT DISTINCT response, thought, error FROM turns") == [
        ("I say \\boxed{7}", "secret", None)
    ]
    other = StageKey(1, "train", "other", "sampled")
    shared = SharedAnswers(store.turns(STAGE))
    assert await debate(store, script, stage=other, shared=shared) == {}
    assert store.rows("SELECT DISTINCT thought FROM turns WHERE arm = 'other'") == [("secret",)]
    quoted = StageKey(2, "train", "multiagent", "sampled")
    asked = await debate(store, script, thoughts="quoted", stage=quoted)
    assert "Solution 1:\nsecret\n\nI say" in asked["a1/r2/answer"].messages[2].content
