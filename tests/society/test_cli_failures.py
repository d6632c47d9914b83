import errno
from pathlib import Path

import pytest
import typer

from finetune.errors import FinetuneError
from providers.errors import AuthenticationFailed, InvalidSettings, ModelNotFound
from society.cli.errors import classify_error, report_errors
from society.config.load import ConfigError
from store.errors import StoreBroken, StoreLocked, StoreNewer, WriteFailed


def fail_in_a_run(error: Exception, folder: Path) -> None:
    with report_errors() as context:
        context.folder = folder
        context.resumable = True
        raise error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("w"), 2),
        (InvalidSettings("x"), 2),
        (ModelNotFound("y"), 2),
        (StoreBroken("b"), 2),
        (StoreNewer("n"), 2),
        (WriteFailed("no space"), 1),
        (AuthenticationFailed("key"), 1),
        (FinetuneError("job"), 1),
        (PermissionError("no"), 1),
    ],
)
def test_foreseen_errors_have_a_status_and_their_own_message(error: Exception, status: int) -> None:
    assert classify_error(error) == (status, str(error))


def test_a_file_in_use_points_to_status() -> None:
    status, message = classify_error(StoreLocked("run.duckdb is in use by process 7"))
    assert status == 2
    assert message is not None
    assert message.startswith("run.duckdb is in use by process 7\n`society status NAME`")


def test_a_full_disk_says_so() -> None:
    status, message = classify_error(OSError(errno.ENOSPC, "No space left on device"))
    assert status == 1
    assert message is not None
    assert "the disk is full" in message


def test_an_unforeseen_error_leaves_its_traceback_in_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as end:
        fail_in_a_run(RuntimeError("odd"), tmp_path)
    err = capsys.readouterr().err
    assert end.value.exit_code == 1
    assert "RuntimeError: odd" in err
    assert str(tmp_path / "error.log") in err
    assert "resume with: society" in err
    assert "Traceback" not in err
    assert "Traceback" in (tmp_path / "error.log").read_text()


def test_a_wrong_config_is_not_told_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as end:
        fail_in_a_run(ConfigError("agents = 0"), tmp_path)
    assert end.value.exit_code == 2
    assert capsys.readouterr().err == "society: agents = 0\n"
