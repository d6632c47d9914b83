"""The debate: every question on its own, as fast as its own turns come in.

Round 1: each agent's generator answers the task prompt. Every later round: the agent's critic
continues the agent's own conversation with one more user turn, which shows the other agents'
responses of the round before, quoted or as a summary that the untuned base writes for this agent
(Algorithm 1 of arXiv 2501.05707). With `early_end` no round follows one in which all agents agree.
No question waits for another, and every response is stored as it arrives; the votes and verdicts of
a debate are stored together, last, so a debate that has votes is complete.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from evals.answers.thoughts import set_thought_apart
from evals.arm_kinds import OtherResponses
from evals.tasks.base import Task, TaskQuestion
from providers.base import Provider
from providers.errors import (
    ContextOverflow,
    RequestError,
    RequestFailed,
    RetryableError,
    RunError,
)
from providers.limits import get_breakers
from providers.types import Message, ModelRef, Request, Sampling
from society.method.agents import Agent, Society
from society.method.purpose import describe_turn, spend_for
from society.method.reuse import SharedAnswers, take_over
from society.method.spans import describe_completion, open_call_span, open_span
from society.method.voting import (
    LabelVote,
    Tally,
    build_tie_key,
    count_round,
    count_votes,
    explain_empty,
    extract_answer,
    is_unanimous,
    judge_debate,
)
from society.prompts import Wording
from store.content import make_storable, messages_json
from store.records import Failure, Labels, StageKey, Turn, TurnKind, utc_now
from store.tables import Record

# How long calls in flight may still take when the run stops. Without a bound a call that is
# retried again and again would keep the run from stopping.
_LONGEST_WAIT_S = 60.0
MOST_IN_FLIGHT = 1024
"""How many questions are debated at once, unless there are many servers."""


class Recorder(Protocol):
    """Where turns are kept: the run's store, or nowhere for a question asked in passing."""

    async def append(self, *rows: Record) -> None:
        """Keep all rows or none; returns once they are kept."""


@dataclass(frozen=True, slots=True)
class LabelVoters:
    """Who votes on the labels of training debates: the answers given here, by question, and with
    `first_round` those of the debate's own first round before them. `quorum` as in `DebateRules`.
    """

    answers: Mapping[str, Sequence[str | None]]
    first_round: bool
    quorum: int


@dataclass(frozen=True, slots=True)
class DebateRules:
    """How one debate is held.

    `summary_sampling` is for the summarizer only. Agents take the entries of `agent_sampling` in
    turn; without any, all have `sampling`. `label` says what training answers are compared with,
    `quorum` how many voters a training label needs; `seed` decides ties in evaluation. `early_end`
    ends a debate after the round in which all agents agree. `label_voters` label training debates
    in place of their own votes. `noise` names what answers and ties are drawn from, in place of the
    question's id, so that a question that is asked again under another id can be answered alike.
    """

    rounds: int
    others: OtherResponses
    sampling: Sampling
    summary_sampling: Sampling
    drop_ties: bool
    quorum: int = 1
    seed: int = 0
    label: Labels = "final"
    questions_in_flight: int = MOST_IN_FLIGHT
    wording: Wording = field(default_factory=Wording)
    agent_sampling: tuple[Sampling, ...] = ()
    early_end: bool = False
    label_voters: LabelVoters | None = None
    noise: str | None = None

    def sampling_of(self, agent: int) -> Sampling:
        """How the answers of agent `agent` (from 1) are drawn."""
        if not self.agent_sampling:
            return self.sampling
        return self.agent_sampling[(agent - 1) % len(self.agent_sampling)]


class Debate:
    """Debates questions of one stage between one society, resuming from `known` turns.

    `shared` holds answers that other arms got to the same requests; these are not requested again.
    `again` are turns that failed in an earlier start and are requested once more; if that is
    interrupted, they are stored as failed again. `on_early_end` is told how many rounds a debate
    has left out. Once `stop` returns an error no new request is
    sent; the error is raised after the answers in flight have been stored.

        stage = StageKey(1, "train", "multiagent")
        debate = Debate(society, task, connections, store, stage, rules)
        async for question in debate.run(task.questions("train", 0, 500)):
            ...
    """

    def __init__(
        self,
        society: Society,
        task: Task,
        providers: Mapping[str, Provider],
        recorder: Recorder,
        stage: StageKey,
        rules: DebateRules,
        *,
        known: Iterable[Turn] = (),
        again: Mapping[int, Turn] | None = None,
        shared: SharedAnswers | None = None,
        on_turn: Callable[[Turn], None] = lambda turn: None,
        on_early_end: Callable[[int], None] = lambda rounds: None,
        stop: Callable[[], RunError | None] = lambda: None,
    ) -> None:
        self._society = society
        self._task = task
        self._providers = providers
        self._recorder = recorder
        self._stage = stage
        self._rules = rules
        self._known = {turn.turn_id: turn for turn in known}
        self._again = again or {}
        self._shared = shared or SharedAnswers()
        self._in_flight: defaultdict[str, dict[bytes, asyncio.Future[Turn]]] = defaultdict(dict)
        self._on_turn = on_turn
        self._on_early_end = on_early_end
        self._stop = stop

    async def run(
        self, questions: Sequence[TaskQuestion], samples: Sequence[int] = ()
    ) -> AsyncIterator[TaskQuestion]:
        """Debate all questions, yielding each as it is complete.

        With `samples`, no debate is held: every agent gives these numbers of first answers. Raises
        the first error that is fatal for the run, after the calls in flight were cancelled.
        """
        # One task per question and no round that all questions share: a question whose answers are
        # in goes to its next round, while others still wait for theirs.
        waiting = iter(questions)
        running: dict[asyncio.Task[None], TaskQuestion] = {}

        async def hold(question: TaskQuestion) -> None:
            with open_span("question", self._describe_stage(question)):
                if samples:
                    await self._take_first_answers(question, samples)
                else:
                    await self.debate_question(question)

        try:
            while True:
                while len(running) < self._rules.questions_in_flight:
                    question = next(waiting, None)
                    if question is None:
                        break
                    running[asyncio.create_task(hold(question))] = question
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    question = running.pop(task)
                    task.result()
                    yield question
        finally:
            # A stop of our own lets the answers in flight arrive, since they are paid for. Any
            # other error, and a cancellation from outside, ends them at once.
            if running and self._stop() is not None:
                await asyncio.wait(running, timeout=_LONGEST_WAIT_S)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def debate_question(self, question: TaskQuestion) -> list[Tally]:
        """Hold one debate, round by round; returns the vote of every round that was held."""
        turns: list[Turn] = []
        tallies: list[Tally] = []
        tie_key = build_tie_key(self._rules.seed, self._rules.noise or question.question_id)
        for round_number in range(1, self._rules.rounds + 1):
            earlier = [t for t in turns if t.round == round_number - 1 and t.kind == "answer"]
            with open_span("round", {"society.round": round_number}):
                turns += await _gather_turns(
                    self._answer(question, agent, round_number, earlier)
                    for agent in self._society.agents
                )
            # Comparing answers may take a worker process a second; other debates go on meanwhile.
            tallies.append(
                await asyncio.to_thread(
                    count_round, self._task, self._stage, turns, round_number, tie_key
                )
            )
            if self._rules.early_end and is_unanimous(tallies[-1], len(self._society.agents)):
                break
        label_vote = None
        if (voters := self._rules.label_voters) is not None:
            label_vote = await asyncio.to_thread(self._count_label_vote, voters, question, turns)
        rows = await asyncio.to_thread(
            judge_debate,
            self._task,
            self._stage,
            question,
            turns,
            tallies,
            rounds=self._rules.rounds,
            drop_ties=self._rules.drop_ties,
            quorum=self._rules.quorum,
            label=self._rules.label,
            label_vote=label_vote,
        )
        # Last and all together: a debate that has votes is complete, whenever the process ends.
        self._in_flight.pop(question.question_id, None)
        await self._recorder.append(*rows)
        if left_out := self._rules.rounds - len(tallies):
            self._on_early_end(left_out)
        return tallies

    def _describe_stage(self, question: TaskQuestion) -> dict[str, str | int]:
        stage = self._stage
        return {
            "society.question": question.question_id,
            "society.iteration": stage.iteration,
            "society.split": stage.split,
            "society.arm": stage.arm,
            "society.decoding": stage.decoding,
        }

    def _count_label_vote(
        self, voters: LabelVoters, question: TaskQuestion, turns: Sequence[Turn]
    ) -> LabelVote:
        own = [
            t.answer for t in turns if t.round == 1 and t.kind == "answer" and voters.first_round
        ]
        answers = [*own, *voters.answers.get(question.question_id, ())]
        return LabelVote(count_votes(answers, self._task.equivalent), voters.quorum)

    async def _take_first_answers(self, question: TaskQuestion, samples: Sequence[int]) -> None:
        await _gather_turns(
            self._answer(question, agent, 1, (), sample)
            for sample in samples
            for agent in self._society.agents
        )
        self._in_flight.pop(question.question_id, None)

    async def _answer(
        self,
        question: TaskQuestion,
        agent: Agent,
        round_number: int,
        earlier: Sequence[Turn],
        sample: int = 0,
    ) -> Turn:
        """The answer of one agent in round `round_number`; `earlier` are all answers of the round
        before, in the order of the agents."""
        wording = self._rules.wording
        if round_number == 1:
            opening = wording.open_conversation(self._task, question.text, agent.number)
            return await self._take_turn(
                *self._prepare(question, agent, 1, "answer", agent.generator, opening, sample)
            )
        others = [turn for turn in earlier if turn.agent != agent.number]
        summary = None
        if self._rules.others == "summarized" and others:
            model = self._society.summarizer
            request = wording.build_summary_messages(others)
            summary = await self._take_turn(
                *self._prepare(question, agent, round_number, "summary", model, request)
            )
        own = earlier[agent.number - 1]
        messages = wording.build_critic_messages(own, others, summary, self._task.answer_form)
        return await self._take_turn(
            *self._prepare(question, agent, round_number, "answer", agent.critic, messages)
        )

    def _prepare(
        self,
        question: TaskQuestion,
        agent: Agent,
        round_number: int,
        kind: TurnKind,
        model: ModelRef,
        messages: tuple[Message, ...],
        sample: int = 0,
    ) -> tuple[Turn, Request]:
        """The turn before its response, and the request that gets the response."""
        stage = self._stage
        turn = Turn(
            iteration=stage.iteration,
            arm=stage.arm,
            split=stage.split,
            decoding=stage.decoding,
            question_id=question.question_id,
            agent=agent.number,
            round=round_number,
            kind=kind,
            model_id=model.model_id,
            messages=messages_json([asdict(m) for m in messages]),
            response="",
            answer=None,
            finish_reason="error",
            prompt_tokens=0,
            completion_tokens=0,
            latency_ms=0.0,
            sample=sample,
        )
        rules = self._rules
        sampling = rules.sampling_of(agent.number) if kind == "answer" else rules.summary_sampling
        again = turn.turn_id in self._again
        return turn, Request(model, messages, sampling, _build_noise_key(turn, rules.noise), again)

    async def _take_turn(self, draft: Turn, request: Request) -> Turn:
        """The stored turn of this key; else the draft with its response, which is stored now."""
        if (stored := self._known.get(draft.turn_id)) is not None:
            return stored
        self._raise_if_stopped()
        failed = self._again.get(draft.turn_id)
        key = self._shared.key_of(draft)
        try:
            if (source := self._shared.find(key)) is not None:
                turn = take_over(draft, source)
            elif not self._shared.repeats(draft.model_id):
                turn = await self._ask(draft, request)
            elif (running := self._in_flight[draft.question_id].get(key)) is not None:
                # Another agent of this debate has sent the same request; shielded, because the
                # answer is that agent's too.
                turn = take_over(draft, await asyncio.shield(running))
            else:
                running = asyncio.ensure_future(self._ask(draft, request))
                self._in_flight[draft.question_id][key] = running
                turn = await running
        except BaseException as error:
            # The run stops. A request that is known to fail is stored as failed, so that the next
            # start knows that it may ask again.
            if failed is None and isinstance(error, RetryableError) and error.given_up is not None:
                failed = _record_failure(draft, error, again=False)
            if failed is not None:
                await self._recorder.append(failed)
            raise
        await self._recorder.append(turn)
        self._on_turn(turn)
        self._raise_if_stopped()
        return turn

    async def _ask(self, draft: Turn, request: Request) -> Turn:
        try:
            with spend_for(describe_turn(draft)), open_call_span(draft) as span:
                completion = await self._providers[request.model.address].complete(request)
                describe_completion(span, completion)
        except RequestError as error:
            # An answer the provider can never give is part of the record: it casts no vote.
            return _record_failure(draft, error, again=request.again)
        thought, response = set_thought_apart(make_storable(completion.text))
        if completion.thought:
            thought = make_storable(completion.thought)
        reason = completion.finish_reason
        # The answer is read from what is stored, so reading it again later gives the same.
        answer = extract_answer(self._task, response, reason) if draft.kind == "answer" else None
        why = completion.error or explain_empty(response, reason, thought=thought)
        return replace(
            draft,
            response=response,
            thought=thought,
            answer=answer,
            finish_reason=reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            tokens_estimated=completion.estimated,
            latency_ms=completion.latency_ms,
            error=None if why is None else make_storable(why),
            created_at=utc_now(),
        )

    def _raise_if_stopped(self) -> None:
        if (error := self._stop()) is not None:
            # Calls that wait to be sent are not sent any more.
            get_breakers().trip_present(error)
            raise error


def _build_noise_key(turn: Turn, noise: str | None) -> str:
    # The arm is left out, so arms that ask the same thing get the same answer; evaluation
    # leaves out the iteration, so societies are compared under common random numbers.
    which = "eval" if turn.split == "eval" else f"{turn.split}{turn.iteration}"
    key = f"{which}/{noise or turn.question_id}/a{turn.agent}/r{turn.round}/{turn.kind}"
    return f"{key}/s{turn.sample}" if turn.sample else key


def _record_failure(turn: Turn, error: RequestError | RetryableError, *, again: bool) -> Turn:
    """`turn` as the record that its request failed."""
    failure: Failure = "final" if again else "refused"
    if isinstance(error, RequestFailed | RetryableError):
        failure = "passing"
    elif isinstance(error, ContextOverflow):
        failure = "final"
    message = getattr(error, "given_up", None) or str(error)
    return replace(turn, error=make_storable(message), failure=failure, created_at=utc_now())


async def _gather_turns(turns: Iterable[Coroutine[object, object, Turn]]) -> list[Turn]:
    # Not a TaskGroup, which cancels the others when one fails: an answer in flight is paid for,
    # so all are awaited before the first error is raised.
    found = await asyncio.gather(*turns, return_exceptions=True)
    for turn in found:
        if isinstance(turn, BaseException):
            raise turn
    return [turn for turn in found if isinstance(turn, Turn)]
