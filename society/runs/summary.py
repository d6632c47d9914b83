"""The table at the end of a run, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich.table import Table

from evals import choices
from evals.agreement import Agreement, read_agreements
from evals.comparison import compare_all, find_last_iteration
from evals.intervals import PairedDifference, Rate
from evals.intervals import format_points as in_points
from evals.metrics import (
    MEASURES,
    LabelHealth,
    Measure,
    SocietyAccuracy,
    compare_iterations,
    list_extra_tasks,
    read_label_health,
    read_society_accuracies,
    title_task,
)
from evals.stored_run import find_main_arm, list_evaluated_arms
from evals.tuning import RoleTuning, summarize_tuning
from society.terminal.output import Screen, escape_invisible, one_line
from society.terminal.table import make_table
from store.ledger import Store
from store.records import Decoding

NAMES: dict[Measure, str] = {
    "single": "single agent",
    "majority": "round-1 majority",
    "consensus": "consensus",
}
_READ_WORDS = (
    "tied: last votes without a single winner, in %; a hash of seed, question and answer decides.\n"
    "unread: responses without a readable answer; cut: at the token limit; in % of all."
)
_AGREE_WORDS = (
    "agree: mean share of the readable answers that have the plurality answer, first and last "
    "round.\nturned: between them an agent's own answer came to that of the last vote, or left it."
)


def show_summary(store: Store, stream: TextIO) -> None:
    """Print the results of a run.

    Accuracy with 95 % intervals if gold answers are known, agreement and unread answers, training
    labels and fine-tuning; with several arms, the last society of each.
    """
    arm = find_main_arm(store)
    console = Screen(stream)
    others = [other for other in list_evaluated_arms(store) if other != arm]
    _say(console, describe_choices(store, [arm, *others]))
    whose = f" of {one_line(arm)}" if others else ""
    _show_evaluation(console, store, arm, None, f"{whose} on held-out questions")
    if others:
        console.draw(tabulate_arms(store, [arm, *others]))
        _say(console, list_differences(store, arm, others))
    for task in list_extra_tasks(store):
        _show_evaluation(console, store, arm, task, f": {title_task(one_line(task))}")
    _show_learning(console, store, arm)


def _show_evaluation(console: Screen, store: Store, arm: str, task: str | None, where: str) -> None:
    voting = read_agreements(store, arm, task)
    if not voting:
        if task is None:
            _say(console, ["no evaluation debate is complete yet"])
        return
    rows = read_society_accuracies(store, arm, task)
    _say(console, describe_gold(voting))
    if rows:
        found = {(each.stage.iteration, each.stage.decoding): each for each in voting}
        title = f"Accuracy{where}, % with 95 % interval"
        console.draw(tabulate_accuracy(rows, found, title))
        _say(console, [_READ_WORDS, *list_changes(store, rows, arm, task)])
    console.draw(tabulate_agreement(voting, f"Votes{where}, %", readings=not rows))
    _say(console, [_AGREE_WORDS if rows else f"{_AGREE_WORDS}\n{_READ_WORDS}"])


def _show_learning(console: Screen, store: Store, arm: str) -> None:
    if labels := read_label_health(store, arm):
        console.draw(tabulate_labels(labels))
    if models := summarize_tuning(store, arm):
        console.draw(tabulate_tuning(models))


def _say(console: Screen, lines: Iterable[str]) -> None:
    # Soft: the terminal wraps, so that a sentence can be copied and searched as one line.
    for line in lines:
        console.print(line, soft_wrap=True)


def describe_choices(store: Store, arms: Sequence[str]) -> list[str]:
    """What the signs have decided about each arm; nothing in a run that does not ask them."""
    found = [(arm, choice) for arm in arms if (choice := choices.find_choice(store, arm))]
    return [
        f"{one_line(arm)}: {escape_invisible(choices.describe_choice(choice))}"
        for arm, choice in found
    ]


def describe_gold(voting: Sequence[Agreement]) -> list[str]:
    """Why there is no accuracy, or for which questions; nothing if all questions have gold."""
    # A stage that is under way has fewer questions; the fullest one shows what is known.
    most = max(voting, key=lambda each: each.questions)
    if most.known == most.questions:
        return []
    if not most.known:
        return [
            f"Accuracy needs gold answers, and none of the {most.questions} evaluation questions "
            "has one. Known without gold:"
        ]
    return [
        f"{most.known} of the {most.questions} evaluation questions have gold: accuracies are "
        "over those."
    ]


def tabulate_arms(store: Store, arms: Sequence[str]) -> Table:
    """One line per arm: its society."""
    chosen = any(choices.find_choice(store, arm) for arm in arms)
    which = "chosen, else last," if chosen else "last"
    drawn = make_table(f"Every arm's {which} society, % with 95 % interval")
    for heading in ("arm", "iteration"):
        drawn.add_column(heading, no_wrap=True)
    headings = ("single agent\ngreedy", "single agent\nsampled", "vote\nsampled")
    for heading in (*headings, "agree", "tied", "un-\nread", "cut"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for arm in arms:
        voting = read_agreements(store, arm)
        last = choices.find_society(store, arm)
        rates = {
            row.decoding: row
            for row in read_society_accuracies(store, arm)
            if row.iteration == last
        }
        greedy, sampled = rates.get("greedy"), rates.get("sampled")
        shares = {each.stage.decoding: each for each in voting if each.stage.iteration == last}
        # Labels come from sampled votes; greedy ones stand in if a run has only those.
        shown = shares.get("sampled") or shares.get("greedy")
        drawn.add_row(
            one_line(arm),
            "untuned" if last == 0 else str(last),
            format_percent(greedy.single) if greedy else "",
            format_percent(sampled.single) if sampled else "",
            format_percent(sampled.consensus) if sampled else "",
            *((format_share(shown.last), *_format_readings(shown)) if shown else ()),
        )
    return drawn


def list_differences(store: Store, arm: str, others: Sequence[str]) -> list[str]:
    """One line per other arm: the main arm's vote minus its vote, each after its last iteration."""
    decoding: Decoding = "sampled"
    iterations = {other: find_last_iteration([store], other, decoding) for other in (arm, *others)}
    last = iterations.pop(arm)
    if last is None:
        return []
    # An arm that was just added has no evaluated society yet.
    known = {other: at for other, at in iterations.items() if at is not None}
    found = compare_all([store], arm, known, "consensus", decoding, last)
    if not found:
        return []
    lines = [f"The vote of {one_line(arm)} minus that of every other arm, sampled, paired:"]
    lines += [f"  {one_line(each.b.stage.arm)}: {format_points(each.pooled)}" for each in found]
    return [*lines, "  Of one run; other seeds would differ. p is not corrected for several arms."]


def tabulate_accuracy(
    rows: Iterable[SocietyAccuracy], voting: Mapping[tuple[int, Decoding], Agreement], title: str
) -> Table:
    """One line per society and decoding: accuracy in % with its 95 % interval.

    Beside it stand the shares of tied votes and of answers that were unreadable or cut.
    """
    drawn = make_table(title)
    for heading in ("iteration", "decoding"):
        drawn.add_column(heading, no_wrap=True)
    headings = ("single\nagent", "round-1\nmajority", "consensus", "tied", "unread", "cut")
    for heading in headings:
        drawn.add_column(heading, justify="right", no_wrap=True)
    previous: int | None = None
    for row in rows:
        drawn.add_row(
            _name_iteration(row.iteration) if row.iteration != previous else "",
            row.decoding,
            *(format_percent(row.rate(measure)) for measure in MEASURES),
            *_format_readings(voting[row.iteration, row.decoding]),
        )
        previous = row.iteration
    return drawn


def tabulate_agreement(voting: Iterable[Agreement], title: str, *, readings: bool) -> Table:
    """One line per society and decoding: what is known without gold answers.

    `readings` adds ties and unreadable answers, which the table of accuracies also has.
    """
    drawn = make_table(title)
    for heading in ("iteration", "decoding"):
        drawn.add_column(heading, no_wrap=True)
    headings = ("questions", "agree\nfirst", "agree\nlast", "turned to\nthe vote", "turned\naway")
    for heading in (*headings, "no\nanswer", *(("tied", "unread", "cut") if readings else ())):
        drawn.add_column(heading, justify="right", no_wrap=True)
    previous: int | None = None
    for each in voting:
        drawn.add_row(
            _name_iteration(each.stage.iteration) if each.stage.iteration != previous else "",
            each.stage.decoding,
            str(each.questions),
            *map(format_share, (each.first, each.last, each.to_label, each.from_label)),
            format_share(1 - each.coverage),
            *(_format_readings(each) if readings else ()),
        )
        previous = each.stage.iteration
    return drawn


def tabulate_labels(labels: Sequence[LabelHealth]) -> Table:
    """One line per iteration: the training labels that the society voted for."""
    gold = any(each.accuracy for each in labels)
    drawn = make_table("Training labels, %" + (", right ones with 95 % interval" if gold else ""))
    headings = ("iteration", "training\nquestions", "labelled", "tied", "too few\nvoters")
    for heading in (*headings, "unread", "cut", *(("labels\nright",) if gold else ())):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for each in labels:
        drawn.add_row(
            str(each.iteration),
            str(each.questions),
            *map(format_share, (each.coverage, each.ties, each.below_quorum)),
            *map(format_share, (each.unparsed, each.truncated)),
            *((format_percent(each.accuracy) if each.accuracy else "",) if gold else ()),
        )
    return drawn


def tabulate_tuning(models: Iterable[RoleTuning]) -> Table:
    """One line per iteration and role: models, examples and losses."""
    drawn = make_table("Fine-tuning; loss in nats per trained token")
    headings = ("iteration", "role", "tuned", "examples\neach", "first\nloss", "last\nloss")
    for heading in headings:
        drawn.add_column(heading, justify="left" if heading == "role" else "right", no_wrap=True)
    for each in models:
        losses = (each.first_loss, each.last_loss)
        drawn.add_row(
            str(each.iteration),
            each.role,
            f"{each.done} of {each.models}",
            f"{each.examples:.0f}",
            *("" if loss is None else f"{loss:.3f}" for loss in losses),
        )
    return drawn


def _name_iteration(iteration: int) -> str:
    return "untuned" if iteration == 0 else str(iteration)


def _format_readings(voting: Agreement) -> tuple[str, str, str]:
    return format_share(voting.ties), format_share(voting.unparsed), format_share(voting.truncated)


def format_share(value: float | None) -> str:
    """A share in %; empty if there is none."""
    return "" if value is None else f"{100 * value:.1f}"


def list_changes(
    store: Store, rows: Sequence[SocietyAccuracy], arm: str, task: str | None = None
) -> list[str]:
    """One line per measure and decoding: last iteration minus the untuned society, paired."""
    # Only the same questions can be compared in pairs, so both ends are evaluations of this task.
    first, last = rows[0].iteration, rows[-1].iteration
    if first == last:
        return []
    decodings: list[Decoding] = list(dict.fromkeys(row.decoding for row in rows))
    lines = [f"From iteration {first} to {last}, on the same questions:"]
    for measure in MEASURES:
        for decoding in decodings:
            change = compare_iterations(store, measure, decoding, first, last, arm, task)
            if change is not None:
                lines.append(f"  {NAMES[measure]}, {decoding}: {format_points(change)}")
    return lines


def format_percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} {100 * rate.low:.0f}–{100 * rate.high:.0f}"


def format_points(change: PairedDifference) -> str:
    """The difference in percentage points, its interval, and McNemar's test if it was made."""
    text = (
        f"{in_points(change.difference)} points "
        f"(95 % interval {in_points(change.low)} to {in_points(change.high)})"
    )
    if change.p_value is not None:
        text += f", {change.gained} gained, {change.lost} lost, McNemar p = {change.p_value:.2g}"
    return text
