"""What the arms have learnt from, and what has become of their diversity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean

from evals.report.cells import Cell, Column, Measured, Number, Percent, Shift, Table, Text, seeds
from evals.report.facts import ExperimentFacts, Facts
from evals.report.tables.rows import arm, society, spanning
from evals.report.training import Tuning

_ARM = Column("arm", "arm", text=True)


def tables(facts: Facts) -> list[Table]:
    """Diversity, labels, what gets worse, flips, styles, and what fine-tuning did."""
    return [
        _diversity(facts),
        _labels(facts),
        _concerns(facts),
        _flips(facts),
        _style_changes(facts),
        _styles(facts),
        _tuning(facts),
        _jobs(facts),
    ]


def _diversity(facts: Facts) -> Table:
    columns = [
        Column("measure", "measure", text=True),
        Column("of", "role", text=True),
        Column("responses", "responses", text=True),
        Column("by", "encoder", text=True),
        Column("task", "task", text=True),
        Column("decoding", "decoding", text=True),
        _ARM,
        Column("after", "iteration", text=True),
        Column("value", "value", interval=True),
        Column("questions", "questions"),
        Column("", "note", text=True),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        order = {each.name: place for place, each in enumerate(experiment.arms)}
        known = [each for each in experiment.diversities if each.arm in order]
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
        for each in known:
            scale = each.scale
            yield (
                Text(scale.measure), Text(scale.role), Text(scale.responses),
                Text(scale.encoder or "–"), Text(each.task or experiment.experiment.first.task),
                Text(each.decoding), arm(each.arm), society(each.iteration),
                Measured(each.value, each.low, each.high), Number(each.questions),
                Text(each.note or ""),
            )  # fmt: skip

    note = (
        "Agreement: share of the agents with a readable answer that have the plurality answer, so "
        "less is more diverse. embedding: mean pairwise 1 − cosine of the agents' responses; nll, "
        "kl, kl_base: nats per token. Generator: first answers, critic: last answers. 95 % "
        "intervals over questions; with several seeds the mean of the seeds' values and interval "
        "ends."
    )
    return spanning(facts, "diversity", "Diversity by iteration", columns, rows, note)


def _labels(facts: Facts) -> Table:
    columns = [
        _ARM,
        Column("iteration", "iteration"),
        Column("training questions", "questions"),
        Column("labels right", "label_accuracy", interval=True),
        Column("by seed", "by_seed", text=True),
        Column("coverage", "coverage"),
        Column("ties", "ties"),
        Column("too few voters", "below_quorum"),
        Column("unread", "unparsed"),
        Column("cut", "truncated"),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        for each in experiment.labels:
            yield (
                arm(each.arm), Number(each.iteration), Number(each.questions),
                Percent.of(each.accuracy), Text(seeds(each.seeds) or "–"),
                *(
                    Percent(share, interval=False)
                    for share in (
                        each.coverage, each.ties, each.below_quorum, each.unparsed, each.truncated,
                    )
                ),
            )  # fmt: skip

    note = (
        "In %. Labels right: of the labels whose question has gold, with the 95 % Wilson interval. "
        "Coverage: share of the training questions that got a label. Ties: share of tied votes. "
        "Too few voters: share with fewer readable answers than a label takes (consensus.quorum). "
        "Unread: answers of these votes in which none could be read; cut: at the token limit."
    )
    return spanning(facts, "pseudo-labels", "Pseudo-labels", columns, rows, note)


def _concerns(facts: Facts) -> Table:
    columns = [
        _ARM,
        Column("run", "run", text=True),
        Column("iteration", "iteration"),
        Column("what", "kind", text=True),
        Column("in words", "text", text=True),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        for source, each in experiment.concerns:
            yield (
                arm(each.arm), Text(source.name), Number(each.iteration), Text(each.kind),
                Text(each.text),
            )  # fmt: skip

    note = (
        "Against the best earlier iteration of the same arm and run; told where the change is at "
        "least 5 points (10 for one_answer) and chance does it in less than 1 % of cases."
    )
    return spanning(facts, "concerns", "What gets worse", columns, rows, note)


def _flips(facts: Facts) -> Table:
    columns = [
        _ARM,
        Column("society", "iteration", text=True),
        Column("questions", "split", text=True),
        Column("answers", "answers"),
        Column("wrong → right", "wrong_to_right"),
        Column("right → wrong", "right_to_wrong"),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        order = {each.name: place for place, each in enumerate(experiment.experiment.arms)}
        found = [each for each in experiment.flips if each.arm in order]
        found.sort(key=lambda f: (order[f.arm], f.split, f.decoding == "greedy", f.iteration))
        for each in found:
            split = "training" if each.split == "train" else "held-out"
            yield (
                arm(each.arm), society(each.iteration), Text(f"{split}, {each.decoding}"),
                Number(each.answers),
                Percent(each.wrong_to_right / each.answers, interval=False),
                Percent(each.right_to_wrong / each.answers, interval=False),
            )  # fmt: skip

    note = (
        "Each agent's first against its last answer, in % of all its answers. The training debates "
        "of an iteration are held by the society of the iteration before."
    )
    return spanning(facts, "flips", "What debate changes", columns, rows, note)


def _style_changes(facts: Facts) -> Table:
    columns = [
        _ARM,
        Column("decoding", "decoding", text=True),
        Column("from", "first", text=True),
        Column("to", "last", text=True),
        Column("change, points", "change"),
        Column("by choice of style", "choice"),
        Column("by skill within styles", "skill"),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        for each in experiment.styles:
            parts = (each.change.difference, each.change.choice, each.change.skill)
            yield (
                arm(each.arm), Text(each.decoding), society(each.first), society(each.last),
                *map(Shift, parts),
            )  # fmt: skip

    note = (
        "A single agent's accuracy in round 1. The change is split exactly in two (Kitagawa 1955): "
        "styles used more or less often, and accuracy within the styles. A style is recognised by "
        "the words a solution opens with. If a style comes to be used on easier questions, that "
        "shows as skill."
    )
    return spanning(facts, "style-changes", "Choice and skill", columns, rows, note)


def _styles(facts: Facts) -> Table:
    columns = [
        _ARM,
        Column("decoding", "decoding", text=True),
        Column("way of reasoning", "style", text=True),
        Column("share before", "share_first"),
        Column("share after", "share_last"),
        Column("right within it, before", "accuracy_first", interval=True),
        Column("right within it, after", "accuracy_last", interval=True),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        for each in experiment.styles:
            for old, new in each.pairs:
                within = (
                    Percent(use.accuracy, *(use.interval if use.answers else (None, None)))
                    for use in (old, new)
                )
                yield (
                    arm(each.arm), Text(each.decoding), Text(old.style),
                    Percent(old.share, interval=False), Percent(new.share, interval=False), *within,
                )  # fmt: skip

    note = "In % of the first answers. Intervals take answers as independent."
    return spanning(facts, "styles", "Ways of reasoning", columns, rows, note)


def _tuning(facts: Facts) -> Table:
    columns = [
        _ARM,
        Column("iteration", "iteration"),
        Column("role", "role", text=True),
        Column("models", "models"),
        Column("examples each", "examples"),
        Column("steps each", "steps"),
        Column("first loss", "first_loss"),
        Column("last loss", "last_loss"),
        Column("not tuned", "not_tuned", text=True),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        order = {each.name: place for place, each in enumerate(experiment.experiment.arms)}
        found: defaultdict[tuple[str, int, str], list[Tuning]] = defaultdict(list)
        for job in experiment.tunings:
            found[job.arm, job.iteration, job.role].append(job)
        for key in sorted(found, key=lambda k: (order.get(k[0], 99), k[1], k[2] == "critic")):
            jobs = found[key]
            told = [job.losses for job in jobs if job.losses]
            left = [job for job in jobs if job.status not in ("succeeded", "running")]
            reasons = dict.fromkeys(f"{job.status}: {job.note or '–'}" for job in left)
            yield (
                arm(key[0]), Number(key[1]), Text(key[2]), Number(len(jobs) - len(left)),
                Number(fmean(job.examples for job in jobs)),
                Number(fmean(map(len, told)) if told else None),
                Number(fmean(losses[0] for losses in told) if told else None, 3),
                Number(fmean(losses[-1] for losses in told) if told else None, 3),
                Text(f"{len(left)} ({'; '.join(reasons)})" if left else "–"),
            )  # fmt: skip

    note = "Means over the models of an arm and over the seeds. Loss: nats per trained token."
    return spanning(facts, "tuning", "Fine-tuning", columns, rows, note)


def _jobs(facts: Facts) -> Table:
    columns = [
        Column("run", "run", text=True),
        _ARM,
        Column("iteration", "iteration"),
        Column("agent", "agent", text=True),
        Column("role", "role", text=True),
        Column("examples", "examples"),
        Column("steps", "steps"),
        Column("first loss", "first_loss"),
        Column("last loss", "last_loss"),
        Column("status", "status", text=True),
        Column("", "note", text=True),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        for job in experiment.tunings:
            losses = job.losses
            yield (
                Text(job.run), arm(job.arm), Number(job.iteration),
                Text("all" if job.agent == 0 else str(job.agent)), Text(job.role),
                Number(job.examples), Number(len(losses) or None),
                Number(losses[0] if losses else None, 3),
                Number(losses[-1] if losses else None, 3),
                Text(f"{job.status}, shared" if job.shared else job.status),
                Text(job.note or ""),
            )  # fmt: skip

    return spanning(facts, "jobs", "Every job", columns, rows)
