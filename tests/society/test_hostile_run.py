"""A run whose every stored text is an attack: no command, file or page interprets any of it."""

import csv
import io
import json
import os
import pty
import re
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from evals.invisible import HIDDEN
from society import cli
from store.ledger import Store
from store.records import Dataset, Job
from tests.society.view.conftest import served

TERMINAL = (
    "\x1b[5mPWN\x1b[0m \x1b]8;;http://evil.test\x07 \x9b5m \u202egnorw\u202c \u2066 \x07 \x08 \r"
)
RICH = "[/] [link=http://evil.test]here[/link] [bold]b[/bold] :free: [/link]"
MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{ 7*7 }} </pre>'
LINKS = "[x](http://evil.test) ![y](http://evil.test/y.png) `c` $\\input{x}$ & # % | ~ _ ^"
ATTACK = f"=HYPERLINK(1) {TERMINAL} {RICH} {MARKUP} {LINKS}"
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What the attack would make a terminal do, whatever else is drawn.
FORBIDDEN = ("\x1b[5m", "\x1b]8", "\x9b", "\u202e", "\u202c", "\u2066", "\x07", "\x08")


def line(which: str, arm: str, agent: int, at: int, **stage: object) -> dict[str, object]:
    """One answer as a line of a transcript."""
    return {
        "question": f"{ATTACK} {which}",
        "question_id": f"{ATTACK} {which}",
        "gold": f"{ATTACK} 4",
        "agent": agent,
        "round": at,
        "response": f"{ATTACK} {agent}\nThe answer is {ATTACK} {agent}",
        "answer": f"{ATTACK} {agent if at == 1 else 4}",
        "model": f"{ATTACK} {agent}",
        "arm": arm,
        "meta": {ATTACK: ATTACK},
        **stage,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folder of the hostile run."""
    folder = tmp_path_factory.mktemp("hostile")
    stages = [("train", 1), ("train", 1), ("eval", 0), ("eval", 0), ("eval", 1), ("eval", 1)]
    lines = [
        line(f"{split} {number % 2}", arm, agent, at, split=split, iteration=iteration)
        for number, (split, iteration) in enumerate(stages)
        for arm in (ATTACK, "multiagent")
        for agent in (1, 2)
        for at in (1, 2)
    ]
    lines[-1] |= {"response": "", "answer": None, "error": ATTACK}
    file = folder / "told.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    status, shown = on_terminal(
        folder, "import", "told.jsonl", "--name", "hostile", "--answers", "text"
    )
    assert status == 0, shown
    with Store.open(folder / "runs/hostile/run.duckdb") as store:
        store.write(
            Dataset("=d\x1b[5m", 1, ATTACK, 1, "critic", 0, "a" * 64, "final", 0, note=ATTACK),
            Job("=j\x1b[5m", 1, ATTACK, 1, "critic", "=d\x1b[5m", "b", "failed", error=ATTACK),
        )
    return folder


def on_terminal(folder: Path, *arguments: str) -> tuple[int, str]:
    """Call the command with stdout and stderr on a pseudo-terminal; status and what it got."""
    near, far = pty.openpty()
    got: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(near, 1 << 16):
                got.append(chunk)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    patch = pytest.MonkeyPatch()
    with patch.context() as patched, os.fdopen(far, "w", encoding="utf-8") as terminal:
        patched.chdir(folder)
        patched.setenv("TERM", "xterm-256color")
        patched.setenv("COLUMNS", "200")
        patched.setattr(sys, "argv", ["society", *arguments])
        patched.setattr(sys, "stdout", terminal)
        patched.setattr(sys, "stderr", terminal)
        with pytest.raises(SystemExit) as end:
            cli.main()
    reader.join()
    os.close(near)
    return int(end.value.code or 0), b"".join(got).decode().replace("\r\n", "\n")


def nothing_is_obeyed(shown: str) -> None:
    assert "bug in society" not in shown
    for sequence in FORBIDDEN:
        assert sequence not in shown, repr(sequence)
    left = COLOURS.sub("", shown)
    assert not HIDDEN.search(left), repr(HIDDEN.search(left))


SHOW = """
select arm, question, response, answer, error, meta from turns join questions using (question_id)
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("status", "hostile"), ("[/]", ":free:", "ESC[5m")),
        (("sql", "hostile", f"{SHOW} where length(error) > 0"), ("[/]", ":free:")),
        (("sql", "hostile", SHOW, "--format", "csv"), ("'=HYPERLINK", "[ESC[5m]", "[RLO]", "[/]")),
        (("sql", "hostile", SHOW, "--format", "json"), ("=HYPERLINK", "\\u001b[5m", "\\u202e")),
        (("sql", "hostile", f'select 1 as "{ATTACK.replace(chr(34), "")}"'), ("[/]",)),
        (("sql", "hostile", f"select * from '{ATTACK}'"), ("ESC[5m",)),
        (("report", "hostile"), ("report.html",)),
        (("export", "hostile", "--format", "csv", "--out", "csv"), ("turns.csv",)),
        (("export", "hostile", "--format", "hf", "--out", "hf"), ("README.md",)),
        (("export", "hostile", "--arm", ATTACK, "--out", "arm"), ("turns.parquet",)),
        (("export", "hostile", "--arm", f"{ATTACK}?", "--out", "none"), ("ESC[5m",)),
        (("cancel", "hostile"), ()),
        (("diversity", "hostile", "--measure", "nll", "--arm", ATTACK), ()),
        (("doctor", "runs/hostile/config.toml", "--name", "hostile"), ()),
        (("cost", "runs/hostile/config.toml"), ()),
        (("ask", "hostile", ATTACK), ("[/]", "ESC[5m")),
        (("status", f"no{ATTACK}".replace("/", "")), (r"\x1b[5m",)),
        (("import", "told.jsonl", "--name", "again", "--answers", "number"), (r"\x1b[5m",)),
        (("run", "told.jsonl"), ()),
        (("run", f"{TERMINAL}.toml"), (r"\x1b[5m",)),
    ],
    ids=lambda value: value[0] if value and value[0].islower() else "",
)
def test_no_command_lets_a_terminal_obey(runs, arguments, expected):
    _, shown = on_terminal(runs, *arguments)
    nothing_is_obeyed(shown)
    flat = " ".join(shown.split())
    for text in expected:
        assert text in flat, shown


def test_every_csv_cell_that_begins_like_a_formula_is_text(runs):
    for arguments in (
        ("export", "hostile", "--format", "csv", "--out", "cells", "--force"),
        ("report", "hostile", "--out", "tables"),
    ):
        assert on_terminal(runs, *arguments)[0] == 0
    files = [*(runs / "cells").rglob("*.csv"), *(runs / "tables").rglob("*.csv")]
    quoted = 0
    for file in files:
        for row in csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")):
            for cell in row:
                assert not re.match(r"[=+@\t\r\n]|-(?![\d.]+$)", cell), (file, cell)
                quoted += cell.startswith("'=")
    assert quoted > 20


def test_the_report_and_its_files_are_text(runs):
    assert on_terminal(runs, "report", "hostile", "--out", "page")[0] == 0
    for file in (runs / "page").rglob("*"):
        if file.suffix in (".html", ".md", ".tex", ".svg"):
            text = file.read_text(encoding="utf-8")
            assert not HIDDEN.search(text), (file, HIDDEN.search(text))
            assert not re.search(r"(?<!\\)<(script|img)", text), file
            if file.suffix == ".md":
                assert not re.search(r"(?<!\\)\]\(http|(?<!\\):free", text.replace(":free:", "")), (
                    file
                )
    page = (runs / "page/report.html").read_text(encoding="utf-8")
    assert "ESC[5m" in page
    assert "[RLO]" in page


def test_the_card_of_a_dataset_is_text(runs):
    assert on_terminal(runs, "export", "hostile", "--format", "hf", "--out", "card")[0] == 0
    card = (runs / "card/README.md").read_text(encoding="utf-8")
    assert not HIDDEN.search(card)
    assert not re.search(r"(?<!\\)<(img|script)|(?<!\\)\]\(http://evil", card)


class Page(HTMLParser):
    """The elements and links that a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]


def test_every_page_of_the_viewer_is_text(runs):
    kinds: dict[str, int] = {}
    with served(runs / "runs") as site:
        left, seen = ["/", "/runs/hostile"], set()
        while left:
            path = left.pop().partition("#")[0]
            kind = urlsplit(path).path
            if path in seen or not (kind == "/" or kind.startswith("/runs/hostile")):
                continue
            seen.add(path)
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] > 3:
                continue
            status, text, headers = site.get(path)
            if status == 303:
                left.append(headers["location"])
                continue
            assert status == 200, (path, text)
            if not headers["content-type"].startswith("text/html"):
                assert headers["x-content-type-options"] == "nosniff"
                continue
            page = Page(text)
            assert not {"img", "iframe", "object", "b"} & page.tags, path
            assert not [name for name in page.attributes if name.startswith("on")]
            assert all(re.match(r"/(?!/)|#", link) for link in page.links), page.links
            # The value of a choice is what the form sends back, and is not shown.
            shown = re.sub(r'(<option value|name="text" value)="[^"]*"', "", text)
            assert not (found := HIDDEN.search(shown)), (path, shown[found.start() - 99 :][:150])
            left += page.links
    assert {"/runs/hostile/debates", "/runs/hostile/debate", "/runs/hostile/models"} <= kinds.keys()
