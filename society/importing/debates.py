"""From single responses to whole debates: all of the same size, none with a hole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from society.importing.spoken import Spoken
from society.outcome import Scope
from store.records import TurnKind

Place = tuple[int, int, TurnKind]


@dataclass(frozen=True, slots=True)
class ToldDebate:
    """One debate; `spoken` by (agent, round, kind)."""

    scope: Scope
    question_id: str
    spoken: Mapping[Place, Spoken]

    @property
    def title(self) -> str:
        scope = self.scope
        return f"question {self.question_id!r} ({scope.split}, iteration {scope.iteration})"

    @property
    def size(self) -> tuple[int, int]:
        """The highest agent and round that speak, also in summaries."""
        return max(a for a, _, _ in self.spoken), max(r for _, r, _ in self.spoken)

    def missing(self, agents: int, rounds: int) -> list[tuple[int, int]]:
        """(agent, round) of the answers that are not there."""
        grid = product(range(1, agents + 1), range(1, rounds + 1))
        return [(a, r) for a, r in grid if (a, r, "answer") not in self.spoken]


@dataclass(frozen=True, slots=True)
class Debates:
    """The complete debates, each of `agents` and `rounds`; `left_out` says what the others lack."""

    complete: tuple[ToldDebate, ...]
    agents: int
    rounds: int
    left_out: tuple[str, ...]

    @property
    def summarized(self) -> bool:
        """Whether any agent was shown a summary of the others."""
        return any(kind == "summary" for debate in self.complete for _, _, kind in debate.spoken)


def gather(spoken: Sequence[Spoken], ids: Sequence[str], problems: list[str]) -> Debates:
    """Group responses (with their question ids) into debates.

    The size of a debate is what most complete debates have; all others are incomplete. A response
    that is there twice goes to `problems`.
    """
    grouped: dict[tuple[Scope, str], dict[Place, Spoken]] = {}
    for each, question_id in zip(spoken, ids, strict=True):
        places = grouped.setdefault((each.scope, question_id), {})
        before = places.setdefault(each.place, each)
        if before is not each:
            problems.append(
                f"{each.where}: {each.kind} of agent {each.agent} in round {each.round} is in "
                f"{before.where} already; remove one, or tell them apart by iteration or decoding"
            )
    debates = [ToldDebate(scope, name, places) for (scope, name), places in grouped.items()]
    agents, rounds = _usual_size(debates)
    complete, left_out = [], []
    for debate in debates:
        if (lack := _lack(debate, agents, rounds)) is None:
            complete.append(debate)
        else:
            left_out.append(f"{debate.title}: {lack}")
    return Debates(tuple(complete), agents, rounds, tuple(left_out))


def unexplained(debates: Debates) -> Iterator[str]:
    """Turns whose prompt cannot be rebuilt: neither the messages nor the summary are there."""
    for debate in debates.complete:
        for (agent, number, kind), spoken in debate.spoken.items():
            if kind == "summary" or number == 1 or spoken.messages is not None:
                continue
            if (agent, number, "summary") not in debate.spoken:
                yield (
                    f"{spoken.where}: no messages, and no summary for agent {agent} in round "
                    f"{number}, although others = summarized; add either, or set "
                    "--set society.others=quoted"
                )


def _usual_size(debates: Sequence[ToldDebate]) -> tuple[int, int]:
    sizes = Counter(debate.size for debate in debates if not debate.missing(*debate.size))
    if sizes:
        return max(sizes, key=lambda size: (sizes[size], size))
    return max(debate.size[0] for debate in debates), max(debate.size[1] for debate in debates)


def _lack(debate: ToldDebate, agents: int, rounds: int) -> str | None:
    missing = debate.missing(agents, rounds)
    if missing:
        agent, number = missing[0]
        more = f" and {len(missing) - 1} more answers" if len(missing) > 1 else ""
        return f"agent {agent} has no answer in round {number}{more}"
    if debate.size != (agents, rounds):
        return "{} agents and {} rounds".format(*debate.size) + f", others {agents} and {rounds}"
    return None
