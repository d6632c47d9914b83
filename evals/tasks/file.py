"""The user's own questions, without code: a .jsonl, .json, .csv or .parquet file and a few names.

For instance, for rows like ``{"q": "Which gas do plants take in?", "reply": "carbon dioxide"}``::

    [task]
    name = "file"
    path = "questions.jsonl"
    question = "q"
    gold = "reply"
    answer = "text"
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evals.answers import AnswerName, load_kind
from evals.answers.base import AnswerKind
from evals.tasks import question_text
from evals.tasks.dataset import DatasetTask, Entry, QuestionOrder
from evals.tasks.options import DataOptions, validate_options
from evals.tasks.question_text import LETTERS, check_choices, find_choice, format_choices
from evals.tasks.sources import DataRow, choose_source

NAME = "file"
PROMPT = "{question}\n\nWork step by step. {answer_form}"

# An option of another kind of answer would be ignored silently, so it is refused.
_BELONGS = {
    "pattern": ("regex",),
    "case": ("text", "regex"),
    "choice_count": ("choice",),
    "tolerance": ("number",),
}


class FileOptions(DataOptions):
    """The options of the task file."""

    answer: AnswerName
    """What kind of answer the questions have ([answers.md](answers.md))."""

    question: str = Field(default="question", min_length=1)
    """The field with the question, or a template of fields: `"{passage}\\n\\nQuestion: {q}"`.
    `{{x}}` is a literal `{x}`."""

    gold: str | None = Field(default=None, min_length=1)
    """The field with the right answer. A row in which it is empty has no gold, and the files of
    `train_path` need not have the field."""

    id: str | None = None
    """The field with the row's id; `id` if unset and every row has it. `""` names questions by
    their text."""

    choices: str | Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """A field with a list (in CSV a JSON list), or a list of fields or templates, one per
    choice."""

    first_choice: Literal[0, 1] | None = None
    """The number of the first choice, if gold is the number of a choice; unset, gold is a letter or
    the choice's text."""

    choice_count: int | None = Field(default=None, ge=2, le=len(LETTERS))
    """For `choice`: the largest number of choices that a question has; 4 if unset and `choices` is
    one field."""

    pattern: str | None = None
    """For `regex`: the expression that finds the answer: its group `answer`, else its first group,
    else the whole match."""

    case: Literal["ignore", "match"] | None = None
    """For `text` and `regex`: whether upper and lower case differ (`match`); unset, they do not."""

    tolerance: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    """For `number`: by how much two equal numbers may differ, such as 1e-6 if gold answers have
    rounding errors; for numbers below 1 it is a share of them. Unset, numbers compare exactly."""

    prompt: str = PROMPT
    """A template with `{question}` and `{answer_form}`."""

    answer_form: str | None = Field(default=None, min_length=1)
    """The sentence that says how to state the final answer; that of the kind of answer if unset."""

    label: str = Field(default=NAME, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The prefix of the ids of questions."""

    @model_validator(mode="after")
    def _fit_together(self) -> FileOptions:
        if self.path is None and self.train_path is None and self.eval_path is None:
            raise ValueError(
                "task.path is missing; set it to a file or folder with the questions, "
                "or set task.train_path and task.eval_path"
            )
        for option, answers in _BELONGS.items():
            if getattr(self, option) is not None and self.answer not in answers:
                raise ValueError(
                    f"task.{option} belongs to answer = {' or '.join(map(repr, answers))}, "
                    f"not {self.answer!r}; leave it out or change task.answer"
                )
        if self.answer == "regex" and self.pattern is None:
            raise ValueError("task.pattern is missing; answer = 'regex' needs it")
        if self.choices is not None and self.answer != "choice":
            raise ValueError(f"task.choices needs task.answer = 'choice', not {self.answer!r}")
        if set(question_text.list_fields(self.prompt)) != {"question", "answer_form"}:
            raise ValueError(
                "task.prompt must contain {question} and {answer_form} and no other field "
                f"(write {{{{name}}}} for a literal {{name}}), got {self.prompt!r}"
            )
        return self

    @property
    def letters(self) -> int:
        """How many choices a question may have."""
        if self.choice_count is not None:
            return self.choice_count
        # Four where a field holds the lists: how long they are is known only when rows are read.
        return len(self.choices) if isinstance(self.choices, tuple) else 4


def create(options: Mapping[str, object], *, keep_order: bool = False) -> DatasetTask:
    """The task with the user's options; `keep_order` leaves the questions as the file has them.

    Raises ValueError that names option, value and remedy.
    """
    asked = validate_options(FileOptions, options, NAME)
    answers = load_kind(asked.answer, _select_kind_options(asked))
    return DatasetTask(
        asked.label,
        choose_source(asked),
        answers,
        _make_reader(asked, answers),
        prompt=asked.prompt,
        answer_form=asked.answer_form,
        gold_field=asked.gold,
        order=QuestionOrder(
            None if keep_order else asked.seed,
            asked.eval_share,
            id_field="id" if asked.id is None else asked.id or None,
            id_required=asked.id is not None,
        ),
    )


def _select_kind_options(asked: FileOptions) -> dict[str, object]:
    if asked.answer == "choice":
        return {"choices": asked.letters}
    given = {"pattern": asked.pattern, "case": asked.case, "tolerance": asked.tolerance}
    return {name: value for name, value in given.items() if value is not None}


def _make_reader(asked: FileOptions, answers: AnswerKind) -> Callable[[DataRow], Entry]:
    def read(row: DataRow) -> Entry:
        question = _fill(row, asked.question)
        listed = None if asked.choices is None else _read_choices(row, asked)
        text = question if listed is None else format_choices(question, listed)
        return Entry(text, _read_gold(row, asked, answers, listed))

    return read


def _read_gold(
    row: DataRow, asked: FileOptions, answers: AnswerKind, listed: list[str] | None
) -> str | None:
    if asked.gold is None or (stated := row.optional(asked.gold)) is None:
        return None
    if listed is not None:
        stated = LETTERS[find_choice(row, asked.gold, listed, asked.first_choice)]
    try:
        return answers.read_gold(stated)
    except ValueError as error:
        raise row.make_error(
            f"the field {asked.gold!r} is no {asked.answer} answer: {error}"
        ) from error


def _read_choices(row: DataRow, asked: FileOptions) -> list[str]:
    if isinstance(asked.choices, tuple):
        listed = [_fill(row, each) for each in asked.choices]
        return check_choices(row, listed, "task.choices", asked.letters)
    assert asked.choices is not None
    name = asked.choices
    # CSV has no lists. The unpacked list goes into a row of its own, so that errors still name file
    # and line.
    if isinstance(packed := row.value(name), str):
        row = DataRow(
            row.file, row.unit, row.number, {**row.fields, name: _unpack(row, name, packed)}
        )
    return check_choices(row, row.texts(name), f"the field {name!r}", asked.letters)


def _unpack(row: DataRow, name: str, packed: str) -> object:
    try:
        return json.loads(packed)
    except (ValueError, RecursionError):
        raise row.make_error(
            f'the field {name!r} must be a list such as ["red", "blue"], got {packed[:60]!r}'
        ) from None


def _fill(row: DataRow, template_or_field: str) -> str:
    if not question_text.is_template(template_or_field):
        return row.text(template_or_field)
    named = question_text.list_fields(template_or_field)
    return question_text.fill_template(
        template_or_field, {name: row.text(name) for name in named}
    ).strip()
