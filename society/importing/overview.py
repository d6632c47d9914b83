"""What an import has brought, as two short tables."""

from __future__ import annotations

from typing import TextIO

from society.importing import Imported
from society.importing.debates import group_problems
from society.terminal.output import one_line, write_line
from society.terminal.table import write_rows
from store.ledger import Store

_MOST_LEFT_OUT = 5

_DEBATES = """
    WITH spoken AS (
        SELECT split, iteration, arm, decoding, count(*) AS answers, count(answer) AS readable
        FROM turns
        WHERE kind = 'answer'
        GROUP BY ALL
    ),

    decided AS (
        SELECT split, iteration, arm, decoding, count(*) AS debates,
            count(correct) AS judged, count_if(tie) AS ties,
            100 * avg(correct::INTEGER) AS accuracy
        FROM votes
        WHERE round = $rounds
        GROUP BY ALL
    )

    SELECT split, iteration, arm, decoding, debates, answers, readable, ties, judged,
        round(accuracy, 1)
    FROM spoken
    JOIN decided USING (split, iteration, arm, decoding)
    ORDER BY split DESC, iteration, arm, decoding
"""
_DEBATE_COLUMNS = (
    "split",
    "iteration",
    "arm",
    "decoding",
    "debates",
    "answers",
    "readable",
    "ties",
    "with gold",
    "consensus right, %",
)
_DATASETS = """
    SELECT dataset_id, examples, corrected, kept, note FROM datasets
    ORDER BY iteration, arm, agent, role DESC
"""
_DATASET_COLUMNS = ("dataset", "examples", "corrected", "kept", "note")


def show_import(imported: Imported, stream: TextIO) -> None:
    """Print what the new run holds and which debates were left out."""
    folder, society = imported.folder, imported.config.society
    write_line(stream, f"run {folder.name}: {society.agents} agents, {society.rounds} rounds")
    if (numbers := imported.numbers)[-1] != len(numbers):
        called = ", ".join(map(str, numbers))
        write_line(stream, f"agents {called} of the file are 1 to {len(numbers)} in the run")
    # A thousand debates may lack the same answer.
    left_out = group_problems(imported.left_out)
    for each in left_out[:_MOST_LEFT_OUT]:
        write_line(stream, f"left out: {one_line(each)}")
    if len(left_out) > _MOST_LEFT_OUT:
        write_line(stream, f"left out: {len(left_out) - _MOST_LEFT_OUT} more causes")
    store = Store.open(folder.database, read_only=True)
    try:
        write_rows(
            _DEBATE_COLUMNS, store.rows(_DEBATES, {"rounds": society.rounds}), "table", stream
        )
        if found := store.rows(_DATASETS):
            write_rows(_DATASET_COLUMNS, found, "table", stream)
    finally:
        store.close()
