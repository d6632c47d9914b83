"""An export is written beside its destination, and moved there when all of it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from society.config.load import ConfigError
from store.errors import WriteFailed
from store.output_files import prepare_partial


def check_free(root: Path, names: Sequence[str], force: bool) -> None:
    """Raise `ConfigError` if `root` is a file, or has one of `names` and `force` is not set."""
    if root.exists() and not root.is_dir():
        raise ConfigError(f"--out {root} is a file; name a folder")
    there = [name for name in names if (root / name).exists()]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ConfigError(
            f"{root / there[0]}{more} exist(s); choose another --out, or overwrite with --force"
        )


@contextmanager
def stage_files(root: Path) -> Iterator[Path]:
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
