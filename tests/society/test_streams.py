"""Whatever becomes of the standard streams, a command does its work and ends as it should."""

import contextlib
import io
import json
import os
import pty
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from society import cli
from society.cli.errors import report_errors
from society.terminal import streams

SOCIETY = [sys.executable, "-m", "society"]
RUN = ("scripted.toml", "--set", "iterations=0", "--no-live")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, scripted) -> Path:
    """A folder with a run whose output was in ASCII."""
    folder = tmp_path_factory.mktemp("streams")
    scripted(folder)
    done = call(folder, "run", *RUN, "--name", "done", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"untuned society - evaluate sampled: 27 turns" in done.stderr
    assert b"report: runs/done/report.html" in done.stdout
    return folder


def call(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*SOCIETY, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def society(workshop, monkeypatch, tmp_path):
    """Call the command in this process with stdout in a file; gives status and what is in it."""

    def call(*arguments: str, encoding: str = "utf-8", to: Path | None = None) -> tuple[int, bytes]:
        monkeypatch.chdir(workshop)
        monkeypatch.setattr(sys, "argv", ["society", *arguments])
        path = to or tmp_path / "stdout"
        with path.open("wb") as file:
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding=encoding))
            with pytest.raises(SystemExit) as end:
                cli.main()
        return int(end.value.code or 0), b"" if to else path.read_bytes()

    return call


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `society` is the command."""
    script = f'society() {{ {shlex.join(SOCIETY)} "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "koi8-r", "utf-16"])
def test_a_table_is_legible_in_every_encoding(society, encoding):
    status, out = society("status", "done", encoding=encoding)
    text = out.decode(encoding)
    assert status == 0
    assert "Accuracy on held-out questions" in text
    assert "?" not in text
    assert ("–" in text) == (encoding in ("cp1252", "utf-16"))


@pytest.mark.parametrize(
    ("text", "encoding", "written"),
    [
        ("0.5–0.7 → “x”…", "ascii", '0.5-0.7 -> "x"...'),
        ("naïve", "latin-1", "naïve"),
        ("中文 ✓", "cp1252", r"\u4e2d\u6587 +"),
        ("\U0001f600", "ascii", r"\U0001f600"),
        ("name-\udcff", "utf-8", r"name-\udcff"),
    ],
)
def test_what_an_encoding_lacks_stays_legible(text, encoding, written):
    assert text.encode(encoding, streams.ERRORS).decode(encoding) == written


def test_json_holds_the_exact_values_in_every_encoding(society):
    query = "select '中 – \U0001f600' || chr(27) || chr(155) || chr(8238) as text"
    for encoding in ("ascii", "utf-8"):
        _, out = society("sql", "done", query, "--format", "json", encoding=encoding)
        assert json.loads(out.decode(encoding)) == [{"text": "中 – \U0001f600\x1b\x9b\u202e"}]
        assert b"\x1b" not in out


def test_a_reader_that_leaves_ends_a_look_quietly(workshop):
    done = shell(workshop, "society status done | true; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_a_run_outlives_everyone_who_watches_it(workshop):
    line = f"society run {shlex.join(RUN)} --name alone 2>&1 | true; echo ${{PIPESTATUS[0]}}"
    assert shell(workshop, line).stdout == "0\n"
    assert (workshop / "runs/alone/report.html").is_file()


def test_a_terminal_may_go():
    near, far = pty.openpty()
    stream = os.fdopen(far, "w", encoding="utf-8")
    display = streams.outlive_reader(stream)
    os.close(near)
    with pytest.raises(OSError, match="Input/output"):
        os.write(far, b"nobody reads")
    assert display.write("nobody reads\n" * 10_000)
    display.flush()
    stream.close()


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_none_that_anybody_reads(workshop, closed):
    done = shell(workshop, f"exec 9>&1; society status done {closed}; echo $? >&9")
    assert done.stdout.endswith("0\n")
    assert done.stderr == ""


def test_a_database_never_takes_the_place_of_a_closed_stream(workshop):
    line = f"exec 9>&1; society run {shlex.join(RUN)} --name shut <&- >&- 2>&-; echo $? >&9"
    assert shell(workshop, line).stdout == "0\n"
    done = call(workshop, "status", "shut")
    assert b"run shut: finished" in done.stdout


def test_a_full_disk_under_stdout_is_said(society, capfd):
    with contextlib.suppress(OSError):
        status, _ = society("status", "done", to=Path("/dev/full"))
        assert status == 1
    assert "the disk is full" in capfd.readouterr().err


def test_streams_are_as_before_when_a_command_has_ended(capfd):
    before = sys.stdout, sys.stderr, sys.stdout.errors
    with streams.guard_standard_streams():
        sys.stdout.write("中\n")
        streams.outlive_readers()
    assert (sys.stdout, sys.stderr, sys.stdout.errors) == before
    assert capfd.readouterr().out == "中\n"


class TestTheErrorLog:
    """A fault leaves a traceback where no other user of the machine can read or place it."""

    @pytest.fixture
    def fail(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

        def fail() -> str:
            with pytest.raises(typer.Exit), report_errors():
                raise KeyError("odd")
            return capfd.readouterr().err

        return fail

    def test_it_is_the_users_own(self, tmp_path, fail):
        told = fail()
        log = tmp_path / "state/society/error.log"
        assert f"the traceback is in {log}" in told
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
        assert "KeyError: 'odd'" in log.read_text()

    @pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
    def test_it_is_written_to_nothing_but_a_file(self, tmp_path, fail, kind):
        log = tmp_path / "state/society/error.log"
        log.parent.mkdir(parents=True)
        victim = tmp_path / "victim"
        victim.write_text("mine")
        match kind:
            case "link":
                log.symlink_to(victim)
            case "pipe":
                os.mkfifo(log)
            case "folder":
                log.mkdir()
        told = fail()
        assert "KeyError: 'odd'" in told
        assert "no traceback is kept" in told
        assert victim.read_text() == "mine"
