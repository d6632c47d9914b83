"""docs/serve.md: its Python runs as it stands, its commands have the options that there are."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from society.cli import app
from society.view.endpoint.body import MOST_CHOICES
from tests.providers.chat_server import says, serving

PAGE = (Path(__file__).parents[4] / "docs" / "serve.md").read_text("utf-8")


def test_the_python_of_the_page_runs(tmp_path, serve, new_run, capsys):
    with serving(lambda asked: says("So it is \\boxed{-27}.")) as model:
        folder = new_run(tmp_path, "demo", model=f"openai+{model.url}:m")
        with serve(folder) as service:
            code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
            assert "http://127.0.0.1:8766" in code
            exec(code.replace("http://127.0.0.1:8766", service.url), {})
    said = capsys.readouterr().out
    assert said.startswith("So it is \\boxed{-27}.\n{'answer': '-27', 'votes': 3")
    assert "Round 1, agent 1:" in said


def test_the_commands_of_the_page_are_those_there_are():
    commands = re.findall(r"^\$ (?:\S+=\S+ )?society (.*)$", PAGE, re.MULTILINE)
    known = typer.main.get_command(app).commands
    for command in commands:
        name, *words = shlex.split(command)
        context = known[name].make_context(name, words)
        assert context.params["name" if name != "view" else "names"]
    options = {word for param in known["serve"].params for word in param.opts}
    named = set(re.findall(r"`(--[a-z]+)`", PAGE))
    assert named <= options
    assert {"--concurrent", "--queue", "--deadline", "--tokens", "--budget", "--grace"} <= named


@pytest.mark.parametrize("said", [f"up to {MOST_CHOICES}, each a choice", "`x-should-retry`"])
def test_the_numbers_of_the_page(said):
    assert said in PAGE
