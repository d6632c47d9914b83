"""Errors of a command: one message and an exit status for each.

2: wrong use or a wrong config; nothing was started, or the run's file cannot be used. 1: a run that
has stopped and can be resumed. 130: Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from providers import extras
from providers.errors import BudgetReached, InvalidSettings, ModelNotFound, ProviderError
from society.terminal.output import tell
from society.terminal.streams import ERRORS, READER_LEFT, abandon
from society.terminal.user_state import find_state_folder, open_private

_NO_ROOM = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the quota on this disk is used up", "free some space"),
    errno.EROFS: ("this disk is read-only", "make it writable"),
}


@dataclass(slots=True)
class CommandContext:
    """How far the command is: the folder of its run, and whether the run can be resumed."""

    folder: Path | None = None
    resumable: bool = False


@contextmanager
def report_errors() -> Iterator[CommandContext]:
    """Turn every error in the block into a message on stderr and an exit status."""
    context = CommandContext()
    try:
        yield context
        # Flush here, so that a reader who has left is noticed inside this block.
        sys.stdout.flush()
    # Typer ends a command by raising these: they are statuses, not errors.
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        _tell_error("stopped")
        _tell_spending(context)
        _tell_remote_work(context)
        _tell_how_to_resume(context)
        raise typer.Exit(130) from None
    except Exception as error:
        # A command that only shows something ends silently, as `cat FILE | head` does. A run has
        # no such error, since it continues without a reader.
        if isinstance(error, BrokenPipeError) and not context.resumable:
            abandon(sys.stdout)
            raise typer.Exit(READER_LEFT) from None
        status, message = classify_error(error)
        if message is None:
            message = f"{type(error).__name__}: {error}\nthis is a bug in society; "
            message += _log_traceback(error, context)
        _tell_error(message)
        _tell_spending(context)
        if status == 1:
            _tell_remote_work(context)
            _tell_how_to_resume(context, error)
        raise typer.Exit(status) from None


def classify_error(error: Exception) -> tuple[int, str | None]:
    """Exit status and message; the message is None for an unforeseen error, a bug."""
    from evals.judge.pool import JudgeError
    from evals.stored_run import NothingStored
    from finetune.errors import FinetuneError
    from society.config.load import ConfigError
    from store.errors import StoreError, StoreLocked, WriteFailed

    # The order matters: a full disk is an OSError inside many libraries, and a lock is a
    # StoreError with a status of its own.
    if isinstance(error, ModuleNotFoundError) and (told := extras.explain_import_error(error)):
        return 2, told
    if isinstance(error, (ConfigError, NothingStored, InvalidSettings, ModelNotFound)):
        return 2, str(error)
    # The run itself is sound: with room on the disk it resumes.
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        cause, remedy = _NO_ROOM[error.errno]
        return 1, f"{cause}: {error}\n{remedy} and resume"
    if isinstance(error, WriteFailed):
        return 1, str(error)
    if isinstance(error, StoreLocked):
        return 2, f"{error}\n`society status NAME` shows its progress"
    if isinstance(error, StoreError):
        return 2, str(error)
    if isinstance(error, (ProviderError, FinetuneError, JudgeError, OSError)):
        return 1, str(error)
    return 1, None


def _tell_error(message: str) -> None:
    tell(f"society: {message}")


def _tell_spending(context: CommandContext) -> None:
    if context.folder is None:
        return
    from society.costs.budget import describe_spending

    if spending := describe_spending(context.folder / "run.duckdb"):
        tell(spending)


def _tell_remote_work(context: CommandContext) -> None:
    """Remote jobs outlive a run and cost money: name them, and how to cancel them."""
    if not context.resumable or context.folder is None:
        return
    from society.runs.cancel import list_remote_work
    from society.runs.folder import RunFolder
    from society.sweeps import definition

    folder = RunFolder(context.folder.name, context.folder)
    # A sweep's folder stands for all of its runs.
    runs = definition.list_members(folder) or [folder]
    found = list_remote_work(run.database for run in runs)
    if found:
        where = "" if folder.path.parent == Path("runs") else f" --runs {folder.path.parent}"
        tell(
            f"{' and '.join(found)} still run at the provider, and resuming adopts them; "
            f"cancel them with: society cancel {shlex.join([folder.name])}{where}"
        )


def _tell_how_to_resume(context: CommandContext, error: Exception | None = None) -> None:
    if context.resumable:
        # With the cap that was reached, the same command would stop again at once.
        first = "with a higher cap, " if isinstance(error, BudgetReached) else ""
        tell(f"{first}resume with: society {shlex.join(sys.argv[1:])}")


def _log_traceback(error: Exception, context: CommandContext) -> str:
    """Write the traceback to the run's folder, else to the user's state folder; say where it is."""
    try:
        if context.folder is not None and context.folder.is_dir():
            path = context.folder / "error.log"
        else:
            path = find_state_folder(os.environ) / "error.log"
        # A traceback may quote prompts and answers, so only this user may read it.
        with os.fdopen(open_private(path), "a", encoding="utf-8", errors=ERRORS) as log:
            traceback.print_exception(error, file=log)
    # `Path.home` raises RuntimeError for a user without a home. The place of the error is the least
    # that must still reach the user.
    except (OSError, RuntimeError) as failure:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"it happened at {last.filename}:{last.lineno} (no traceback is kept: {failure})"
    return f"the traceback is in {path}"
