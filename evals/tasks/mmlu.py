"""MMLU: multiple choice in 57 subjects (Hendrycks et al. 2021, arXiv 2009.03300).

Source: https://huggingface.co/datasets/cais/mmlu, config ``all``: 14,042 test questions, 1,531 of
validation, 285 of dev and 99,842 of auxiliary_train. A row::

    {"question": "A frameshift mutation is created when", "subject": "college_biology",
     "choices": ["telomeric sequences are removed from DNA", "a codon's nucleotide sequence changes
      ...", "a base pair is either inserted or deleted in a gene", "a codon's nucleotide ..."],
     "answer": 2}

Other copies of the data call the subject ``type``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from evals.answers import load_kind
from evals.tasks.dataset import DatasetTask, Entry, QuestionOrder, RowFilter
from evals.tasks.options import DataOptions, validate_options
from evals.tasks.question_text import LETTERS, find_choice, format_choices, shuffle_order
from evals.tasks.sources import DataRow, HubDataset, choose_source
from evals.tasks.sources.hub import COMMIT

NAME = "mmlu"
REPO = "cais/mmlu"
REVISION = "c30699e8356da336a370243923dbaf21066bb9fe"
PROMPT = "{question}\n\nThink it through step by step, then pick one choice. {answer_form}"
CHOICES = 4

_TRAIN = {"validation+dev": ("validation", "dev"), "auxiliary_train": ("auxiliary_train",)}


class MmluOptions(DataOptions):
    """The options of the task mmlu."""

    subjects: tuple[str, ...] | None = Field(default=None, min_length=1, strict=False)
    """Keep the questions of these subjects, such as `college_biology`; all if unset."""

    shuffle_choices: bool = False
    """Shuffle the choices of each question, by `seed`; gold is adjusted. A choice that names
    letters ("both A and B") becomes wrong."""

    train_split: Literal["validation+dev", "auxiliary_train"] = "validation+dev"
    """What is trained on if the questions come from the hub. Those of `auxiliary_train` have no
    subject."""

    revision: str = Field(default=REVISION, pattern=COMMIT)
    """The commit of the dataset on the hub."""


def create(options: Mapping[str, object]) -> DatasetTask:
    """The task with the user's options. Raises ValueError that names option, value and remedy."""
    asked = validate_options(MmluOptions, options, NAME)
    hub = HubDataset(
        REPO,
        asked.revision,
        {
            "train": tuple(
                f"all/{part}-00000-of-00001.parquet" for part in _TRAIN[asked.train_split]
            ),
            "eval": ("all/test-00000-of-00001.parquet",),
        },
    )
    wanted = asked.subjects
    filters = (
        [] if wanted is None else [RowFilter("task.subjects", frozenset(wanted), _read_subject)]
    )
    key = f"choices {asked.seed}" if asked.shuffle_choices else None
    return DatasetTask(
        NAME,
        choose_source(asked, hub),
        load_kind("choice", {"choices": CHOICES}),
        lambda row: _make_entry(row, key),
        prompt=PROMPT,
        order=QuestionOrder(asked.seed, asked.eval_share),
        filters=filters,
    )


def _make_entry(row: DataRow, shuffle_key: str | None) -> Entry:
    choices = row.texts("choices")
    if len(choices) != CHOICES:
        raise row.make_error(
            f"the field 'choices' has {len(choices)} choices, MMLU has {CHOICES}; "
            "use the task file for data of another shape"
        )
    question = row.text("question")
    gold = find_choice(row, "answer", choices, first=0)
    # Named and shared out by the text in its original order, so that shuffling the choices changes
    # neither a question's id nor its split.
    plain = format_choices(question, choices)
    order = list(range(CHOICES))
    if shuffle_key is not None:
        # By seed and text, and not by place in the file: a question keeps its order in every split.
        order = shuffle_order(CHOICES, f"{shuffle_key} {plain}")
    return Entry(
        text=format_choices(question, [choices[n] for n in order]),
        gold=LETTERS[order.index(gold)],
        plain=plain,
        meta={"subject": _read_subject(row)},
    )


def _read_subject(row: DataRow) -> str:
    # auxiliary_train has an empty subject, and copies of the data may have no such field.
    field = "subject" if "subject" in row.fields else "type"
    return (row.optional(field) or "") if field in row.fields else ""
