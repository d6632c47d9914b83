"""Preflight of a sweep: what can be wrong with any of its runs, found before one starts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from providers.types import Finding
from society.checks import doctor, overlap
from society.checks.findings import show_findings
from society.checks.sampling import describe_model_defaults
from society.config.load import ConfigError
from society.config.schema import Config
from society.runs import folder as folders
from society.sweeps.axes import SweepSource
from society.sweeps.cost import format_budget
from society.sweeps.definition import Member, Sweep, choose_representatives, load_sweep

_ASKED = ("task", "train", "evaluation", "zero_shot", "leakage", "iterations")
"""The keys that decide which questions a run asks, and how similar two of them may be."""


def find_unfinished(
    sweep: Sweep,
    *,
    allow_overlap: bool,
    stream: TextIO,
    skip: frozenset[str] = frozenset(),
) -> list[Member]:
    """The members that are not finished. Warnings go to `stream`.

    Raises `ConfigError` (also as `LeakageFound` and `PreflightFailed`) for anything that would stop
    one of them, and the store's errors for a database that is in use, broken or newer.
    """
    _check_names(sweep)
    for member in sweep.members:
        folders.check_start(member.folder, member.config)
    # Finished members are kept as they are, so nothing about them can fail.
    left = [m for m in sweep.members if not doctor.read_past_work(m.config, m.folder).finished]
    _check_leakage(left, allow=allow_overlap)
    taken = [(m, describe_model_defaults(m.experiment)) for m in choose_representatives(left)]
    show_findings(_merge_findings(taken), stream)
    doctor.require_no_errors(_preflight_members(left, skip), stream)
    return left


def preflight_sweep(
    source: SweepSource, runs: Path, name: str, allow: bool, skip: frozenset[str] = frozenset()
) -> list[Finding]:
    """The findings of `society doctor` about a sweep: each point once for all its seeds."""
    try:
        sweep = load_sweep(source, runs, name)
        _check_names(sweep)
        for member in sweep.members:
            folders.check_start(member.folder, member.config)
    except ConfigError as error:
        folder = folders.locate_run(runs, name)
        despite = doctor.preflight_despite_errors(source.experiment, source.overrides, folder, skip)
        return [Finding("error", str(error)), *despite]
    points = sweep.representatives()
    seeds = len({member.seed for member in sweep.members})
    first = Finding(
        "ok",
        f"a sweep of {len(sweep.members)} runs: {len(points)} point(s) of the grid, {seeds} seed(s)"
        f"{format_budget(sweep)}",
    )
    questions = [(m, list(doctor.check_questions(m.experiment, m.folder, allow))) for m in points]
    return [first, *_merge_findings(questions), *_preflight_members(sweep.members, skip)]


def _check_names(sweep: Sweep) -> None:
    if sweep.folder.database.is_file():
        raise ConfigError(
            f"{sweep.folder.name!r} is a run; give the sweep another name with --name"
        )


def _check_leakage(members: Sequence[Member], *, allow: bool) -> None:
    """Check each set of questions once, and again if a run has recorded overlaps that it allows."""
    checked: set[tuple[str, Path | None]] = set()
    for member in members:
        database = member.folder.database
        # Comparing questions is slow, and most members of a sweep ask the same ones.
        key = (_questions_key(member.config), database if database.is_file() else None)
        if key not in checked:
            checked.add(key)
            try:
                overlap.check_overlap(member.experiment, database, allow=allow)
            # The class decides the exit status; the message gets the member's name.
            except ConfigError as error:
                raise type(error)(f"{member.short}: {error}") from error


def _questions_key(config: Config) -> str:
    found = json.loads(config.to_json())
    return json.dumps([found.get(key) for key in _ASKED], sort_keys=True)


def _preflight_members(members: Sequence[Member], skip: frozenset[str]) -> list[Finding]:
    """Check models and machine once per point; a finding that all points share appears once."""
    left = len(members)
    found = [
        (m, doctor.preflight_config(m.experiment, m.folder, left, skip=skip))
        for m in choose_representatives(members)
    ]
    return _merge_findings(found)


def _merge_findings(examined: Sequence[tuple[Member, Sequence[Finding]]]) -> list[Finding]:
    where: defaultdict[Finding, list[str]] = defaultdict(list)
    for member, findings in examined:
        for finding in findings:
            where[finding].append(member.point.name)
    merged = []
    for finding, points in where.items():
        only = "" if len(points) == len(examined) else f"{', '.join(points)}: "
        merged.append(replace(finding, text=f"{only}{finding.text}"))
    return merged
