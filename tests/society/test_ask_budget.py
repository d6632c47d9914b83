"""`society ask` at a vendor that charges: its budget holds, and a higher one pays nothing twice."""

import json

import pytest
from typer.testing import CliRunner

from society.cli import app
from tests.providers.chat_server import serving
from tests.society import api_experiment
from tests.society.test_spending import Vendor, spend

SUMS = "".join(f"What is the result of {n}00+2*3+4-5*6?\n" for n in range(1, 7))
# Two agents answer in two rounds.
CALLS = 6 * 2 * 2


@pytest.fixture
def shop(tmp_path):
    """A vendor with its bill, a server for it, and a folder with an untuned run and questions."""
    vendor = Vendor()
    (tmp_path / "sums.txt").write_text(SUMS)
    with serving(vendor) as server:
        done = api_experiment.run(tmp_path, server.url)
        assert done.status == 0, done.text
        # The bill of the questions alone.
        vendor.billed = 0.0
        server.asked.clear()
        yield vendor, server, tmp_path


def find_database(home, name="run"):
    return home / "runs" / name / "run.duckdb"


def ask_file(home, *options):
    file = ["--questions", str(home / "sums.txt"), "--store", "sums", "--quiet"]
    return CliRunner().invoke(app, ["ask", "run", *file, "--runs", str(home / "runs"), *options])


def ask_one(home, *options):
    given = ["ask", "run", "1+2*3+4-5*6", "--runs", str(home / "runs"), *options]
    return CliRunner().invoke(app, given)


def count_usd(database):
    return sum(usd for *_, usd in spend(database).values())


def test_a_file_keeps_to_its_budget_and_a_higher_one_asks_nothing_twice(shop):
    vendor, server, home = shop
    before, cap = spend(find_database(home)), 0.0035
    for _ in range(2):
        stopped = ask_file(home, f"--budget={cap}")
        assert stopped.exit_code == 1, stopped.output
        assert f"budget_usd = {cap} is reached" in stopped.stderr
        assert "the next call could cost 0.00" in stopped.stderr
        assert "go on with a higher --budget, nothing is paid twice" in stopped.stderr
        assert "spent so far: 0.00" in stopped.stderr
        assert "with a higher cap, resume with: society" in stopped.stderr
        assert 0 < vendor.billed <= cap
        assert count_usd(find_database(home, "sums")) == pytest.approx(vendor.billed)
    assert 0 < len(server.asked) < CALLS

    done = ask_file(home, "--budget=1", "--json")
    assert done.exit_code == 0, done.output
    assert len(server.asked) == CALLS
    found = json.loads(done.stdout)
    assert found["questions"] == 6
    assert found["usd"] == pytest.approx(vendor.billed)
    assert count_usd(find_database(home, "sums")) == pytest.approx(vendor.billed)
    # All is there, so the smallest budget is enough, and the run that was asked has paid nothing.
    again = ask_file(home, "--budget=0.000001", "--json")
    assert (again.exit_code, again.stdout) == (0, done.stdout)
    assert len(server.asked) == CALLS
    assert spend(find_database(home)) == before


def test_a_budget_without_prices_is_refused_before_a_run_is_made(tmp_path):
    (tmp_path / "sums.txt").write_text(SUMS)
    with serving(Vendor()) as server:
        experiment = api_experiment.write(tmp_path, server.url)
        kept, _, _ = experiment.read_text().partition("[prices")
        experiment.write_text(kept.replace("budget_usd = 1.0\n", ""))
        made = CliRunner().invoke(
            app, ["run", str(experiment), "--name=run", "--runs", str(tmp_path / "runs")]
        )
        assert made.exit_code == 0, made.output
        asked = len(server.asked)
        refused = ask_file(tmp_path, "--budget=1")
        assert refused.exit_code == 2, refused.output
        assert "the price of 'openai+" in refused.stderr
        assert "input_usd = …" in refused.stderr
        assert "experiment file of run 'run'" in refused.stderr
        assert len(server.asked) == asked
        assert not find_database(tmp_path, "sums").parent.exists()
        # Without a budget the same questions are asked.
        assert ask_file(tmp_path).exit_code == 0


def test_one_question_is_paid_and_refused_where_the_budget_ends(shop):
    vendor, server, home = shop
    database = find_database(home)
    for options in ((), ("--json",)):
        earlier, vendor.billed = count_usd(database), 0.0
        done = ask_one(home, *options)
        assert done.exit_code == 0, done.output
        assert vendor.billed > 0
        assert count_usd(database) - earlier == pytest.approx(vendor.billed)
    assert spend(database)["ask"][0] == len(server.asked) == 8
    cap = count_usd(database) + 1e-6
    assert api_experiment.run(home, server.url, f"budget_usd={cap}").status == 0
    for options in ((), ("--json",)):
        refused = ask_one(home, *options)
        assert refused.exit_code == 1, refused.output
        assert "raise budget_usd in the experiment file, let `society run`" in refused.stderr
    assert len(server.asked) == 8
    # As the message says.
    assert api_experiment.run(home, server.url, "budget_usd=1").status == 0
    assert ask_one(home).exit_code == 0
