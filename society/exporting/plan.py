"""The plan of an export: its files, and how each is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

from store import dataset_export, export
from store.errors import InvalidQuery
from store.export import Format, Part
from store.ledger import Store
from store.records import Dataset, StageSplit
from store.selection import OF_VOTES, Selection

Kind = Literal["questions", "turns", "verdicts", "votes", "debates", "datasets", "models"]
Output = Literal["parquet", "jsonl", "csv", "chat", "sharegpt", "hf"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SUFFIXES: dict[Output, str] = {
    "parquet": ".parquet",
    "jsonl": ".jsonl",
    "csv": ".csv",
    "chat": ".jsonl",
    "sharegpt": ".jsonl",
    "hf": ".parquet",
}
# File systems allow 255 bytes; longer names are cut and get a hash.
_LONGEST_NAME = 160
_OF_ALL_AGENTS = ("votes", "debates")
_OF_LABELS = ("turns", "votes")


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file: its path within the export, and a function that writes it and returns its rows.

    `config` and `split` are its names in the dataset card.
    """

    path: str
    write: Callable[[Store, Path], int]
    kind: Kind
    config: str
    split: str

    def with_path(self, path: str) -> PlannedFile:
        """The same file under another path."""
        return replace(self, path=path)


def plan_files(
    store: Store, kinds: Sequence[Kind], output: Output, selection: Selection
) -> tuple[list[PlannedFile], list[str]]:
    """The files of an export, and notes for the reader. Nothing is written yet.

    Raises `InvalidQuery` if the output cannot hold a kind, or a kind cannot be selected so.
    """
    shaped = output in ("chat", "sharegpt")
    wrong = [kind for kind in kinds if shaped and kind != "datasets"]
    if wrong:
        raise InvalidQuery(
            f"--format {output} holds training data only; use --what datasets instead of "
            f"{wrong[0]}, or another format"
        )
    notes: list[str] = []
    # Without --what, a trainer's shape means its datasets, and rows mean everything.
    wanted = kinds or (("datasets",) if shaped else _choose_kinds(selection, notes))
    found: list[PlannedFile] = []
    for kind in dict.fromkeys(wanted):
        if kind == "datasets":
            found += _plan_datasets(store, output, selection, notes)
        # The Hub wants one file per split; models belong to no split.
        elif output == "hf" and kind != "models":
            found += [
                _plan_part(kind, "parquet", replace(selection, split=split), split)
                for split in _list_splits(store, kind)
                if selection.split in (None, split)
            ]
        else:
            format: Format = "parquet" if output == "hf" else output  # type: ignore[assignment]
            found.append(_plan_part(kind, format, selection))
    return found, notes


def _list_splits(store: Store, kind: Kind) -> tuple[StageSplit, ...]:
    """The splits that get a file each; votes on labels are left out where there are none."""
    asked = kind in _OF_LABELS and store.rows("SELECT 1 FROM turns WHERE split = 'label' LIMIT 1")
    return ("train", "eval", "label") if asked else ("train", "eval")


def _choose_kinds(selection: Selection, notes: list[str]) -> tuple[Kind, ...]:
    if selection.agent is None and selection.role is None:
        return KINDS
    notes.append("votes and debates belong to all agents and were left out")
    return tuple(kind for kind in KINDS if kind not in _OF_ALL_AGENTS)


def _plan_part(
    part: Part, format: Format, selection: Selection, split: StageSplit | None = None
) -> PlannedFile:
    # Refuse a selection by agent here, before any file is written.
    if part in _OF_ALL_AGENTS:
        selection.where(OF_VOTES)
    path = f"{part}.{format}" if split is None else f"{part}/{split}.{format}"

    def write(store: Store, path: Path) -> int:
        return export.export_part(store, part, path, format, selection)

    return PlannedFile(path, write, part, part, split or "train")


def _plan_datasets(
    store: Store, output: Output, selection: Selection, notes: list[str]
) -> list[PlannedFile]:
    # Nothing is trained on evaluation questions.
    if selection.split == "eval":
        return []
    there = [d for d in store.datasets(selection.iteration, selection.arm) if _fits(d, selection)]
    if empty := [dataset.dataset_id for dataset in there if not dataset.examples]:
        notes.append(f"left out, since empty: {', '.join(empty)}")
    full = [dataset for dataset in there if dataset.examples]
    if output == "sharegpt" and any(d.role == "critic" and d.loss_on == "final" for d in full):
        notes.append(
            "these critics learn their last answer only, which this shape cannot say: have your "
            "trainer put the loss on the last turn, or use --format chat"
        )
    return [_plan_dataset(dataset, output) for dataset in full]


def _fits(dataset: Dataset, selection: Selection) -> bool:
    return selection.agent in (None, dataset.agent) and selection.role in (None, dataset.role)


def _name_file(dataset_id: str) -> str:
    """A name that every file system takes; long ones keep their beginning and get a hash."""
    name = quote(dataset_id, safe="")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 17]}-{sha256(dataset_id.encode()).hexdigest()[:16]}"


def _plan_dataset(dataset: Dataset, output: Output) -> PlannedFile:
    name = _name_file(dataset.dataset_id)

    def write(store: Store, path: Path) -> int:
        if output == "chat" or output == "sharegpt":
            return dataset_export.export_dataset(store, dataset.dataset_id, path, output)
        format: Format = "parquet" if output == "hf" else output
        return dataset_export.export_examples(store, dataset.dataset_id, path, format)

    return PlannedFile(f"datasets/{name}{SUFFIXES[output]}", write, "datasets", name, "train")
