"""Asking a run's society in the browser: over real HTTP, with the built-in model and a server."""

import html
import re
import resource
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from evals.report import write_report
from society.config.load import ConfigError
from society.runs.folder import locate_run
from society.view.access import create_token
from society.view.ask_record import AskRecord
from society.view.asking import AskingDesk, AskLimits
from store.ledger import Store
from store.records import Job, Model
from tests.providers.chat_server import HeldScript, fails, says, serving
from tests.society.view.conftest import Site
from tests.society.view.endpoint.conftest import SUM, make_run

SEVEN = "It is \\boxed{7}."


def words(text):
    plain = re.sub(r"<[^>]*>", " ", re.sub(r"<title\b.*?</title>", "", text, flags=re.S))
    return " ".join(html.unescape(plain).split())


@pytest.fixture
def vendor():
    return HeldScript(SEVEN)


@pytest.fixture
def upstream(vendor):
    with serving(vendor) as server:
        yield server
        vendor.may_answer.set()


def make_remote(runs, name, upstream, **usd):
    return make_run(
        runs,
        name,
        model=f"openai+{upstream.url}:m",
        provider={"max_attempts": 2, "give_up_after_s": 2.0, "timeout_s": 30},
        prices={"m": {"input_usd": 0.0, "output_usd": 0.0, **usd}},
    )


@pytest.fixture
def remote(tmp_path, upstream):
    """A run whose society is behind a server of ours."""
    return make_remote(tmp_path, "remote", upstream)


@pytest.fixture
def paid(tmp_path, upstream):
    """The same, at a price."""
    return make_remote(tmp_path, "paid", upstream, input_usd=1.0, output_usd=10.0)


@pytest.fixture
def open_pages(tmp_path, serve):
    """The pages on the runs of this test; questions can be asked with these limits."""

    def open_site(record=None, **limits):
        token = limits.pop("token", None)
        desk = AskingDesk(AskLimits(**limits), record=record)
        desk.prepare_record()
        return serve(tmp_path, token=token, desk=desk)

    return open_site


def send(site, run, page="ask", **fields):
    """Send a form; the status, the page or the address that it leads to."""
    headers = fields.pop("headers", {})
    body = urllib.parse.urlencode(fields).encode()
    request = urllib.request.Request(f"{site.url}/runs/{run}/{page}", body, headers)
    return site.send(request)


def read_secret(site, run, **headers):
    status, text, _ = site.get(f"/runs/{run}/ask", **headers)
    assert status == 200
    return re.search(r'name="secret" value="([^"]+)"', text)[1]


def ask(site, run, text=SUM, form="society"):
    """Ask, and give the address of the question's page."""
    secret = read_secret(site, run)
    status, said, headers = send(site, run, question=text, form=form, secret=secret)
    assert status == 303, words(said)
    return headers["location"]


def stop(site, address, **fields):
    """Send the form that stops a debate."""
    _, _, run, page = address.split("/", 3)
    return send(site, run, f"{page}/stop", **fields)


def wait_for_problem(site, address):
    """What is said of a question that gets no answer."""
    while 'role="alert"' not in (text := site.get(address)[1]):
        time.sleep(0.1)
    return words(text)


def wait_for(site, address, said):
    """The page, once it says this."""
    while said not in (text := site.get(address)[1]):
        assert 'role="alert"' not in text, words(text)
        time.sleep(0.2)
    return text


def test_the_built_in_society_debates_the_question_and_its_vote_is_shown(tmp_path, open_pages):
    make_run(tmp_path, "first", model="embedded:")
    with open_pages() as site:
        assert 'href="/runs/first/ask"' in site.get("/runs/first")[1]
        address = ask(site, "first")
        text = wait_for(site, address, "Consensus")
        said = words(text)
        assert re.search(r"Consensus \S+ \d of 3 agents( tie)?, after 2 rounds", said)
        assert "the untuned society of first the whole debate" in said
        assert text.count('<article class="turn"') == 6
        before = site.get(f"{address}/state")[1]
        # The loaded models answer the next one, here without a debate.
        other = ask(site, "first", "1+1", "society:agent-2")
        assert "of 1 agent, after 1 round" in words(wait_for(site, other, "Consensus"))
        assert site.get(f"{address}/state")[1] == before
        listed = words(site.get("/runs/first/ask")[1])
        assert listed.index("1+1") < listed.index(SUM)
    with Store.open(tmp_path / "first" / "run.duckdb", read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns") == [(0,)]


def test_turns_are_shown_as_they_come_and_too_many_questions_are_sent_away(
    remote, vendor, open_pages
):
    calls = []

    def reply(asked):
        # The first call tries the model; behind the first answer the others wait.
        calls.append(asked)
        if len(calls) == 2:
            vendor.may_answer.clear()
        return says(SEVEN)

    with open_pages(in_flight=1) as site:
        address = ask(site, "remote", "What is <b>3+4</b>?")
        state = site.get(f"{address}/state")[1]
        assert "<b>3+4" not in site.get(address)[1]
        secret = read_secret(site, "remote")
        fields = {"question": "again & again", "form": "society", "secret": secret}
        status, text, _ = send(site, "remote", **fields)
        assert status == 429
        assert "1 of at most 1 questions are being debated" in words(text)
        # What was typed is still there.
        assert "again &amp; again</textarea>" in text
        vendor.reply = reply
        vendor.may_answer.set()
        text = wait_for(site, address, "answers so far")
        assert site.get(f"{address}/state")[1] != state
        vendor.reply = lambda asked: says(SEVEN)
        vendor.may_answer.set()
        said = words(wait_for(site, address, "Consensus"))
        assert "Consensus 7 3 of 3 agents, after 2 rounds" in said
        ask(site, "remote")


def test_a_form_of_another_site_is_refused(remote, open_pages):
    with open_pages() as site:
        secret = read_secret(site, "remote")
        good = {"question": "1+1", "form": "society"}
        for fields, headers in (
            (good, {}),
            ({**good, "secret": "wrong"}, {}),
            ({**good, "secret": secret}, {"Sec-Fetch-Site": "cross-site"}),
            ({**good, "secret": secret}, {"Sec-Fetch-Site": "same-site"}),
            ({**good, "secret": secret}, {"Origin": "http://evil.example"}),
        ):
            status, text, _ = send(site, "remote", **fields, headers=headers)
            assert (status, "of another site" in text) == (403, True), headers
        status, _, _ = send(site, "remote", **good, headers={"Content-Type": "text/plain"})
        assert status == 415
        for method in ("PUT", "DELETE"):
            assert site.ask(method, "/runs/remote/ask")[0] == 405
        assert site.ask("POST", "/runs/remote")[0] == 405
        assert "Asked before" not in site.get("/runs/remote/ask")[1]
        status, _, headers = send(
            site, "remote", **good, secret=secret,
            headers={"Origin": site.url, "Sec-Fetch-Site": "same-origin"},
        )  # fmt: skip
        assert status == 303


def test_with_a_token_nobody_asks_without_it(remote, open_pages):
    token = create_token()
    with open_pages(token=token) as site:
        cookie = site.get(f"/?token={token}")[2]["set-cookie"].split(";")[0]
        secret = read_secret(site, "remote", Cookie=cookie)
        fields = {"question": "1+1", "form": "society", "secret": secret}
        assert send(site, "remote", **fields)[0] == 401
        assert send(site, "remote", **fields, headers={"Cookie": cookie})[0] == 303


def test_what_cannot_be_asked_is_said(remote, open_pages):
    with open_pages() as site:
        secret = read_secret(site, "remote")
        for question, form, status, said in (
            ("  \r\n ", "society", 400, "the question is empty"),
            ("9" * 20_001, "society", 413, "up to 20,000 characters"),
            ("1+1", "gpt", 400, "no way to answer 'gpt'; choose society, society:fast"),
        ):
            found, text, _ = send(site, "remote", question=question, secret=secret, form=form)
            assert (found, said in words(text)) == (status, True)
        assert site.get("/runs/remote/asked/nothing")[0] == 404
        assert site.get("/runs/nope/ask")[0] == 404


def test_an_error_of_the_model_ends_its_question_only(remote, vendor, open_pages):
    vendor.may_answer.set()
    vendor.reply = lambda asked: fails(400, "no <i>such</i> thing")
    with open_pages() as site:
        address = ask(site, "remote")
        while 'role="alert"' not in (text := site.get(address)[1]):
            time.sleep(0.2)
        assert re.search(r"No answer: .*no <i>such</i> thing", words(text))
        assert "<i>such" not in text
        vendor.reply = lambda asked: says(SEVEN)
        wait_for(site, ask(site, "remote"), "Consensus")


def test_a_run_that_costs_money_is_asked_within_a_budget_only(paid, vendor, open_pages):
    vendor.may_answer.set()
    with open_pages() as site:
        text = site.get("/runs/paid/ask")[1]
        assert "society view --ask-budget 1" in words(text)
        assert "<textarea" not in text
    with open_pages(budget_usd=0.000001) as site:
        assert "may cost 1e-06 USD" in words(site.get("/runs/paid/ask")[1])
        address = ask(site, "paid")
        while 'role="alert"' not in (text := site.get(address)[1]):
            time.sleep(0.2)
        assert "--ask-budget" in words(text)
    with open_pages(budget_usd=1.0) as site:
        wait_for(site, ask(site, "paid"), "Consensus")


def test_a_run_without_its_models_is_not_asked(tmp_path, open_pages):
    folder = make_run(tmp_path, "tuned", model="embedded:", iterations=1)
    with Store.open(folder.database) as store:
        made = {"iteration": 1, "arm": "multiagent", "agent": 1, "role": "critic"}
        store.write(
            Job(**made, job_id="j", dataset_id="d", digest="x", status="succeeded"),
            Model("lost", "embedded:", "base", "lost", "c" * 64, "d", "j", 1, "multiagent", 1,
                  "critic"),
        )  # fmt: skip
        store.transact(
            lambda connection: connection.execute(
                "INSERT INTO votes BY NAME SELECT 1 AS iteration, 'eval' AS split, 'multiagent' AS "
                "arm, 'sampled' AS decoding, 'q' AS question_id, 1 AS round, '4' AS answer, "
                "3 AS votes, 3 AS voters, false AS tie"
            )
        )
    with open_pages() as site:
        text = site.get("/runs/tuned/ask")[1]
        assert "1 of its tuned models are not there" in words(text)
        assert str(folder.models / "lost") in words(text)
        assert "<textarea" not in text
    shutil.rmtree(folder.path)


def test_without_a_desk_there_is_nothing_to_ask(remote, tmp_path, serve):
    with serve(tmp_path) as site:
        assert "/ask" not in site.get("/runs/remote")[1]
        assert site.get("/runs/remote/ask")[0] == 404
        assert site.ask("POST", "/runs/remote/ask")[0] == 405


def test_a_stopped_debate_says_so_and_frees_its_place(remote, vendor, upstream, open_pages):
    with open_pages(in_flight=1) as site:
        # No answer comes by itself: the model is asked, and waits.
        vendor.reply = lambda asked: says(SEVEN)
        address = ask(site, "remote", "held")
        text = wait_for(site, address, "/stop")
        while not upstream.asked:
            time.sleep(0.05)
        secret = re.search(r'name="secret" value="([^"]+)"', text)[1]
        for fields, status in (
            ({}, 403),
            ({"secret": "wrong"}, 403),
            ({"secret": secret, "headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
            ({"secret": secret, "headers": {"Origin": "http://evil.example"}}, 403),
            ({"secret": secret, "headers": {"Content-Type": "text/plain"}}, 415),
        ):
            assert stop(site, address, **fields)[0] == status, fields
        assert "/stop" in site.get(address)[1]
        assert site.ask("POST", "/runs/remote/asked/nothing/stop")[0] == 404
        state = site.get(f"{address}/state")[1]
        status, _, headers = stop(site, address, secret=secret)
        assert (status, headers["location"]) == (303, address)
        text = site.get(address)[1]
        assert "Stopped before an answer had come: its calls were cancelled." in words(text)
        assert "/stop" not in text
        assert site.get(f"{address}/state")[1] != state
        assert ": stopped" in words(site.get("/runs/remote/ask")[1])
        # Its place is free at once, and a second press of the button changes nothing.
        assert stop(site, address, secret=secret)[0] == 303
        again = ask(site, "remote", "again")
        vendor.may_answer.set()
        wait_for(site, again, "Consensus")
        assert stop(site, again, secret=secret)[0] == 303
        assert "Consensus" in site.get(again)[1]


def test_what_is_asked_is_kept_in_a_run_of_its_own(paid, vendor, tmp_path, open_pages):
    vendor.may_answer.set()
    kept = locate_run(tmp_path, "kept")
    for text, spent in (("1+1", "0.00"), ("2+2", "0.000222")):
        with open_pages(AskRecord(paid, kept), budget_usd=1.0) as site:
            said = words(site.get("/runs/paid/ask")[1])
            assert f"may cost 1.00 USD; {spent} USD are spent" in said
            address = ask(site, "paid", text)
            page = wait_for(site, address, "Consensus")
            assert "Its answers cost 0.000222 USD" in words(page)
            # While the viewer writes to it, its own pages read it.
            link = html.unescape(re.search(r'href="(/runs/kept/debate[^"]*)"', page)[1])
            status, found, _ = site.get(link)
            assert (status, found.count('<article id="turn-')) == (200, 6)
            assert "ask 'paid', or start a viewer" in words(site.get("/runs/kept/ask")[1])
            secret = read_secret(site, "paid")
            fields = {"question": "1", "form": "society", "secret": secret}
            assert send(site, "kept", **fields)[0] == 409
    with Store.open(paid.database, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns") == [(0,)]
    with Store.open(kept.database, read_only=True) as store:
        assert store.rows("SELECT question, position FROM questions ORDER BY position") == [
            ("1+1", 1),
            ("2+2", 2),
        ]
        assert store.rows("SELECT arm, count(*) FROM turns GROUP BY arm") == [("society", 12)]
        [(usd,)] = store.rows("SELECT sum(usd) FROM spend")
        assert usd == pytest.approx(2 * 6 * 37e-6)
        write_report([store], tmp_path / "report.html")


def test_a_stopped_debate_keeps_what_had_come(remote, vendor, tmp_path, open_pages):
    calls = []

    def reply(asked):
        calls.append(asked)
        if len(calls) == 2:
            vendor.may_answer.clear()
        return says(SEVEN)

    vendor.reply = reply
    vendor.may_answer.set()
    kept = locate_run(tmp_path, "kept")
    with open_pages(AskRecord(remote, kept)) as site:
        address = ask(site, "remote")
        wait_for(site, address, "answers so far")
        stop(site, address, secret=read_secret(site, "remote"))
        text = words(site.get(address)[1])
        assert re.search(r"Stopped after \d answers?: its calls were cancelled\.", text)
        assert "What has come is kept in the run kept." in text
    with Store.open(kept.database, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns")[0][0] > 0


def test_a_record_is_no_run_of_another_kind(remote, tmp_path, open_pages):
    with pytest.raises(ConfigError, match="that is the run that is asked"):
        AskRecord(remote, remote)
    other = make_run(tmp_path, "other", model="embedded:")
    with pytest.raises(ConfigError, match="a run of its own"), open_pages(AskRecord(remote, other)):
        pass


HOLD = """
import sys
from store.ledger import Store
with Store.open(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_record_that_another_program_holds_is_a_message(remote, vendor, tmp_path, open_pages):
    vendor.may_answer.set()
    kept = locate_run(tmp_path, "kept")
    with open_pages(AskRecord(remote, kept)) as site:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(kept.database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with holder:
            assert holder.stdout.readline() == "held\n"
            said = wait_for_problem(site, ask(site, "remote"))
            assert f"could not be kept in the run 'kept': {kept.database} is in use by" in said
            holder.stdin.close()
        wait_for(site, ask(site, "remote"), "Consensus")


def test_a_full_disk_is_a_message_and_the_next_question_tries_again(remote, vendor, tmp_path):
    vendor.may_answer.set()
    viewer = subprocess.Popen(
        [
            *(sys.executable, "-m", "society", "view", "remote", "--store", "kept"),
            *("--runs", str(tmp_path), "--port", "0"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        site = Site(tmp_path, int(re.search(r":(\d+)/", viewer.stdout.readline())[1]))
        assert site.get("/runs/kept")[0] == 200
        _, most = resource.prlimit(viewer.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(viewer.pid, resource.RLIMIT_FSIZE, (1, most))
        said = wait_for_problem(site, ask(site, "remote"))
        assert "could not be kept in the run 'kept'" in said
        assert "Traceback" not in said
        resource.prlimit(viewer.pid, resource.RLIMIT_FSIZE, (most, most))
        wait_for(site, ask(site, "remote"), "Consensus")
    finally:
        viewer.kill()
        viewer.wait()
        viewer.stdout.close()
