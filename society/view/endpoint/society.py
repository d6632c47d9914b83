"""The served society: its debates share one set of connections, which is renewed when it fails.

All questions go to the same providers, so that those of many requests share batches and limits. A
provider that has met an error that every later call would meet stays stopped; a server that goes on
for weeks needs a new connection then, while debates that are under way keep the old one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from evals.tasks.base import Task, TaskQuestion
from providers.errors import BudgetReached, RetryableError, RunError
from providers.types import Sampling
from society.method.agents import Society
from society.method.arms import Arm
from society.method.connections import Connections
from society.method.debate import Debate, DebateRules, Recorder
from society.method.voting import Tally
from society.view.endpoint.body import ChatQuestion
from society.view.endpoint.forms import AnswerForm
from society.view.endpoint.refusals import RequestRefused
from store.records import Decoding, StageKey, Turn


@dataclass(frozen=True, slots=True)
class ServedDebate:
    """One debate that a request has asked for. `answer_turn` is the turn whose text is the answer:
    that of an agent whose answer is the consensus, or the first one where there is none."""

    form: AnswerForm
    agents: int
    tally: Tally
    rounds: int
    turns: tuple[Turn, ...]
    answer_turn: Turn

    @property
    def prompt_tokens(self) -> int:
        """Over all calls of the debate."""
        return sum(turn.prompt_tokens for turn in self.turns)

    @property
    def completion_tokens(self) -> int:
        """Over all calls of the debate."""
        return sum(turn.completion_tokens for turn in self.turns)


class ServedRecord(Recorder, Protocol):
    """Where served debates are kept."""

    async def open_question(self, name: str, question: ChatQuestion) -> None:
        """Keep the question itself, before its debate begins."""


@dataclass(frozen=True, slots=True)
class ServedRun:
    """What of a run is needed to answer: its society of `iteration`, and the rules of its arm.

    Behind the agents of its arm, `society` has one agent for each distilled model.
    """

    name: str
    iteration: int
    arm: Arm
    society: Society
    task: Task
    rules: DebateRules


class _Lease:
    """A set of open connections, and how many debates use it."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        # Old connections are closed when the last debate on them has ended.
        self.users = 0
        self.retired = False


class ServedSociety:
    """Holds the debates that requests ask for.

        served = ServedSociety(run, open_connections, record)
        await served.open()
        debate = await served.hold_debate(form, question, "chatcmpl-1-0", 0, print)
        await served.close()

    For the tasks of one event loop. `open_connections` opens them with the society's adapters
    loaded.
    """

    def __init__(
        self,
        run: ServedRun,
        open_connections: Callable[[], Awaitable[Connections]],
        record: ServedRecord,
    ) -> None:
        self.run = run
        self._open_connections = open_connections
        self._record = record
        self._current: _Lease | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect now, so that what cannot be opened shows before the first request."""
        await self._find_current()

    async def close(self) -> None:
        """Close the connections. No debate may be under way."""
        current, self._current = self._current, None
        if current is not None:
            await current.connections.close()

    def check_limits(self, form: AnswerForm, question: ChatQuestion, most: int | None) -> None:
        """Raise `RequestRefused` if a request could write more than `most` tokens, over all calls,
        or asks for a sampling that a model of the society does not have."""
        sampling = self._find_sampling(question, self.run.rules.sampling)
        # What the run itself asks of its models was checked when it was started.
        if question.stated and self._current is not None:
            for provider in self._current.connections.values():
                if faults := provider.validate_sampling(sampling):
                    fault = faults[0].removeprefix("sampling.")
                    named = next((name for name in question.stated if name in fault), None)
                    raise RequestRefused(400, fault, code="unsupported_parameter", param=named)
        # The most, not what is likely: nothing has been asked yet that could not be paid.
        tokens = question.choices * self._count_tokens(form, question)
        if most is not None and tokens > most:
            calls = form.to_arm(self.run.arm).calls()
            raise RequestRefused(
                400,
                f"{question.choices} x {calls} calls of {form.model} could write {tokens:,} tokens "
                f"and this server allows {most:,} for a request; lower max_tokens or n, or ask a "
                "smaller model of this server",
                code="too_many_tokens",
                param="max_tokens",
            )

    def _count_tokens(self, form: AnswerForm, question: ChatQuestion) -> int:
        """The most tokens that one debate can write."""
        rules, arm = self.run.rules, form.to_arm(self.run.arm)
        longest = max(
            self._find_sampling(question, rules.sampling_of(agent.number)).max_tokens
            for agent in self._find_agents(form).agents
        )
        answers = arm.agents * arm.rounds
        summaries = arm.calls() - answers
        return answers * longest + summaries * rules.summary_sampling.max_tokens

    async def hold_debate(
        self,
        form: AnswerForm,
        question: ChatQuestion,
        name: str,
        choice: int,
        on_turn: Callable[[Turn], None],
    ) -> ServedDebate:
        """Debate a question under the unique `name`; `choice` counts a request's debates from 0.

        `on_turn` gets every turn as it comes. Raises `RequestRefused` if no agent could answer, and
        the provider's and the store's errors.
        """
        await self._record.open_question(name, question)
        lease = await self._find_current()
        lease.users += 1
        turns: list[Turn] = []

        def keep(turn: Turn) -> None:
            turns.append(turn)
            on_turn(turn)

        try:
            debate = Debate(
                society := self._find_agents(form),
                self.run.task,
                lease.connections,
                self._record,
                self._name_stage(form, question),
                self._build_rules(form, question, choice),
                on_turn=keep,
            )
            tallies = await debate.debate_question(TaskQuestion(name, question.text, gold=None))
        except (RetryableError, RunError) as error:
            # The budget is the user's, and no other connection would have more of it.
            if not isinstance(error, BudgetReached):
                self._retire(lease)
            raise
        finally:
            lease.users -= 1
            await self._close_unused(lease)
        answer = _choose_turn(turns, len(tallies), tallies[-1])
        return ServedDebate(
            form, len(society.agents), tallies[-1], len(tallies), tuple(turns), answer
        )

    def _find_agents(self, form: AnswerForm) -> Society:
        society = self.run.society
        if form.agent is None:
            # Behind the agents stand the distilled models, which take no part in debates.
            return society.first(self.run.arm.agents)
        return replace(society, agents=(society.agents[form.agent - 1],))

    def _name_stage(self, form: AnswerForm, question: ChatQuestion) -> StageKey:
        sampling = self._find_sampling(question, self.run.rules.sampling)
        decoding: Decoding = "sampled" if sampling.temperature > 0 else "greedy"
        return StageKey(self.run.iteration, "eval", form.model, decoding)

    def _build_rules(self, form: AnswerForm, question: ChatQuestion, choice: int) -> DebateRules:
        rules = self.run.rules
        summary = self._find_sampling(question, rules.summary_sampling)
        return replace(
            rules,
            rounds=form.rounds,
            early_end=form.early_end,
            sampling=self._find_sampling(question, rules.sampling),
            agent_sampling=tuple(self._find_sampling(question, s) for s in rules.agent_sampling),
            # The limit of a request is about answers; a summary has a length of its own.
            summary_sampling=replace(summary, max_tokens=rules.summary_sampling.max_tokens),
            wording=replace(rules.wording, earlier=question.earlier),
            noise=None if question.seed is None else f"{_hash_question(question)}/c{choice}",
        )

    def _find_sampling(self, question: ChatQuestion, own: Sampling) -> Sampling:
        stated = dict(question.stated)
        if "top_k" in stated:
            stated["top_k"] = int(stated["top_k"])
        # A server has been told of these that they are off, and is now told a value.
        off = tuple(name for name in own.stated_off if name not in stated)
        sampling = replace(own, **stated, stated_off=off)  # type: ignore[arg-type]
        if question.max_tokens is not None:
            sampling = replace(sampling, max_tokens=question.max_tokens)
        if question.seed is not None:
            sampling = replace(sampling, seed=question.seed % 2**63)
        return sampling

    async def _find_current(self) -> _Lease:
        # Requests that come while it is opened wait for that, and do not open it again.
        async with self._opening:
            if self._current is None:
                self._current = _Lease(await self._open_connections())
            return self._current

    def _retire(self, lease: _Lease) -> None:
        lease.retired = True
        if self._current is lease:
            self._current = None

    async def _close_unused(self, lease: _Lease) -> None:
        if lease.retired and not lease.users:
            await lease.connections.close()


def _choose_turn(turns: Sequence[Turn], last_round: int, tally: Tally) -> Turn:
    """The answer of the last round that speaks for the society."""
    last = sorted(
        (turn for turn in turns if turn.round == last_round and turn.kind == "answer"),
        key=lambda turn: turn.agent,
    )
    if all(turn.failure is not None for turn in last):
        passing = last[0].failure == "passing"
        said = f"no agent could answer: {last[0].error}"
        if passing:
            raise RequestRefused(503, said, "server_error", "overloaded", again=True)
        raise RequestRefused(400, said, param="messages")
    # The same words as the vote's, not only an equal value: a client may compare texts.
    same = [turn for turn in last if turn.answer is not None and turn.answer == tally.answer]
    return next(iter(same or [turn for turn in last if turn.response] or last))


def _hash_question(question: ChatQuestion) -> str:
    said = [asdict(message) for message in question.earlier]
    return hashlib.sha256(json.dumps([said, question.text]).encode()).hexdigest()[:32]
