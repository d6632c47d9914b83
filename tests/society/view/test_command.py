"""`society view` as it is typed."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

SOCIETY = [sys.executable, "-c", "from society.cli import main; main()"]


@pytest.fixture
def started(runs):
    """Start the command, give its process and the address it prints."""
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [*SOCIETY, "view", "--runs", str(runs), "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        line = process.stdout.readline()
        return process, re.search(r"http://\S+", line)[0]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_it_prints_where_it_is_and_ends_with_ctrl_c(started):
    process, address = started("sums")
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address, timeout=60) as answer:
        text = answer.read().decode()
    assert "/runs/sums" in text
    assert "broken" not in text
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) in (0, 130, -signal.SIGINT)


def test_with_a_token_only_the_printed_address_opens(started):
    _, address = started("--token")
    bare, _, token = address.partition("?token=")
    assert len(token) >= 43
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(bare, timeout=60)
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(address, timeout=60) as answer:
        assert answer.url == bare
        assert "sums" in answer.read().decode()


@pytest.mark.parametrize(
    ("arguments", "asks"),
    [
        ([], True),
        (["--no-ask"], False),
        (["--host", "0.0.0.0"], False),
        (["--host", "0.0.0.0", "--ask"], True),
    ],
)
def test_questions_are_off_where_other_machines_reach_the_pages(started, arguments, asks):
    _, address = started("sums", *arguments)
    port = urlsplit(address).port
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    query = urlsplit(address).query
    opener.open(f"http://127.0.0.1:{port}/?{query}", timeout=60).close()
    with opener.open(f"http://127.0.0.1:{port}/runs/sums", timeout=60) as answer:
        assert ("/runs/sums/ask" in answer.read().decode()) is asks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "no run 'nope'"),
        (["../runs"], "run name '../runs' is not usable"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--store", "kept"], "name that run: society view RUN --store kept"),
        (["sums", "--store", "kept", "--no-ask"], "turn them on by --ask"),
        (["sums", "--store", "sums"], "choose another name"),
    ],
)
def test_what_cannot_be_shown_is_told_at_once(runs, arguments, said):
    done = subprocess.run(
        [*SOCIETY, "view", "--runs", str(runs), "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
