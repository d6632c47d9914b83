"""Signals end a run in good order: what the server has answered is stored, whatever the signal."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from store.ledger import Store
from tests.providers.job_account import BASE
from tests.providers.job_server import Server, serving

CHAT = "/chat/completions"
JOBS = "/fine_tuning/jobs"
COMMAND = [sys.executable, "-c", "from society import cli; cli.main()", "run", "small.toml"]
QUESTIONS = 25


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server():
    with serving(base=BASE) as running:
        yield running


def write_experiment(server: Server, *, iterations: int = 0, concurrent: int = 512) -> None:
    Path("small.toml").write_text(
        f"""
        model = "openai+{server.url}:{BASE}"
        iterations = {iterations}
        task.name = "arithmetic"
        provider = {{ poll_s = 0.1, limits.max_concurrent = {concurrent} }}
        society = {{ agents = 2, others = "quoted" }}
        sampling = {{ temperature = 1.0, top_p = 1.0, max_tokens = 64 }}
        train = {{ questions = 40 }}
        datasets = {{ w = 0.0 }}
        evaluation = {{ questions = {QUESTIONS if not iterations else 2}, decodings = ["sampled"] }}
        """
    )


def start(*, ignored: tuple[signal.Signals, ...] = (), **how) -> subprocess.Popen[str]:
    """`society run`, with signals ignored as a shell or nohup leaves them."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    return subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True, preexec_fn=prepare, **how)


def wait_for(
    true: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120
) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "in vain"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> str:
    """What a process says that has been sent a signal."""
    try:
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    return said


def stored(sql: str = "SELECT count(*) FROM turns") -> object:
    with Store.open("runs/small/run.duckdb", read_only=True) as store:
        [(found,)] = store.rows(sql)
    return found


@pytest.mark.long
def test_what_is_paid_for_is_stored_whatever_the_signal(server):
    write_experiment(server, concurrent=8)
    server.tell(slow={f"POST {CHAT}": 0.7})
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        before = len(server.log("POST", CHAT))
        process = start()
        wait_for(lambda seen=before: len(server.log("POST", CHAT)) >= seen + 10, process)
        process.send_signal(number)
        said = ended(process)
        assert "call(s) under way; stop again to give them up" in said
        assert "society: stopped\n" in said
        assert said.endswith("resume with: society run small.toml\n")
        assert stored() == len(server.log("POST", CHAT)) < 4 * QUESTIONS
    server.tell(slow={})
    assert start().wait(timeout=120) == 0
    assert stored() == len(server.log("POST", CHAT)) == 4 * QUESTIONS


def test_a_second_signal_does_not_wait(server):
    write_experiment(server)
    server.tell(slow={f"POST {CHAT}": 3600})
    process = start()
    wait_for(lambda: len(server.log("POST", CHAT)) >= 10, process)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    while "call(s) under way; stop again" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    assert "society: stopped\n" in ended(process)


INTERRUPTED_TASK = """
import asyncio, os, signal
from society.terminal import signals

async def interrupt():
    os.kill(os.getpid(), signal.{sent})
    await asyncio.sleep(3600)

async def fail():
    raise ValueError("told")

async def work():
    # Nobody awaits these two, and the signal arrives inside the second one.
    tasks = [asyncio.ensure_future(act()) for act in (fail, interrupt)]
    await asyncio.sleep(3600)

async def end(task):
    signals.acknowledge_signal()
    interrupted = asyncio.ensure_future(interrupt())
    await asyncio.sleep(3600)

with signals.handle_signals():
    try:
        {run}
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("run", ["asyncio.run(work())", "signals.run_until_stopped(work(), end)"])
def test_a_signal_inside_a_task_is_not_reported_and_other_failures_are(sent, run):
    command = [sys.executable, "-c", INTERRUPTED_TASK.format(sent=sent, run=run)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.stdout == "stopped\n"
    assert "ValueError: told" in process.stderr
    assert "KeyboardInterrupt" not in process.stderr
    assert "Terminated" not in process.stderr


def test_a_run_in_the_background_hears_what_is_sent_to_it_and_not_what_nohup_keeps_away(server):
    write_experiment(server)
    server.tell(slow={f"POST {CHAT}": 0.5})
    process = start(ignored=(signal.SIGINT, signal.SIGHUP), start_new_session=True)
    wait_for(lambda: server.log("POST", CHAT), process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    said = ended(process)
    assert said.count("call(s) under way; stop again") == 1
    assert stored() == len(server.log("POST", CHAT)) < 4 * QUESTIONS


def on_terminal(*, ignored: bool) -> tuple[int, int]:
    """A run as leader of a session with a terminal of its own; its process and the other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)
        os.execv(COMMAND[0], COMMAND)
    os.set_blocking(terminal, False)
    return pid, terminal


def read(terminal: int) -> str:
    try:
        return os.read(terminal, 1 << 16).decode(errors="replace")
    except (BlockingIOError, OSError):
        return ""


@pytest.mark.long
def test_ctrl_c_in_the_terminal_is_not_for_a_run_in_the_background(server):
    write_experiment(server)
    server.tell(slow={f"POST {CHAT}": 0.5})
    pid, terminal = on_terminal(ignored=True)
    said = ""
    try:
        while not server.log("POST", CHAT):
            said += read(terminal)
            time.sleep(0.05)
        os.write(terminal, b"\x03")
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            said += read(terminal)
            time.sleep(0.05)
    finally:
        os.close(terminal)
    assert "stopping" not in said
    assert stored() == 4 * QUESTIONS


def test_a_terminal_that_is_closed_ends_a_run_in_good_order(server):
    write_experiment(server, concurrent=16)
    server.tell(slow={f"POST {CHAT}": 0.7})
    pid, terminal = on_terminal(ignored=False)
    while len(server.log("POST", CHAT)) < 20:
        read(terminal)
        time.sleep(0.05)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert stored() == len(server.log("POST", CHAT)) < 4 * QUESTIONS


def test_jobs_that_were_only_meant_do_not_go_on(server):
    write_experiment(server, iterations=1)
    server.tell(slow={"POST /files": 3600})
    process = start()
    wait_for(lambda: len(server.log("POST", "/files")) == 4, process)
    process.send_signal(signal.SIGTERM)
    said = ended(process)
    assert "still run at the provider" not in said
    assert stored("SELECT count(*) FROM jobs WHERE status = 'intent'") == 4


def test_a_job_that_is_being_created_is_waited_for_and_counted(server):
    write_experiment(server, iterations=1)
    server.tell(slow={f"POST {JOBS}": 1.5}, job_s=300.0)
    process = start()
    wait_for(lambda: server.log("POST", JOBS), process)
    process.send_signal(signal.SIGTERM)
    said = ended(process)
    created = len(server.state()["jobs"])
    assert f"{created} fine-tuning job(s) still run at the provider" in said
    assert stored("SELECT count(provider_job_id) FROM jobs") == created
