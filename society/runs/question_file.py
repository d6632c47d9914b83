"""Questions of the user's file, put as those of a stored run: its task words and reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten

from evals.tasks.base import ReadsGold, Task, TaskQuestion
from evals.tasks.file import create
from society.config.question_data import find_gold_field, find_question_field
from society.config.schema import Config

ReadGold = Callable[[str], str]

# Longer texts are worked solutions, whose answer must be found.
_LONGEST_BARE_GOLD = 200
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """Which file, and its fields for questions and gold answers where the user has named them."""

    path: Path
    field: str | None = None
    gold: str | None = None


def read_texts(config: Config, file: QuestionFile, label: str) -> list[TaskQuestion]:
    """The texts of a file, named by their words as LABEL:HASH; no gold answer is read.

    Raises ValueError for a file that cannot be read, naming the place.
    """
    # By their text: the file's own ids may be those of other questions of the run.
    options = _build_options(config, file) | {"label": label, "id": ""}
    task = create(options)
    return list(task.questions("train", 0, task.size("train")))


def read_questions(
    config: Config, file: QuestionFile, task: Task, label: str
) -> tuple[list[TaskQuestion], str | None]:
    """The questions of a file in its order, and the field that their gold answers are from.

    Without `file.gold` the usual names are looked for. The file's own ids follow `label`, where all
    rows have one. Raises ValueError for a row that cannot be read, naming the place.
    """
    options = _build_options(config, file)
    own = config.task.options.get("gold") if config.task.name == "file" else None
    gold = find_gold_field(str(file.path), str(options["question"]), file.gold, own)
    asked = create(options | {"label": label, "gold": gold}, keep_order=True)
    found = list(asked.questions("train", 0, asked.size("train")))
    if gold is not None and config.task.name != "file":
        found = _read_golds(found, choose_gold_reader(task), file.path)
    return found, gold


def choose_gold_reader(task: Task) -> ReadGold:
    """What reads the gold answers of a file that is not the task's own."""
    if isinstance(task, ReadsGold):
        return task.read_gold

    # Other tasks read responses only. Read the gold answer as one; if that fails, take it as it is.
    def read(text: str) -> str:
        # GSM8K puts the answer after ####.
        text = text.rpartition("####")[2].strip()
        if (answer := task.extract(text)) is not None:
            return answer
        if len(text) > _LONGEST_BARE_GOLD:
            raise ValueError("no answer can be read from it; give the bare answer")
        return text

    return read


def _build_options(config: Config, file: QuestionFile) -> dict[str, object]:
    """The options of the task "file" that take questions from it as the run takes its own."""
    given = config.task.options if config.task.name == "file" else {}
    own = ("path", "train_path", "eval_path", "eval_share", "gold", "id", "label")
    kept = {key: value for key, value in given.items() if key not in own}
    # Of other tasks only texts are taken: the run's task words the prompt and reads the answers.
    options: dict[str, object] = {"answer": "text", **kept, "train_path": str(file.path)}
    if file.field is not None or "question" not in kept:
        options["question"] = file.field or find_question_field(str(file.path))
    return options


def _read_golds(found: Sequence[TaskQuestion], read: ReadGold, path: Path) -> list[TaskQuestion]:
    questions = []
    for question in found:
        if (gold := question.gold) is not None:
            try:
                question = replace(question, gold=read(gold))
            except ValueError as error:
                raise ValueError(
                    f"{path}: the gold answer {shorten(gold, _SHOWN)!r} of "
                    f"{shorten(question.text, _SHOWN)!r}: {error}"
                ) from error
        questions.append(question)
    return questions
