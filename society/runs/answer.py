"""What a society answered to one question, as an object that a notebook shows as a debate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

from markupsafe import Markup

from evals.choices import name_society
from evals.invisible import escape_invisible, one_line
from society.method.voting import Tally
from store.records import Turn

_SHOWN = 200
# Inline, since a notebook keeps no style sheet of ours; greys that light and dark themes share.
_CELL = (
    "border:1px solid #8886;padding:.5em;vertical-align:top;text-align:left;white-space:normal;"
    "max-width:30em"
)
_TEXT = (
    "white-space:pre-wrap;overflow-wrap:anywhere;max-height:14em;overflow:auto;margin:.4em 0 0;"
    "font-family:inherit;background:none;color:inherit;padding:0"
)


@dataclass(frozen=True, slots=True)
class RoundTally:
    """The vote of one round: `votes` of the agents gave `answer`, in one of its `spellings`.

    `voters` agents stated an answer that could be read; after a `tie` a hash has decided.
    """

    round: int
    answer: str | None
    votes: int
    voters: int
    tie: bool
    spellings: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class SocietyAnswer:
    """What a society answered: the vote of its last round, that of every round, and every turn.

    `answer` is None if no agent stated one. `votes` of `agents` agents gave it; after a `tie` a
    hash has decided.
    """

    question: str
    answer: str | None
    votes: int
    agents: int
    tie: bool
    iteration: int
    rounds: tuple[RoundTally, ...]
    turns: tuple[Turn, ...]

    def __repr__(self) -> str:
        """The question, the answers of every round, and the vote, as text."""
        lines = [f"{shorten(one_line(self.question), _SHOWN)}"]
        for vote in self.rounds:
            said = (
                f"agent {turn.agent}: {_name_answer(turn.answer)}"
                for turn in self._list_turns(vote.round, "answer")
            )
            lines.append(f"  round {vote.round}: {', '.join(said)}")
        lines.append(f"{name_society(self.iteration)} answers {self._describe_vote()}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The debate as a table, a row for each round and a column for each agent."""
        agents = sorted({turn.agent for turn in self.turns})
        heads = [Markup('<th style="{}">agent {}</th>').format(_CELL, n) for n in agents]
        rows = [self._draw_round(vote, agents) for vote in self.rounds]
        return Markup(
            # A notebook would take dollar signs for formulas.
            '<div class="tex2jax_ignore mathjax_ignore" style="overflow-x:auto">'
            '<p><b>{question}</b></p><table style="border-collapse:collapse"><thead>'
            '<tr><th style="{cell}"></th>{heads}'
            '<th style="{cell}">vote</th></tr></thead><tbody>{rows}</tbody></table>'
            "<p>{who} answers <b>{vote}</b></p></div>"
        ).format(
            question=escape_invisible(self.question),
            cell=_CELL,
            heads=Markup("").join(heads),
            rows=Markup("").join(rows),
            who=name_society(self.iteration).capitalize(),
            vote=self._describe_vote(),
        )

    def _draw_round(self, vote: RoundTally, agents: Sequence[int]) -> Markup:
        cells = [self._draw_turns(vote, agent) for agent in agents]
        return Markup(
            '<tr><th style="{cell}">round {number}</th>{cells}<td style="{cell}"><b>{answer}</b>'
            "<br>{votes} of {agents}{tie}</td></tr>"
        ).format(
            cell=_CELL,
            number=vote.round,
            cells=Markup("").join(cells),
            answer=_name_answer(vote.answer),
            votes=vote.votes,
            agents=self.agents,
            tie=", a tie" if vote.tie else "",
        )

    def _draw_turns(self, vote: RoundTally, agent: int) -> Markup:
        """One agent's part of a round: what it was shown, if that was a summary, and its answer."""
        parts = [
            _draw_aside("summary of the others", turn.response)
            for turn in self._list_turns(vote.round, "summary", agent)
        ]
        for turn in self._list_turns(vote.round, "answer", agent):
            # In words too: not everyone sees a color, and not every theme shows it.
            mark = " ✓" if turn.answer in vote.spellings else " ≠ vote" if turn.answer else ""
            parts.append(Markup("<b>{}</b>{}").format(_name_answer(turn.answer), mark))
            if turn.error is not None:
                parts.append(Markup("<div>({})</div>").format(escape_invisible(turn.error)))
            if turn.thought:
                parts.append(_draw_aside("thought", turn.thought))
            parts.append(_draw_text(turn.response))
        style = f"{_CELL};min-width:10em"
        return Markup('<td style="{}">{}</td>').format(style, Markup("").join(parts))

    def _list_turns(self, number: int, kind: str, agent: int | None = None) -> list[Turn]:
        found = [turn for turn in self.turns if (turn.round, turn.kind) == (number, kind)]
        # They are in the order of their arrival.
        return sorted(
            (turn for turn in found if agent in (None, turn.agent)), key=lambda turn: turn.agent
        )

    def _describe_vote(self) -> str:
        if self.answer is None:
            return "nothing: no agent stated a final answer"
        tie = ", a tie" if self.tie else ""
        return f"{_name_answer(self.answer)} ({self.votes} of {self.agents} agents{tie})"


def build_answer(
    question: str, agents: int, iteration: int, tallies: Sequence[Tally], turns: Sequence[Turn]
) -> SocietyAnswer:
    """The answer of a debate, from the votes of its rounds."""
    rounds = tuple(
        RoundTally(number, each.answer, each.votes, each.voters, each.tie, (*sorted(each.members),))
        for number, each in enumerate(tallies, start=1)
    )
    last = rounds[-1]
    return SocietyAnswer(
        question, last.answer, last.votes, agents, last.tie, iteration, rounds, tuple(turns)
    )


def _name_answer(answer: str | None) -> str:
    return "no answer" if answer is None else shorten(one_line(answer), _SHOWN)


def _draw_text(text: str) -> Markup:
    return Markup('<pre style="{}">{}</pre>').format(_TEXT, escape_invisible(text))


def _draw_aside(title: str, text: str) -> Markup:
    return Markup("<details><summary>{}</summary>{}</details>").format(title, _draw_text(text))
