"""How arms look: the same in every figure, told apart by color, dash and marker alike.

The colors are close to those of Okabe & Ito ("Color Universal Design", 2008), darkened where they
would be too pale on paper; each has a partner for dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence

from evals.arm_kinds import ARM_KINDS, DASH_DOT, DASHED, DOTTED, LONG, SOLID, Look
from evals.stored_run import ArmSettings

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
"""Light and dark; no two values are equal, so that a drawn color says which it is."""

INK, SOFT, GRID, PAPER = "#1c1e22", "#5c6169", "#dcdcd7", "#fcfcfb"
"""Of text, of what is less important, of grid lines, of the page; replaced likewise."""


_SPARE = tuple(
    Look(color, dash, marker, filled)
    for marker, filled, dash in (
        ("h", True, SOLID),
        ("d", False, DASHED),
        ("p", True, DOTTED),
        ("X", True, DASH_DOT),
        ("8", False, LONG),
    )
    for color in ("purple", "green", "vermillion", "orange", "sky", "brown", "olive", "black")
)


def assign(arms: Sequence[ArmSettings]) -> dict[str, Look]:
    """Arms named for their kind look as that kind does everywhere; variants take what is spare."""
    spare = iter(_SPARE * (1 + len(arms) // len(_SPARE)))
    return {
        arm.name: ARM_KINDS[arm.name].look if arm.name in ARM_KINDS else next(spare) for arm in arms
    }


def light_color(look: Look) -> str:
    """The color of a look on a light page."""
    return PALETTE[look.color][0]
