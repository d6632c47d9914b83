"""The debate engine against the paper's Algorithm 1: scripted answers, a real store."""

import asyncio
import json
from collections import Counter
from dataclasses import asdict

import pytest

from evals.tasks.arithmetic import create
from providers.errors import AuthenticationFailed, ContextOverflow
from providers.scripted import ScriptedProvider
from providers.types import Completion, Message, ModelRef, Request, Sampling
from society.method.agents import Agent, Society
from society.method.debate import Debate, DebateRules
from society.method.reuse import SharedAnswers
from society.prompts import Wording
from store.ledger import Store
from store.records import Model, StageKey

TASK = create({"seed": 3})
SAMPLED = Sampling(temperature=1.0, max_tokens=64, seed=5)


def rules(**changes):
    known = {
        "rounds": 2,
        "others": "quoted",
        "sampling": SAMPLED,
        "summary_sampling": SAMPLED,
        "drop_ties": True,
    }
    return DebateRules(**(known | changes))


def society(size=3):
    agents = tuple(
        Agent(n, ModelRef(f"g{n}", "scripted:", f"g{n}"), ModelRef(f"c{n}", "scripted:", f"c{n}"))
        for n in range(1, size + 1)
    )
    return Society(agents, ModelRef("scripted:", "scripted:"))


def says(request: Request) -> str:
    """Everybody says who they are and answers 7."""
    return f"{request.model.model_id} of {request.key}: \\boxed{{7}}"


def everyone_differs(request: Request) -> str:
    """Every agent answers with its own number."""
    return f"\\boxed{{{request.model.model_id[-1]}}}"


async def debate(store, script, questions, *, split="train", known=(), **changes):
    provider = ScriptedProvider(script)
    engine = Debate(
        society(changes.pop("size", 3)),
        TASK,
        {"scripted:": provider},
        store,
        StageKey(1, split, "multiagent", "sampled"),
        rules(**changes),
        known=known,
    )
    finished = [q.question_id async for q in engine.run(questions)]
    return provider, finished


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "run.duckdb") as opened:
        yield opened


async def test_a_quoted_debate_shows_each_agent_the_others_and_its_own_past(store):
    question = TASK.questions("train", 0, 1)[0]
    provider, _ = await debate(store, says, [question], rounds=3)
    asked = {request.key.split("/", 2)[2]: request for request in provider.requests}
    opening = Message("user", TASK.prompt(question.text))
    answer = {key: says(request) for key, request in asked.items()}
    last = asked["a2/r3/answer"]
    assert last.model.model_id == "c2"
    assert asked["a2/r1/answer"].model.model_id == "g2"
    assert last.messages == (
        opening,
        Message("assistant", answer["a2/r1/answer"]),
        Message(
            "user",
            Wording().build_quoted_turn(
                [answer["a1/r1/answer"], answer["a3/r1/answer"]], TASK.answer_form
            ),
        ),
        Message("assistant", answer["a2/r2/answer"]),
        Message(
            "user",
            Wording().build_quoted_turn(
                [answer["a1/r2/answer"], answer["a3/r2/answer"]], TASK.answer_form
            ),
        ),
    )


async def test_a_summary_is_written_by_the_base_for_each_agent_from_the_others(store):
    question = TASK.questions("train", 0, 1)[0]
    provider, _ = await debate(store, says, [question], others="summarized")
    summaries = [r for r in provider.requests if r.key.endswith("summary")]
    assert [r.model.model_id for r in summaries] == ["scripted:"] * 3
    first = summaries[0].messages[0].content
    assert "g2" in first
    assert "g3" in first
    assert "g1" not in first
    second_round = next(r for r in provider.requests if r.key.endswith("a1/r2/answer"))
    assert second_round.messages[-1].content == Wording().build_summary_turn(
        says(summaries[0]), TASK.answer_form
    )
    kinds = Counter(store.rows("SELECT kind, agent FROM turns"))
    assert kinds == Counter(
        {("answer", n): 2 for n in (1, 2, 3)} | {("summary", n): 1 for n in (1, 2, 3)}
    )


async def test_what_is_stored_is_what_was_sent(store):
    questions = TASK.questions("train", 0, 4)
    provider, finished = await debate(store, says, questions, others="summarized")
    assert sorted(finished) == sorted(q.question_id for q in questions)
    stored = Counter(messages for (messages,) in store.rows("SELECT messages FROM turns"))
    sent = Counter(
        json.dumps([{"role": m.role, "content": m.content} for m in r.messages], ensure_ascii=False)
        for r in provider.requests
    )
    assert stored == sent


async def test_stored_turns_are_never_asked_again(store):
    questions = TASK.questions("train", 0, 3)
    calls = 0

    def fails_in_the_middle(request):
        nonlocal calls
        calls += 1
        if calls == 11:
            raise AuthenticationFailed("the key was refused; set another one")
        return says(request)

    with pytest.raises(AuthenticationFailed):
        await debate(store, fails_in_the_middle, questions)
    # What was on its way when the run broke off is stored before this row.
    await store.append(Model(model_id="m", provider="scripted:"))
    stored = list(store.turns(StageKey(1, "train", "multiagent")))
    provider, _ = await debate(store, says, questions, known=stored)
    assert len(stored) + len(provider.requests) == 3 * 3 * 2
    assert store.rows("SELECT count(*), count(DISTINCT turn_id) FROM turns") == [(18, 18)]
    assert store.rows("SELECT count(*) FROM votes") == [(6,)]
    assert store.rows("SELECT count(*), count(DISTINCT turn_id) FROM verdicts") == [(18, 18)]


async def test_a_call_that_can_never_succeed_is_recorded_and_casts_no_vote(store):
    question = TASK.questions("train", 0, 1)[0]

    def script(request):
        if request.key.endswith("a1/r1/answer"):
            raise ContextOverflow("the prompt has 9 tokens too many; shorten it")
        return says(request)

    provider, _ = await debate(store, script, [question])
    assert store.rows(
        "SELECT response, answer, finish_reason, error FROM turns WHERE agent = 1 AND round = 1"
    ) == [("", None, "error", "the prompt has 9 tokens too many; shorten it")]
    assert store.rows("SELECT votes, voters FROM votes ORDER BY round") == [(2, 2), (3, 3)]
    shown = (
        next(r for r in provider.requests if r.key.endswith("a2/r2/answer")).messages[-1].content
    )
    assert "(no response)" in shown


async def test_a_truncated_response_casts_no_vote(store):
    question = TASK.questions("train", 0, 1)[0]

    def script(request):
        text = says(request)
        return Completion(text, "length", 5, 5, 1.0) if "a3" in request.key else text

    await debate(store, script, [question])
    assert store.rows("SELECT DISTINCT voters FROM votes") == [(2,)]
    assert store.rows(
        "SELECT DISTINCT agrees FROM verdicts JOIN turns USING (turn_id) WHERE agent = 3"
    ) == [(False,)]


@pytest.mark.parametrize("silence", ["", " \n", "\u00a0"])
@pytest.mark.parametrize("others", ["quoted", "summarized"])
async def test_an_answer_without_text_is_shown_as_one_to_everybody_and_has_a_reason(
    store, silence, others
):
    question = TASK.questions("train", 0, 1)[0]

    def script(request):
        if request.key.endswith(("a1/r1/answer", "a2/r2/summary")):
            return Completion(silence, "length", 5, 64, 1.0)
        return says(request)

    provider, _ = await debate(store, script, [question], rounds=3, others=others)
    asked = {request.key.split("/", 2)[2]: request for request in provider.requests}
    for key in ("a1/r2/answer", "a1/r3/answer"):
        assert asked[key].messages[1] == Message("assistant", "(no response)")
    shown = asked["a2/r2/answer"].messages[-1].content
    assert "(no response)" in shown
    assert all(m.content.strip() for request in provider.requests for m in request.messages)
    assert store.rows(
        "SELECT response, answer, error LIKE '%raise sampling.max_tokens%' FROM turns "
        "WHERE agent = 1 AND round = 1 AND kind = 'answer'"
    ) == [(silence, None, True)]
    assert store.rows("SELECT count(*) FROM critic_examples WHERE agent = 1") == [(0,)]
    learnt = store.rows("SELECT messages, response FROM critic_examples")
    sent = {json.dumps([asdict(m) for m in r.messages], ensure_ascii=False) for r in asked.values()}
    assert len(learnt) == 2
    assert all(messages in sent for messages, _ in learnt)


@pytest.mark.parametrize(
    ("drop", "agrees"),
    [(True, None), (False, True)],
)
async def test_a_tie_is_left_out_of_training_unless_told_otherwise(store, drop, agrees):
    question = TASK.questions("train", 0, 1)[0]
    await debate(store, everyone_differs, [question], drop_ties=drop)
    assert store.rows("SELECT DISTINCT answer, votes, tie FROM votes") == [
        (None if agrees is None else "1", 1, True)
    ]
    assert store.rows(
        "SELECT DISTINCT agrees FROM verdicts JOIN turns USING (turn_id) WHERE agent = 1"
    ) == [(agrees,)]


async def test_ties_of_an_evaluation_favor_no_agent_and_follow_from_the_seed(store, tmp_path):
    questions = TASK.questions("eval", 0, 60)
    await debate(store, everyone_differs, questions, split="eval", seed=1)
    won = Counter(store.rows("SELECT answer, tie FROM votes WHERE round = 2"))
    assert set(won) == {("1", True), ("2", True), ("3", True)}
    assert min(won.values()) > 8
    dissents = store.rows(
        "SELECT agent, answers, tied_answers, tied_dissenting FROM dissent "
        "WHERE round = 2 AND agent IS NOT NULL ORDER BY agent"
    )
    assert dissents == [(n, 0, 60, 60 - won[str(n), True]) for n in (1, 2, 3)]
    decided = "SELECT question_id, round, answer FROM votes ORDER BY ALL"
    for seed, same in ((1, True), (2, False)):
        with Store.open(tmp_path / f"seed{seed}.duckdb") as other:
            await debate(other, everyone_differs, questions, split="eval", seed=seed)
            assert (other.rows(decided) == store.rows(decided)) is same


@pytest.mark.parametrize(
    ("split", "quorum", "readable", "labelled"),
    [
        ("train", 2, 1, False),
        ("train", 2, 2, True),
        ("train", 1, 1, True),
        ("train", 3, 2, False),
        ("train", 2, 0, False),
        ("eval", 3, 1, True),
    ],
)
async def test_too_few_voters_make_no_label(store, split, quorum, readable, labelled):
    question = TASK.questions(split, 0, 1)[0]

    def script(request):
        cut = int(request.model.model_id[-1]) > readable
        return Completion("I add", "length", 5, 5, 1.0) if cut else says(request)

    await debate(store, script, [question], split=split, quorum=quorum)
    asked = quorum if split == "train" else None
    label = "7" if labelled else None
    assert store.rows("SELECT DISTINCT answer, votes, voters, tie, quorum FROM votes") == [
        (label, readable, readable, False, asked)
    ]
    agreeing = {agrees for (agrees,) in store.rows("SELECT DISTINCT agrees FROM verdicts")}
    assert (agreeing == {None}) is not labelled
    learnable = 2 * readable if labelled and split == "train" else 0
    [(generators,)] = store.rows("SELECT count(*) FROM generation_examples")
    [(critics,)] = store.rows("SELECT count(*) FROM critic_examples")
    assert generators + critics == learnable


async def test_no_question_waits_for_another(store):
    questions = TASK.questions("train", 0, 2)
    slow, order = questions[0].question_id, []
    release = asyncio.Event()

    class Slow(ScriptedProvider):
        async def complete(self, request):
            if slow in request.key:
                await release.wait()
            return await super().complete(request)

    engine = Debate(
        society(),
        TASK,
        {"scripted:": Slow(says)},
        store,
        StageKey(1, "train", "m", "sampled"),
        rules(),
    )
    async for question in engine.run(questions):
        order.append(question.question_id)
        release.set()
    assert order == [questions[1].question_id, slow]


async def test_questions_in_flight_are_bounded(store):
    busy: set[str] = set()
    most = 0

    def script(request):
        nonlocal most
        busy.add(request.key.split("/")[1])
        most = max(most, len(busy - done))
        return says(request)

    done: set[str] = set()
    engine = Debate(
        society(),
        TASK,
        {"scripted:": ScriptedProvider(script)},
        store,
        StageKey(1, "train", "m", "sampled"),
        rules(questions_in_flight=2),
    )
    async for question in engine.run(TASK.questions("train", 0, 9)):
        done.add(question.question_id)
    assert len(done) == 9
    assert most <= 2 + 1


async def test_estimated_tokens_are_estimated_in_the_arms_that_share_the_answer(store):
    question = TASK.questions("train", 0, 1)[0]

    def script(request):
        told = "a1" not in request.key
        return Completion(says(request), "stop", 5, 5, 1.0, estimated=not told)

    await debate(store, script, [question])
    first = StageKey(1, "train", "multiagent", "sampled")
    never_asked = ScriptedProvider(lambda request: pytest.fail(request.key))
    other = Debate(
        society(),
        TASK,
        {"scripted:": never_asked},
        store,
        StageKey(1, "train", "other", "sampled"),
        rules(),
        shared=SharedAnswers(store.turns(first)),
    )
    assert [q async for q in other.run([question])] == [question]
    marks = "SELECT agent, round, tokens_estimated FROM turns WHERE arm = ? ORDER BY ALL"
    expected = [(agent, number, agent == 1) for agent in (1, 2, 3) for number in (1, 2)]
    assert store.rows(marks, ["other"]) == store.rows(marks, ["multiagent"]) == expected
