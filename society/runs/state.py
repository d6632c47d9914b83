"""Where a run is and what it has found, as one object for programs: `--json`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from evals import choices, stored_run
from evals.agreement import read_agreements
from evals.metrics import MEASURES, read_society_accuracies
from evals.stored_run import list_evaluated_arms
from society.runs.folder import RunFolder
from society.runs.status import (
    STAGE_COLUMNS,
    ProgressRecord,
    list_stages,
    open_unless_held,
    read_progress,
)
from store.ledger import Store


def read_state(folder: RunFolder) -> dict[str, object]:
    """The state of a run, running or not; see `describe_run` for what is stored.

    `state` is "running", "stopped" or "finished". Of a running run that nobody can read there is
    only its process and its last line. Raises `ConfigError` if it has not even left that.
    """
    record = read_progress(folder)
    store = open_unless_held(folder, record)
    if isinstance(store, ProgressRecord):
        return {"run": folder.name, "state": "running", **_describe_process(store)}
    with store:
        running = store.running
        found = describe_run(folder, store)
        if not running:
            return found
        process = {} if record is None else _describe_process(record)
        return {**found, "state": "running", **process}


def describe_run(folder: RunFolder, store: Store) -> dict[str, object]:
    """What a run's database says of it: its stages, its societies, its report.

    Shares are 0..1 and null where nothing is known. `single`, `majority` and `consensus` are
    accuracies, each with the bounds of its 95 % interval.
    """
    finished = stored_run.load_run(store).finished_at
    return {
        "run": folder.name,
        "state": "stopped" if finished is None else "finished",
        "finished_at": finished,
        "report": str(folder.report) if folder.report.is_file() else None,
        "stages": [dict(zip(STAGE_COLUMNS, row, strict=True)) for row in list_stages(store)],
        "societies": list(_describe_societies(store)),
        "chosen": {arm: choices.find_society(store, arm) for arm in list_evaluated_arms(store)},
    }


def _describe_societies(store: Store) -> Iterator[dict[str, object]]:
    for arm in list_evaluated_arms(store):
        rates = {
            (row.iteration, row.decoding): row for row in read_society_accuracies(store, arm, None)
        }
        for votes in read_agreements(store, arm, None):
            stage = votes.stage
            found = rates.get((stage.iteration, stage.decoding))
            yield {
                "arm": arm,
                "iteration": stage.iteration,
                "decoding": stage.decoding,
                "questions": votes.questions,
                **{each: found and asdict(found.rate(each)) for each in MEASURES},
                "agree": votes.last,
                "tied": votes.ties,
                "unread": votes.unparsed,
                "cut": votes.truncated,
            }


def _describe_process(record: ProgressRecord) -> dict[str, object]:
    return {
        "process": record.process,
        "progress": record.line,
        "updated_at": record.updated_at,
    }
