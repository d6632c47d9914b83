"""Who gives which answer in which round of one debate, and how far the answers differ.

Answers are told apart without reading them again: those that the verdicts call equal to the label,
or to the gold answer, are one answer however they are written; all others are as they are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from evals.debates import DebateRecord, DebateTurn
from evals.invisible import one_line
from society.view.drawing import LINES, draw_sign

# Of the drawing, in pixels: the column of agents, a round's column, a row, the texts around them.
_AGENT, _COLUMN, _ROW, _HEAD, _FOOT = 66, 150, 32, 24, 42
_CHARACTER, _LONGEST_WIDTH = 8.2, 600
# LaTeX is longer than what it shows; a cell has no room for what is longer still, or has rows.
_LATEX_PER_CHARACTER = 3
Kind = tuple[str, str]
Typeset = Callable[[str], Markup]


@dataclass(frozen=True, slots=True)
class GridCell:
    """One agent's answer in one round.

    `number` is that of its kind of answer, 1 for the most frequent one and at most `LINES`; 0 is
    every rarer one, and None an answer that could not be read.
    """

    turn: DebateTurn
    number: int | None

    @property
    def cut(self) -> bool:
        """Whether it ended at the token limit."""
        return self.turn.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class RoundSpread:
    """How far the answers of one round differ: `different` ones, `most` of `readable` alike."""

    number: int
    different: int
    most: int
    readable: int


@dataclass(frozen=True, slots=True)
class AnswerGrid:
    """All answers of a debate; `cells` by (agent, round)."""

    agents: tuple[int, ...]
    spreads: tuple[RoundSpread, ...]
    cells: Mapping[tuple[int, int], GridCell]


def build_answer_grid(debate: DebateRecord) -> AnswerGrid:
    """The answers of a debate by agent and round."""
    kinds = _sort_answers([turn for turn in debate.turns if turn.kind == "answer"])
    common = [kind for kind, _ in Counter(kinds.values()).most_common(LINES)]
    numbers = {kind: number for number, kind in enumerate(common, start=1)}
    cells, spreads = {}, []
    for held in debate.rounds:
        for turn in held.answers:
            kind = kinds.get(turn.turn_id)
            number = None if kind is None else numbers.get(kind, 0)
            cells[turn.agent, held.number] = GridCell(turn, number)
        counts = Counter(kinds[turn.turn_id] for turn in held.answers if turn.turn_id in kinds)
        most = max(counts.values(), default=0)
        spreads.append(RoundSpread(held.number, len(counts), most, counts.total()))
    return AnswerGrid(debate.agents, tuple(spreads), cells)


def _sort_answers(turns: Sequence[DebateTurn]) -> dict[int, Kind]:
    """What kind of answer every turn gives, by turn_id; without those that cannot be read."""
    # Where the label is right, the answers equal to it and the right ones are the same.
    same = any(turn.agrees and turn.correct for turn in turns)
    kinds: dict[int, Kind] = {}
    for turn in turns:
        # It is no answer that others could share.
        if turn.answer is None:
            continue
        if turn.agrees:
            kinds[turn.turn_id] = ("label", "")
        elif turn.correct:
            kinds[turn.turn_id] = ("label" if same else "gold", "")
        else:
            kinds[turn.turn_id] = ("written", " ".join(turn.answer.split()))
    return kinds


def draw_answer_grid(grid: AnswerGrid, typeset: Typeset) -> Markup:
    """Agents by rounds, with a color and a sign for every answer; each cell leads to its turn.

    `typeset` shows an answer as markup, its formulas as formulas (`Typesetter.typeset_answer`).
    """
    rounds = max(1, len(grid.spreads))
    # More rounds get narrower columns, until an answer of a few digits would no longer fit.
    column = min(_COLUMN, max(74, (_LONGEST_WIDTH - _AGENT) // rounds))
    width = _AGENT + column * rounds
    bottom = _HEAD + _ROW * len(grid.agents)
    parts = [
        Markup('<text x="0" y="{}">agent {}</text>').format(_HEAD + _ROW * row + 20, agent)
        for row, agent in enumerate(grid.agents)
    ]
    for place, spread in enumerate(grid.spreads):
        left = _AGENT + column * place
        parts.append(Markup('<text x="{}" y="14">round {}</text>').format(left, spread.number))
        parts += [
            _draw_cell(cell, left, _HEAD + _ROW * row, column - 8, typeset)
            for row, agent in enumerate(grid.agents)
            if (cell := grid.cells.get((agent, spread.number)))
        ]
        parts.append(
            Markup('<text x="{x}" y="{}">{}</text><text x="{x}" y="{}">{}</text>').format(
                bottom + 16,
                f"{spread.different} answer{'' if spread.different == 1 else 's'}",
                bottom + 33,
                f"{spread.most} of {spread.readable} agree",
                x=left,
            )
        )
    return Markup(
        '<svg class="answers" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="group" '
        'aria-label="Answers by agent and round">{}</svg>'
    ).format(Markup("").join(parts), w=width, h=bottom + _FOOT)


def _draw_cell(cell: GridCell, left: int, top: int, width: int, typeset: Typeset) -> Markup:
    turn = cell.turn
    if turn.answer is None:
        shown, said = ("cut", "cut at the token limit") if cell.cut else ("no answer", "no answer")
    else:
        said = one_line(turn.answer)[:400]
        worth = {True: ", right", False: ", wrong", None: ""}[turn.correct]
        shown, said = one_line(turn.answer), said + worth
    # Between the sign at the left and the mark at the right.
    at = left + (22 if cell.number else 9)
    space = left + width - at - (18 if turn.correct is not None else 0)
    given = _draw_given(shown, at, top, space, None if turn.answer is None else typeset)
    mark = Markup("")
    if turn.answer is not None and turn.correct is not None:
        mark = Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
            "right" if turn.correct else "wrong",
            left + width - 16,
            top + 20,
            "✓" if turn.correct else "✗",
        )
    return Markup(
        '<a class="cell {kind}" href="#turn-{turn}" aria-label="{label}"><title>{label}</title>'
        '<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>{sign}'
        "{given}{mark}</a>"
    ).format(
        kind=f"line-{cell.number}" if cell.number else "rare" if cell.number == 0 else "unread",
        turn=turn.turn_id,
        label=f"Agent {turn.agent}, round {turn.round}: {said}",
        x=left,
        y=top + 1,
        width=width,
        height=_ROW - 4,
        sign=draw_sign(cell.number, left + 12, top + 15) if cell.number else "",
        given=given,
        mark=mark,
    )


def _draw_given(shown: str, left: int, top: int, space: int, typeset: Typeset | None) -> Markup:
    """What stands in a cell; `typeset` None for words of ours, which hold no formula."""
    room = int(space / _CHARACTER)
    if typeset is not None and len(shown) <= _LATEX_PER_CHARACTER * room:
        formula = typeset(shown)
        # Only HTML holds MathML and cuts it at its box; for other answers text is enough.
        if "<math" in formula and "<mtable" not in formula:
            return Markup(
                '<foreignObject x="{}" y="{}" width="{}" height="{}">'
                '<div class="given">{}</div></foreignObject>'
            ).format(left, top + 2, space, _ROW - 6, formula)
    if len(shown) > room:
        shown = shown[: room - 1].rstrip() + "…"
    return Markup('<text class="given" x="{}" y="{}">{}</text>').format(left, top + 20, shown)
