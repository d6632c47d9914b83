"""What the arms have learned from, what has become of their diversity, and what tuning did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from evals.degradation import Concern
from evals.reasoning_styles import StyleUse
from evals.report.diversities import ArmDiversity
from evals.report.facts import ExperimentFacts, Facts
from evals.report.table import (
    ARM,
    MEASURED,
    NOTHING,
    NUMBER,
    PERCENT,
    PERCENT_INTERVAL,
    POINTS,
    SOCIETY,
    Column,
    ReportTable,
    Span,
    TableSpec,
    decimals,
    list_seeds,
)
from evals.report.training import ArmLabels, ArmStyles, Flips, Tuning
from store.records import CurriculumStep


def build_tables(facts: Facts) -> list[ReportTable]:
    """Diversity, labels, what gets worse, flips, styles, and what fine-tuning did."""
    # Each table has rows of its own type, which no single type parameter can say.
    specs: Sequence[TableSpec[object]] = (
        _DIVERSITY,
        _LABELS,
        _CONCERNS,
        _STEPS,
        _FLIPS,
        _STYLE_CHANGES,
        _STYLES,
        _TUNING,
        _JOBS,
    )  # type: ignore[assignment]
    return [_explain_measures(spec.build(facts), facts) for spec in specs]


def _explain_measures(table: ReportTable, facts: Facts) -> ReportTable:
    """The table of diversities with what its own measures are; any other as it is."""
    if table.name != _DIVERSITY.name:
        return table
    place = [column.name for column in table.columns].index("measure")
    measures = dict.fromkeys(row[place].shown for row in table.rows)
    notes = dict.fromkeys(MEASURE_NOTES[each] for each in measures if each in MEASURE_NOTES)
    seeds = "Values and interval ends are means of the seeds'." if facts.several_seeds else ""
    return replace(table, note=" ".join([*notes, table.note, seeds]).strip())


def _list_diversities(experiment: ExperimentFacts) -> list[ArmDiversity]:
    # A run may hold measurements of an arm that its experiment no longer lists; those have no place
    # in the order and are left out.
    order = {each.name: place for place, each in enumerate(experiment.arms)}
    known = [each for each in experiment.diversities if each.arm in order]
    # Scales keep the order in which they were read: agreement first, as every run has it.
    scales = list(dict.fromkeys(each.scale for each in known))
    known.sort(
        key=lambda d: (
            scales.index(d.scale),
            d.task or "",
            d.decoding,
            order[d.arm],
            d.iteration,
        )
    )
    return [replace(each, task=each.task or experiment.task) for each in known]


_DIVERSITY_COLUMNS: Sequence[Column[ArmDiversity]] = (
    Column("measure", "measure", lambda each: each.scale.measure),
    Column("of", "role", lambda each: each.scale.role),
    Column("responses", "responses", lambda each: each.scale.responses),
    Column("by", "encoder", lambda each: each.scale.encoder or NOTHING),
    Column("task", "task", lambda each: each.task),
    Column("decoding", "decoding", lambda each: each.decoding),
    Column("arm", "arm", lambda each: each.arm, ARM),
    Column("after", "iteration", lambda each: each.iteration, SOCIETY),
    Column("value", "value", lambda each: each, MEASURED),
    Column("questions", "questions", lambda each: each.questions, NUMBER),
    Column("", "note", lambda each: each.note or ""),
)
MEASURE_NOTES = {
    "agreement": "Agreement: share of the agents with a readable answer that have the plurality "
    "answer, so less is more diverse.",
    "embedding": "embedding: mean pairwise 1 − cosine of the agents' responses.",
    "nll": "nll, kl and kl_base: nats per token.",
    "kl": "nll, kl and kl_base: nats per token.",
    "kl_base": "nll, kl and kl_base: nats per token.",
}
_DIVERSITY = TableSpec(
    "diversity",
    "Diversity by iteration",
    _DIVERSITY_COLUMNS,
    _list_diversities,
    "95 % intervals over questions. Generator: first answers, critic: last answers.",
)


_LABEL_COLUMNS: Sequence[Column[ArmLabels]] = (
    Column("arm", "arm", lambda each: each.arm, ARM),
    Column("iteration", "iteration", lambda each: each.iteration, NUMBER),
    Column("training questions", "questions", lambda each: each.questions, NUMBER),
    Column(
        "labels right",
        "label_accuracy",
        lambda each: each.accuracy,
        PERCENT_INTERVAL,
        "Labels right: of the labels whose question has gold, with the 95 % Wilson interval.",
    ),
    Column("by seed", "by_seed", lambda each: list_seeds(each.seeds)),
    Column("coverage", "coverage", lambda each: each.coverage, PERCENT),
    Column("ties", "ties", lambda each: each.ties, PERCENT, "Ties: share of tied votes."),
    Column(
        "too few voters",
        "below_quorum",
        lambda each: each.below_quorum,
        PERCENT,
        "Too few voters: share with fewer readable answers than a label takes (consensus.quorum).",
    ),
    Column("unread", "unparsed", lambda each: each.unparsed, PERCENT),
    Column("cut", "truncated", lambda each: each.truncated, PERCENT),
)
_LABELS = TableSpec(
    "pseudo-labels",
    "Pseudo-labels",
    _LABEL_COLUMNS,
    lambda experiment: experiment.labels,
    "In %. Coverage: share of the training questions that got a label. Unread: answers of these "
    "votes in which none could be read; cut: at the token limit.",
)


@dataclass(frozen=True, slots=True)
class _RunStep:
    run: str
    step: CurriculumStep


def _list_steps(experiment: ExperimentFacts) -> Iterator[_RunStep]:
    for run, step in experiment.steps:
        yield _RunStep(run.name, step)


_STEP_COLUMNS: Sequence[Column[_RunStep]] = (
    Column("run", "run", lambda each: each.run),
    Column("iteration", "iteration", lambda each: each.step.iteration, NUMBER),
    Column("stage", "curriculum_stage", lambda each: each.step.curriculum_stage, NUMBER),
    Column("trains on", "task", lambda each: each.step.task),
    Column("agreement before", "agreement", lambda each: each.step.agreement, PERCENT),
    Column("of the arm", "deciding_arm", lambda each: each.step.arm or NOTHING),
)
_STEPS = TableSpec(
    "curriculum-steps",
    "The curriculum by the society's own votes",
    _STEP_COLUMNS,
    _list_steps,
    "Agreement before: mean share, in %, of the agents that gave the plurality answer of round 1, "
    "on the training questions of the iteration before. If it is at least task.mastery, the next "
    "stage comes, for all arms.",
)


@dataclass(frozen=True, slots=True)
class _RunConcern:
    run: str
    concern: Concern


def _list_concerns(experiment: ExperimentFacts) -> Iterator[_RunConcern]:
    for run, concern in experiment.concerns:
        yield _RunConcern(run.name, concern)


_CONCERN_COLUMNS: Sequence[Column[_RunConcern]] = (
    Column("arm", "arm", lambda each: each.concern.arm, ARM),
    Column("run", "run", lambda each: each.run),
    Column("iteration", "iteration", lambda each: each.concern.iteration, NUMBER),
    Column("what", "kind", lambda each: each.concern.kind),
    Column("in words", "text", lambda each: each.concern.text),
)
_CONCERNS = TableSpec(
    "concerns",
    "What gets worse",
    _CONCERN_COLUMNS,
    _list_concerns,
    "Against the best earlier iteration of the same arm and run; listed if the change is at least "
    "5 points (10 for one_answer) and chance does it in less than 1 % of cases.",
)


def _list_flips(experiment: ExperimentFacts) -> list[Flips]:
    order = {each.name: place for place, each in enumerate(experiment.group.arms)}
    found = [each for each in experiment.flips if each.arm in order]
    return sorted(
        found,
        key=lambda each: (
            order[each.arm],
            each.split,
            each.decoding == "greedy",
            each.iteration,
        ),
    )


_FLIP_COLUMNS: Sequence[Column[Flips]] = (
    Column("arm", "arm", lambda each: each.arm, ARM),
    Column("society", "iteration", lambda each: each.iteration, SOCIETY),
    Column("questions", "split", lambda each: each.questions),
    Column("answers", "answers", lambda each: each.answers, NUMBER),
    Column(
        "wrong → right", "wrong_to_right", lambda each: each.wrong_to_right / each.answers, PERCENT
    ),
    Column(
        "right → wrong", "right_to_wrong", lambda each: each.right_to_wrong / each.answers, PERCENT
    ),
)
_FLIPS = TableSpec(
    "flips",
    "What debate changes",
    _FLIP_COLUMNS,
    _list_flips,
    "Each agent's first against its last answer, in % of all its answers. The training debates of "
    "an iteration are held by the society of the iteration before.",
)


_STYLE_CHANGE_COLUMNS: Sequence[Column[ArmStyles]] = (
    Column("arm", "arm", lambda each: each.arm, ARM),
    Column("decoding", "decoding", lambda each: each.decoding),
    Column("from", "first", lambda each: each.first, SOCIETY),
    Column("to", "last", lambda each: each.last, SOCIETY),
    Column("change, points", "change", lambda each: each.change.difference, POINTS),
    Column("by choice of style", "choice", lambda each: each.change.choice, POINTS),
    Column("by skill within styles", "skill", lambda each: each.change.skill, POINTS),
)
_STYLE_CHANGES = TableSpec(
    "style-changes",
    "Choice and skill",
    _STYLE_CHANGE_COLUMNS,
    lambda experiment: experiment.styles,
    "A single agent's accuracy in round 1. The change is split exactly in two (Kitagawa 1955): "
    "styles used more or less often, and accuracy within the styles. A style is recognised by the "
    "words a solution opens with. If a style comes to be used on easier questions, that shows as "
    "skill.",
)


@dataclass(frozen=True, slots=True)
class _StyleRow:
    """One style of one arm, before tuning and after."""

    arm: str
    decoding: str
    before: StyleUse
    after: StyleUse


def _list_styles(experiment: ExperimentFacts) -> Iterator[_StyleRow]:
    for each in experiment.styles:
        for before, after in each.pairs:
            yield _StyleRow(each.arm, each.decoding, before, after)


def _accuracy_within(use: StyleUse) -> Span:
    # The interval of a style without answers is all of 0 to 1, which no reader needs to see.
    return Span(use.accuracy, *(use.interval if use.answers else (None, None)))


_STYLE_COLUMNS: Sequence[Column[_StyleRow]] = (
    Column("arm", "arm", lambda row: row.arm, ARM),
    Column("decoding", "decoding", lambda row: row.decoding),
    Column("way of reasoning", "style", lambda row: row.before.style),
    Column("share before", "share_first", lambda row: row.before.share, PERCENT),
    Column("share after", "share_last", lambda row: row.after.share, PERCENT),
    Column(
        "right within it, before",
        "accuracy_first",
        lambda row: _accuracy_within(row.before),
        PERCENT_INTERVAL,
    ),
    Column(
        "right within it, after",
        "accuracy_last",
        lambda row: _accuracy_within(row.after),
        PERCENT_INTERVAL,
    ),
)
_STYLES = TableSpec(
    "styles",
    "Ways of reasoning",
    _STYLE_COLUMNS,
    _list_styles,
    "In % of the first answers. Intervals take answers as independent.",
)


@dataclass(frozen=True, slots=True)
class _Trained:
    """The jobs of one role of one arm in one iteration."""

    arm: str
    iteration: int
    role: str
    jobs: Sequence[Tuning]

    @property
    def untuned_jobs(self) -> list[Tuning]:
        # A running job may still give a model, so only what has ended without one counts.
        return [job for job in self.jobs if job.status not in ("succeeded", "running")]

    @property
    def losses(self) -> list[Sequence[float]]:
        """Of the jobs that reported losses."""
        return [job.losses for job in self.jobs if job.losses]

    @property
    def not_tuned(self) -> str:
        """How many models are not tuned, and why."""
        left = self.untuned_jobs
        reasons = dict.fromkeys(f"{job.status}: {job.note or NOTHING}" for job in left)
        return f"{len(left)} ({'; '.join(reasons)})" if left else NOTHING


def _list_trained(experiment: ExperimentFacts) -> Iterator[_Trained]:
    order = {each.name: place for place, each in enumerate(experiment.group.arms)}
    found: defaultdict[tuple[str, int, str], list[Tuning]] = defaultdict(list)
    for job in experiment.tunings:
        found[job.arm, job.iteration, job.role].append(job)
    # Generators before critics, as they are trained.
    for key in sorted(found, key=lambda k: (order.get(k[0], 99), k[1], k[2] == "critic")):
        yield _Trained(*key, found[key])


def _mean_at(losses: Sequence[Sequence[float]], place: int) -> float | None:
    return fmean(each[place] for each in losses) if losses else None


_TUNING_COLUMNS: Sequence[Column[_Trained]] = (
    Column("arm", "arm", lambda row: row.arm, ARM),
    Column("iteration", "iteration", lambda row: row.iteration, NUMBER),
    Column("role", "role", lambda row: row.role),
    Column("models", "models", lambda row: len(row.jobs) - len(row.untuned_jobs), NUMBER),
    Column(
        "examples each", "examples", lambda row: fmean(job.examples for job in row.jobs), NUMBER
    ),
    Column(
        "steps each",
        "steps",
        lambda row: fmean(map(len, row.losses)) if row.losses else None,
        NUMBER,
    ),
    Column("first loss", "first_loss", lambda row: _mean_at(row.losses, 0), decimals(3)),
    Column("last loss", "last_loss", lambda row: _mean_at(row.losses, -1), decimals(3)),
    Column(
        "KL to the base",
        "base_kl",
        lambda row: _mean_known(row.jobs),
        decimals(4),
        "KL: nats per trained token; below 0.001 a model answers as the base does.",
    ),
    Column("not tuned", "not_tuned", lambda row: row.not_tuned),
)
_TUNING = TableSpec(
    "tuning",
    "Fine-tuning",
    _TUNING_COLUMNS,
    _list_trained,
    "Means over the models of an arm. Loss: nats per trained token.",
)


_JOB_COLUMNS: Sequence[Column[Tuning]] = (
    Column("run", "run", lambda job: job.run),
    Column("arm", "arm", lambda job: job.arm, ARM),
    Column("iteration", "iteration", lambda job: job.iteration, NUMBER),
    Column("agent", "agent", lambda job: "all" if job.agent == 0 else str(job.agent)),
    Column("role", "role", lambda job: job.role),
    Column("examples", "examples", lambda job: job.examples, NUMBER),
    Column("steps", "steps", lambda job: len(job.losses) or None, NUMBER),
    Column("first loss", "first_loss", lambda job: _loss_at(job, 0), decimals(3)),
    Column("last loss", "last_loss", lambda job: _loss_at(job, -1), decimals(3)),
    Column("KL to the base", "base_kl", lambda job: job.base_kl, decimals(4)),
    Column("status", "status", lambda job: f"{job.status}, shared" if job.shared else job.status),
    Column("", "note", lambda job: job.note or ""),
)
_JOBS = TableSpec("jobs", "Every job", _JOB_COLUMNS, lambda experiment: experiment.tunings)


def _mean_known(jobs: Sequence[Tuning]) -> float | None:
    known = [job.base_kl for job in jobs if job.base_kl is not None]
    return fmean(known) if known else None


def _loss_at(job: Tuning, place: int) -> float | None:
    return job.losses[place] if job.losses else None
