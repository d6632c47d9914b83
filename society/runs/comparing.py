"""Societies of several runs on the questions that they share: `society compare`.

Runs that differ in nothing but their seed count as one, as in the report, and so do their
statistics: paired over questions, with intervals, exact tests and Holm's correction
(`evals.comparison`). Every difference is the first minus another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TextIO

from evals import choices, comparison, metrics
from evals.comparison import Comparison, Side, System
from evals.intervals import Rate, rate
from evals.intervals import format_points as in_points
from evals.metrics import MEASURES, Measure
from evals.report.comparisons import ArmVerdict, Outcome
from evals.report.seeds import SeedGroup, SeedRun, group_runs, list_differing_settings
from evals.stored_run import find_main_arm
from society.config.load import ConfigError
from society.runs.summary import NAMES, format_percent, format_points
from society.terminal.output import Screen, escape_invisible, one_line
from society.terminal.table import make_table
from store.ledger import Store
from store.records import Decoding, StageKey


@dataclass(frozen=True, slots=True)
class ComparisonChoice:
    """Which societies are compared; None: each run's main arm, its own society, sampled answers.

    The own society of a run is that which its signs have chosen, or the last
    (`evals.choices.find_society`).
    """

    arm: str | None = None
    iteration: int | None = None
    decoding: Decoding | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run, and the stage of it whose answers are compared."""

    name: str
    seed: int
    store: Store
    stage: StageKey

    def read_right(self, measure: Measure, task: str | None) -> dict[str, float]:
        """By evaluation question with gold: the share of answers that are right."""
        at = self.stage
        return metrics.read_by_question(
            self.store, measure, at.decoding, at.iteration, at.arm, task
        )


@dataclass(frozen=True, slots=True)
class Contestant:
    """What is compared: a run, or several that differ in their seed only, in the order of seeds.

    `rates` are accuracies over all of its evaluation questions with gold, by measure.
    """

    label: str
    members: tuple[ComparedRun, ...]
    rates: dict[Measure, Rate]

    @property
    def stage(self) -> StageKey:
        """The stage of its first run; others may have chosen another iteration."""
        return self.members[0].stage

    @property
    def iterations(self) -> str:
        """The iteration of its society, or from which to which if its runs differ."""
        found = sorted({each.stage.iteration for each in self.members})
        return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


@dataclass(frozen=True, slots=True)
class RunComparison:
    """The first contestant beside all others; `differences` has (other's label, measure, result).

    `settings` are those that differ, with the value of each contestant. `notes` say what was left
    out.
    """

    contestants: tuple[Contestant, ...]
    differences: tuple[tuple[str, Measure, Comparison], ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def compare_runs(stores: Sequence[Store], choice: ComparisonChoice) -> RunComparison:
    """Compare the first of these runs with every other.

    Raises `ConfigError` for fewer than two runs, for an arm or iteration that a run lacks, and for
    runs that share no two evaluation questions with gold.

        compare_runs([first, second], ComparisonChoice()).differences
    """
    if len(stores) < 2:
        raise ConfigError(
            "a comparison needs two runs or more; name another one (the report of a single run "
            "compares its arms)"
        )
    groups = group_runs(stores)
    if len(groups) == 1:
        # Seeds of one experiment are compared with each other only if nothing else was named.
        groups = [SeedGroup(run.name, (run,)) for run in groups[0].runs]
    decoding = choice.decoding or _find_decoding(groups, choice)
    contestants = tuple(_build_contestant(group, choice, decoding) for group in groups)
    # As everywhere in the report: one is compared with each other one, not all with all.
    first, *others = contestants
    found: list[tuple[str, Measure, Comparison]] = []
    notes: list[str] = []
    for measure in MEASURES:
        results = [
            (other, comparison.compare_pairs(_pair(first, other, measure), choice.task))
            for other in others
        ]
        known = [(other.label, result) for other, result in results if result is not None]
        # Every measure is a family of its own for Holm's correction, as in the report.
        corrected = comparison.apply_holm([result for _, result in known])
        found += [
            (label, measure, result) for (label, _), result in zip(known, corrected, strict=True)
        ]
    for other in others:
        if other.label not in {label for label, *_ in found}:
            notes.append(_explain_nothing_shared(first, other))
        notes += _list_unpaired(first, other)
    # Some comparisons may be possible and others not; only if none is, it is an error.
    if not found:
        raise ConfigError("\n".join(dict.fromkeys(notes)))
    return RunComparison(
        contestants, tuple(found), tuple(list_differing_settings(groups)), tuple(notes)
    )


def describe_comparison(found: RunComparison) -> dict[str, object]:
    """The comparison as one object for programs; shares are 0..1, differences first minus other."""
    first = found.contestants[0]
    return {
        "contestants": [
            {
                "name": each.label,
                "runs": [
                    {"run": run.name, "seed": run.seed, "iteration": run.stage.iteration}
                    for run in each.members
                ],
                "arm": each.stage.arm,
                "decoding": each.stage.decoding,
                **{measure: asdict(value) for measure, value in each.rates.items()},
            }
            for each in found.contestants
        ],
        "differences": [
            {
                "first": first.label,
                "other": label,
                "measure": measure,
                **asdict(result.by_question),
                "p_value": result.p_value,
                "p_holm": result.p_holm,
                "outcome": _judge(label, result),
                "seeds": asdict(result.seeds),
            }
            for label, measure, result in found.differences
        ],
        "settings": {
            key: dict(zip((each.label for each in found.contestants), values, strict=True))
            for key, values in found.settings
        },
        "notes": list(found.notes),
    }


def show_comparison(found: RunComparison, stream: TextIO) -> None:
    """Print the accuracies, the differences and the settings that differ."""
    screen = Screen(stream)
    drawn = make_table("Accuracy, % with 95 % interval, each over its own questions with gold")
    for heading in ("run", "arm", "iteration", "decoding"):
        drawn.add_column(heading, no_wrap=True)
    for heading in (*(NAMES[measure] for measure in MEASURES), "questions"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for each in found.contestants:
        rates = [each.rates.get(measure) for measure in MEASURES]
        drawn.add_row(
            one_line(each.label),
            one_line(each.stage.arm),
            each.iterations,
            each.stage.decoding,
            *("" if value is None else format_percent(value) for value in rates),
            str(max((value.total for value in rates if value), default=0)),
        )
    screen.draw(drawn)
    for line in _write_differences(found):
        screen.print(line, soft_wrap=True)
    if found.settings:
        drawn = make_table("Settings that differ")
        for heading in ("setting", *(one_line(each.label) for each in found.contestants)):
            drawn.add_column(heading)
        for key, values in found.settings:
            drawn.add_row(one_line(key), *map(one_line, values))
        screen.draw(drawn)
    for note in found.notes:
        screen.print(f"note: {escape_invisible(note)}", soft_wrap=True)


def _write_differences(found: RunComparison) -> list[str]:
    lines, several = [], len(found.contestants) > 2
    first = one_line(found.contestants[0].label)
    for other in found.contestants[1:]:
        results = [(m, result) for label, m, result in found.differences if label == other.label]
        if not results:
            continue
        shared = results[-1][1].by_question.total
        lines.append(
            f"{first} minus {one_line(other.label)}, paired on the {shared} questions that both "
            "have answered:"
        )
        for measure, result in results:
            text = f"  {NAMES[measure]}: {format_points(result.by_question)}"
            if result.by_question.p_value is None:
                text += f", p = {result.p_value:.2g}"
            if several:
                text += f", with Holm's correction p = {result.p_holm:.2g}"
            lines.append(f"{text}; {_judge(other.label, result)}")
            if len(result.runs) > 1:
                lines.append(f"    by seed: {_format_seeds(result)}")
    if any(len(each.members) == 1 for each in found.contestants):
        lines.append("  A run of another seed would differ, too; several seeds say by how much.")
    return lines


def _judge(other: str, result: Comparison) -> Outcome:
    """Better, worse or unclear, by the report's own rule."""
    return ArmVerdict(other, untuned=False, comparison=result).outcome


def _format_seeds(result: Comparison) -> str:
    seeds = result.seeds
    text = f"{in_points(seeds.smallest)} to {in_points(seeds.largest)}"
    if seeds.low is not None and seeds.high is not None:
        text += f", mean's 95 % t interval {in_points(seeds.low)} to {in_points(seeds.high)}"
    return text


def _find_decoding(groups: Sequence[SeedGroup], choice: ComparisonChoice) -> Decoding:
    """Sampled answers if every run has some with gold, else greedy ones."""
    for decoding in metrics.DECODINGS:
        found = [_find_compared(run, choice, decoding) for group in groups for run in group.runs]
        if all(each.read_right("consensus", choice.task) for each in found):
            return decoding
    return metrics.DECODINGS[0]


def _build_contestant(group: SeedGroup, choice: ComparisonChoice, decoding: Decoding) -> Contestant:
    members = tuple(_find_compared(run, choice, decoding) for run in group.runs)
    rates: dict[Measure, Rate] = {}
    for measure in MEASURES:
        asked: dict[str, list[float]] = {}
        for each in members:
            for question, right in each.read_right(measure, choice.task).items():
                asked.setdefault(question, []).append(right)
        if asked:
            # A question that several seeds have asked counts once, or the interval is too narrow.
            rates[measure] = rate([fmean(found) for found in asked.values()])
    return Contestant(group.label, members, rates)


def _find_compared(run: SeedRun, choice: ComparisonChoice, decoding: Decoding) -> ComparedRun:
    arm = choice.arm or find_main_arm(run.store)
    there = choices.list_evaluated(run.store, arm)
    if not there:
        arms = ", ".join(each.name for each in run.arms)
        raise ConfigError(
            f"run {run.name!r} has evaluated no society of the arm {arm!r} (arms: {arms}); name "
            "another with --arm, or finish the run"
        )
    iteration = choice.iteration
    if iteration is None:
        iteration = choices.find_society(run.store, arm)
    elif iteration not in there:
        raise ConfigError(
            f"--iteration {iteration}: run {run.name!r} has evaluated no such society of {arm} "
            f"(there: {', '.join(map(str, there))})"
        )
    stage = StageKey(iteration, "eval", arm, decoding)
    return ComparedRun(run.name, run.seed, run.store, stage)


def _pair(first: Contestant, other: Contestant, measure: Measure) -> list[tuple[Side, Side]]:
    return [
        (Side(a.store, System(a.stage, measure)), Side(b.store, System(b.stage, measure)))
        for a, b in _match_runs(first, other)[0]
    ]


def _match_runs(
    first: Contestant, other: Contestant
) -> tuple[list[tuple[ComparedRun, ComparedRun]], list[ComparedRun]]:
    """The runs in pairs, those of one seed together; and those that are left without a partner."""
    pairs, ours, theirs = [], [], list(other.members)
    for run in first.members:
        found = next((each for each in theirs if each.seed == run.seed), None)
        if found is None:
            ours.append(run)
        else:
            theirs.remove(found)
            pairs.append((run, found))
    # Across experiments seeds are draws of the same kind, so the rest may pair in any order.
    pairs += zip(ours, theirs, strict=False)
    least = min(len(ours), len(theirs))
    return pairs, [*ours[least:], *theirs[least:]]


def _list_unpaired(first: Contestant, other: Contestant) -> list[str]:
    alone = [run.name for run in _match_runs(first, other)[1]]
    if not alone:
        return []
    return [
        f"{', '.join(alone)}: left out of {first.label} minus {other.label}, since the two have "
        "different numbers of runs"
    ]


def _explain_nothing_shared(first: Contestant, other: Contestant) -> str:
    without = [each.label for each in (first, other) if not each.rates]
    if without:
        return (
            f"{' and '.join(without)} has no {first.stage.decoding} answers to evaluation "
            "questions with gold, which accuracies need; give the questions gold answers, or "
            "choose another --decoding"
        )
    return (
        f"{first.label} and {other.label} share no two evaluation questions with gold, so nothing "
        "is paired; evaluate both on the same task with the same [evaluation] questions"
    )
