"""The kinds of arm there are: to add one, add an entry to `ARM_KINDS`, and a row to docs/arms.md.

An entry says how an arm of this kind differs from the society itself (section 3 and the baselines
and ablations of section 4 of arXiv 2501.05707), what a report calls it, and how a figure draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from store.records import Labels

Data = Literal["own", "pooled", "matched"]
"""What a model learns from: its own agent's turns, the turns of all agents, or as many turns of all
agents as one agent has."""

# The default arm of the reading functions; runs from before there were arms have this one.
MULTIAGENT = "multiagent"

OtherResponses = Literal["summarized", "quoted"]
"""How a critic is shown the other agents' responses of the round before."""

MatchedTo = Literal["calls", "tokens"]
"""What a compute-matched vote spends as much of as the society."""

Dash = tuple[float, ...]
"""Lengths of ink and gap, in points; empty for a solid line."""
SOLID: Dash = ()
DASHED: Dash = (5, 2)
DOTTED: Dash = (1.2, 1.6)
DASH_DOT: Dash = (6, 1.6, 1.4, 1.6)
LONG: Dash = (9, 2.5)


@dataclass(frozen=True, slots=True)
class Look:
    """How an arm is drawn. `color` names a color of the palette; an open marker (not `filled`) is
    filled with the page's color; `width` in points."""

    color: str
    dash: Dash
    marker: str
    filled: bool = True
    width: float = 1.5


@dataclass(frozen=True, slots=True)
class ArmKind:
    """One kind of arm. Of the sizes and `others`, None keeps the society's.

    `labels` says what a training answer must agree with and `data` what each model learns from;
    both are None if the arm trains nothing. `agents` answer in evaluation, `train_agents` in
    training debates. `matched_to` says what the number of samples of a compute-matched vote is
    derived from. `ablation`: a report draws it beside other ablations, apart from the baselines.
    `distills`: in every iteration one model learns what all agents agree on, and all further
    training starts from it.
    """

    name: str
    title: str
    look: Look
    labels: Labels | None = "final"
    data: Data | None = "own"
    tunes_critics: bool = True
    agents: int | None = None
    train_agents: int | None = None
    rounds: int | None = None
    others: OtherResponses | None = None
    matched_to: MatchedTo | None = None
    ablation: bool = False
    distills: bool = False

    @property
    def trained(self) -> bool:
        return self.labels is not None


def _untuned(
    name: str,
    title: str,
    look: Look,
    *,
    agents: int | None = None,
    rounds: int | None = None,
    matched_to: MatchedTo | None = None,
) -> ArmKind:
    return ArmKind(
        name,
        title,
        look,
        labels=None,
        data=None,
        tunes_critics=False,
        agents=agents,
        rounds=rounds,
        matched_to=matched_to,
    )


# Looks differ in color and in dash or marker, so that a figure printed in grey still tells the arms
# apart.
_KINDS = (
    ArmKind(
        MULTIAGENT,
        "every agent's generator and critic tuned on that agent's own debate data",
        Look("blue", SOLID, "o", width=2.4),
    ),
    ArmKind(
        "single-agent",
        "one generator and one critic for all agents, tuned on the pooled data",
        Look("vermillion", DASHED, "s"),
        data="pooled",
    ),
    ArmKind(
        "single-agent-matched",
        "the same, with as many examples and steps as one agent has",
        Look("orange", DASH_DOT, "s", filled=False),
        data="matched",
    ),
    ArmKind(
        "no-critic",
        "generators tuned, critics stay untuned",
        Look("green", DASHED, "^"),
        tunes_critics=False,
        ablation=True,
    ),
    ArmKind(
        "round1-labels",
        "labels from the vote of the first round",
        Look("purple", DASH_DOT, "v"),
        labels="round1",
        ablation=True,
    ),
    ArmKind(
        "no-summary",
        "the others' responses quoted, not summarized",
        Look("sky", DOTTED, "D"),
        others="quoted",
        ablation=True,
    ),
    ArmKind(
        "loop",
        "as multiagent, and one model distilled in every iteration is the next one's base",
        Look("vermillion", SOLID, "D", filled=False),
        distills=True,
    ),
    ArmKind(
        # No vote: one agent answers in training, and gold decides which answers are kept.
        "star",
        "one model tuned on its answers that match gold (STaR)",
        Look("black", LONG, "*"),
        labels="gold",
        data="pooled",
        tunes_critics=False,
        train_agents=1,
        rounds=1,
    ),
    ArmKind(
        "majority-ft",
        "one model tuned on its answers that match the vote of its own samples",
        Look("brown", DASH_DOT, "P"),
        data="pooled",
        tunes_critics=False,
        rounds=1,
    ),
    _untuned(
        "base",
        "one untuned model, one answer",
        Look("grey", DOTTED, "x"),
        agents=1,
        rounds=1,
    ),
    _untuned(
        "majority",
        "vote of samples of the untuned model",
        Look("grey", DASHED, "+"),
        rounds=1,
    ),
    _untuned("debate", "the untuned society", Look("black", DASHED, "o", filled=False)),
    _untuned(
        "compute-matched-calls",
        "vote of as many untuned samples as the society makes calls",
        Look("olive", DASH_DOT, "<", filled=False),
        rounds=1,
        matched_to="calls",
    ),
    _untuned(
        "compute-matched-tokens",
        "vote of as many untuned samples as the society spends tokens",
        Look("olive", DOTTED, ">", filled=False),
        rounds=1,
        matched_to="tokens",
    ),
)
ARM_KINDS: Mapping[str, ArmKind] = {kind.name: kind for kind in _KINDS}
"""By name, in the order in which they are documented."""

DISTILLED = ArmKind(
    "distilled",
    "one model tuned on the answers that a society agrees on",
    Look("purple", SOLID, "X"),
    data="pooled",
    tunes_critics=False,
    agents=1,
    rounds=1,
)
"""What `society distill` adds to a stored run; no experiment lists it."""
STORED_KINDS: Mapping[str, ArmKind] = {**ARM_KINDS, DISTILLED.name: DISTILLED}
"""The kinds of arm that a stored run may have."""
