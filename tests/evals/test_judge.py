import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import evals
from evals.judge.pool import LONGEST_PAIR, Judge, JudgeError, get_shared_judge

ROOT = Path(evals.__file__).parents[1]
ENDLESS = (r"9^{9^{9^9}}", "10!!!!!", r"10^{10^{10}}!", r"\sum_{n=1}^{10^{12}} \frac{1}{n^n}")


@pytest.fixture
def quick(quick_judge: Judge) -> Judge:
    return quick_judge


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *arguments, textwrap.dedent(script)]
        if arguments
        else [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("f(x)+1", "1+f(x)", True),
        ("f(x)+1", "1-f(x)", False),
        (r"\sum_{n=1}^{10} n", "55", True),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False),
        ("4t", "4", False),
        ("3R^2", "3r^2", False),
        ("0.5x", r"\frac{x}{2}", True),
        ("1.4142136", r"\sqrt{2}", False),
        ("no LaTeX {{", "x", False),
        ("", "x", False),
    ],
)
def test_verdicts(quick: Judge, a: str, b: str, same: bool) -> None:
    assert quick.same(a, b) is same
    assert quick.same(b, a) is same


def test_endless_pairs_are_given_up_on_and_others_go_on(quick: Judge) -> None:
    pairs = [(text, "3") for text in ENDLESS] + [(f"f({n})+1", f"1+f({n})") for n in "abc"]
    with ThreadPoolExecutor(quick.workers) as threads:
        assert list(threads.map(lambda pair: quick.same(*pair), pairs)) == [False] * 4 + [True] * 3
    assert all(quick.same(f"f({n})+1", f"1+f({n})") for n in "abc")
    assert not any(quick.same(text, "3") for text in ENDLESS)
    given_up = {one.pair: one.reason for one in quick.list_given_up()}
    assert {pair: given_up.get(pair) for pair in [("3", ENDLESS[0]), ("10!!!!!", "3")]} == {
        ("3", ENDLESS[0]): "SIGPROF",
        ("10!!!!!", "3"): "SIGPROF",
    }


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {path}')",
        r"\text{{__import__('os').system('touch {path}')}}",
        r"\operatorname{{__import__('os').system('touch {path}')}}",
        "(lambda: open('{path}', 'w'))()",
        r"\gcd(open('{path}', 'w'), 1)",
        "x=__import__('os').system('touch {path}')",
    ],
)
def test_code_in_an_answer_is_never_run(quick: Judge, tmp_path: Path, text: str) -> None:
    path = tmp_path / "run"
    assert not quick.same(text.format(path=path), "0")
    assert not path.exists()


def test_odd_characters_reach_the_worker(quick: Judge) -> None:
    for text in ("\ud800", "x\x00", '"\\n', "\n", "{}", "\u2028", "é" * LONGEST_PAIR):
        assert quick.same(text, text)
        assert not quick.same(text, "y")


def test_what_is_too_long_is_not_sent(quick: Judge) -> None:
    decided = quick.decided
    assert not quick.same("x" * (LONGEST_PAIR + 1), "x")
    assert quick.decided == decided


def test_many_threads_share_one_verdict(quick: Judge) -> None:
    before = quick.decided
    verdicts: list[bool] = []
    threads = [
        threading.Thread(target=lambda: verdicts.append(quick.same("g(x)+2", "2+g(x)")))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 16
    assert quick.decided == before + 1


def test_a_killed_worker_is_replaced_and_its_pair_tried_again(quick: Judge) -> None:
    assert quick.same("h(a)+1", "1+h(a)")
    for process in psutil.Process().children(recursive=True):
        if not process.children():
            process.send_signal(signal.SIGKILL)
    assert quick.same("h(b)+1", "1+h(b)")
    assert quick.same("h(c)+1", "1+h(c)")


def test_a_killed_server_is_replaced() -> None:
    mine = Judge(workers=1)
    before = {p.pid for p in psutil.Process().children()}
    assert mine.same("h(a)+1", "1+h(a)")
    (server,) = [p for p in psutil.Process().children() if p.pid not in before]
    workers = server.children()
    server.kill()
    for worker in workers:
        worker.kill()
    assert mine.same("h(b)+1", "1+h(b)")
    mine.close()


def test_memory_is_limited_and_closing_ends_the_processes_and_keeps_the_verdicts() -> None:
    mine = Judge(workers=2, memory_mb=300)
    before = {p.pid for p in psutil.Process().children()}
    assert mine.same("h(a)+1", "1+h(a)")
    (server,) = [p for p in psutil.Process().children() if p.pid not in before]
    processes = [server, *server.children()]
    assert len(processes) == 3
    limits = {worker.rlimit(psutil.RLIMIT_AS) for worker in server.children()}
    assert limits == {(300 << 20, 300 << 20)}
    mine.close()
    assert gone(processes)
    assert mine.same("1+h(a)", "h(a)+1")
    with pytest.raises(JudgeError, match="closed"):
        mine.same("h(b)+1", "1+h(b)")


@pytest.mark.parametrize("limits", [{"workers": 0}, {"cpu_seconds": 0}, {"memory_mb": 1}])
def test_impossible_limits_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Judge(**limits)  # type: ignore[arg-type]


def test_nothing_starts_before_the_first_pair() -> None:
    before = psutil.Process().children()
    assert get_shared_judge() is get_shared_judge()
    assert Judge().same("x", "x")
    assert psutil.Process().children() == before


SCRIPT = """
    import threading
    from evals.judge.pool import get_shared_judge
    print("main")
    found = []
    judge = get_shared_judge
    thread = threading.Thread(target=lambda: found.append(judge().same("f(x)+1", "1+f(x)")))
    thread.start()
    thread.join()
    print(found[0])
"""


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    process = started(str(script))
    assert process.communicate(timeout=120)[0] == "main\nTrue\n"
    assert process.returncode == 0


def test_a_program_from_a_string_works_as_a_notebook_does() -> None:
    process = started(SCRIPT, "-c")
    assert process.communicate(timeout=120)[0] == "main\nTrue\n"


def test_no_process_outlives_a_killed_parent() -> None:
    process = started(
        """
        import threading
        from evals.judge.pool import Judge
        judge = Judge(workers=2, cpu_seconds=600, wall_seconds=600)
        judge.same("f(x)+1", "1+f(x)")
        print("ready", flush=True)
        judge.same("10!!!!!", "3")
        """,
        "-c",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    children = psutil.Process(process.pid).children(recursive=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and max(sum(c.cpu_times()[:2]) for c in children) < 2:
        time.sleep(0.1)
    assert len(children) == 3
    process.kill()
    process.wait()
    assert gone(children)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('not here')", encoding="utf-8")
    process = started(
        f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from evals.judge.pool import get_shared_judge
        get_shared_judge().same("f(x)+1", "1+f(x)")
        """,
        "-c",
    )
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert "pip install math-verify" in output
    assert "not here" in output


def test_a_forked_child_gets_a_judge_of_its_own() -> None:
    process = started(
        """
        import os
        from evals.judge.pool import get_shared_judge
        assert get_shared_judge().same("f(x)+1", "1+f(x)")
        if child := os.fork():
            assert get_shared_judge().same("f(y)+1", "1+f(y)")
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        else:
            os._exit(0 if get_shared_judge().same("f(z)+1", "1+f(z)") else 1)
        """,
        "-c",
    )
    assert process.communicate(timeout=120)[0].splitlines()[-1] == "0"
