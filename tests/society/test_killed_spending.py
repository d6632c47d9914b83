"""A run that is killed again and again: the vendor bills no more than `spend` says."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.providers.chat_server import serving
from tests.society import api_experiment
from tests.society.test_spending import SCORING, Vendor, spend


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tells", [True, False])
def test_what_kills_have_cost_is_known(tmp_path, tells):
    kills, draw = 6, random.Random(4)
    whole, vendor = Vendor(tells=tells), Vendor(tells=tells)
    more = [*SCORING, "evaluation.questions=20", "budget_usd=5", "provider.limits.max_concurrent=4"]
    with serving(whole) as server:
        (tmp_path / "whole").mkdir()
        assert api_experiment.run(tmp_path / "whole", server.url, *more).status == 0

    def slow(asked):
        time.sleep(0.01)
        return vendor(asked)

    with serving(slow) as server:
        path = api_experiment.write(tmp_path, server.url)
        settings = [f"--set={setting}" for setting in more]
        command = [sys.executable, "-m", "society", "run", path, "--name", "run"]
        command += ["--runs", tmp_path / "runs", "--no-live", *settings]
        for _ in range(kills):
            paid = vendor.billed
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
            )
            share = (whole.billed / (kills + 2)) * draw.uniform(0.3, 1.0)
            while vendor.billed < paid + share and process.poll() is None:
                time.sleep(0.005)
            assert process.poll() is None, "the run came to its end before it was killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = api_experiment.run(tmp_path, server.url, *more)
        assert done.status == 0, done.text
    total = sum(usd for *_, usd in spend(done.database).values())
    lost = done.rows("SELECT count(*) FROM charges WHERE state = 'lost'")[0][0]
    assert vendor.billed <= total
    assert done.rows("SELECT count(*) FROM charges WHERE state = 'sent'") == [(0,)]
    # Four at a time are under way, and a few more are answered and not stored yet.
    assert lost <= kills * 8
    assert len(vendor.scored) <= len(whole.scored) + kills * 8
