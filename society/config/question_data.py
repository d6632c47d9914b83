"""What a user's data file asks: which fields hold questions and answers, and of which kind.

It only looks, and may be wrong; what it has found goes into an experiment file that the user reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from evals.answers import load_kind
from evals.answers.base import AnswerKind
from evals.tasks import load_task
from evals.tasks.dataset import DatasetTask
from evals.tasks.options import DataOptions
from evals.tasks.sources import DataRow, choose_source
from society.config.load import ConfigError

_QUESTIONS = ("question", "problem", "prompt", "query", "instruction", "input", "q", "text")
_GOLDS = (
    *("gold", "answer", "reply", "solution", "target", "label", "expected", "correct", "right"),
    *("output", "response", "completion", "a", "result"),
)
_CHOICES = ("choices", "options", "answers", "alternatives")
_SHORT = 60
"""Longer gold answers are sentences, of which no two agents write the same."""
_MOST_EVALUATED = 500
_FORMULA = re.compile(r"\\[a-zA-Z]+|\^|\bsqrt\b|[a-z]\s*=|\d\s*[a-z]\b|[()\[\]]")


@dataclass(frozen=True, slots=True)
class QuestionData:
    """What is in a data file.

    `options` is the `[task]` section for it, `train` and `evaluation` count its questions, `found`
    says what was found in sentences, and `unreadable` which gold answers cannot be read.
    """

    options: Mapping[str, object]
    kind: str
    found: tuple[str, ...]
    unreadable: tuple[str, ...] = ()
    train: int = 0
    evaluation: int = 0


def inspect_data(path: str) -> QuestionData:
    """Look at a file or a folder of questions. Raises `ConfigError` that names it.

    >>> inspect_data("plants.csv").options["gold"]
    'reply'
    """
    try:
        source = choose_source(DataOptions(path=path))
        rows = source.rows("eval")
        found = _inspect(path, rows, shared=source.shared)
        if not source.shared and _share_ids(rows, source.rows("train")):
            # The same numbers in both files name different questions.
            found = replace(found, options={**found.options, "id": ""})
        return _count(found)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def find_question_field(path: str) -> str:
    """The field of a data file that holds the questions. Raises ValueError that names the file."""
    rows = choose_source(DataOptions(train_path=path)).rows("train")
    fields = _list_common_fields(rows)
    choices = _find_choices(fields, rows)
    return _find_question(
        fields, rows, {choices} if isinstance(choices, str) else set(choices or ())
    )


def find_gold_field(
    path: str, question: str, wanted: str | None = None, usual: object = None
) -> str | None:
    """The field of a data file with gold answers: `wanted`, else `usual` if it is there, else one
    that is called like it; None without one.

    `question` is the field that holds the questions. Raises ValueError for a file that cannot be
    read, or that has no field `wanted`.
    """
    rows = choose_source(DataOptions(train_path=path)).rows("train")
    there = dict.fromkeys(name for row in rows for name in row.fields)
    if wanted is not None and wanted not in there:
        raise ValueError(
            f"{path} has no field {wanted!r} with gold answers (fields there: {', '.join(there)})"
        )
    if wanted is not None or usual in there:
        return wanted or str(usual)
    fields = _list_common_fields(rows)
    choices = _find_choices(fields, rows)
    taken = {choices} if isinstance(choices, str) else set(choices or ())
    return _find_called_gold([name for name in fields if name not in taken | {question}], rows)


def _inspect(path: str, rows: Sequence[DataRow], *, shared: bool) -> QuestionData:
    fields = _list_common_fields(rows)
    share: dict[str, object] = {"eval_share": _choose_share(len(rows))} if shared else {}
    if known := _recognize(fields, rows):
        said = f"rows like those of {known}"
        return QuestionData({"name": known, "path": path, **share}, known, (said,))
    choices = _find_choices(fields, rows)
    # What holds choices can be neither the question nor the answer, however it is called.
    taken = {choices} if isinstance(choices, str) else set(choices or ())
    question = _find_question(fields, rows, taken)
    gold = _find_gold(fields, rows, taken | {question})
    options: dict[str, object] = {"name": "file", "path": path, "question": question}
    found = [f"questions in the field {question!r}"]
    unreadable: tuple[str, ...] = ()
    if choices is not None:
        kind = "choice"
        options["choices"] = choices
        found.append(f"choices in {_name_fields(choices)}")
        options |= _describe_choices(rows, choices, gold)
    elif gold is None:
        kind = "text"
    else:
        kind = _guess_kind([text for row in rows if (text := row.optional(gold)) is not None])
        unreadable = tuple(_list_unreadable(kind, rows, gold))
    options["answer"] = kind
    if gold is None:
        found.append(
            "no field with gold answers: the society learns all the same, and no accuracy can be "
            'measured; gold = "FIELD" in [task] names one'
        )
    else:
        options["gold"] = gold
        read = len(rows) - len(unreadable)
        found.append(
            f"gold answers in the field {gold!r}, of the kind {kind!r}: {read} of {len(rows)} can "
            "be read"
        )
    return QuestionData({**options, **share}, kind, tuple(found), unreadable)


def _share_ids(rows: Sequence[DataRow], others: Sequence[DataRow]) -> bool:
    here, there = ({row.fields.get("id") for row in each} - {None} for each in (rows, others))
    return bool(here & there)


def _count(found: QuestionData) -> QuestionData:
    """The data with the sizes of its splits, which follow from the wording of the questions."""
    # A gold answer that cannot be read is told, and must not hide the sizes.
    left_out = {"name", "gold"} if found.unreadable else {"name"}
    options = {key: value for key, value in found.options.items() if key not in left_out}
    task = load_task(str(found.options["name"]), options)
    assert isinstance(task, DatasetTask)
    train, evaluation = task.size("train"), task.size("eval")
    said = f"{train} questions to train on, {evaluation} to evaluate"
    return replace(found, train=train, evaluation=evaluation, found=(*found.found, said))


def _choose_share(rows: int) -> float:
    """The share of the evaluation: two fifths, and less once that is 500 questions."""
    # Rounded, since the share stands in a file that people read and change.
    return round(max(0.05, min(0.4, _MOST_EVALUATED / rows)), 2)


def _list_common_fields(rows: Sequence[DataRow]) -> list[str]:
    first = rows[0].fields
    return [name for name in first if all(name in row.fields for row in rows)]


def _recognize(fields: Sequence[str], rows: Sequence[DataRow]) -> str | None:
    """The task whose published data look like these rows."""
    # By what only these data have: other files have questions and answers as well.
    there = set(fields)
    if {"question", "answer"} <= there and all("####" in str(row.fields["answer"]) for row in rows):
        return "gsm8k"
    if {"problem", "solution", "level", "type"} <= there:
        return "math"
    if {"question", "choices", "answer", "subject"} <= there:
        return "mmlu"
    return None


def _find_choices(fields: Sequence[str], rows: Sequence[DataRow]) -> str | tuple[str, ...] | None:
    """The field with a list of choices, or one field for each choice."""
    for name in sorted(fields, key=lambda each: each.lower() not in _CHOICES):
        values = [row.fields[name] for row in rows]
        if all(isinstance(v, list) and len(v) > 1 for v in values):
            return name
        # CSV has no lists, so there they are JSON in a cell.
        packed = name.lower() in _CHOICES and all(str(v).strip().startswith("[") for v in values)
        if packed:
            return name
    groups: dict[str, list[str]] = {}
    for name in fields:
        # "a", "option_b", "choice3": a stem and one letter or digit.
        if match := re.fullmatch(r"(|.*[_\s-]|choice|option|answer)([A-Ha-h]|[0-9])", name):
            groups.setdefault(match[1].lower(), []).append(name)
    for names in groups.values():
        marks = [name[-1].lower() for name in names]
        if len(names) > 2 and marks in (list("abcdefgh")[: len(marks)], _digits(marks)):
            return tuple(names)
    return None


def _digits(marks: Sequence[str]) -> list[str]:
    first = int(marks[0]) if marks[0].isdigit() else 0
    return [str(first + k) for k in range(len(marks))]


def _find_question(fields: Sequence[str], rows: Sequence[DataRow], taken: set[str]) -> str:
    free = [name for name in fields if name not in taken]
    by_name = {name.lower(): name for name in free}
    for name in _QUESTIONS:
        if name in by_name:
            return by_name[name]
    # No usual name: a question is longer than what is said about it.
    texts = [name for name in free if all(isinstance(row.fields[name], str) for row in rows)]
    if not texts:
        raise ValueError(
            f"{rows[0].file}: no field has a text in every row (fields there: "
            f"{', '.join(fields) or 'none'}); put each question into a field of its own"
        )
    return max(texts, key=lambda name: mean(len(str(row.fields[name])) for row in rows))


def _find_gold(fields: Sequence[str], rows: Sequence[DataRow], taken: set[str]) -> str | None:
    free = [name for name in fields if name not in taken]
    if (called := _find_called_gold(free, rows)) is not None:
        return called
    rest = [name for name in free if name.lower() not in ("id", "index", "source")]
    # One field left over is the answer; among several nothing tells which.
    plain = [n for n in rest if not any(isinstance(r.fields[n], list | dict) for r in rows)]
    return plain[0] if len(plain) == 1 else None


def _find_called_gold(free: Sequence[str], rows: Sequence[DataRow]) -> str | None:
    by_name = {name.lower(): name for name in free}
    for name in _GOLDS:
        if name in by_name and any(_is_given(row.fields[by_name[name]]) for row in rows):
            return by_name[name]
    return None


def _is_given(value: object) -> bool:
    return value is not None and not isinstance(value, list | dict) and str(value).strip() != ""


def _guess_kind(golds: Sequence[str]) -> str:
    """The kind of answer that fits gold answers: number, choice, math or text."""
    if not golds:
        return "text"
    if all(re.fullmatch(r"\(?[A-Ha-h]\)?\.?", each) for each in golds):
        return "choice"
    short = [each for each in golds if len(each.split()) <= 3 or "####" in each]
    number = load_kind("number", {})
    # A few bad rows must not make sums a matter of spelling; "Paris 75001" is no number.
    if sum(_reads(number, each) for each in short) >= 0.9 * len(golds):
        return "number"
    # Most golds of a formula task are plain numbers or words, so a third of them is enough.
    if sum(_FORMULA.search(each) is not None for each in golds) >= 0.3 * len(golds):
        return "math"
    return "text"


def _reads(kind: AnswerKind, gold: str) -> bool:
    try:
        kind.read_gold(gold)
    except ValueError:
        return False
    return True


def _list_unreadable(kind: str, rows: Sequence[DataRow], gold: str) -> Iterator[str]:
    answers = load_kind(kind, {})
    for row in rows:
        stated = row.optional(gold)
        if stated is not None and not _reads(answers, stated):
            yield f"{row.place}: {stated[:_SHORT]!r} is no {kind}"


def _describe_choices(
    rows: Sequence[DataRow], choices: str | tuple[str, ...], gold: str | None
) -> dict[str, object]:
    """The options that say how gold names a choice, and how many choices there are at most."""
    found: dict[str, object] = {}
    if isinstance(choices, str):
        listed = [value for row in rows if isinstance(value := row.fields[choices], list)]
        most = max((len(each) for each in listed), default=4)
        found = {"choice_count": most} if most != 4 else {}
    stated = [] if gold is None else [row.optional(gold) for row in rows]
    numbers = [int(each) for each in stated if each is not None and each.isdigit()]
    if numbers and len(numbers) == sum(each is not None for each in stated):
        # Without a 0 in the whole file the choices are counted from 1.
        found["first_choice"] = 0 if 0 in numbers else 1
    return found


def _name_fields(choices: str | tuple[str, ...]) -> str:
    if isinstance(choices, str):
        return f"the field {choices!r}"
    return "the fields " + ", ".join(map(repr, choices))
