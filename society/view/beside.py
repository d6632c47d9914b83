"""Runs beside each other, and two debates on one question beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.debates import DebateRecord, DebateTurn, read_debate
from evals.stored_run import find_main_arm
from society.view.debate import list_stages
from society.view.drawing import LINES, Curve
from society.view.filters import parse_stage
from society.view.headline import Headline, find_headline
from society.view.overview import Overview
from store.reader import Reader
from store.records import StageKey

# As many runs as a chart has lines.
MOST_RUNS = LINES


@dataclass(frozen=True, slots=True)
class RunColumn:
    """One run beside others; `headline` is None until its main arm has an accuracy."""

    name: str
    found: Overview
    headline: Headline | None


@dataclass(frozen=True, slots=True)
class QuestionSide:
    """One of two debates on a question: its run and the stages there that debated it.

    `debate` is None if the run has not debated the question.
    """

    run: str
    stages: tuple[StageKey, ...]
    debate: DebateRecord | None

    def find_turn(self, round_number: int, agent: int) -> DebateTurn | None:
        """An agent's answer in a round, if there is one."""
        rounds = () if self.debate is None else self.debate.rounds
        answers = [turn for one in rounds if one.number == round_number for turn in one.answers]
        return next((turn for turn in answers if turn.agent == agent), None)


def build_columns(found: Mapping[str, Overview]) -> list[RunColumn]:
    """The runs in the order in which they were named."""
    return [RunColumn(name, one, find_headline(one)) for name, one in found.items()]


def list_run_curves(columns: Sequence[RunColumn]) -> list[Curve]:
    """The consensus of every run's main arm by iteration."""
    curves = []
    for column in columns:
        if column.headline is None:
            continue
        last = column.headline.last
        points = tuple(
            (row.stage.iteration, row.consensus)
            for row in sorted(column.found.accuracies, key=lambda row: row.stage.iteration)
            if row.consensus is not None
            and (row.stage.arm, row.stage.decoding, row.task)
            == (last.stage.arm, last.stage.decoding, last.task)
        )
        curves.append(Curve(column.name, points))
    return curves


def list_arm_rows(columns: Sequence[RunColumn]) -> list[tuple[str, list[Headline | None]]]:
    """Every arm's society, chosen or newest, run by run; None where a run has none."""
    arms = dict.fromkeys(arm.name for column in columns for arm in column.found.arms)
    return [(arm, [find_headline(column.found, arm) for column in columns]) for arm in arms]


def list_differences(columns: Sequence[RunColumn]) -> list[tuple[str, list[str | None]]]:
    """The settings that are not the same in all runs, with their values run by run."""
    settings = [dict(column.found.facts.settings) for column in columns]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = [(key, [one.get(key) for one in settings]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def read_side(
    reader: Reader,
    run: str,
    question_id: str,
    stage: StageKey | None,
    near: tuple[str, StageKey],
) -> QuestionSide:
    """The debate of a stage; without one, that of the stage most like `near` of a run."""
    stages = tuple(list_stages(reader, question_id))
    if stage is None:
        main = find_main_arm(reader)
        # A debate stands beside another one, not beside itself.
        others = [one for one in stages if (run, one) != near]
        stage = max(others, key=lambda one: _likeness(one, near[1], main), default=None)
    debate = None if stage is None else read_debate(reader, stage, question_id)
    return QuestionSide(run, stages, debate)


def pair_rounds(left: QuestionSide, right: QuestionSide) -> list[tuple[int, list[int]]]:
    """The rounds of either debate, each with the agents of both."""
    debates = [side.debate for side in (left, right) if side.debate is not None]
    rounds = max((one.number for debate in debates for one in debate.rounds), default=0)
    agents = sorted({agent for debate in debates for agent in debate.agents})
    return [(number, agents) for number in range(1, rounds + 1)]


def encode_stage(stage: StageKey) -> str:
    """A stage as one value of an address."""
    return f"{stage.iteration} {stage.split} {stage.decoding} {stage.arm}"


def decode_stage(text: str | None) -> StageKey | None:
    """A stage from an address. Raises `BadAddress`."""
    if not text:
        return None
    iteration, split, decoding, arm = [*text.split(" ", 3), "", "", ""][:4]
    parts = {"iteration": iteration, "split": split, "decoding": decoding, "arm": arm}
    return parse_stage(parts)


def _likeness(stage: StageKey, near: StageKey, main: str) -> tuple[int, ...]:
    return (
        stage.split == near.split,
        stage.arm == near.arm,
        stage.arm == main,
        stage.decoding == near.decoding,
        stage.iteration == near.iteration,
        stage.iteration,
    )
