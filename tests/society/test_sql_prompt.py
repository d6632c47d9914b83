"""The prompt of `society sql`, typed into through prompt_toolkit's own pipe."""

import io
import stat

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from society.sql.completion import Completions, read_catalog
from society.sql.prompt import COMMANDS, Console, find_history_file, is_complete, run_prompt
from store.ledger import Store
from store.reader import open_reader
from store.union import RunUnion


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    found = {}
    for name in ("one", "two"):
        found[name] = tmp_path_factory.mktemp(name) / "run.duckdb"
        Store.open(found[name]).close()
    return found


@pytest.fixture(scope="module")
def session(files):
    with open_reader(files["one"], sealed=True) as reader:
        yield reader


@pytest.fixture
def typed(session, tmp_path, monkeypatch):
    """What the prompt shows for the keys that are typed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def answer(keys: str) -> str:
        shown = io.StringIO()
        with create_pipe_input() as pipe, create_app_session(pipe, DummyOutput()):
            pipe.send_text(keys)
            run_prompt(session, "one", shown)
        return shown.getvalue()

    return answer


def test_queries_of_many_lines_and_commands(typed, tmp_path):
    shown = typed(
        "SELECT 40 +\n2 AS x;\n\\d votes\n\\format csv\nSELECT 1 AS y;SELECT 2 AS z;\n\\q\n"
    )
    assert "42" in shown
    assert "question_id" in shown
    assert "y\n1\nz\n2\n" in shown
    history = tmp_path / "society" / "sql_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "+2 AS x;" in history.read_text()


def test_a_wrong_query_is_a_message_and_no_end(typed):
    shown = typed(
        "DROP TABLE turns;\nFROM nowhere;\n\\nothing\n\\d nowhere\nSELECT 7 AS still;\n\x04"
    )
    assert "not DROP" in shown
    assert "nowhere does not exist" in shown
    assert "no command '\\\\nothing'" in shown
    assert "no relation 'nowhere'" in shown
    assert "still" in shown


def test_help_and_ctrl_c(typed):
    shown = typed("SELECT 1\x03\\?\n\\q\n")
    assert all(command in shown for command in COMMANDS)
    assert "semicolon" in shown


def test_long_answers_are_cut_and_say_so(session):
    out = io.StringIO()
    Console(session, out).answer("FROM range(5000);")
    assert "the first 1000 rows" in out.getvalue()
    assert out.getvalue().count("\n") < 1010


def test_enter_asks_when_the_query_has_its_semicolon():
    for text in ("", "\\d", "SELECT 1;", "SELECT ';';", "SELECT 1; -- so", "a;b;"):
        assert is_complete(text), text
    for text in ("SELECT 1", "SELECT ';'", "SELECT 1; SELECT", "-- ;\nSELECT 1", "SELECT $$;$$"):
        assert not is_complete(text), text


def complete(completions, text: str) -> list[str]:
    document = Document(text, len(text))
    return [found.text for found in completions.get_completions(document, None)]


def test_completion_knows_what_may_follow(session):
    completions = Completions(read_catalog(session), COMMANDS)
    assert complete(completions, "SELECT * FROM tur") == ["turns"]
    assert "accuracy" in complete(completions, "SELECT * FROM ")
    assert complete(completions, "SELECT * FROM turns AS t WHERE t.finish") == ["finish_reason"]
    assert complete(completions, "SELECT votes.ti") == ["tie"]
    assert "mean_share" not in complete(completions, "SELECT * FROM turns WHERE m")
    assert "model_id" in complete(completions, "SELECT * FROM turns WHERE m")
    assert "GROUP" in complete(completions, "SELECT 1 FROM votes gro")
    assert "count_if" in complete(completions, "SELECT count_")
    assert complete(completions, "\\f") == ["\\format"]
    assert complete(completions, "SELECT ") == []


def test_several_runs_are_completed_and_described(files):
    with RunUnion(files) as together:
        catalog = read_catalog(together)
        assert catalog.runs == ("one", "two")
        assert next(iter(catalog.relations["votes"])) == "run"
        out = io.StringIO()
        Console(together, out).answer("\\d")
        assert 'for one run: "one", "two".RELATION' in out.getvalue()


def test_where_the_history_is(tmp_path):
    assert find_history_file({"XDG_STATE_HOME": "/s"}).as_posix() == "/s/society/sql_history"
    assert find_history_file({}, lambda: tmp_path) == tmp_path / ".local/state/society/sql_history"
