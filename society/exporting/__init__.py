"""Exports: a run as files of rows, training data in trainers' shapes, or a dataset with a card.

All files are written beside their destination first and moved there when all are complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from society.config.load import ConfigError
from society.exporting.card import DatasetConfig, write_card
from society.exporting.plan import SUFFIXES, Kind, Output, PlannedFile, plan_files
from store.errors import InvalidQuery, StoreLocked, WriteFailed
from store.ledger import Store
from store.output_files import prepare_partial
from store.selection import Selection
from store.snapshots import request_snapshot

__all__ = ["ExportResult", "Kind", "Output", "WrittenFile", "export_run"]

# Above this limit DuckDB sorts and joins on disk, so that a run of any size can be exported.
MEMORY = "2GB"
_PATIENCE_S = 20.0


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
    with _open_readable(database) as store:
        selection.check(store)
        planned, notes = plan_files(store, kinds, output, selection)
        if not planned:
            raise InvalidQuery("nothing is selected: this run has no such dataset")
        # Every selection includes the base model, so that alone does not make a selection.
        only_models = all(piece.kind == "models" for piece in planned)
        root, planned = _place_files(out, planned, output)
        names = [piece.path for piece in planned] + (["README.md"] if output == "hf" else [])
        _check_free(root, names, force)
        # All or nothing: a failed export must not look like a small one.
        with _stage_files(root) as stage:
            files = _write_files(store, planned, stage, keep_empty=output != "hf")
            if not any(file.rows for piece, file in files if piece.kind != "models" or only_models):
                raise InvalidQuery("nothing is selected: no row of this run fits")
            written = [WrittenFile(root / piece.path, file.rows) for piece, file in files]
            if output == "hf":
                configs = _build_configs(files, stage)
                (stage / "README.md").write_text(write_card(store, configs), encoding="utf-8")
                written.append(WrittenFile(root / "README.md", None))
        return ExportResult(tuple(written), tuple(notes))


@contextmanager
def _open_readable(database: Path) -> Iterator[Store]:
    """The run's database, or a snapshot of it if the run is running."""
    with ExitStack() as stack:
        try:
            store = stack.enter_context(Store.open(database, read_only=True, memory_limit=MEMORY))
            locked = store.running
        except StoreLocked:
            locked = True
        # A running run would change between two files; a snapshot is one moment.
        if locked:
            stack.close()
            copy = stack.enter_context(request_snapshot(database, _PATIENCE_S))
            store = stack.enter_context(Store.open(copy, read_only=True, memory_limit=MEMORY))
        yield store


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


def _check_free(root: Path, names: Sequence[str], force: bool) -> None:
    if root.exists() and not root.is_dir():
        raise ConfigError(f"--out {root} is a file; name a folder")
    there = [name for name in names if (root / name).exists()]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ConfigError(
            f"{root / there[0]}{more} exist(s); choose another --out, or overwrite with --force"
        )


@contextmanager
def _stage_files(root: Path) -> Iterator[Path]:
    """A folder beside `root`; at the end its files move into `root`."""
    stage = prepare_partial(root)
    try:
        stage.mkdir(parents=True)
        yield stage
        if root.exists():
            # Into an existing folder files move one by one, and other files there stay.
            for file in sorted(path for path in stage.rglob("*") if path.is_file()):
                target = root / file.relative_to(stage)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
        else:
            os.replace(stage, root)
    except OSError as error:
        if isinstance(error, WriteFailed):
            raise
        raise WriteFailed(f"cannot write to {root}: {error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


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
