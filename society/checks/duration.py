"""How long a run on this machine's CPU will take, reckoned before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from providers.types import Finding, PreflightReport
from society.costs.work import plan_work
from society.method.experiment import Experiment
from society.terminal.duration import format_duration

_LONG_S = 6 * 3600.0
"""More than an evening."""
_SHORTER = (
    "for a first look lower train.questions, evaluation.questions, iterations or "
    "sampling.max_tokens; a GPU is many times faster"
)


def describe_time(
    experiment: Experiment, tuned: int, reports: Sequence[PreflightReport]
) -> Iterator[Finding]:
    """The hours of answering and of training, after `tuned` iterations; nothing if a model's speed
    is not known.

    Answers have the lengths that `society cost` assumes, so the result is right within a factor of
    about three.
    """
    speeds = [report.token_seconds for report in reports]
    known = [speed for speed in speeds if speed is not None]
    if not known or len(known) < len(speeds):
        return
    try:
        plan = plan_work(experiment)
    # Questions that cannot be loaded have an error of their own.
    except ValueError:
        return
    left = [each for each in plan if each.iteration > tuned or not tuned]
    training = sum(each.work for each in left if each.kind == "finetune")
    answering = sum(each.work for each in left) - training
    # Several models take turns on one CPU; the slowest bounds the time.
    text = f"time: about {format_duration(answering * max(known))} of answering"
    if training:
        text += f" and {format_duration(training * max(known))} of training"
    text += " on this CPU, within a factor of three"
    if (answering + training) * max(known) < _LONG_S:
        yield Finding("ok", text)
    else:
        yield Finding("warning", text, _SHORTER)
