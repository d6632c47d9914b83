"""Exports: a run as files of rows, training data in trainers' shapes, or a dataset with a card.

All files are written beside their destination first and moved there when all are complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from society.config.load import ConfigError
from society.exporting.card import DatasetConfig, write_card
from society.exporting.plan import SUFFIXES, Kind, Output, PlannedFile, plan_files
from society.exporting.reading import open_readable
from society.exporting.staging import check_free, stage_files
from store.errors import InvalidQuery
from store.ledger import Store
from store.selection import Selection

__all__ = ["ExportResult", "Kind", "Output", "WrittenFile", "export_run"]


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """One written file; `rows` is None for the card."""

    path: Path
    rows: int | None


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The written files, and notes that the user must read."""

    files: tuple[WrittenFile, ...]
    notes: tuple[str, ...]


def export_run(
    database: Path,
    out: Path,
    kinds: Sequence[Kind],
    output: Output,
    selection: Selection,
    *,
    force: bool = False,
) -> ExportResult:
    """Write the selected part of a run into the folder `out`, or into one file of that name.

    Without `kinds`, everything that the output can hold is written. Raises `ConfigError` if `out`
    does not fit or has such files already (unless `force`), `InvalidQuery` if nothing is selected,
    `StoreLocked` if another process holds the file and makes no snapshot, and `WriteFailed`. An
    error leaves no file behind.

        export_run(folder.database, Path("out"), ["turns"], "parquet", Selection(arm="multiagent"))
    """
    with open_readable(database) as store:
        selection.check(store)
        planned, notes = plan_files(store, kinds, output, selection)
        if not planned:
            raise InvalidQuery("nothing is selected: this run has no such dataset")
        # Every selection includes the base model, so that alone does not make a selection.
        only_models = all(piece.kind == "models" for piece in planned)
        root, planned = _place_files(out, planned, output)
        names = [piece.path for piece in planned] + (["README.md"] if output == "hf" else [])
        check_free(root, names, force)
        # All or nothing: a failed export must not look like a small one.
        with stage_files(root) as stage:
            files = _write_files(store, planned, stage, keep_empty=output != "hf")
            if not any(file.rows for piece, file in files if piece.kind != "models" or only_models):
                raise InvalidQuery("nothing is selected: no row of this run fits")
            written = [WrittenFile(root / piece.path, file.rows) for piece, file in files]
            if output == "hf":
                configs = _build_configs(files, stage)
                (stage / "README.md").write_text(write_card(store, configs), encoding="utf-8")
                written.append(WrittenFile(root / "README.md", None))
        return ExportResult(tuple(written), tuple(notes))


def _place_files(
    out: Path, planned: list[PlannedFile], output: Output
) -> tuple[Path, list[PlannedFile]]:
    """The folder to write into; `out` may name the file itself if there is only one."""
    if out.suffix not in SUFFIXES.values() or out.is_dir():
        return out, planned
    suffix = SUFFIXES[output]
    if output == "hf" or len(planned) > 1:
        raise ConfigError(
            f"--out {out} is one file, and the export has {len(planned)}; name a folder, or "
            "select less"
        )
    if out.suffix != suffix:
        raise ConfigError(f"--out {out} does not end in {suffix}, as --format {output} needs")
    return out.parent, [planned[0].with_path(out.name)]


def _write_files(
    store: Store, planned: Sequence[PlannedFile], stage: Path, *, keep_empty: bool
) -> list[tuple[PlannedFile, WrittenFile]]:
    written = []
    for piece in planned:
        path = stage / piece.path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = piece.write(store, path)
        if rows or keep_empty:
            written.append((piece, WrittenFile(path, rows)))
        else:
            # An empty split would only clutter the page of a dataset.
            path.unlink()
    return written


def _build_configs(
    files: Sequence[tuple[PlannedFile, WrittenFile]], stage: Path
) -> list[DatasetConfig]:
    found: dict[str, DatasetConfig] = {}
    for piece, file in files:
        config = found.setdefault(piece.config, DatasetConfig(piece.config, piece.kind))
        size = (stage / piece.path).stat().st_size
        config.add(piece.split, piece.path, file.rows or 0, size)
    return list(found.values())
