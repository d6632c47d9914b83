"""An experiment whose models answer from a script: the whole loop without any weights."""

import json
from pathlib import Path

import pytest

from evals.tasks.arithmetic import create

AGENTS, TRAIN, EVAL = 3, 4, 3


def _answer(question, agent: int, number: int, place: int) -> str:
    """Agents 1 and 2 are right; agent 3 errs at first from place 1 on, and stays wrong there."""
    right = int(question.gold)
    wrong = agent == 3 and (place == 1 or (number == 1 and place > 1))
    return f"round {number}: \\boxed{{{right + 100 + place if wrong else right}}}"


def write_script(path: Path, *, iterations: int) -> None:
    """One line for every request that an experiment with `EXPERIMENT` makes."""
    task = create({})
    asked = [("eval", q, p) for p, q in enumerate(task.questions("eval", 0, EVAL))]
    for k in range(1, iterations + 1):
        asked += [(f"train{k}", q, p) for p, q in enumerate(task.questions("train", 0, TRAIN))]
    lines = []
    for which, question, place in asked:
        for agent in range(1, AGENTS + 1):
            stem = f"{which}/{question.question_id}/a{agent}"
            lines += [
                {"key": f"{stem}/r1/answer", "text": _answer(question, agent, 1, place)},
                {"key": f"{stem}/r2/summary", "text": f"a summary for agent {agent}"},
                {"key": f"{stem}/r2/answer", "text": _answer(question, agent, 2, place)},
            ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_experiment(folder: Path) -> Path:
    """The path of a TOML file for a scripted experiment of two iterations."""
    write_script(folder / "script.jsonl", iterations=3)
    path = folder / "scripted.toml"
    path.write_text(
        f"""
        model = "scripted:{folder / "script.jsonl"}"
        iterations = 2
        [task]
        name = "arithmetic"
        [society]
        agents = {AGENTS}
        [train]
        questions = {TRAIN}
        [evaluation]
        questions = {EVAL}
        """
    )
    return path


@pytest.fixture
def experiment(tmp_path) -> Path:
    """`write_experiment` in this test's own folder."""
    return write_experiment(tmp_path)


@pytest.fixture(scope="session")
def scripted():
    """`write_experiment`, for tests that share a run."""
    return write_experiment
