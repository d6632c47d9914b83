"""Responses of a transcript file, and the whole debates they make: one size, no missing answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evals.answers.thoughts import set_thought_apart
from evals.tasks.base import Task
from providers.types import FinishReason
from society.config.load import ConfigError
from society.method.voting import count_votes, extract_answer, is_unanimous
from store.records import StageKey, TurnKind

_MOST_CAUSES = 20
_MOST_PLACES = 8
_VALUE = re.compile(r"""\d+|'[^']*'|"[^"]*\"""")


class TranscriptError(ConfigError):
    """A transcript file cannot be imported, and nothing was written. One entry per cause."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        causes = group_problems(problems)
        lines = [
            f"{source} cannot be imported, {len(problems)} problem(s):",
            *causes[:_MOST_CAUSES],
        ]
        if len(causes) > _MOST_CAUSES:
            lines.append(f"… and {len(causes) - _MOST_CAUSES} more causes")
        super().__init__("\n  ".join(lines))
        self.problems = tuple(problems)


def group_problems(problems: Sequence[str]) -> list[str]:
    """Each cause once, with all its places; a problem is written "PLACE: what is wrong".

    Problems that differ in numbers and quoted values only have the same cause.
    """
    causes: dict[str, list[str]] = {}
    for problem in problems:
        # Without its values, a message is the same for every line with that fault.
        causes.setdefault(_VALUE.sub("", problem), []).append(problem)
    return [_merge_alike(alike) for alike in causes.values()]


def _merge_alike(alike: Sequence[str]) -> str:
    first, *rest = alike
    if not rest:
        return first
    places = [problem.partition(": ")[0] for problem in rest]
    shown = ", ".join(places[:_MOST_PLACES]) + (", …" if len(places) > _MOST_PLACES else "")
    return f"{first}\n    and {len(rest)} more like it: {shown}"


@dataclass(frozen=True, slots=True)
class ImportedTurn:
    """One response. `where` is its place in the file, for messages.

    `messages` is the conversation it answers, as `store.content.messages_json` writes it; None if
    the file has none. If `answer` is None, it is read from the response. `meta` belongs to the
    question, as a JSON object.
    """

    where: str
    stage: StageKey
    question: str
    agent: int
    round: int
    response: str
    kind: TurnKind = "answer"
    question_id: str | None = None
    gold: str | None = None
    model: str | None = None
    messages: str | None = None
    answer: str | None = None
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float = 0.0
    error: str | None = None
    meta: str | None = None

    def read_answer(self, task: Task) -> str | None:
        """The answer that the file gives, else the one that the response states."""
        # Answers that were cut or refused have no label in society's own runs either.
        if self.kind != "answer" or self.finish_reason != "stop":
            return None
        _, response = set_thought_apart(self.response)
        return self.answer or extract_answer(task, response, self.finish_reason)

    @property
    def place(self) -> tuple[int, int, TurnKind]:
        """Its place in the debate."""
        return self.agent, self.round, self.kind


def to_text(value: str | int | float | None) -> str | None:
    """An answer or gold answer as text; None if it is missing or blank."""
    if value is None:
        return None
    # JSON writers turn 4 into 4.0; beyond 2**53 a float is not exact, so it is kept.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return str(value).strip() or None


TurnPlace = tuple[int, int, TurnKind]
"""Agent, round and kind."""

Size = tuple[tuple[int, ...], int]
"""The numbers of the agents, and how many rounds they speak."""


@dataclass(frozen=True, slots=True)
class ImportedDebate:
    """One debate; `turns` by (agent, round, kind)."""

    stage: StageKey
    question_id: str
    turns: Mapping[TurnPlace, ImportedTurn]

    @property
    def title(self) -> str:
        stage = self.stage
        return f"question {self.question_id!r} ({stage.split}, iteration {stage.iteration})"

    @property
    def size(self) -> Size:
        """The agents of the debate, including those with summaries only, and the highest round."""
        agents = tuple(sorted({agent for agent, _, _ in self.turns}))
        return agents, max(number for _, number, _ in self.turns)

    def find_missing(self, size: Size) -> tuple[tuple[int, int], int] | None:
        """(agent, round) of the first missing answer, and how many are missing.

        The steps are bounded by the lines of the debate, however high the numbers in a file are.
        """
        agents, rounds = size
        members = set(agents)
        found = sum(
            kind == "answer" and agent in members and number <= rounds
            for agent, number, kind in self.turns
        )
        lacking = len(agents) * rounds - found
        if not lacking:
            return None
        grid = ((agent, number) for agent in agents for number in range(1, rounds + 1))
        return next(place for place in grid if (*place, "answer") not in self.turns), lacking


@dataclass(frozen=True, slots=True)
class ImportedDebates:
    """The complete debates, each with `rounds` rounds, or fewer if it ended early; `left_out` says
    what the others lack.

    `numbers` are the agents' numbers in the file; in the debates they are 1, 2, … in that order.
    """

    complete: tuple[ImportedDebate, ...]
    numbers: tuple[int, ...]
    rounds: int
    left_out: tuple[str, ...]

    @property
    def agents(self) -> int:
        """How many agents each debate has."""
        return len(self.numbers)

    @property
    def has_summaries(self) -> bool:
        """Whether any agent got a summary of the others' answers."""
        return any(kind == "summary" for debate in self.complete for _, _, kind in debate.turns)


def gather_debates(
    spoken: Sequence[ImportedTurn],
    ids: Sequence[str],
    problems: list[str],
    ends_early: Callable[[StageKey], bool] = lambda stage: False,
) -> ImportedDebates:
    """Group responses (with their question ids) into debates.

    All debates must have the size of most complete debates; the others are incomplete. Numbers of
    agents may have gaps. A duplicate response goes to `problems`. In a stage where debates may end
    early, they may have fewer rounds; `leave_out_open_ends` says which of these are complete.
    """
    grouped: dict[tuple[StageKey, str], dict[TurnPlace, ImportedTurn]] = {}
    for each, question_id in zip(spoken, ids, strict=True):
        places = grouped.setdefault((each.stage, question_id), {})
        before = places.setdefault(each.place, each)
        if before is not each:
            problems.append(
                f"{each.where}: {each.kind} of agent {each.agent} in round {each.round} is in "
                f"{before.where} already; remove one, or tell them apart by iteration or decoding"
            )
    debates = [ImportedDebate(stage, name, places) for (stage, name), places in grouped.items()]
    usual = _find_usual_size(debates)
    if any(ends_early(debate.stage) for debate in debates):
        # Most debates may have ended before the last round.
        whole = (debate.size[1] for debate in debates if _is_whole(debate, usual[0]))
        usual = usual[0], max(whole, default=usual[1])
    complete, left_out = [], []
    for debate in debates:
        ended = ends_early(debate.stage) and _is_whole(debate, usual[0])
        if ended or (lack := _describe_lack(debate, usual)) is None:
            complete.append(_renumber_agents(debate, usual[0]))
        else:
            left_out.append(f"{debate.title}: {lack}")
    return ImportedDebates(tuple(complete), *usual, tuple(left_out))


def leave_out_open_ends(debates: ImportedDebates, task: Task) -> ImportedDebates:
    """Count debates with fewer rounds than the others as incomplete, unless all agents agree."""
    complete, left_out = [], list(debates.left_out)
    for debate in debates.complete:
        held = debate.size[1]
        if held == debates.rounds or _ends_in_agreement(debate, task):
            complete.append(debate)
        else:
            left_out.append(
                f"{debate.title}: it ends with round {held} of {debates.rounds} although not all "
                "agents agree"
            )
    return replace(debates, complete=tuple(complete), left_out=tuple(left_out))


def _ends_in_agreement(debate: ImportedDebate, task: Task) -> bool:
    agents, held = debate.size
    answers = [debate.turns[agent, held, "answer"].read_answer(task) for agent in agents]
    return is_unanimous(count_votes(answers, task.equivalent), len(agents))


def _is_whole(debate: ImportedDebate, agents: tuple[int, ...]) -> bool:
    """Whether a debate has all answers of `agents` up to its own last round."""
    return debate.size[0] == agents and debate.find_missing(debate.size) is None


def find_unexplained(debates: ImportedDebates) -> Iterator[str]:
    """Turns whose prompt cannot be rebuilt, since both messages and summary are missing."""
    for debate in debates.complete:
        for (agent, number, kind), turn in debate.turns.items():
            if kind == "summary" or number == 1 or turn.messages is not None:
                continue
            if (agent, number, "summary") not in debate.turns:
                yield (
                    f"{turn.where}: no messages, and no summary for agent {agent} in round "
                    f"{number}, although others = summarized; add one of them, or set "
                    "--set society.others=quoted"
                )


def _find_usual_size(debates: Sequence[ImportedDebate]) -> Size:
    # Only debates without a hole vote on the usual size.
    sizes = Counter(debate.size for debate in debates if debate.find_missing(debate.size) is None)
    whole = [set(agents) for agents, _ in sizes if _has_no_gap(agents)]
    # If other debates have the agent of a gap, its answer is missing. If none has, the file just
    # does not number its agents 1, 2, 3.
    counted = {
        size: count
        for size, count in sizes.items()
        if _has_no_gap(size[0])
        or (len(size[0]) > 1 and not any(agents > set(size[0]) for agents in whole))
    }
    if counted:
        return max(
            counted,
            key=lambda size: (counted[size], _has_no_gap(size[0]), len(size[0]), size[1], size),
        )
    spoken = {1} | {agent for debate in debates for agent in debate.size[0]}
    return tuple(sorted(spoken)), max(debate.size[1] for debate in debates)


def _has_no_gap(agents: tuple[int, ...]) -> bool:
    return agents[-1] == len(agents)


def _describe_lack(debate: ImportedDebate, usual: Size) -> str | None:
    if (missing := debate.find_missing(usual)) is not None:
        (agent, number), lacking = missing
        more = f" and {lacking - 1:,} more answers" if lacking > 1 else ""
        lack = f"agent {agent} has no answer in round {number}{more}"
        if _is_whole(debate, usual[0]):
            lack += " (if debates end once all agents agree: --set society.early_end=true)"
        return lack
    # No answer is missing, so the debate has more than the others: agents or rounds.
    agents, rounds = debate.size
    if strangers := sorted(set(agents) - set(usual[0])):
        others = f"{len(usual[0])} agents, the highest called {usual[0][-1]}"
        return f"agent {strangers[0]} speaks, others have {others}"
    if rounds != usual[1]:
        return f"{len(agents)} agents and {rounds} rounds, others {len(usual[0])} and {usual[1]}"
    return None


def _renumber_agents(debate: ImportedDebate, agents: tuple[int, ...]) -> ImportedDebate:
    if _has_no_gap(agents):
        return debate
    number = {agent: place for place, agent in enumerate(agents, start=1)}
    turns = {
        (number[agent], at, kind): replace(each, agent=number[agent])
        for (agent, at, kind), each in debate.turns.items()
    }
    return replace(debate, turns=turns)
