"""The pages over real HTTP: what they say, where they lead, what they say when they cannot."""

import asyncio
import html
import json
import re
import threading
import time
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from society.runs.status import ProgressRecord
from society.view.access import PageAccess
from society.view.catalog import Library
from society.view.query_cache import QueryCache
from society.view.web import create_app
from store import sql_server
from store.ledger import Store
from store.records import Question, Run, utc_now
from store.schema import read_migrations

STAGE = "iteration=0&split=eval&arm=multiagent&decoding=sampled"


def links(text):
    return [html.unescape(link) for link in re.findall(r'href="([^"]*)"', text)]


def words(text):
    """What can be read, without markup."""
    plain = re.sub(r"<[^>]*>", " ", re.sub(r"<(script|title)\b.*?</\1>", "", text, flags=re.S))
    return " ".join(html.unescape(plain).split())


def test_the_list_shows_every_run_also_those_that_cannot_be_read(site):
    status, text, _ = site.get("/")
    said = words(text)
    assert status == 200
    assert "sums finished after 5 min 00 s" in said
    assert "broken unreadable" in said
    assert "not a readable database" in said


def test_an_older_run_is_said_to_be_one_and_is_left_as_it_is(tmp_path, serve):
    path = tmp_path / "older" / "run.duckdb"
    path.parent.mkdir()
    with Store.open(path) as store:
        store.transact(lambda connection: connection.execute("DELETE FROM schema_migrations"))
        store.transact(
            lambda connection: connection.execute(
                "INSERT INTO schema_migrations VALUES (1, 'initial', now()::TIMESTAMP)"
            )
        )
    before = path.read_bytes()
    with serve(tmp_path) as site:
        assert "written by an earlier version" in words(site.get("/")[1])
        status, text, _ = site.get("/runs/older")
        assert status == 503
        assert f"society status older --runs {tmp_path}" in words(text)
    assert path.read_bytes() == before
    assert len(read_migrations()) > 1


def test_a_folder_without_runs_says_how_to_start_one(tmp_path, serve):
    with serve(tmp_path) as site:
        assert "society run demo" in words(site.get("/")[1])


def test_the_page_of_a_run_shows_progress_accuracy_and_what_it_took(site):
    status, text, _ = site.get("/runs/sums")
    said = words(text)
    assert status == 200
    assert "3 agents debate sums questions over 2 rounds" in said
    assert "debates to learn from 2 of 2" in said
    assert "evaluation, sampled 60 of 60" in said
    assert "fine-tuning 1 of 1" in said
    assert "<svg" in text


def test_the_list_of_debates_leads_to_the_debate_and_on_to_the_next(site):
    _, text, _ = site.get(f"/runs/sums/debates?{STAGE}&flip=changed")
    (first, *_) = [link for link in links(text) if link.startswith("/runs/sums/debate?")]
    status, text, _ = site.get(first)
    said = words(text)
    assert status == 200
    assert "What is turned-right?" in said
    assert "Round 1 5 ✗ wrong 2 of 3 → Round 2 4 ✓ right 3 of 3" in said
    assert "Prompt of turned-right" in said
    assert "11 + 22 tokens, 33 ms" in said
    assert "<del>" in text
    assert "<ins>" in text
    onward = [link for link in links(text) if link.startswith("/runs/sums/step?")]
    back, on = sorted(onward, key=lambda link: "to=previous" not in link)
    status, _, headers = site.get(on)
    there = parse_qs(urlsplit(headers["location"]).query)
    assert (status, there["question"]) == (303, ["turned-wrong"])
    status, _, headers = site.get(back)
    assert "first debate of the list" in words(site.get(headers["location"])[1])


def test_the_link_to_a_debate_is_the_same_from_every_list_and_after_a_resume(
    tmp_path, serve, write_sums, make_debate
):
    def read_link(site, address):
        status, text, _ = site.get(address)
        assert (status, "What is tied?" in words(text)) == (200, True)
        return html.unescape(re.search(r'rel="bookmark" href="([^"]*)"', text)[1])

    (tmp_path / "sums").mkdir()
    database = tmp_path / "sums" / "run.duckdb"
    write_sums(database)
    here = f"/runs/sums/debate?{STAGE}&question=tied"
    with serve(tmp_path) as site:
        link = read_link(site, here)
        assert read_link(site, f"{here}&in=vote%3Dtied%26text%3Dtied&end=last&raw=1") == link
    with Store.open(database) as store:
        stage = (2, "eval", "multiagent", "sampled")
        store.write(*make_debate(stage, "tied", "4", [["4", "4", "4"], ["4", "4", "4"]]))
    with serve(tmp_path) as site:
        assert read_link(site, link) == link


def test_a_dataset_row_leads_back_to_its_turn_and_on_to_its_model(site):
    _, text, _ = site.get("/runs/sums/datasets")
    assert "/runs/sums/dataset?id=d1" in links(text)
    _, text, _ = site.get("/runs/sums/dataset?id=d1")
    assert "corrected learns round 2, answer 4" in words(text)
    assert "/runs/sums/model?id=tuned-critic" in links(text)
    (turn, *_) = [link for link in links(text) if link.startswith("/runs/sums/turn/")]
    status, _, headers = site.get(turn)
    assert status == 303
    place, _, fragment = headers["location"].partition("#")
    _, text, _ = site.get(place)
    assert f'id="{fragment}"' in text
    assert "trained on as row 1 of d1" in words(text)


def test_a_model_knows_where_it_comes_from_and_what_came_of_it(site):
    _, text, _ = site.get("/runs/sums/model?id=tuned-critic")
    said = words(text)
    assert {
        "/runs/sums/model?id=base",
        "/runs/sums/model?id=child",
        "/runs/sums/dataset?id=d1",
    } <= set(links(text))
    assert "Training loss in nats per token: 2.000 at step 1, 0.250 at step 8" in text
    assert "multiagent, iteration 1, held-out questions, sampled agent 1 4" in said


def test_agents_are_told_apart(site):
    text = counted(site, "/runs/sums/agents")
    assert "2 60 91.5 89.8 8.5 1.7 3.4 1.7 1.7" in words(text)


def counted(site, path):
    """A page with all its parts; a busy machine may show it before some are computed."""
    for _ in range(200):
        page = site.get(path)[1]
        if "computing" not in page and "Being counted" not in page:
            break
        time.sleep(0.1)
    return page


def test_what_could_not_be_read_is_told_from_what_is_wrong(site):
    _, text, _ = site.get("/runs/sums/debate?question=no-answer&iteration=0&split=eval"
                          "&arm=multiagent&decoding=sampled")  # fmt: skip
    assert text.count('title="cut at the token limit"') == 12
    assert not re.search(r"Agent \d+ (✗|wrong)", words(text))
    # A debate without a label has nothing that could be wrong.
    assert "Round 1 no label 0 of 0 → Round 2 no label 0 of 0" in words(text)
    _, listed, _ = site.get("/runs/sums/debates?vote=none")
    assert listed.count('title="cut at the token limit"') >= 3
    page = counted(site, "/runs/sums")
    # Every question has an answer of three agents in two rounds; seven of them are cut.
    assert re.search(r"tied unread cut .* 1\.7 % 1\.9 % 1\.9 %", words(page))
    assert "59 of 60 evaluation questions have gold" in words(page)


def test_a_run_without_gold_shows_what_is_known(tmp_path, serve, make_debate):
    path = tmp_path / "blind" / "run.duckdb"
    path.parent.mkdir()
    stage = (0, "eval", "multiagent", "sampled")
    rounds = {"q1": [["4", "5", "4"], ["4", "4", "4"]], "q2": [["7", None, "8"], ["7", "8", None]]}
    with Store.open(path) as store:
        store.write(Run("blind", json.dumps({"society": {}}), "0" * 64, 3, "{}"))
        for question_id, said in rounds.items():
            store.write(Question(question_id, "own", "eval", "?"))
            store.write(*make_debate(stage, question_id, None, said))
    with serve(tmp_path) as blind:
        page = words(counted(blind, "/runs/blind"))
        assert "none of the 2 evaluation questions has one" in page
        assert "untuned sampled 2 58.3 % 75.0 % 0.0 % 50.0 % 16.7 % 16.7 %" in page
        assert "no gold 75.0 % agree, untuned, sampled" in words(blind.get("/")[1])


async def test_a_page_does_not_wait_for_what_takes_long(runs):
    desk = QueryCache(threads=1)
    app = httpx.ASGITransport(create_app(Library(runs), PageAccess("127.0.0.1", 8000), desk))
    async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1:8000") as client:
        await client.get("/runs/sums/debates")
        free = threading.Event()
        busy = asyncio.create_task(
            desk.query(runs / "sums" / "run.duckdb", lambda reader: free.wait(30))
        )
        early = (await client.get("/runs/sums/agents")).text
        free.set()
        await busy
        late = (await client.get("/runs/sums/agents")).text
        state = (await client.get("/runs/sums/state")).text
    desk.close()
    assert "Being counted …" in words(early)
    assert f'data-state="{state}"' not in early
    assert "2 60 91.5 89.8 8.5 1.7 3.4 1.7 1.7" in words(late)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/runs/nope", 404, "no run 'nope'"),
        ("/runs/..%2F..%2Fetc", 404, ""),
        ("/nothing", 404, "Not found"),
        ("/runs/sums/debates?iteration=x", 400, "iteration must be a whole number"),
        ("/runs/sums/debates?after=x", 400, "not a place in the list"),
        ("/runs/sums/debate?question=q", 400, "must name iteration"),
        (f"/runs/sums/debate?{STAGE}", 400, "must name a question"),
        (f"/runs/sums/debate?{STAGE}&question=q", 404, "no debate on question 'q'"),
        ("/runs/sums/dataset?id=x", 404, "no dataset 'x'"),
        ("/runs/sums/model?id=x", 404, "no model 'x'"),
        ("/runs/sums/turn/1", 404, "no turn 1"),
        ("/runs/broken", 503, "not a readable database"),
    ],
)
def test_what_cannot_be_shown_is_explained(site, path, status, said):
    found, text, _ = site.get(path)
    assert found == status
    assert said in words(text)


class Markup(HTMLParser):
    """What a browser would take for markup."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def links(self):
        names = ("href", "src", "action", "data-watch")
        return [attrs[name] for _, attrs in self.tags for name in names if name in attrs]


def test_hostile_text_is_text_on_every_page(site):
    pages, seen = ["/runs/hostile", "/runs/hostile/debates?text=script"], set()
    while pages:
        path = pages.pop()
        if path in seen or not path.startswith("/runs/hostile"):
            continue
        seen.add(path)
        status, text, headers = site.get(path)
        if status == 303:
            pages.append(headers["location"].partition("#")[0])
            continue
        assert status == 200, path
        if headers["content-type"].startswith("text/plain"):
            assert path.endswith("/state") or headers["content-security-policy"] == "sandbox"
            continue
        markup = Markup(text)
        scripts = [attrs for tag, attrs in markup.tags if tag == "script"]
        assert scripts == [{"src": "/static/view.js", "defer": None}]
        assert not {"img", "iframe", "object", "style", "b"} & {tag for tag, _ in markup.tags}
        attributes = {name for _, attrs in markup.tags for name in attrs}
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert all(re.match(r"/(?!/)|#", link) for link in markup.links()), path
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
        pages += [link for link in markup.links() if not link.startswith("#")]
    assert len(seen) > 8


def test_a_huge_response_is_cut_and_whole_at_its_own_address(site):
    _, text, _ = site.get("/runs/hostile/debates")
    (debate, *_) = [link for link in links(text) if link.startswith("/runs/hostile/debate?")]
    _, text, _ = site.get(debate)
    assert len(text) < 400_000
    assert "further characters are not shown here" in words(text)
    (whole, *_) = [link for link in links(text) if link.startswith("/runs/hostile/text/")]
    _, text, headers = site.get(whole)
    assert text == "<b>word</b> and more\n" * 30_000
    assert headers["content-type"].startswith("text/plain")
    assert headers["x-content-type-options"] == "nosniff"


def test_a_run_that_goes_on_is_shown_and_followed(tmp_path, make_debate, write_sums, serve):
    path = tmp_path / "going" / "run.duckdb"
    path.parent.mkdir()
    write_sums(path)
    with serve(tmp_path) as site, Store.open(path) as store, sql_server.serve_readers(store):
        status, text, _ = site.get("/runs/going")
        assert (status, "going running" in words(text)) == (200, True)
        assert "going running" in words(site.get("/")[1])
        before = site.get("/runs/going/state")[1]
        assert f'data-state="{before}"' in site.get("/runs/going")[1]
        store.write(*make_debate((2, "eval", "multiagent", "sampled"), "tied", "4", [["4", "4"]]))
        assert site.get("/runs/going/state")[1] != before
        _, text, _ = site.get("/runs/going/debates?iteration=2")
        assert "What is tied?" in words(text)
        assert site.get("/runs/going/debates?text=tied&flip=changed")[0] == 200
        assert site.get("/runs/going/agents")[0] == 200
        assert site.get("/runs/going/models")[0] == 200


def test_a_run_in_use_that_does_not_answer_tells_what_it_says_of_itself(tmp_path, serve):
    path = tmp_path / "busy" / "run.duckdb"
    path.parent.mkdir()
    with Store.open(path), serve(tmp_path) as site:
        notice = ProgressRecord(process=1, line="iteration 1/2 · debate: 3/9", updated_at=utc_now())
        (path.parent / "progress.json").write_text(notice.model_dump_json())
        assert "busy running iteration 1/2 · debate: 3/9" in words(site.get("/")[1])
        status, text, _ = site.get("/runs/busy")
        assert status == 503
        assert "It says of itself: iteration 1/2 · debate: 3/9" in words(text)
