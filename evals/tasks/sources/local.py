"""Rows from the user's files: one file for both splits, a folder, or a file per split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.tasks.base import Split
from evals.tasks.options import DataOptions
from evals.tasks.sources import formats
from evals.tasks.sources.rows import DataRow, RowSource

# In this order: of several evaluation parts the first that exists is taken, never all together.
_STEMS: dict[Split, tuple[str, ...]] = {"train": ("train",), "eval": ("eval", "test", "validation")}


@dataclass(frozen=True, slots=True)
class OneFile:
    """Implements `RowSource`: one file whose rows are shared out between the splits."""

    path: Path
    shared: bool = True

    def rows(self, split: Split) -> Sequence[DataRow]:
        """See `RowSource.rows`; the same rows for either split."""
        return formats.read_rows(self.path)

    def describe(self, split: Split) -> str:
        """See `RowSource.describe`."""
        return f"in its share of {self.path}"


@dataclass(frozen=True, slots=True)
class Folder:
    """Implements `RowSource`: training rows from train*, evaluation rows from eval* files.

    A folder without eval* files evaluates on test*, and one without those on validation*. Several
    files of one kind are read in the order of their names. Folders inside it are not looked into.
    """

    path: Path
    shared: bool = False

    def rows(self, split: Split) -> Sequence[DataRow]:
        """See `RowSource.rows`."""
        # The order in which a file system lists a folder differs from machine to machine.
        files = sorted(
            file
            for file in self.path.iterdir()
            if file.suffix.lower() in formats.SUFFIXES and file.is_file()
        )
        for stem in _STEMS[split]:
            if found := [file for file in files if file.name.lower().startswith(stem)]:
                return [row for file in found for row in formats.read_rows(file)]
        wanted = " or ".join(f"{stem}*" for stem in _STEMS[split])
        there = ", ".join(file.name for file in files[:10]) or "no data file"
        raise ValueError(
            f"the folder {self.path} has no {wanted} file ({formats.SUFFIXES_SHOWN}) for "
            f"{split} questions; there is {there}; name the file with task.{split}_path"
        )

    def describe(self, split: Split) -> str:
        """See `RowSource.describe`."""
        return f"in the folder {self.path}"


@dataclass(frozen=True, slots=True)
class PerSplit:
    """Implements `RowSource`: a source of its own for each split."""

    train: RowSource | None
    eval: RowSource | None
    shared: bool = False

    def rows(self, split: Split) -> Sequence[DataRow]:
        """See `RowSource.rows`."""
        source = self._of(split)
        if source is None:
            raise ValueError(
                f"no file for {split} questions; set task.{split}_path, "
                "or task.path to one file or folder for both splits"
            )
        return source.rows(split)

    def describe(self, split: Split) -> str:
        """See `RowSource.describe`."""
        source = self._of(split)
        return "" if source is None else source.describe(split)

    def _of(self, split: Split) -> RowSource | None:
        return self.train if split == "train" else self.eval


@dataclass(frozen=True, slots=True)
class WholeFile:
    """Implements `RowSource`: one file whose rows all belong to the split that asks."""

    path: Path
    shared: bool = False

    def rows(self, split: Split) -> Sequence[DataRow]:
        """See `RowSource.rows`."""
        return formats.read_rows(self.path)

    def describe(self, split: Split) -> str:
        """See `RowSource.describe`."""
        return f"in {self.path}"


def choose_source(options: DataOptions, otherwise: RowSource | None = None) -> RowSource:
    """The source the options name; `otherwise` gives the splits they leave out."""
    path = options.local("path")
    if path is not None:
        return Folder(path) if path.is_dir() else OneFile(path)
    train, held_out = options.local("train_path"), options.local("eval_path")
    if otherwise is not None and train is None and held_out is None:
        return otherwise
    # A file named for one split only leaves the other to the task's own source.
    return PerSplit(
        train=otherwise if train is None else WholeFile(train),
        eval=otherwise if held_out is None else WholeFile(held_out),
    )
