"""How arms look: the same in every figure, told apart by colour, dash and marker alike.

The colours are close to those of Okabe & Ito ("Color Universal Design", 2008), darkened where they
would be too pale on paper; each has a partner for dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.report.arms import Arm

Dash = tuple[float, ...]
SOLID: Dash = ()
DASHED: Dash = (5, 2)
DOTTED: Dash = (1.2, 1.6)
DASH_DOT: Dash = (6, 1.6, 1.4, 1.6)
LONG: Dash = (9, 2.5)

PALETTE = {
    "blue": ("#0072b2", "#5ab4ec"),
    "vermillion": ("#c94f00", "#ff955a"),
    "green": ("#008a65", "#3ec49b"),
    "purple": ("#a8508b", "#e39fcb"),
    "orange": ("#b57b01", "#f0b44a"),
    "sky": ("#3d94c5", "#8fd0f2"),
    "black": ("#2b2d31", "#e6e6e4"),
    "brown": ("#7a4a2b", "#c99a79"),
    "grey": ("#767b83", "#a2a7af"),
    "olive": ("#6b7016", "#c3c95e"),
}
"""Light and dark; no two values are equal, so that a drawn colour says which it is."""

INK, SOFT, GRID, PAPER = "#1c1e22", "#5c6169", "#dcdcd7", "#fcfcfb"
"""Of text, of what is less important, of grid lines, of the page; replaced likewise."""


@dataclass(frozen=True, slots=True)
class Look:
    """`colour` is a name of the palette; an open marker is filled with the page's colour."""

    colour: str
    dash: Dash
    marker: str
    filled: bool = True
    width: float = 1.5

    @property
    def light(self) -> str:
        return PALETTE[self.colour][0]


_OF_KIND = {
    "multiagent": Look("blue", SOLID, "o", width=2.4),
    "single-agent": Look("vermillion", DASHED, "s"),
    "single-agent-matched": Look("orange", DASH_DOT, "s", filled=False),
    "no-critic": Look("green", DASHED, "^"),
    "round1-labels": Look("purple", DASH_DOT, "v"),
    "no-summary": Look("sky", DOTTED, "D"),
    "star": Look("black", LONG, "*"),
    "majority-ft": Look("brown", DASH_DOT, "P"),
    "base": Look("grey", DOTTED, "x"),
    "majority": Look("grey", DASHED, "+"),
    "debate": Look("black", DASHED, "o", filled=False),
    "compute-matched-calls": Look("olive", DASH_DOT, "<", filled=False),
    "compute-matched-tokens": Look("olive", DOTTED, ">", filled=False),
}
_SPARE = tuple(
    Look(colour, dash, marker, filled)
    for marker, filled, dash in (
        ("h", True, SOLID),
        ("d", False, DASHED),
        ("p", True, DOTTED),
        ("X", True, DASH_DOT),
        ("8", False, LONG),
    )
    for colour in ("purple", "green", "vermillion", "orange", "sky", "brown", "olive", "black")
)


def assign(arms: Sequence[Arm]) -> dict[str, Look]:
    """Arms named for their kind look as that kind does everywhere; variants take what is spare."""
    spare = iter(_SPARE * (1 + len(arms) // len(_SPARE)))
    return {arm.name: _OF_KIND[arm.name] if arm.name in _OF_KIND else next(spare) for arm in arms}
