"""Tasks with code of the user's own, from the current directory or an installed package."""

import sys

import pytest

from evals import tasks

WHOLE = """
from evals.tasks.base import TaskQuestion

class Riddles:
    name = "riddles"
    answer_form = "End with one word."

    def __init__(self, options):
        self.words = options["words"]

    def questions(self, split, start, count):
        return [TaskQuestion(f"riddles:{n}", f"What is {n}?", None) for n in range(start, count)]

    def prompt(self, text):
        return f"{text} {self.answer_form}"

    def extract(self, response):
        return response.split()[-1]

    def equivalent(self, a, b):
        return a == b

    def style(self, response):
        return None

class Half:
    name = "half"
    answer_form = "End."
    prompt = extract = lambda self, text: text

    def __init__(self, options):
        pass

ANSWER = 42
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory; modules imported from it are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_class_of_the_current_directory_is_a_task(here):
    (here / "my_riddles.py").write_text(WHOLE)
    task = tasks.load_task("my_riddles:Riddles", {"words": ["sphinx"]})
    assert task.prompt("Who?") == "Who? End with one word."
    assert len(task.questions("eval", 0, 3)) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_riddles:Half", "Half without the method questions, the method equivalent, the method"),
        ("my_riddles:Nope", r"my_riddles \(.*my_riddles.py\) has no 'Nope'; it has .*Riddles"),
        ("my_riddles:", "has no ''; it has"),
        ("my_riddles:ANSWER", "is a int, not a class or function"),
        ("my_riddles:Riddles", r"making it with the options \{\} failed: KeyError: 'words'"),
        ("my_ridles:Riddles", "there is no module 'my_ridles' in .* check the spelling"),
        (":Riddles", "task ':Riddles': "),
        ("broken:Task", "importing broken failed: ZeroDivisionError: division by zero"),
        ("lacking:Task", "importing lacking failed: ModuleNotFoundError: .*'not_installed_x'"),
    ],
)
def test_what_is_no_task_is_refused_by_name(here, name, message):
    (here / "my_riddles.py").write_text(WHOLE)
    (here / "broken.py").write_text("1 / 0")
    (here / "lacking.py").write_text("import not_installed_x")
    with pytest.raises(ValueError, match=message):
        tasks.load_task(name, {})


def install(folder, name, target):
    info = folder / "riddles_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: riddles-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{tasks.ENTRY_POINT_GROUP}]\n{name} = {target}\n")
    sys.path.append(str(folder))


def test_an_installed_package_gives_a_task_by_name(here):
    (here / "packed_riddles.py").write_text(WHOLE)
    install(here, "riddles", "packed_riddles:Riddles")
    assert "riddles" in tasks.list_names()
    assert tasks.load_task("riddles", {"words": []}).name == "riddles"


def test_an_installed_package_that_is_broken_is_named(here):
    install(here, "riddles", "gone_riddles:Riddles")
    with pytest.raises(ValueError, match="task 'riddles': importing gone_riddles:Riddles failed"):
        tasks.load_task("riddles", {})


def test_an_unknown_name_tells_how_an_own_task_is_named():
    with pytest.raises(
        ValueError, match=r"known tasks: arithmetic, gsm8k, math, mmlu, file; .*Class"
    ):
        tasks.load_task("riddle", {})
