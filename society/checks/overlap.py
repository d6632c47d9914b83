"""The check before a run that no evaluation question is trained on.

Overlaps that the user allows with `--allow-overlap` are stored with the run, so that a resumed run
and the report know them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.overlap import QuestionOverlap, find_overlaps
from society.config.load import ConfigError
from society.method.experiment import Experiment
from store import records
from store.errors import StoreLocked, StoreOutdated
from store.ledger import Store

_REMEDY = (
    "choose disjoint files, fewer questions or another task.seed; if they only look alike, raise "
    "leakage.threshold; --allow-overlap runs all the same and records the pairs"
)
_ONE_ID = (
    "they have the same question id, and a run can hold an id in one split only: remove them from "
    "one of the files"
)
_PAIRS_SHOWN = 5
_LONGEST = 160


class LeakageFound(ConfigError):
    """Training and evaluation questions overlap; the message shows pairs and remedies."""


def check_overlap(experiment: Experiment, database: Path, *, allow: bool) -> list[records.Overlap]:
    """The overlaps of an experiment's questions, which the caller records once the run is open.

    Raises `LeakageFound` unless there are none, or `allow` is set, or all of them were allowed when
    this run was started. One question under one id in both splits cannot be allowed.
    """
    questions, threshold = experiment.questions, experiment.config.leakage.threshold
    try:
        held_out = [q for each in questions.evaluation_sets for q in each.questions()]
        found = find_overlaps(questions.all_training_questions(), held_out, threshold)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    # The store holds one question per id, so this overlap could not even be recorded.
    if one := [pair for pair in found if _get_ids(pair)[0] == _get_ids(pair)[1]]:
        raise LeakageFound(_format_message(one, _ONE_ID))
    # A run that was started with --allow-overlap is resumed without the option.
    known = _read_allowed(database)
    fresh = [pair for pair in found if _get_ids(pair) not in known]
    if fresh and not allow:
        raise LeakageFound(_format_message(fresh, _REMEDY))
    return [
        records.Overlap(*_get_ids(pair), similarity=pair.similarity, exact=pair.exact)
        for pair in fresh
    ]


def _get_ids(pair: QuestionOverlap) -> tuple[str, str]:
    return pair.train.question_id, pair.evaluation.question_id


def _read_allowed(database: Path) -> set[tuple[str, str]]:
    if not database.is_file():
        return set()
    try:
        store = Store.open(database, read_only=True)
    except (StoreOutdated, StoreLocked):
        # An earlier version allowed nothing; a run in use is refused when it is opened.
        return set()
    try:
        return {(o.train_question_id, o.eval_question_id) for o in store.overlaps()}
    finally:
        store.close()


def _format_message(found: Sequence[QuestionOverlap], remedy: str) -> str:
    held_out = len({pair.evaluation.question_id for pair in found})
    lines = [f"{held_out} evaluation question(s) are the same as training questions, or nearly:"]
    for pair in found[:_PAIRS_SHOWN]:
        kind = "the same" if pair.exact else f"{100 * pair.similarity:.0f} % alike"
        lines.append(f"  {kind}:")
        for role, question in (("training", pair.train), ("evaluation", pair.evaluation)):
            lines.append(f"    {role} {question.question_id}: {_shorten(question.text)}")
    if len(found) > _PAIRS_SHOWN:
        lines.append(f"  and {len(found) - _PAIRS_SHOWN} more pair(s)")
    lines.append(remedy)
    return "\n".join(lines)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
