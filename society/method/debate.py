"""The debate: every question on its own, as fast as its own turns come in.

Round 1: each agent's generator answers the task prompt. Every later round: the agent's critic
continues the agent's own conversation with one more user turn, which shows the other agents'
responses of the round before, quoted or as a summary that the untuned base writes for this agent
(Algorithm 1 of arXiv 2501.05707). No question waits for another, and every response is stored as
it arrives; the votes and verdicts of a debate are stored together, last, so a debate that has
votes is complete.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol

from evals.tasks.base import Task, TaskQuestion
from providers import halting
from providers.base import Provider
from providers.errors import (
    ContextOverflow,
    RequestError,
    RequestFailed,
    RetryableError,
    RunError,
)
from providers.types import Message, ModelRef, Request, Sampling
from society import prompts
from society.costs.charges import made_for, turn_of
from society.method.agents import Society
from society.method.reuse import Shared, taken_over
from society.method.voting import Tally, lot, outcome, readable, shown, tally, why_empty
from store.records import Failure, Labels, Row, StageKey, Turn, messages_json, storable, utc_now

Kind = Literal["answer", "summary"]
# A call that is made again and again would keep a run from stopping.
_LONGEST_WAIT_S = 60.0


class Recorder(Protocol):
    """Where turns go: the run's store, or the screen."""

    async def append(self, *rows: Row) -> None:
        """Keep all rows or none; returns once they are kept."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How one debate goes. `summary_sampling` is used by the summarizer only; `label` says what
    training answers are held against, `quorum` how many voters a training label takes; `seed`
    decides ties in evaluation."""

    rounds: int
    others: Literal["summarized", "quoted"]
    sampling: Sampling
    summary_sampling: Sampling
    drop_ties: bool
    quorum: int = 1
    seed: int = 0
    label: Labels = "final"
    questions_in_flight: int = 1024


class Debate:
    """Debates questions of one stage between one society, resuming from `known` turns.

    What is in `shared` already is not asked again. `again` are turns that failed in an earlier
    start and are asked once more; where that does not come to an end they stay. Where `stop` gives
    an error nothing more is asked; it is raised once what is on its way has been stored.
    """

    def __init__(
        self,
        society: Society,
        task: Task,
        providers: Mapping[str, Provider],
        recorder: Recorder,
        stage: StageKey,
        rules: Rules,
        *,
        known: Iterable[Turn] = (),
        again: Mapping[int, Turn] | None = None,
        shared: SharedAnswers | None = None,
        on_turn: Callable[[Turn], None] = lambda turn: None,
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
        self._asking: defaultdict[str, dict[bytes, asyncio.Future[Turn]]] = defaultdict(dict)
        self._on_turn = on_turn
        self._stop = stop

    async def run(self, questions: Sequence[TaskQuestion]) -> AsyncIterator[TaskQuestion]:
        """Debate all questions, yielding each as it is complete.

        Raises the first error that is fatal for the run, after the calls in flight were given up.
        """
        waiting = iter(questions)
        running: dict[asyncio.Task[list[Tally]], TaskQuestion] = {}
        try:
            while True:
                while len(running) < self._rules.questions_in_flight:
                    question = next(waiting, None)
                    if question is None:
                        break
                    running[asyncio.create_task(self.question(question))] = question
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    question = running.pop(task)
                    task.result()
                    yield question
        finally:
            if running and self._stop() is not None:
                await asyncio.wait(running, timeout=_LONGEST_WAIT_S)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def question(self, question: TaskQuestion) -> list[Tally]:
        """One debate, round by round; returns the vote of every round."""
        turns: list[Turn] = []
        tallies: list[Tally] = []
        for number in range(1, self._rules.rounds + 1):
            earlier = [turn for turn in turns if turn.round == number - 1]
            turns += await _all(
                self._answer(question, agent.number, number, earlier)
                for agent in self._society.agents
            )
            tallies.append(
                await asyncio.to_thread(
                    count_round,
                    self._task,
                    self._stage,
                    turns,
                    number,
                    build_tie_key(self._rules.seed, question.question_id),
                )
            )
        # Comparing answers may take a worker process a second; other debates go on meanwhile.
        rows = await asyncio.to_thread(
            judge_debate,
            self._task,
            self._stage,
            question,
            turns,
            tallies,
            drop_ties=self._rules.drop_ties,
            quorum=self._rules.quorum,
            label=self._rules.label,
        )
        self._asking.pop(question.question_id, None)
        await self._recorder.append(*rows)
        return tallies

    async def _answer(
        self, question: TaskQuestion, agent: int, number: int, earlier: Sequence[Turn]
    ) -> Turn:
        model = self._society.agents[agent - 1].speaks_with(number)
        if number == 1:
            messages: tuple[Message, ...] = (Message("user", self._task.prompt(question.text)),)
        else:
            own = earlier[agent - 1]
            others = [fill_empty(t.response) for t in earlier if t.agent != agent]
            messages = (
                *(Message(**m) for m in json.loads(own.messages)),
                Message("assistant", fill_empty(own.response)),
                Message("user", await self._shown(question, agent, number, others)),
            )
        return await self._turn(question, agent, number, "answer", model, messages)

    async def _shown(
        self, question: TaskQuestion, agent: int, number: int, others: Sequence[str]
    ) -> str:
        if self._rules.others == "quoted" or not others:
            return prompts.build_quoted_turn(others, self._task.answer_form)
        asked = (Message("user", prompts.build_summary_request(others)),)
        summarizer = self._society.summarizer
        summary = await self._turn(question, agent, number, "summary", summarizer, asked)
        return prompts.build_summary_turn(fill_empty(summary.response), self._task.answer_form)

    async def _turn(
        self,
        question: TaskQuestion,
        agent: int,
        number: int,
        kind: Kind,
        model: ModelRef,
        messages: tuple[Message, ...],
    ) -> Turn:
        stage = self._stage
        turn = Turn(
            iteration=stage.iteration,
            arm=stage.arm,
            split=stage.split,
            decoding=stage.decoding,
            question_id=question.question_id,
            agent=agent,
            round=number,
            kind=kind,
            model_id=model.model_id,
            messages=messages_json([asdict(m) for m in messages]),
            response="",
            answer=None,
            finish_reason="error",
            prompt_tokens=0,
            completion_tokens=0,
            latency_ms=0.0,
        )
        if (stored := self._known.get(turn.turn_id)) is not None:
            return stored
        sampling = self._rules.sampling if kind == "answer" else self._rules.summary_sampling
        self._go_on()
        failed = self._again.get(turn.turn_id)
        key, again = self._noise_key(turn), failed is not None
        try:
            turn = await self._spoken(turn, Request(model, messages, sampling, key, again))
        except BaseException as error:
            # The run stops. A request that is known to fail will mean nothing for others.
            if failed is None and isinstance(error, RetryableError) and error.given_up is not None:
                failed = _failed(turn, error, again=False)
            if failed is not None:
                await self._recorder.append(failed)
            raise
        await self._recorder.append(turn)
        self._on_turn(turn)
        self._go_on()
        return turn

    def _go_on(self) -> None:
        """Raise what ends the run, where anything does."""
        if (error := self._stop()) is not None:
            # What waits to be sent is not sent any more.
            halting.of_this_loop().shut(error)
            raise error

    async def _spoken(self, turn: Turn, request: Request) -> Turn:
        """`turn` with its response: that of the same request, where it was made before."""
        key = self._shared.key_of(turn)
        if (source := self._shared.find(key)) is not None:
            return take_over(turn, source)
        if not self._shared.repeats(turn.model_id):
            return await self._asked(turn, request)
        asking = self._asking[turn.question_id]
        if key in asking:
            return take_over(turn, await asyncio.shield(asking[key]))
        asking[key] = asyncio.ensure_future(self._asked(turn, request))
        return await asking[key]

    async def _asked(self, turn: Turn, request: Request) -> Turn:
        # An answer the provider can never give is part of the record: it casts no vote.
        try:
            with made_for(turn_of(turn)):
                completion = await self._providers[request.model.address].complete(request)
        except RequestError as error:
            return _failed(turn, error, again=request.again)
        # The answer is read from what is stored, so reading it again later gives the same.
        response = storable(completion.text)
        why = completion.error or explain_empty(response, completion.finish_reason)
        answers = turn.kind == "answer"
        return replace(
            turn,
            response=response,
            answer=extract_answer(self._task, response, completion.finish_reason)
            if answers
            else None,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            tokens_estimated=completion.estimated,
            latency_ms=completion.latency_ms,
            error=None if why is None else storable(why),
            created_at=utc_now(),
        )

    def _noise_key(self, turn: Turn) -> str:
        # The arm is left out, so arms that ask the same thing get the same answer; evaluation
        # leaves out the iteration, so societies are compared under common random numbers.
        which = f"train{turn.iteration}" if turn.split == "train" else "eval"
        return f"{which}/{turn.question_id}/a{turn.agent}/r{turn.round}/{turn.kind}"


def _failed(turn: Turn, error: RequestError | RetryableError, *, again: bool) -> Turn:
    """`turn` as the record that its request failed."""
    failure: Failure = "final" if again else "refused"
    if isinstance(error, RequestFailed | RetryableError):
        failure = "passing"
    elif isinstance(error, ContextOverflow):
        failure = "final"
    told = getattr(error, "given_up", None) or str(error)
    return replace(turn, error=storable(told), failure=failure, created_at=utc_now())


async def _all(turns: Iterable[Coroutine[object, object, Turn]]) -> list[Turn]:
    # All of them, also where one fails: an answer that is on its way is paid for.
    found = await asyncio.gather(*turns, return_exceptions=True)
    for turn in found:
        if isinstance(turn, BaseException):
            raise turn
    return [turn for turn in found if isinstance(turn, Turn)]
