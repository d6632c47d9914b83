"""The report and the exports in a run's folder: what there is, and the way to one of them.

Only plain files within the folder are served; a link that leads out of it is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from society.runs.folder import RunFolder
from society.view.debate import NotFound

# More would only lengthen the page; the folder has them all.
_MOST = 200


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file of an export, by its path within the export."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class RunFiles:
    """When the report was written, None if there is none; the files of the export by path."""

    reported_at: datetime | None
    exports: tuple[ExportedFile, ...]
    more: int


def list_files(folder: RunFolder) -> RunFiles:
    """What `society report` and `society export` have written into a run's folder."""
    reported = None
    if _is_inside(folder.report, folder.path):
        reported = datetime.fromtimestamp(folder.report.stat().st_mtime, UTC)
    root = _find_exports(folder)
    found = sorted(path for path in root.rglob("*") if _is_inside(path, root))
    shown = tuple(
        ExportedFile(path.relative_to(root).as_posix(), path.stat().st_size)
        for path in found[:_MOST]
    )
    return RunFiles(reported, shown, max(0, len(found) - _MOST))


def find_report(folder: RunFolder) -> Path:
    """The report's file; raises `NotFound`."""
    if not _is_inside(folder.report, folder.path):
        raise NotFound(f"no report yet; `society report {folder.name}` writes one")
    return folder.report


def find_export(folder: RunFolder, path: str) -> Path:
    """One file of the export; raises `NotFound`, also for a path that leads elsewhere."""
    root = _find_exports(folder)
    if "\0" in path or not _is_inside(root / path, root):
        raise NotFound(f"no exported file {path[:200]!r}")
    return root / path


def _find_exports(folder: RunFolder) -> Path:
    return folder.path / "export"


def _is_inside(path: Path, root: Path) -> bool:
    # Resolved, so that neither ".." nor a symbolic link leads out of the folder.
    return path.is_file() and path.resolve().is_relative_to(root.resolve())
